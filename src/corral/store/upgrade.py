"""Brings a database to the schema of this version. Alembic is imported only when there is work to do.

An upgrade is one transaction. On PostgreSQL a second one waits for the first; should it not (the lock is
only advisory), it fails on what the first has created, and nothing of it is left.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, inspect, select, update

from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import POSTGRES_VERSION_MIN
from corral.store.schema import REVISION

__all__ = [
    "MIGRATIONS",
    "RESTORING",
    "Schema",
    "ServerFacts",
    "mark",
    "require",
    "revision",
    "schema",
    "server_facts",
    "upgrade",
    "weakness",
]

MIGRATIONS = Path(__file__).parent / "migrations"

RESTORING = f"restoring-{REVISION}"
"""Stands in place of the revision while a backup is restored: no version takes it for a schema it knows."""

_version = Table("alembic_version", MetaData(), Column("version_num", String, primary_key=True))
_POSTGRES_BEGIN = (
    "BEGIN",
    # Copying a large table takes its time, and so may the upgrade that is waited for.
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL lock_timeout = 0",
    "SELECT pg_advisory_xact_lock(7166173)",
    # But whoever waits for a table keeps everybody else from it.
    "SET LOCAL lock_timeout = '10s'",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """What is found in a database. `server`: as in "PostgreSQL 18.4". `revision`: None without a schema."""

    server: str
    revision: str | None

    @property
    def remedy(self) -> str | None:
        """What is to be done before this version can work on it; None if nothing is."""
        if self.revision is None:
            return "The database has no schema of Corral yet. Run `corral db upgrade`."
        if self.revision.startswith("restoring"):
            return _unfinished()
        if self.revision < REVISION:
            return (
                f"The database has schema {self.revision}, and this version needs {REVISION}."
                " Run `corral db upgrade`."
            )
        if self.revision > REVISION:
            return _newer(self.revision)
        return None


def schema(engine: Engine) -> Schema:
    """Look, and change nothing. Raises StoreUnavailable: a PostgreSQL that is too old."""
    with engine.connect() as connection, connection.begin():
        return Schema(server=_server(connection), revision=_revision(connection))


def require(engine: Engine) -> None:
    """Raises StoreUnavailable unless the schema is this version's."""
    remedy = schema(engine).remedy
    if remedy is not None:
        raise StoreUnavailable(remedy, retryable=False)


def weakness(engine: Engine) -> str | None:
    """A setting of the PostgreSQL server that breaks a promise of ours, and what to do about it."""
    with engine.connect() as connection:
        if connection.exec_driver_sql("SHOW fsync").scalar() == "off":
            return "The server has fsync off: a power cut may lose or damage everything. Turn it on."
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFacts:
    """now: its clock, seconds since 1970. connections_max: of all clients together."""

    now: float
    connections_max: int


def server_facts(engine: Engine) -> ServerFacts:
    """Of a PostgreSQL: SQLite has neither a clock nor connections of its own."""
    with engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT extract(epoch FROM clock_timestamp())::float8, current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
        ).one()
    return ServerFacts(now=float(row[0]), connections_max=int(row[1]))


def upgrade(engine: Engine) -> str | None:
    """Create or upgrade the schema, in one transaction; returns the revision that it had before.

    Raises StoreUnavailable for a newer one.
    """
    with _transaction(engine) as connection:
        _server(connection)
        revision = _revision(connection)
        if revision != REVISION:
            _migrate(connection, revision)
        return revision


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection, connection.begin():
        if connection.dialect.name == "postgresql":  # its engine leaves BEGIN to us
            for statement in _POSTGRES_BEGIN:
                connection.exec_driver_sql(statement)
        yield connection


def _server(connection: Connection) -> str:
    version = cast(Sequence[int], connection.dialect.server_version_info or (0,))
    if connection.dialect.name != "postgresql":
        return f"SQLite {'.'.join(map(str, version))}"
    if version[0] < POSTGRES_VERSION_MIN:
        raise StoreUnavailable(
            f"The server is PostgreSQL {version[0]}; Corral needs {POSTGRES_VERSION_MIN} or newer.",
            retryable=False,
        )
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise StoreUnavailable(
            f"The database has the encoding {encoding}; Corral needs UTF8."
            " Create it with ENCODING 'UTF8' TEMPLATE template0.",
            retryable=False,
        )
    return f"PostgreSQL {'.'.join(map(str, version))}"


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.scalar(select(_version.c.version_num))


def revision(connection: Connection) -> str | None:
    """What the database says of its schema; None without one."""
    return _revision(connection)


def mark(connection: Connection, revision: str) -> None:
    """Let the database say so, from the commit on."""
    connection.execute(update(_version).values(version_num=revision))


def _unfinished() -> str:
    return (
        "The database is not whole: a restore into it was not finished. Run `corral restore` again, which"
        " begins anew, or use another database."
    )


def _newer(revision: str) -> str:
    return (
        f"The database has schema {revision!r}, which this version (schema {REVISION!r}) does not"
        " know: a newer Corral has written it. Upgrade Corral."
    )


def _migrate(connection: Connection, revision: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    if revision is not None:
        if revision.startswith("restoring"):
            raise StoreUnavailable(_unfinished(), retryable=False)
        try:
            ScriptDirectory.from_config(config).get_revision(revision)
        except CommandError as error:
            raise StoreUnavailable(_newer(revision), retryable=False) from error
    command.upgrade(config, "head")
