"""Opening: creating, upgrading, and refusing what is not ours."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from corral.kernel.errors import StoreUnavailable
from corral.store.database import Database
from corral.store.schema import REVISION, metadata
from corral.store.upgrade import MIGRATIONS


async def test_migrations_make_the_schema(database: Database) -> None:
    """The migrated database is what schema.py says, indexes included."""

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await database.read(differences) == []
    assert await database.read(_index_columns) == {
        index.name: [column.name for column in index.columns]
        for table in metadata.tables.values()
        for index in table.indexes
    }


def _index_columns(connection: Connection) -> dict[str, list[str]]:
    names = connection.scalars(
        text("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    )
    return {
        name: [row.name for row in connection.execute(text(f"PRAGMA index_info({name})"))]
        for name in names.all()
    }


def test_the_known_revision_is_the_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


async def test_nobody_else_on_the_machine_can_read_it(tmp_path: Path) -> None:
    """The data directory lets sandboxes of another uid pass through."""
    (tmp_path / "corral.db").touch(mode=0o644)
    database = await Database.open(tmp_path / "corral.db")
    await database.write(lambda connection: connection.execute(text("SELECT 1")).scalar())
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    await database.close()
    assert modes == {"corral.db": 0o600, "corral.db-wal": 0o600, "corral.db-shm": 0o600}


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corral.db"
    database = await Database.open(path)
    await database.write(lambda connection: _set_revision(connection, "9999"))
    await database.close()
    with pytest.raises(StoreUnavailable, match="newer Corral") as caught:
        await Database.open(path)
    assert not caught.value.retryable


def _set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corral.db"
    path.write_bytes(b"this is not a database" * 1000)
    with pytest.raises(StoreUnavailable, match="damaged") as caught:
        await Database.open(path)
    assert not caught.value.retryable


async def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "corral.db"
    await (await Database.open(path)).close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await Database.open(path)


async def test_a_directory_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="unable to open"):
        await Database.open(tmp_path / "missing" / "corral.db")


OPEN = """
import asyncio, sys
from pathlib import Path
from corral.store.database import Database

async def main():
    await (await Database.open(Path(sys.argv[1]))).close()

asyncio.run(main())
print("alembic" in sys.modules)
"""


def test_an_up_to_date_database_opens_without_alembic(tmp_path: Path) -> None:
    """Importing it costs more than everything else at start."""
    command = [sys.executable, "-c", OPEN, str(tmp_path / "corral.db")]
    imported = [subprocess.check_output(command, timeout=60, text=True).strip() for _ in range(2)]
    assert imported == ["True", "False"]
