"""Choose ports: the wished one when it is free, else the one of last time, else any free one."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path

LOOPBACK = "127.0.0.1"
_reserved: dict[int, socket.socket] = {}


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server could listen on *port* of *host* now; one in TIME_WAIT counts as free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that nobody listens on; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def reserve(port: int) -> bool:
    """Keep every other stack of this machine from choosing *port* while this process lives; False where another one does.

    Seconds pass until a server listens there: two stacks begun at once would both find it free, and the one whose Kafka then
    cannot listen would take the other's for its own. A name in Linux's abstract namespace goes with its process.
    """
    if port in _reserved:
        return True
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0tally-port-{port}")
    except OSError:
        holder.close()
        return False
    _reserved[port] = holder
    return True


def choose_port(wished: int, remembered: int = 0) -> int:
    """Return *wished* when it is free, else *remembered* when that is, else a free one; 0 means none. It is reserved."""
    for port in (wished, remembered):
        if port and is_free(port) and reserve(port):
            return port
    while not reserve(port := free_port()):
        pass
    return port


def read_ports(path: Path) -> dict[str, int]:
    """Return the ports remembered in *path*, by name; none when it is missing or damaged."""
    try:
        ports = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(ports, dict):
        return {}
    return {name: port for name, port in ports.items() if isinstance(port, int) and 0 < port <= 65535}


def write_ports(path: Path, ports: Mapping[str, int]) -> None:
    """Remember *ports* in *path* for the next start."""
    path.write_text(json.dumps(dict(ports)) + "\n", encoding="utf-8")
