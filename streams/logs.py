"""Write log lines: readable text or JSON, one line an entry, no secret, and no flood of the same.

One formatter and one handler for every process, so that whoever searches finds the same fields everywhere.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

from streams.repeats import RepeatLimit
from streams.request_id import WithRequestId
from streams.settings import Settings

HIDDEN = "***"
SECRET_CHARACTERS_MIN = 4
"""A shorter secret is hidden where a setting would show it, but not searched for in all text: it would be in every word."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "extra",
    "color_message",
}
_CREDENTIALS = re.compile(
    r"(://[^/@\s:]*:)[^/@\s]+(?=@)|(\b(?:password|passwd|secret)\s*[=:]\s*|\btoken=)[^\s,;&'\"]+", re.IGNORECASE
)
_BEARER = re.compile(r"(\bbearer\s+|\bapikey\s+|\bauthorization\W+basic\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_BREAKS = {ord(char): repr(char)[1:-1] for char in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\x1b\0"}


@dataclass(frozen=True, slots=True)
class Service:
    """Who writes: `gateway`, `worker`, `sinks`; and of several workers on a machine, which."""

    name: str
    index: int | None = None


class Redactor:
    """Hides what must never be read in a log: known secrets, wherever they stand, and what looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted({secret for secret in secrets if len(secret) >= SECRET_CHARACTERS_MIN}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return *text* without them.

        >>> Redactor(["hunter22"])("postgresql://me:other@db/x said hunter22, password=abc")
        'postgresql://me:***@db/x said ***, password=***'
        """
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        text = _CREDENTIALS.sub(lambda match: f"{match[1] or match[2]}{HIDDEN}", text)
        return _BEARER.sub(rf"\1{HIDDEN}", text)


def secrets_of(settings: Settings) -> set[str]:
    """Return the secrets that settings hold, as they are written and as they are meant."""
    dsn = settings.postgres.dsn
    keyword = re.search(r"\bpassword\s*=\s*('(?:[^'\\]|\\.)*'|\S+)", dsn)
    found = {keyword[1].strip("'")} if keyword else set()
    password = urlsplit(dsn).password if "://" in dsn else None
    if password:
        found |= {password, unquote(password)}
    return found | {str(value) for value in _secret_values(settings.model_dump())}


def _secret_values(values: Mapping[str, Any]) -> Iterable[Any]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _secret_values(value)
        elif value and re.search(r"password|secret|token$", name):
            yield value


class TextFormatter(logging.Formatter):
    """Time, level, where, what, and the extra values as key=value; a trace follows, each line of it behind a bar."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        extras = "".join(f" {name}={value!r}" for name, value in _extras(record))
        head = f"{_instant(record, ' ')} {record.levelname} {record.name}: {record.getMessage()}{extras}"
        lines = [one_line(head), *(f"  | {one_line(line)}" for line in _trace(record).splitlines())]
        return self._redact("\n".join(lines))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, service, logger, event, and the extra values under their names."""

    def __init__(self, service: Service, redact: Redactor) -> None:
        super().__init__()
        self._service = service
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"ts": _instant(record, "T"), "level": record.levelname, "service": self._service.name}
        if self._service.index is not None:
            line["worker_id"] = self._service.index
        line |= {"logger": record.name, "event": record.getMessage()}
        line |= {name: value for name, value in _extras(record) if name not in line}
        if trace := _trace(record):
            line["trace"] = trace
        # Redacted before it is encoded: a quote of JSON's is no part of a secret, and an escaped secret would not be found.
        return json.dumps(_each_text(line, self._redact), default=lambda value: self._redact(repr(value)))


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {str(name): _each_text(each, change) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_each_text(each, change) for each in value]
    return value if isinstance(value, (int, float, bool, type(None))) else change(repr(value))


def one_line(text: str) -> str:
    """Return *text* with every line break, and what steers a terminal, spelled out, so that no value can forge an entry.

    >>> one_line("a\\nb")
    'a\\\\nb'
    """
    return text.translate(_BREAKS)


def _extras(record: logging.LogRecord) -> Iterable[tuple[str, Any]]:
    return ((name, value) for name, value in vars(record).items() if name not in _STANDARD)


def _instant(record: logging.LogRecord, between: str) -> str:
    return f"{time.strftime(f'%Y-%m-%d{between}%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _trace(record: logging.LogRecord) -> str:
    trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info and record.exc_info[0] else ""
    return f"{trace}{record.stack_info or ''}".rstrip()


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes to standard error; held back lines are told of with the next line, or at the end."""

    def __init__(self, limit: RepeatLimit | None = None) -> None:
        super().__init__()
        self._limit = limit or RepeatLimit()

    def emit(self, record: logging.LogRecord) -> None:
        for summary in self._limit.summaries():
            super().emit(summary)
        if self._limit.passes(record):
            super().emit(record)

    def close(self) -> None:
        for summary in self._limit.summaries(at_once=True):
            super().emit(summary)
        super().close()


class WithoutNoise(logging.Filter):
    """Leaves out what a library reports as an error and is none."""

    NOISE = re.compile(r"has not sent fetch request|Livelock|Timer .* woke up too (early|late)")
    """Faust's stall detector reads a partition without traffic as a stall; agents/watchdog.py is ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.name.startswith(("faust", "mode")) and self.NOISE.search(str(record.msg)))


def make_handler(settings: Settings, service: Service) -> LineHandler:
    """Return the handler of a process: its form as `log.format` says."""
    redact = Redactor(secrets_of(settings))
    handler = LineHandler()
    handler.setFormatter(JsonFormatter(service, redact) if settings.log.format == "json" else TextFormatter(redact))
    handler.addFilter(WithoutNoise())
    handler.addFilter(WithRequestId())
    return handler


def faust_logging(settings: Settings) -> dict[str, Any]:
    """Return the logging of a worker in the form of `logging.config`: Faust sets its own up, after our modules are imported."""
    handler = {"()": make_handler, "settings": settings, "service": Service("worker", settings.worker.index)}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"lines": handler},
        "root": {"level": settings.log.level, "handlers": ["lines"]},
    }


def configure_logging(settings: Settings, service: Service, *, quiet: Iterable[str] = ()) -> None:
    """Log to standard error from `log.level` on; of the loggers *quiet*, which report every failed try, CRITICAL only."""
    logging.basicConfig(level=settings.log.level, handlers=[make_handler(settings, service)], force=True)
    for name in quiet:
        logging.getLogger(name).setLevel(logging.CRITICAL)
