"""The command line of the stack: `python -m stack run`, `services`, `psql`, `key-server`, `clean`; `prepare` for one's own."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from stack.clean import clean
from stack.errors import StackError
from stack.home import StackHome
from stack.postgres import find_binaries
from stack.prepare import prepare
from stack.processes import WORKERS_MAX
from stack.run import Plan, run
from streams.errors import SettingsError, TallyError
from streams.settings import Settings, load_settings

FAILED = 1
BAD_SETTINGS = 2
KEY_SERVER_PORT = 8090


def main(arguments: list[str] | None = None) -> int:
    """Do what *arguments* ask for and return the exit status; what goes wrong is told in one line."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        _report_crashes_to(StackHome(settings.stack.home).log / "stack.log")
        return _do(options, settings)
    except SettingsError as error:
        return _fail(str(error), BAD_SETTINGS)
    except TallyError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        return _fail(f"{(error.strerror or str(error)).lower()}{place}", FAILED)


def _do(options: argparse.Namespace, settings: Settings) -> int:
    if options.command == "psql":
        open_prompt(settings)
    elif options.command == "prepare":
        prepare(settings)
    elif options.command == "key-server":
        issue_tokens(options)
    elif options.command == "clean":
        return 0 if clean(StackHome(settings.stack.home)) else FAILED
    else:
        run(settings, Plan(options.workers, options.command == "services", options.command == "demo", options.observe))
    return 0


def issue_tokens(options: argparse.Namespace) -> None:
    """Run the key server for development.

    Raises:
        StackError: it cannot listen, or its file of clients is none.
    """
    from stack.key_server_command import KeyServerPlan, serve_keys  # noqa: PLC0415 - aiohttp, for this command alone

    serve_keys(KeyServerPlan(options.port, options.organization, options.clients, options.issuer, options.audience))


def open_prompt(settings: Settings) -> None:
    """Become `psql` on the running database.

    Raises:
        StackError: no database runs, or there is no `psql`.
    """
    home = StackHome(settings.stack.home)
    dsn = settings.postgres.dsn or home.read_environment().get("TALLY_POSTGRES_DSN")
    if not dsn:
        raise StackError(f"no database of {home.path} is running; `make run` starts it")
    program = find_binaries("psql") / "psql"
    # Not as an argument: every user of the machine can read those, and it holds the password.
    os.execve(program, [str(program)], {**os.environ, **_connection_of(dsn)})  # noqa: S606


def _connection_of(dsn: str) -> dict[str, str]:
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - for this command alone

    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    names |= {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "options": "PGOPTIONS"}
    return {names[key]: str(value) for key, value in conninfo_to_dict(dsn).items() if key in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, meaning in (
        ("run", "run the whole job in the foreground"),
        ("demo", "the same, with generated traffic"),
        ("services", "run Kafka and Postgres alone, with topics and tables"),
    ):
        command = commands.add_parser(name, help=meaning)
        command.add_argument("--workers", type=_workers, default=1, help="number of workers")
        command.add_argument(
            "--observe", action="store_true", help="run a Prometheus too, with the alerts, if one is on the path"
        )
    commands.add_parser("prepare", help="create topics and tables in a Kafka and a Postgres of your own")
    keys = commands.add_parser("key-server", help="issue tokens for development, on this machine only")
    keys.add_argument("--port", type=int, default=KEY_SERVER_PORT)
    keys.add_argument("--organization", default="pennlabs", help="of the subjects, urn:<organization>:<client>")
    keys.add_argument("--clients", type=Path, help="JSON file of secrets by client; without: one client, whose secret is told")
    keys.add_argument("--issuer", default="", help="iss of every token; without: none")
    keys.add_argument("--audience", default="", help="aud of every token; without: none")
    commands.add_parser("psql", help="open a prompt on the running database")
    commands.add_parser("clean", help="remove the stack's data and the caches, after asking")
    return parser


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= WORKERS_MAX:
        raise argparse.ArgumentTypeError(f"WORKERS is {text!r}; it must be a number from 1 to {WORKERS_MAX}")
    return int(text)


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"tally: {message}\n")
    return status


def _report_crashes_to(log_file: Path) -> None:
    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            log_file.write_text("".join(traceback.format_exception(kind, error, trace)), encoding="utf-8")
            where = f"; the trace is in {log_file}"
        except OSError:
            where = ""
        _fail(f"this is a bug in the stack: {kind.__name__}: {str(error).splitlines()[:1]}{where}", FAILED)

    sys.excepthook = report
