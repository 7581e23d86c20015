"""What tests of several folders share: PostgreSQL, a fresh database in it, a directory that is not closed
to other users, and signals as at a terminal."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.testing.postgres import Postgres, missing

# A shell that has no job control starts what goes to the background with SIGINT ignored, and whoever is
# started there inherits that: a command that the tests interrupt would rightly go on.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for the whole run. A test that kills one starts its own: `Postgres.start(own=True)`."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with Postgres.start() as server:
        yield server


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A fresh database with the schema of this version."""
    url = postgres.fresh_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def empty_database_url(postgres: Postgres) -> Iterator[str]:
    """A fresh database without any schema."""
    url = postgres.empty_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user can get into, which `tmp_path` is not; its path is short."""
    open_dir = Path(tempfile.mkdtemp(prefix="corral-", dir="/var/tmp"))
    open_dir.chmod(0o711)
    yield open_dir
    shutil.rmtree(open_dir)
