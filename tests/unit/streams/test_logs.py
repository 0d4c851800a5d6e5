"""A log line is one line, tells the same fields everywhere, and never a secret."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Iterator

import pytest

from streams.logs import JsonFormatter, Redactor, Service, TextFormatter, faust_logging, make_handler, secrets_of
from streams.settings import Settings, load_settings

CANARY = "canary-7Hq2/x"
QUOTED = "canary-7Hq2%2Fx"
WORKER = Service("worker", 3)


def a_line(
    message: object = "block closed", *arguments: object, error: Exception | None = None, **extra: object
) -> logging.LogRecord:
    record = logging.LogRecord("agents.timers", logging.WARNING, __file__, 1, message, arguments, None)
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    vars(record).update(extra)
    return record


def an_error(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def settings(**log: str) -> Settings:
    environ = {
        "TALLY_POSTGRES_DSN": f"postgresql://tally:{QUOTED}@db:5432/tally",
        "TALLY_KAFKA_SASL_PASSWORD": "canary-kafka",
        "TALLY_WEB_TOKEN": "canary-token-of-logs",
    }
    return load_settings(environ | {f"TALLY_LOG_{name.upper()}": value for name, value in log.items()})


@pytest.fixture(params=["text", "json"])
def formatter(request: pytest.FixtureRequest) -> Iterator[logging.Formatter]:
    made = make_handler(settings(format=request.param), WORKER).formatter
    assert made is not None
    yield made


LEAKS = [
    a_line("connecting to postgresql://tally:%s@db:5432/tally", QUOTED),
    a_line("no route: %r", {"password": CANARY, "user": "tally"}),
    a_line("tried", dsn=f"host=db password={CANARY} user=tally", servers=["a", f"b:{CANARY}"]),
    a_line("postgres refuses us", error=an_error(f"connection to {CANARY!r} failed\nDETAIL: password={CANARY}")),
    a_line("kafka refuses us: %s, %s", "canary-kafka", "Authorization: Bearer canary-token-of-logs"),
    a_line("a header", value=f"Bearer {CANARY}eyJhbGciOi"),
    a_line(f"in the message itself {CANARY}"),
]


@pytest.mark.parametrize("line", LEAKS, ids=range(len(LEAKS)))
def test_no_secret_of_the_settings_is_ever_written(line: logging.LogRecord, formatter: logging.Formatter) -> None:
    """Wherever it stands: arguments, extra values, nested, in a trace, spelled for a URL or not."""
    written = formatter.format(line)
    assert not {secret for secret in (CANARY, QUOTED, "canary-kafka", "canary-token-of-logs") if secret in written}
    assert "***" in written


def test_secret_nobody_configured_is_hidden_where_it_looks_like_one() -> None:
    """A library may log the DSN that it was given by itself."""
    assert (
        Redactor()("dsn postgres://me:sesame@host/db, PASSWORD = sesame;") == "dsn postgres://me:***@host/db, PASSWORD = ***;"
    )
    assert Redactor()("authorization=ApiKey 0123456789ab_sesame") == "authorization=ApiKey ***"
    assert secrets_of(Settings()) == set()


BREAKS = ["\n", "\r\n", "\x0b", "\x85", "\u2028", "\x1b[2J"]


@pytest.mark.parametrize("ends", BREAKS, ids=repr)
def test_a_value_cannot_forge_an_entry(ends: str, formatter: logging.Formatter) -> None:
    """What somebody sends may stand in a message, an extra value or an error: it stays inside its line."""
    forged = f"x{ends}2026-11-23 07:41:13.123Z CRITICAL agents.guard: all is lost"
    for line in (a_line("worker %s", forged), a_line(forged), a_line("a", cookie=forged), a_line("a", error=an_error(forged))):
        entry, *trace = formatter.format(line).splitlines()
        assert all(part.startswith("  | ") for part in trace)
        assert "\x1b" not in entry
        if line.exc_info is None:
            assert trace == []


def test_text_is_read_at_one_look() -> None:
    """Time, level, where, what, and the values behind; the fault matrix and people read it so."""
    line = a_line("block of %d closed", 7, minute_at_ms=60_000, worker="http://x")
    line.created, line.msecs = 0.25, 250.0
    text = TextFormatter(Redactor()).format(line)
    assert text == "1970-01-01 00:00:00.250Z WARNING agents.timers: block of 7 closed minute_at_ms=60000 worker='http://x'"


def test_json_has_the_fields_that_one_searches_by() -> None:
    """The same names in every process; a value may not take the place of one of them."""
    line = a_line("block of %d closed", 7, minute_at_ms=60_000, level="forged", error=an_error("broken"))
    line.created, line.msecs = 0.25, 250.0
    found = json.loads(JsonFormatter(WORKER, Redactor()).format(line))
    trace = found.pop("trace")
    assert found == {
        "ts": "1970-01-01T00:00:00.250Z", "level": "WARNING", "service": "worker", "worker_id": 3, "logger": "agents.timers",
        "event": "block of 7 closed", "minute_at_ms": 60_000,
    }  # fmt: skip
    assert "ValueError: broken" in trace


def test_faust_takes_our_handler(capsys: pytest.CaptureFixture[str]) -> None:
    """Faust sets logging up itself, by a configuration; its own has colours and lines of another form."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logging.config.dictConfig(faust_logging(settings(format="json")))
        logging.getLogger("faust.transport").warning("joined")
        logging.getLogger("faust.transport").error("Aiokafka has not sent fetch request for %r since start", "tp")
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = before
        root.setLevel(level)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "joined"
