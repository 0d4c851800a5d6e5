"""What container files may say of Tally: its settings, its commands, its ports and paths. Nothing here needs an engine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from faust.cli.worker import worker as faust_worker

from gateway import analytics, events_beacon, events_route, user_tags
from gateway.auth.door import Auth
from gateway.auth.edge import paths_of
from gateway.auth.identity import Identity, Refused
from stack import cli
from streams.metrics import GatewayMetrics
from streams.settings import SECRET_FILES, Gateway, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = Gateway(environment="production")
STORING = frozenset({user_tags.PATH, events_route.PATH, events_beacon.PATH, *paths_of(analytics.PATHS[0], PRODUCTION)})
"""Paths under which something is stored, in whatever environment."""
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
PORTS = {"gateway": Settings().gateway.port, "worker": Settings().web.port, "sinks": Settings().sinks.port}
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+(\.\d+)?[\w.-]*(@sha256:[0-9a-f]{64})?")
"""An image by its exact version, or by its digest as well."""


def check_settings(environ: Mapping[str, str], folder: Path) -> Settings:
    """Return the settings that these variables make, defaults of the code below; secrets are read from files that are not here.

    Raises:
        SettingsError: a name is no setting, or a value is out of range.
    """
    given = {name: value for name, value in environ.items() if name.startswith("TALLY_")}
    for name in set(given) & set(SECRET_FILES):
        secret = folder / name
        secret.write_text("a-secret-of-the-test")
        given[name] = str(secret)
    return load_settings(given, path=folder / "none.conf")


async def who_may_write(settings: Settings) -> dict[str, Identity | str]:
    """Return what the gateway of a container says to a request without credentials: who it is, or the reason of a refusal."""
    exposed = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"host": image_host()})})
    auth = Auth(exposed, GatewayMetrics())
    found: dict[str, Identity | str] = {}
    for name, door in (("events", auth.events), ("analytics", auth.analytics)):
        try:
            found[name] = await door.identify([])
        except Refused as refused:
            found[name] = refused.reason.value
    return found


def image_host() -> str:
    """Return where a gateway of the image listens."""
    (host,) = re.findall(r"TALLY_GATEWAY_HOST=(\S+)", (DOCKER / "Dockerfile").read_text(encoding="utf-8"))
    return str(host)


def check_command(words: Sequence[str]) -> str:
    """Return what kind of process a command starts; fails for one that cannot be started."""
    assert words[:2] == ["python", "-m"], words
    module, *arguments = words[2:]
    assert module in sys.modules or find_spec(module) is not None, f"no module {module}"
    if module == "stack":
        assert cli._parser().parse_args(arguments).command == arguments[0]
        return arguments[0]
    if module == "faust":
        _check_worker(arguments)
        return "worker"
    assert find_spec(f"{module}.__main__") is not None
    assert not arguments
    return module


def _check_worker(arguments: Sequence[str]) -> None:
    application, name, command, *rest = arguments
    assert (application, name, command) == ("-A", "pipeline", "worker")
    assert (ROOT / "pipeline.py").is_file()
    known = {word for option in faust_worker.options for word in _words_of(option)}
    unknown = [word for word in rest if word.startswith("-") and word not in known]
    assert not unknown, f"the worker has no option {unknown}"


def _words_of(option: Any) -> list[str]:
    def command() -> None:
        """Take the option, to be asked for its words."""

    option(command)
    return [word for parameter in command.__click_params__ for word in parameter.opts]  # type: ignore[attr-defined]


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def compose() -> dict[str, Any]:
    """Return the compose file, anchors merged, as it is written otherwise."""
    return documents(DOCKER / "compose.yaml")[0]


def schema(name: str) -> Any:
    """Return a vendored JSON schema."""
    return json.loads((ROOT / "tests" / "schemas" / name).read_text(encoding="utf-8"))


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """Return *text* as compose reads it: variables replaced, defaults and complaints for missing ones dropped.

    >>> filled_in("${PORT:-80} ${SECRET:?set it}", {"SECRET": "x"})
    '80 x'
    """

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[3] if match[2] == ":-" else None
        found = values.get(name, default)
        assert found is not None, f"nobody sets {name}"
        return found

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)
