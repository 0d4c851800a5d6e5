"""A secret of the settings shows nowhere: logs, metrics, process lists, error pages, the settings themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.errors import SettingsError
from streams.settings import load_settings
from tests.security.conftest import Job
from tests.support.job import Door, processes

CANARY = "canary-7a1f0c"
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


def test_a_misspelled_secret_is_not_repeated() -> None:
    """The line that says which setting does not exist goes to a log."""
    with pytest.raises(SettingsError) as refusal:
        load_settings({"TALLY_WEB_TOKENS": CANARY})
    assert CANARY not in str(refusal.value)
