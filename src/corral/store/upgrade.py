"""Brings a database to the schema of this version. Alembic is imported only when there is work to do."""

from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, inspect, select

from corral.kernel.errors import StoreUnavailable
from corral.store.schema import REVISION

MIGRATIONS = Path(__file__).parent / "migrations"

_version = Table("alembic_version", MetaData(), Column("version_num", String, primary_key=True))


def upgrade(engine: Engine) -> None:
    """Create or upgrade the schema, in one transaction. Raises StoreUnavailable for a newer one."""
    with engine.begin() as connection:
        revision = _revision(connection)
        if revision != REVISION:
            _migrate(connection, revision)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.scalar(select(_version.c.version_num))


def _migrate(connection: Connection, revision: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    if revision is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(revision)
        except CommandError as error:
            raise StoreUnavailable(
                f"The database has schema {revision!r}, which this version (schema {REVISION!r}) does not"
                " know: a newer Corral has written it. Upgrade Corral.",
                retryable=False,
            ) from error
    command.upgrade(config, "head")
