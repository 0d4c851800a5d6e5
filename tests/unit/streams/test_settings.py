"""Settings come from faust.conf and, over it, from the environment; whatever is wrong stops the start with one clear line."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any, get_args

import pytest

from streams.errors import SettingsError
from streams.settings import Section, Settings, load_settings

ROOT = Path(__file__).parents[3]
CONF = ROOT / "faust.conf"
SECTIONS: dict[str, Section] = {name: getattr(Settings(), name) for name in Settings.model_fields}
KEYS = [(section, key) for section, model in SECTIONS.items() for key in type(model).model_fields]


def refusal(text: str = "", *, environ: dict[str, str] | None = None, folder: Path) -> str:
    """Return the line that stops a start with such a file and environment; `{conf}` in it stands for the file."""
    path = folder / "faust.conf"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        load_settings(environ or {}, path=path)
    line = str(raised.value)
    assert "\n" not in line
    return line.replace(str(path), "{conf}")


def test_file_of_the_repository_gives_the_defaults() -> None:
    """A14: what the file says is what a start without it does."""
    assert load_settings({}, path=CONF) == Settings() == load_settings({}, path=Path("no such file"))


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_setting_stands_in_the_file_with_its_default(section: str, key: str) -> None:
    """A14: the file is the one place where a user looks for a setting."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(CONF.read_text(encoding="utf-8"))
    assert parser.has_option(section, key)
    model = type(SECTIONS[section])
    assert getattr(model.model_validate({key: parser[section][key]}), key) == getattr(SECTIONS[section], key)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_setting_has_its_meaning_before_it(section: str, key: str) -> None:
    """A14: one comment may stand before a few keys that belong together, but none stands without."""
    lines = CONF.read_text(encoding="utf-8").splitlines()
    start = lines.index(f"[{section}]")
    at = next(number for number in range(start, len(lines)) if lines[number].split("=")[0].strip() == key)
    while not lines[at - 1].startswith("#"):
        at -= 1
        assert lines[at] and not lines[at].startswith("["), f"no comment before {section}.{key}"


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_setting_can_be_given_by_its_variable(section: str, key: str, tmp_path: Path) -> None:
    """A14: the environment wins over the file."""
    other = another(section, key)
    path = tmp_path / "faust.conf"
    path.write_text(f"[{section}]\n{key} = {getattr(SECTIONS[section], key)}\n")
    settings = load_settings({f"TALLY_{section}_{key}".upper(): str(other), "PATH": "/bin"}, path=path)
    assert getattr(getattr(settings, section), key) == other != getattr(SECTIONS[section], key)


def another(section: str, key: str) -> Any:
    """Return a value of a setting that is right and not the default."""
    default = getattr(SECTIONS[section], key)
    if isinstance(default, bool):
        return not default
    choices = get_args(type(SECTIONS[section]).model_fields[key].annotation)
    if choices:
        return next(choice for choice in choices if choice != default)
    if isinstance(default, str):
        return next(text for text in ("other", "window(07:00)", "sixteen-letters-x") if accepts(section, key, text))
    if isinstance(default, Path):
        return Path("other")
    return next(value for value in (default + 1, default / 2) if accepts(section, key, value))


def accepts(section: str, key: str, value: Any) -> bool:
    try:
        type(SECTIONS[section]).model_validate({key: str(value)})
    except ValueError:
        return False
    return True


