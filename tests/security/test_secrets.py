"""A secret of the settings shows nowhere: logs, metrics, process lists, error pages, the settings themselves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from streams.errors import SettingsError
from streams.settings import load_settings
from tests.security.conftest import Job
from tests.support.job import Door, processes
from tests.tidy.tree import source_files, tree_of

ROOT = Path(__file__).parents[2]
COMPARING = ("api_keys.py", "internal.py", "key_server.py")
"""Files that compare keys, the token of the workers, and what clients of the key server say."""
CANARY = "canary-7a1f0c-b2d94e"
PAGES = (
    "/metrics",
    "/ready",
    "/live",
    "/health",
    "/none",
    "/internal/look",
    "/aggregates",
    "/user_profiles/x",
    "/event",
    "/user_tags",
)


def test_secrets_are_in_no_log_page_or_process_list(job: Job) -> None:
    """The token of the workers, and the password of Postgres, as the processes run."""
    seen = dict(job.logs)
    ports = [job.gateway.port, job.sinks.port, *(worker.port for worker in job.workers)]
    for port in ports:
        door = Door(port)
        for page in PAGES:
            for method in ("GET", "POST"):
                answer = door.ask(method, page, b"{" if method == "POST" else None)
                seen[f"{method} {port}{page}"] = f"{answer.headers} {answer.body.decode(errors='replace')}"
        door.close()
    seen["processes"] = "\n".join(command for _, command, _ in processes())
    assert {place for place, text in seen.items() if job.token in text or job.password in text} == set()


SECRETS = {
    "TALLY_WEB_TOKEN": CANARY,
    "TALLY_KAFKA_SASL_PASSWORD": CANARY,
    "TALLY_POSTGRES_DSN": f"postgresql://tally:{CANARY}@localhost/tally",
}
EXAMPLES = {
    "TALLY_WEB_TOKEN": "web-token",
    "TALLY_KAFKA_SASL_PASSWORD": "kafka-password",
    "TALLY_POSTGRES_DSN": "postgres-dsn",
}


def test_settings_that_are_printed_hide_them() -> None:
    """In a trace, or when somebody logs them while looking for something else."""
    settings = load_settings(SECRETS)
    assert CANARY not in repr(settings) and CANARY not in str(settings)


@pytest.mark.parametrize("variable", SECRETS)
def test_a_secret_comes_from_a_file_as_well(tmp_path: Path, variable: str) -> None:
    """An environment can be read by whoever may look at the process; files have rights."""
    file = tmp_path / "secret"
    file.write_text(SECRETS[variable] + "\n")
    settings = load_settings({f"{variable}_FILE": str(file)})
    assert SECRETS[variable] in (settings.web.token, settings.kafka.sasl_password, settings.postgres.dsn)


@pytest.mark.parametrize("variable", SECRETS)
def test_a_secret_does_not_stand_in_the_file_of_settings(tmp_path: Path, variable: str) -> None:
    """It is committed, copied and shown; and the line that refuses it does not repeat it."""
    section, key = variable.removeprefix("TALLY_").lower().split("_", 1)
    conf = tmp_path / "faust.conf"
    conf.write_text(f"[{section}]\n{key} = {SECRETS[variable]}\n")
    with pytest.raises(SettingsError, match=variable) as refusal:
        load_settings({}, path=conf)
    assert CANARY not in str(refusal.value)


@pytest.mark.parametrize("token", ["short", "x" * 15])
def test_a_token_that_can_be_guessed_stops_the_start(token: str) -> None:
    """Whoever has it erases anybody; and the line that refuses it does not repeat it."""
    with pytest.raises(
        SettingsError, match=r"^web.token is a secret .* right is a secret of at least 16 characters$"
    ) as refusal:
        load_settings({"TALLY_WEB_TOKEN": token})
    assert token not in str(refusal.value).replace("a secret", "")


@pytest.mark.parametrize("variable", SECRETS)
def test_a_password_of_an_example_stops_the_start(tmp_path: Path, variable: str) -> None:
    """What stands in docker/ in the place of each secret is known to everybody; given by a file it is no better."""
    text = (ROOT / "docker" / "kubernetes" / "secret.example.yaml").read_text(encoding="utf-8")
    value = next(yaml.safe_load_all(text))["stringData"][EXAMPLES[variable]]
    file = tmp_path / "secret"
    file.write_text(value)
    for environ in ({variable: value}, {f"{variable}_FILE": str(file)}):
        with pytest.raises(SettingsError, match="password of an example"):
            load_settings(environ)


def test_what_is_secret_is_compared_in_constant_time() -> None:
    """How long a comparison with `==` takes tells how much of a guess was right."""
    early: set[str] = set()
    constant: set[str] = set()
    for path in (path for path in source_files() if path.is_relative_to(ROOT / "gateway" / "auth") or path.name in COMPARING):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Compare) and any(isinstance(each, ast.Eq | ast.NotEq) for each in node.ops):
                early |= {f"{path}:{node.lineno}"} if re.search(r"secret|token|digest|sha256", ast.unparse(node)) else set()
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "compare_digest":
                constant.add(path.name)
    assert (early, constant) == (set(), set(COMPARING))


def test_a_misspelled_secret_is_not_repeated() -> None:
    """The line that says which setting does not exist goes to a log."""
    with pytest.raises(SettingsError) as refusal:
        load_settings({"TALLY_WEB_TOKENS": CANARY})
    assert CANARY not in str(refusal.value)
