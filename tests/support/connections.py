"""Whom a process talks to: its sockets by their inodes, and what Linux says each is connected to."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

TABLES = ("tcp", "tcp6", "udp", "udp6")
LISTENS = "0A"


class Connection(NamedTuple):
    """One socket of a process that is connected, or on its way."""

    table: str
    local_port: int
    address: IPv4Address | IPv6Address
    port: int


def connections_of(pid: int) -> set[Connection]:
    """Return the sockets of a process that have another side."""
    inodes = set(inodes_of(pid))
    found = set()
    for table in TABLES:
        path = Path(f"/proc/{pid}/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            _, local, remote, state, *rest = line.split()
            address, port = parsed(remote)
            if rest[5] in inodes and state != LISTENS and port:
                found.add(Connection(table, parsed(local)[1], address, port))
    return found


def inodes_of(pid: int) -> Iterator[str]:
    """Yield the inodes of a process' sockets."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")


def parsed(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Return address and port; Linux writes words of four bytes in the order of the machine.

    >>> parsed("0100007F:1F90")
    (IPv4Address('127.0.0.1'), 8080)
    """
    address, port = text.split(":")
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    found = ip_address(socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw))
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found, int(port, 16)
