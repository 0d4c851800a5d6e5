"""Manage API keys: `python -m gateway.auth keys add | revoke | list`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from gateway.auth.api_keys import StoredKey, new_key, read_keys
from gateway.auth.key_file import changing
from gateway.auth.watched_file import BadDocumentError
from streams.clock import SYSTEM_CLOCK
from streams.errors import SettingsError
from streams.settings import load_settings

FAILED = 1
BAD_SETTINGS = 2
ALL = "*"
LENGTH_MAX = 36_500


class CommandError(Exception):
    """What was asked for cannot be done; says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what *arguments* ask for and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        path = Path(options.file or load_settings().auth.keys_file)
        if path == Path():
            raise SettingsError("auth.keys_file is empty; set TALLY_AUTH_KEYS_FILE, or name a file by --file")
        COMMANDS[options.command](options, path)
    except SettingsError as error:
        return _fail(str(error), BAD_SETTINGS)
    except (BadDocumentError, CommandError) as error:
        return _fail(f"{path}: {error}", FAILED)
    except OSError as error:
        return _fail(f"{error.filename or path}: {(error.strerror or str(error)).lower()}", FAILED)
    return 0


def add(options: argparse.Namespace, path: Path) -> None:
    """Make a key, and show it for the only time."""
    made, shown = new_key(options.name, created_at=_now(), products=_names(options.products), streams=_names(options.streams))
    expires_at = None if options.days is None else made.created_at + timedelta(days=options.days)
    made = msgspec.structs.replace(
        made, expires_at=expires_at, events_per_s=options.events_per_s, bytes_per_s=options.bytes_per_s
    )
    _check(made)
    with changing(path) as keys:
        keys[made.prefix] = made
    _say(shown)
    sys.stderr.write("this key is shown once; send it as: Authorization: ApiKey <key>\n")


def revoke(options: argparse.Namespace, path: Path) -> None:
    """Remove a key, or let it end after a while, so that its owner can change to a new one."""
    with changing(path) as keys:
        found = keys.pop(options.prefix.partition("_")[0], None)
        if found is None:
            raise CommandError(f"no key has the prefix {options.prefix.partition('_')[0]!r}")
        if options.in_hours:
            keys[found.prefix] = msgspec.structs.replace(found, expires_at=_now() + timedelta(hours=options.in_hours))


def show(options: argparse.Namespace, path: Path) -> None:
    """List the keys, without what would help to guess one."""
    for key in read_keys(path).values():
        expires = "never" if key.expires_at is None else key.expires_at.isoformat(timespec="seconds")
        scopes = f"products={_told(key.products)} streams={_told(key.streams)}"
        _say(f"{key.prefix} {key.name} created={key.created_at.isoformat(timespec='seconds')} expires={expires} {scopes}")


COMMANDS = {"add": add, "revoke": revoke, "list": show}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway.auth", description=__doc__)
    subject = parser.add_subparsers(dest="subject", required=True)
    commands = subject.add_parser("keys", help="API keys").add_subparsers(dest="command", required=True)
    one = commands.add_parser("add", help="make a key")
    one.add_argument("--name", required=True, help="who has it: the source of its events")
    one.add_argument("--products", required=True, help="comma separated, or * for all")
    one.add_argument("--streams", default="events.v1", help="comma separated, or * for all")
    one.add_argument("--days", type=_length, help="how long it is good for; without: until it is revoked")
    one.add_argument("--events-per-s", type=float, help="its own quota; 0: no limit; without: auth.quota_events_s")
    one.add_argument("--bytes-per-s", type=float, help="likewise, auth.quota_bytes_s")
    other = commands.add_parser("revoke", help="end a key")
    other.add_argument("prefix", help="the key's first part")
    other.add_argument("--in-hours", type=_length, default=0.0, help="let it be good for so long, while its owner changes keys")
    every = commands.add_parser("list", help="show which keys there are")
    for command in (one, other, every):
        command.add_argument("--file", help="the file of keys; without: auth.keys_file")
    return parser


def _length(text: str) -> float:
    length = float(text)
    if not 0 < length <= LENGTH_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to {LENGTH_MAX}")
    return length


def _check(key: StoredKey) -> None:
    """Refuse what the gateway would not read."""
    try:
        msgspec.json.decode(msgspec.json.encode(key), type=StoredKey)
    except msgspec.DecodeError as error:
        raise CommandError(str(error)) from error


def _names(text: str) -> list[str] | None:
    return None if text == ALL else [name.strip() for name in text.split(",") if name.strip()]


def _told(names: list[str] | None) -> str:
    return ALL if names is None else ",".join(names)


def _now() -> datetime:
    return datetime.fromtimestamp(SYSTEM_CLOCK.now_ms() // 1000, UTC)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"gateway.auth: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
