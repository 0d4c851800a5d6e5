"""Read every setting once: `faust.conf`, over it the environment; refuse what is unknown or out of range.

The models below are the authority on names, types, ranges and defaults; `faust.conf` repeats the defaults with their
meaning, and a test holds the two together. Only this module reads the file and the `TALLY_` variables.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from streams.errors import SettingsError

ENV_PREFIX = "TALLY_"
CONF_FILE_VARIABLE = "TALLY_CONF_FILE"
DEFAULT_CONF_FILE = "faust.conf"
SECRET_FILES = {
    "TALLY_POSTGRES_DSN_FILE": ("postgres", "dsn"),
    "TALLY_KAFKA_SASL_PASSWORD_FILE": ("kafka", "sasl_password"),
    "TALLY_WEB_TOKEN_FILE": ("web", "token"),
}
PASSWORDS = {("kafka", "sasl_password"), ("web", "token")}
"""Settings that never stand in the file, whatever their value looks like."""
EXAMPLE = "CHANGE"
"""What stands in our examples where a password belongs; whoever can read them knows it."""
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@|\bpassword\s*=", re.IGNORECASE)
"""A URL's `user:password@`, or libpq's keyword, in a URL's query too."""

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]


class Section(BaseModel):
    """One `[section]`: frozen, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(Section):
    servers: str = Field("", description="host:port,host:port; empty: the local one")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: str = Field("", description="a file of PEM certificates; empty: the system's")
    cert_file: str = Field("", description="a PEM file; empty: no certificate of ours")
    key_file: str = Field("", description="a PEM file; empty: that of cert_file")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str = Field("", description="a name")
    sasl_password: str = Field("", description="a password", repr=False)


class Postgres(Section):
    dsn: str = Field("", description="libpq URL; empty: the local one", repr=False)


class Stack(Section):
    home: Path = Field(Path(".tally"), description="a folder")
    kafka_port: Port = 9092
    postgres_port: Port = 5432
    kafka_heap_mib: Annotated[int, Field(ge=128, le=65536)] = 512
    ready_timeout_s: Seconds = 120.0


class Topics(Section):
    partitions: Annotated[int, Field(ge=1, le=1000)] = 4
    replication_factor: Annotated[int, Field(ge=1, le=10)] = 1
    retention_s: Annotated[int, Field(ge=60, le=31_536_000)] = 604_800
    segment_s: Annotated[int, Field(ge=1, le=86_400)] = 3_600
    record_bytes_max: Annotated[int, Field(ge=65_536, le=16_777_216)] = 4_194_304


class Worker(Section):
    index: Annotated[int, Field(ge=0, le=999)] = 0
    profiles: bool = True
    horizon_s: Annotated[int, Field(ge=3_600, le=31_536_000)] = 86_400
    partial_interval_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    commit_interval_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    session_timeout_s: Annotated[float, Field(ge=6, le=300)] = 20.0
    batches_in_flight_max: Annotated[int, Field(ge=1, le=64)] = 6
    block_cache_mib: Annotated[int, Field(ge=8, le=65_536)] = 128
    acknowledge_timeout_s: Seconds = 60.0
    stall_timeout_s: Annotated[float, Field(ge=5, le=86_400)] = 120.0
    drain_s: Annotated[float, Field(ge=0, le=300)] = 2.0
    accept_lost_events: bool = False


class Web(Section):
    host: str = "127.0.0.1"
    port: Port = 6066
    token: Annotated[str, Field(pattern=r"^$|^.{16}")] = Field("", description="a secret of at least 16 characters", repr=False)


class Gateway(Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    workers: str = Field("", description="URLs of workers, comma separated; empty: the local ones")
    body_bytes_max: Annotated[int, Field(ge=1_024, le=4_194_304)] = 65_536
    linger_ms: Annotated[float, Field(ge=0, le=1_000)] = 3.0
    events_waiting_max: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    acknowledge_timeout_s: Seconds = 10.0
    query_timeout_s: Seconds = 30.0
    requests_per_client_s: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    environment: Literal["development", "testing", "production"] = "development"
    cors_origins: str = Field("", description="origins, comma separated, or *")
    cors_origins_pattern: str = Field("", description="a regular expression")
    https_only: bool = False
    queries_waiting_max: Annotated[int, Field(ge=0, le=100_000)] = 1_000
    drain_s: Annotated[float, Field(ge=0, le=300)] = 3.0


class Events(Section):
    time_past_s: Annotated[int, Field(ge=0, le=31_536_000)] = 86_400
    time_future_s: Annotated[int, Field(ge=0, le=31_536_000)] = 60
    recent_events_max: Annotated[int, Field(ge=2, le=10_000_000)] = 100_000


class Analytics(Section):
    body_bytes_max: Annotated[int, Field(ge=1_024, le=16_777_216)] = 3_900_000
    sessions_max: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    session_s: Annotated[int, Field(ge=60, le=31_536_000)] = 1_209_600


class Auth(Section):
    events: Literal["off", "on"] = "off"
    events_key_set_url: str = Field("", description="https://…, or http:// on this machine")
    events_algorithms: str = Field("RS256", description="names, comma separated")
    events_issuer: str = ""
    events_audience: str = ""
    events_leeway_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    events_token_age_s_max: Annotated[float, Field(ge=0, le=31_536_000)] = 86_400.0
    analytics: Literal["off", "on"] = "off"
    analytics_key_set_url: str = Field("", description="https://…, or http:// on this machine")
    analytics_algorithms: str = Field("RS256", description="names, comma separated")
    analytics_issuer: str = ""
    analytics_audience: str = ""
    analytics_leeway_s: Annotated[float, Field(ge=0, le=600)] = 60.0
    analytics_organization: str = Field("pennlabs", pattern="^[a-z-]+$", description="a name of a to z and -")
    subjects_file: str = Field("", description="a file")
    keys_file: str = Field("", description="a file")
    quota_events_s: Annotated[float, Field(ge=0, le=1_000_000_000)] = 0.0
    quota_bytes_s: Annotated[float, Field(ge=0, le=1_000_000_000_000)] = 0.0
    trust_network: bool = False


class Sinks(Section):
    host: str = "127.0.0.1"
    port: Port = 6060
    batch_rows_max: Annotated[int, Field(ge=1_000, le=1_000_000)] = 65_536
    flush_interval_s: Annotated[float, Field(ge=0.05, le=60)] = 2.0
    accept_lost_records: bool = False
    user_events: bool = True
    user_events_days: Annotated[int, Field(ge=1, le=3_650)] = 7
    events: bool = True
    events_forward: Annotated[
        str, Field(pattern=r"^(immediate|window\(([01]\d|2[0-3]):[0-5]\d\))$", description="immediate, or window(HH:MM)")
    ] = "immediate"
    forward_batch_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    events_days: Annotated[int, Field(ge=4, le=3_650)] = 7
    txn_log_days: Annotated[int, Field(ge=3, le=3_650)] = 30
    value_counts_days: Annotated[int, Field(ge=1, le=36_500)] = 3_650
    minute_cells_days: Annotated[int, Field(ge=1, le=3_650)] = 90
    hour_cells_days: Annotated[int, Field(ge=1, le=36_500)] = 400
    day_cells_days: Annotated[int, Field(ge=1, le=36_500)] = 3_650
    rollup_quiet_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    dead_letters_days: Annotated[int, Field(ge=1, le=3_650)] = 90


class Dashboard(Section):
    sinks_url: str = Field("", description="URL of the sinks; empty: those on this machine")
    streams_max: Annotated[int, Field(ge=1, le=10_000)] = 200
    statement_timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 15.0


class DeadLetters(Section):
    share_max: Annotated[float, Field(gt=0, le=1)] = 0.5
    window_records: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000


class Audit(Section):
    who: Annotated[str, Field(max_length=200)] = Field("", description="a name")


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
    requests: bool = False
    headers: bool = False
    bodies: bool = False


class Settings(BaseModel):
    """Every setting of every process; see `faust.conf` for what each means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kafka: Kafka = Kafka()
    postgres: Postgres = Postgres()
    stack: Stack = Stack()
    topics: Topics = Topics()
    worker: Worker = Worker()
    web: Web = Web()
    gateway: Gateway = Gateway()
    auth: Auth = Auth()
    events: Events = Events()
    analytics: Analytics = Analytics()
    sinks: Sinks = Sinks()
    dashboard: Dashboard = Dashboard()
    dead_letters: DeadLetters = DeadLetters()
    audit: Audit = Audit()
    log: Log = Log()


