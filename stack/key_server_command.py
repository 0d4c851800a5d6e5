"""Run the key server for development: `python -m stack key-server`."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from stack.errors import StackError
from stack.key_server import CLIENT, KeyServer
from stack.ports import LOOPBACK
from stack.progress import Say, say

DEFAULT_CLIENT = "development"
NAME_BYTES = 4


@dataclass(frozen=True)
class KeyServerPlan:
    """What to serve.

    Attributes:
        clients_file: JSON object of secrets by client; None: one client, whose secret is made and told.
        issuer, audience: of every token; empty: none, as on the Platform.
    """

    port: int
    organization: str
    clients_file: Path | None = None
    issuer: str = ""
    audience: str = ""


def serve_keys(plan: KeyServerPlan, *, say: Say = say) -> None:
    """Serve on this machine only, until SIGINT or SIGTERM.

    Raises:
        StackError: the file of clients is no such file, or the port is taken.
    """
    asyncio.run(_serve(plan, say))


async def _serve(plan: KeyServerPlan, say: Say) -> None:
    name = f"key-{secrets.token_hex(NAME_BYTES)}"
    server = KeyServer(_clients_of(plan, say), organization=plan.organization, name=name)
    server.claims = {name: value for name, value in (("iss", plan.issuer), ("aud", plan.audience)) if value}
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, plan.port).start()
    except OSError as error:
        await runner.cleanup()
        raise StackError(f"cannot listen on {LOOPBACK}:{plan.port} ({error.strerror}); name another --port") from error
    say(f"keys: http://{LOOPBACK}:{plan.port}/identity/jwks/")
    await stopped.wait()
    await runner.cleanup()


def _clients_of(plan: KeyServerPlan, say: Say) -> dict[str, str]:
    if plan.clients_file is None:
        secret = secrets.token_urlsafe(16)
        say(f"client: {DEFAULT_CLIENT}, secret: {secret}")
        return {DEFAULT_CLIENT: secret}
    try:
        clients: Any = json.loads(plan.clients_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StackError(f"{plan.clients_file}: {type(error).__name__}; right is a JSON object of secrets by client") from error
    if not isinstance(clients, dict) or not all(CLIENT.fullmatch(name) and isinstance(clients[name], str) for name in clients):
        raise StackError(f"{plan.clients_file}: right is a JSON object of secrets by client, names of a to z and -")
    return clients
