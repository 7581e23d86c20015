"""What tests of several folders share: an order, PostgreSQL, a fresh database in it, a directory that all
users can enter, and signals as at a terminal."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from corral.testing.postgres import Postgres, missing

# A shell that has no job control starts what goes to the background with SIGINT ignored, and whoever is
# started there inherits that: a command that the tests interrupt would rightly go on.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine everything is slow, and says nothing of what is tested. A test with a
# `suppress_health_check` of its own has only that: it names this one, too.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

_FIRST = Path(__file__).with_name("simulation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The simulation first: it computes for minutes, in the time that all others spend waiting."""
    items.sort(key=lambda item: not item.path.is_relative_to(_FIRST))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for the whole run. A test that kills one starts its own: `Postgres.start(own=True)`."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with Postgres.start() as server:
        yield server


class Dropped:
    """Databases that nobody needs any more. The server writes all it has to the disk before one is dropped;
    no test waits for that."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._thread = ThreadPoolExecutor(1)
        self._dropping: Future[None] | None = None

    def add(self, url: str) -> None:
        """Once the one before it is gone: there are few at any time."""
        self.wait()
        self._dropping = self._thread.submit(self._postgres.drop_database, url)

    def wait(self) -> None:
        if self._dropping is not None:
            self._dropping.result()

    def close(self) -> None:
        self.wait()
        self._thread.shutdown()


@pytest.fixture(scope="session")
def dropped(postgres: Postgres) -> Iterator[Dropped]:
    dropped = Dropped(postgres)
    yield dropped
    dropped.close()


@pytest.fixture
def database_url(postgres: Postgres, dropped: Dropped) -> Iterator[str]:
    """A fresh database with the schema of this version."""
    url = postgres.fresh_database()
    yield url
    dropped.add(url)


@pytest.fixture
def empty_database_url(postgres: Postgres, dropped: Dropped) -> Iterator[str]:
    """A fresh database without any schema."""
    url = postgres.empty_database()
    yield url
    dropped.add(url)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user can get into, which `tmp_path` is not; its path is short."""
    open_dir = Path(tempfile.mkdtemp(prefix="corral-", dir="/var/tmp"))
    open_dir.chmod(0o711)
    yield open_dir
    shutil.rmtree(open_dir)