def load_settings(environ: Mapping[str, str] | None = None, *, path: Path | None = None) -> Settings:
    """Return the settings of *path* (default `faust.conf`, or the file `TALLY_CONF_FILE` names) under *environ*.

    Raises:
        SettingsError: one line that names the key, its value, where it stands and what would be right.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(CONF_FILE_VARIABLE)
    path = path or Path(named or DEFAULT_CONF_FILE)
    if named and not path.is_file():
        raise SettingsError(f"{CONF_FILE_VARIABLE}={named!r}: no such file; right is the path of a file like faust.conf")
    values, places = _read_file(path) if path.is_file() else ({}, {})
    _read_environment(environ, values, places)
    _check_passwords(values, places)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, values, places)) from error


def _read_file(path: Path) -> tuple[dict[str, dict[str, str]], dict[tuple[str, str], str]]:
    parser = configparser.ConfigParser(interpolation=None, default_section="")  # "": [DEFAULT] is a section like others
    try:
        text = path.read_text(encoding="utf-8-sig")
        parser.read_string(text, source=str(path))
    except configparser.Error as error:
        hidden = type(error).__name__ if _PASSWORD.search(str(error)) else " ".join(str(error).split())
        raise SettingsError(f"{path}: {hidden}; right is `key = value` under a [section]") from None
    except (UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    values = {name: dict(parser[name]) for name in parser.sections()}
    places = _lines_of(text, path)
    for section, keys in values.items():
        for key, value in keys.items():
            _check_one_line(section, key, value, places.get((section, key), str(path)))
    return values, places


def _check_one_line(section: str, key: str, value: str, place: str) -> None:
    """Refuse what INI would take for a text: a further line, a comment behind the value, a secret."""
    if _PASSWORD.search(value) or (value and (section, key) in PASSWORDS):
        variable = f"TALLY_{section}_{key}".upper() if (section, key) in PASSWORDS else "TALLY_POSTGRES_DSN"
        raise SettingsError(f"{section}.{key} holds a password ({place}); put it into {variable} instead")
    if "\n" in value:
        raise SettingsError(f"{section}.{key} is {value!r} ({place}): a value has one line, and a key is not indented")
    if re.search(r"\s[#;]", value):
        raise SettingsError(f"{section}.{key} is {value!r} ({place}): a comment stands on a line of its own, before the key")


def _lines_of(text: str, path: Path) -> dict[tuple[str, str], str]:
    places: dict[tuple[str, str], str] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\[(.+)\]", line):
            section = header[1]
            places[section, ""] = f"{path} line {number}"
        elif key := re.match(r"([^#;\s=:][^=:]*?)\s*[=:]", line):
            places[section, key[1].lower()] = f"{path} line {number}"
    return places


def _read_environment(
    environ: Mapping[str, str], values: dict[str, dict[str, str]], places: dict[tuple[str, str], str]
) -> None:
    known = {
        f"{ENV_PREFIX}{section}_{key}".upper(): (section, key)
        for section, field in Settings.model_fields.items()
        for key in _section_model(field.annotation).model_fields
    }
    for variable in sorted(name for name in environ if name.startswith(ENV_PREFIX)):
        if variable == CONF_FILE_VARIABLE:
            continue
        value = environ[variable]
        if variable in SECRET_FILES:
            section, key = SECRET_FILES[variable]
            try:
                value = Path(value).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"{variable}={value!r}: cannot read the file: {error}; right is a file of one line"
                ) from error
        elif variable in known:
            section, key = known[variable]
        else:
            raise SettingsError(f"{variable}={_shown(variable, value)} is not a setting{_nearest(variable, list(known))}")
        values.setdefault(section, {})[key] = value
        places[section, key] = f"variable {variable}"


def _check_passwords(values: dict[str, dict[str, str]], places: dict[tuple[str, str], str]) -> None:
    """Refuse a password that was taken over from an example."""
    for section, key in SECRET_FILES.values():
        value = values.get(section, {}).get(key, "")
        if value == EXAMPLE or f":{EXAMPLE}@" in value:
            raise SettingsError(
                f"{section}.{key} holds the password of an example ({places[section, key]}); make one of your own"
            )


def _section_model(annotation: Any) -> type[Section]:
    assert isinstance(annotation, type) and issubclass(annotation, Section)
    return annotation


def _explain(error: ValidationError, values: dict[str, dict[str, str]], places: dict[tuple[str, str], str]) -> str:
    first = error.errors(include_url=False)[0]
    section, key, *_ = *(str(part) for part in first["loc"]), ""
    place = places.get((section, key), "")
    if section not in Settings.model_fields:
        return f"[{section}] is not a section ({place}){_nearest(section, list(Settings.model_fields))}"
    fields = _section_model(Settings.model_fields[section].annotation).model_fields
    shown = _shown(f"{section}.{key}", values[section][key])
    if key not in fields:
        return f"{section}.{key} = {shown} is not a setting ({place}){_nearest(key, list(fields))}"
    return f"{section}.{key} is {shown} ({place}); right is {_right(fields[key])}"


def _shown(name: str, value: str) -> str:
    secret = any(word in name.lower() for word in ("postgres", "password", "sasl", "token")) or _PASSWORD.search(value)
    return "a secret" if secret else repr(value)


def _right(field: FieldInfo) -> str:
    """Say in words what a setting may be."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    if field.annotation is bool:
        return "true or false"
    if field.annotation is int:
        noun = "a whole number"
    else:
        noun = "a number" if field.annotation is float else field.description or "a text"
    words = (("from", "ge"), ("above", "gt"), ("up to", "le"))
    limits = [f"{word} {getattr(item, name)}" for item in field.metadata for word, name in words if hasattr(item, name)]
    return " ".join((noun, *limits))


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}"