REFUSED_FILES = [
    ("[gatway]\nport = 1\n", "[gatway] is not a section ({conf} line 1); did you mean gateway?"),
    (
        "[DEFAULT]\nport = 1\n",
        "[DEFAULT] is not a section ({conf} line 1); known: analytics, audit, auth, dashboard, dead_letters,",
    ),
    ("# x\n[gateway]\nprot = 1\n", "gateway.prot = '1' is not a setting ({conf} line 3); did you mean port?"),
    ("[gateway]\nmy key = 1\n", "gateway.my key = '1' is not a setting ({conf} line 2); known: acknowledge_timeout_s,"),
    ("[gateway]\nport = x\n", "gateway.port is 'x' ({conf} line 2); right is a whole number from 1 up to 65535"),
    ("[gateway]\nport =\n", "gateway.port is '' ({conf} line 2); right is a whole number from 1 up to 65535"),
    ("[gateway]\nPort: 0\n", "gateway.port is '0' ({conf} line 2); right is a whole number from 1 up to 65535"),
    ("[gateway]\nport = 80.5\n", "gateway.port is '80.5' ({conf} line 2); right is a whole number from 1 up to 65535"),
    ("[gateway]\nlinger_ms = nan\n", "gateway.linger_ms is 'nan' ({conf} line 2); right is a number from 0 up to 1000"),
    ("[gateway]\nquery_timeout_s = inf\n", "gateway.query_timeout_s is 'inf' ({conf} line 2); right is a number above 0 up to"),
    ("[log]\nbodies = maybe\n", "log.bodies is 'maybe' ({conf} line 2); right is true or false"),
    ("[log]\nlevel = info\n", "log.level is 'info' ({conf} line 2); right is one of DEBUG, INFO, WARNING, ERROR"),
    ("[gateway]\nhost = a\n  port = 9\n", "gateway.host is 'a\\nport = 9' ({conf} line 2): a value has one line"),
    ("[gateway]\nhost = a ; door\n", "gateway.host is 'a ; door' ({conf} line 2): a comment stands on a line of its own"),
    ("port = 1\n", "{conf}: File contains no section headers. file: '{conf}', line: 1"),
    ("[gateway]\nport\n", "{conf}: Source contains parsing errors: '{conf}' [line 2]: 'port\\n'; right is `key = value`"),
    (
        "[gateway]\nport = 1\nport = 2\n",
        "{conf}: While reading from '{conf}' [line 3]: option 'port' in section 'gateway' already",
    ),
    ("[log]\n[log]\n", "{conf}: While reading from '{conf}' [line 2]: section 'log' already exists"),
]


@pytest.mark.parametrize(("text", "line"), REFUSED_FILES)
def test_bad_file_stops_the_start_with_key_value_place_and_remedy(text: str, line: str, tmp_path: Path) -> None:
    """A14."""
    assert line in refusal(text, folder=tmp_path)


REFUSED_VARIABLES = [
    ("TALLY_GATWAY_PORT", "1", "TALLY_GATWAY_PORT='1' is not a setting; did you mean TALLY_GATEWAY_PORT?"),
    ("TALLY_X", "1", "TALLY_X='1' is not a setting"),
    (
        "TALLY_GATEWAY_PORT",
        "99999",
        "gateway.port is '99999' (variable TALLY_GATEWAY_PORT); right is a whole number from 1 up to",
    ),
    ("TALLY_GATEWAY_PORT", "", "gateway.port is '' (variable TALLY_GATEWAY_PORT); right is"),
    ("TALLY_POSTGRES_DSN_FILE", "/no/such", "TALLY_POSTGRES_DSN_FILE='/no/such': cannot read the file"),
]


@pytest.mark.parametrize(("variable", "value", "line"), REFUSED_VARIABLES)
def test_bad_variable_stops_the_start(variable: str, value: str, line: str, tmp_path: Path) -> None:
    """A14: a misspelt variable would else be a setting that silently does nothing."""
    assert line in refusal(environ={variable: value}, folder=tmp_path)


def test_variable_wins_over_a_bad_value_of_the_file(tmp_path: Path) -> None:
    """The place that is named is the one that counts."""
    line = refusal("[gateway]\nport = 1\n", environ={"TALLY_GATEWAY_PORT": "x"}, folder=tmp_path)
    assert "variable TALLY_GATEWAY_PORT" in line


def test_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A14: several jobs of one machine have a file each; a byte order mark, as some editors write it, does not matter."""
    path = tmp_path / "other.conf"
    path.write_text("\ufeff[gateway]\nport = 9000\n", encoding="utf-8")
    assert load_settings({"TALLY_CONF_FILE": str(path)}).gateway.port == 9000
    monkeypatch.chdir(tmp_path)
    assert load_settings({}) == Settings()


def test_named_file_must_exist(tmp_path: Path) -> None:
    """A14: the defaults would else be taken for the user's settings."""
    with pytest.raises(SettingsError, match=r"TALLY_CONF_FILE='.*/none.conf': no such file; right is the path"):
        load_settings({"TALLY_CONF_FILE": str(tmp_path / "none.conf")})


