"""Pages between our own processes are for them, Faust's own are off, and nothing listens for others by accident."""

from __future__ import annotations

from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from streams.internal import is_loopback
from streams.settings import Settings
from tests.security.conftest import Job
from tests.support.builders import a_user_tag
from tests.support.eventually import eventually
from tests.support.job import ALWAYS
from tests.support.worker import WorkerProcess

INTERNAL = (
    "aggregates", "profiles", "event", "look", "erase", "sums", "series", "pulse", "written",
    *(f"v1/{name}" for name in ("aggregates", "timelines", "event", "look")),
)  # fmt: skip
OF_FAUST = ("/", "/table", "/table/", "/table/user-profiles/x/", "/router", "/router/", "/graph", "/stats", "/production_index")


def status_of(url: str, *, method: str = "GET", token: str | None = None) -> int:
    headers = {} if token is None else {"Authorization": token}
    request = Request(url, data=b"\x80" if method == "POST" else None, headers=headers, method=method)
    try:
        with urlopen(request, timeout=30) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("page", INTERNAL)
def test_an_internal_page_wants_the_token(job: Job, page: str) -> None:
    """They answer anything about anybody, and one of them erases."""
    url = f"{job.workers[0].url}/internal/{page}"
    assert status_of(url, method="POST") == 401
    assert status_of(url, method="POST", token="Bearer wrong") == 401
    assert status_of(url, method="POST", token="Basic " + job.token) == 401
    assert status_of(url, method="POST", token="Bearer \xff") == 401, "no text in UTF-8"
    assert status_of(url, method="POST", token=f"Bearer {job.token}") not in (401, 404)
    assert status_of(url) == 401


@pytest.mark.parametrize(
    "path", ["/internal/none", "/internal/", "//internal/erase", "/%69nternal/erase", "/internal/../internal/erase"]
)
def test_no_spelling_of_the_path_goes_round_the_token(job: Job, path: str) -> None:
    """What is checked is what is routed by."""
    assert status_of(job.workers[0].url + path, method="POST") in (401, 404)


def test_the_gateway_passes_no_internal_page_on(job: Job) -> None:
    """It has the token, and its clients have not."""
    for page in INTERNAL:
        assert job.door.ask("POST", f"/internal/{page}", b"\x80").status == 404


def test_workers_show_each_other_the_token(job: Job) -> None:
    """A profile lies in one partition and is asked of either; aggregates need both workers."""
    for number in range(8):
        cookie = f"internal-{number}"
        job.door.send(a_user_tag(cookie=cookie))
        for worker in job.workers:
            url = f"{worker.url}/user_profiles/{cookie}?time_range={ALWAYS}"
            eventually(lambda url=url: status_of(url) == 200, what="an answer")  # type: ignore[misc]


@pytest.mark.parametrize("path", OF_FAUST)
def test_pages_of_faust_are_off(job: Job, path: str) -> None:
    """Its own views would show keys of tables and the topology to anybody."""
    assert status_of(job.workers[0].url + path) == 404


def test_nothing_listens_for_others_unless_it_is_said() -> None:
    """The defaults of every process."""
    settings = Settings()
    assert all(map(is_loopback, (settings.web.host, settings.gateway.host, settings.sinks.host)))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "worker.example"])
def test_a_worker_without_a_token_does_not_listen_for_others(job: Job, log_folder: Path, host: str) -> None:
    """One line that says what to set, and nothing is bound."""
    worker = WorkerProcess(job.servers, log_folder, settings={"TALLY_WEB_HOST": host})
    worker.start(wait=False)
    assert worker.wait_ended() != 0
    (line,) = worker.log().strip().splitlines()
    assert line.startswith(f"web.host is {host!r}") and "TALLY_WEB_TOKEN" in line
