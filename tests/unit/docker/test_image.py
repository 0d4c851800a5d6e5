"""The image: what goes in exists, all that runs goes in, and it runs as nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import DOCKER, PINNED, PORTS, ROOT, check_command, check_settings
from tests.tidy.tree import SOURCE_FOLDERS

NOT_SHIPPED = {"bench", "tests"}


def instructions() -> list[tuple[str, str]]:
    """Return keyword and argument of each instruction, lines that go on put together."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def arguments(keyword: str) -> list[str]:
    return [rest for word, rest in instructions() if word == keyword]


def copied() -> Iterator[str]:
    """Yield what is copied from the repository."""
    for rest in arguments("COPY"):
        if not rest.startswith("--from="):
            yield from rest.split()[:-1]


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    """A folder that was renamed, or that .dockerignore keeps back, would be found at the next release."""
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in copied():
        assert (ROOT / path).exists(), path
        assert path in allowed, path
    assert {path for path in allowed if not (ROOT / path).exists()} == set()


def test_every_folder_of_code_is_in_the_image() -> None:
    """A new folder that nobody copies is an ImportError in production alone."""
    assert {*SOURCE_FOLDERS} - NOT_SHIPPED <= {*copied()}


def test_image_is_readable_when_the_checkout_is_its_owners_alone() -> None:
    """COPY keeps the rights of a checkout under umask 077, and user 10001 could import nothing."""
    (last,) = [rest for rest in arguments("RUN") if "compileall" in rest]
    assert last.startswith("chmod -R u=rwX,go=rX /app ")
    words = [word for word, _ in instructions()]
    assert words.index("USER") > max(number for number, word in enumerate(words) if word in {"COPY", "RUN"})


def test_image_runs_as_nobody_and_is_pinned() -> None:
    """security.md: no root, no name of an image that means another one tomorrow, no package without its hash."""
    assert arguments("USER")[-1] == "10001:10001"
    base = dict(line.split("=", 1) for line in arguments("ARG"))["PYTHON_IMAGE"]
    assert PINNED.fullmatch(base)
    assert {rest.split()[0] for rest in arguments("FROM")} == {"${PYTHON_IMAGE}"}
    installs = [rest for rest in arguments("RUN") if "pip install" in rest]
    assert installs
    assert all("--require-hashes" in rest for rest in installs)


def test_commands_ports_and_settings_exist(tmp_path: Path) -> None:
    """Whatever the file names is there under that name."""
    assert check_command(eval(arguments("CMD")[-1])) == "gateway"
    assert {int(port) for port in arguments("EXPOSE")[0].split()} == set(PORTS.values())
    environ = dict(re.findall(r"(\w+)=(\S+)", " ".join(arguments("ENV"))))
    settings = check_settings(environ, tmp_path)
    assert str(settings.stack.home) in arguments("VOLUME")
    assert environ["HEALTH_URL"] == f"http://127.0.0.1:{PORTS['gateway']}/ready"


@pytest.mark.parametrize("line", re.findall(r"^# .*?(python -m .*?)(?:;|$)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE))
def test_commands_of_the_comments_exist(line: str) -> None:
    """They are copied by hand."""
    check_command(line.split())


def test_nothing_in_the_image_needs_the_packages_that_it_leaves_out() -> None:
    """They run a Kafka and a Postgres on this machine, which a container has elsewhere."""
    (removal,) = re.findall(r"pip uninstall --yes ([\w -]+)", " ".join(arguments("RUN")))
    absent = {name.replace("-", "_"): None for name in removal.split()}
    program = f"import sys; sys.modules.update({absent}); import gateway.server, sinks.__main__, stack.cli, streams.app"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