DSN = "postgresql://tally:s3cret@db/tally"


def test_secret_comes_from_the_environment_or_from_a_file_that_it_names(tmp_path: Path) -> None:
    """Secrets stand neither in the file that is committed nor, where one can avoid it, in a process's environment."""
    secret = tmp_path / "dsn"
    secret.write_text(f"{DSN}\n")
    assert load_settings({"TALLY_POSTGRES_DSN": DSN}).postgres.dsn == DSN
    assert load_settings({"TALLY_POSTGRES_DSN_FILE": str(secret)}).postgres.dsn == DSN


@pytest.mark.parametrize(
    "dsn", [DSN, "host=db password=s3cret", "host=db PASSWORD = s3cret", "postgresql://db/tally?password=s3cret", f"{DSN} [::1"]
)
def test_password_in_the_file_is_refused_and_not_shown(dsn: str, tmp_path: Path) -> None:
    """The file is committed and copied; logs are read by many."""
    line = refusal(f"[postgres]\ndsn = {dsn}\n", folder=tmp_path)
    assert "postgres.dsn holds a password ({conf} line 2); put it into TALLY_POSTGRES_DSN instead" in line


def test_password_of_kafka_comes_from_the_environment_or_a_file_alone(tmp_path: Path) -> None:
    """It looks like any other word, so its key says that it is one; and no error shows it."""
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    assert load_settings({"TALLY_KAFKA_SASL_PASSWORD_FILE": str(secret)}).kafka.sasl_password == "s3cret"
    line = refusal("[kafka]\nsasl_password = s3cret\n", folder=tmp_path)
    assert "kafka.sasl_password holds a password ({conf} line 2); put it into TALLY_KAFKA_SASL_PASSWORD instead" in line
    assert "s3cret" not in refusal(environ={"TALLY_KAFKA_SASL_PASWORD": "s3cret"}, folder=tmp_path)
    assert "s3cret" not in repr(load_settings({"TALLY_KAFKA_SASL_PASSWORD": "s3cret"}))


@pytest.mark.parametrize("dsn", ["", "postgresql://db/tally", "host=db user=tally passfile=x", "postgresql://[::1/x"])
def test_address_without_a_password_may_stand_in_the_file(dsn: str, tmp_path: Path) -> None:
    """Where Postgres asks for none, or libpq finds it in its own file. A malformed one is for libpq to explain."""
    path = tmp_path / "faust.conf"
    path.write_text(f"[postgres]\ndsn = {dsn}\n")
    assert load_settings({}, path=path).postgres.dsn == dsn


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("", {"TALLY_POSTGRES_DNS": DSN}),
        ("", {"TALLY_PG": DSN}),
        (f"[postgres]\ndsn {DSN}\n", {}),
        (f"[postgress]\ndsn = {DSN}\n", {}),
        (f"[postgres]\ndsnn = {DSN}\n", {}),
        (f"dsn = {DSN}\n", {}),
        ("", {"TALLY_GATEWAY_PORT": DSN}),
    ],
)
def test_misplaced_secret_is_not_shown(text: str, environ: dict[str, str], tmp_path: Path) -> None:
    """A typing error in a key's name must not print the password."""
    assert "s3cret" not in refusal(text, environ=environ, folder=tmp_path)


def test_secret_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A14: one line, no stack trace."""
    secret = tmp_path / "dsn"
    secret.write_bytes(b"\xff\xfe")
    assert "cannot read the file" in refusal(environ={"TALLY_POSTGRES_DSN_FILE": str(secret)}, folder=tmp_path)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A14."""
    path = tmp_path / "faust.conf"
    path.write_bytes(b"[log]\nlevel = \xff\n")
    with pytest.raises(SettingsError, match="cannot be read as UTF-8 text"):
        load_settings({}, path=path)
