"""Write log lines: time, level, where, what, and the extra values as key=value."""

from __future__ import annotations

import logging

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CHATTY = ("aiokafka", "uvicorn")
"""These report every failed try to connect as an error; the gateway says once that Kafka does not answer."""


class LineFormatter(logging.Formatter):
    """One line an entry, so that a value with a line break cannot forge another entry."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        extras = "".join(f" {name}={value!r}" for name, value in vars(record).items() if name not in _STANDARD)
        return super().formatMessage(record) + extras


def configure_logging(level: str) -> None:
    """Log to standard error from *level* on."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
