import importlib.util
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType

import pytest

from corral.hands.host import HandsHost
from corral.hands.journal import Journal
from corral.kernel.clock import Clock
from corral.session.call import Placement, Recipe, ToolCall


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


local_host = _load(Path(__file__).with_name("local_host.py"))


@pytest.fixture
def provider():
    return local_host.LocalProvider()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    await journal.aclose()


@pytest.fixture
async def open_host(tmp_path: Path, provider, journal: Journal) -> AsyncIterator[Callable[..., HandsHost]]:
    """Makes hosts on the same journal, directory and provider; the test enters them."""

    def make(*, clock: Clock | None = None, **settings: float) -> HandsHost:
        return HandsHost(
            provider, journal=journal, host_id="host_1", state_dir=tmp_path, clock=clock, **settings
        )

    yield make


@pytest.fixture
async def host(open_host: Callable[..., HandsHost]) -> AsyncIterator[HandsHost]:
    async with open_host() as host:
        yield host


@pytest.fixture
def bash(journal: Journal) -> Callable[..., ToolCall]:
    """bash(call_id, command): a bash call placed on this host."""

    def make(
        call_id: str,
        command: str,
        *,
        session_id: str = "sesn_1",
        journal_id: str = journal.journal_id,
        environment: dict[str, object] | None = None,
    ) -> ToolCall:
        return ToolCall(
            session_id=session_id,
            thread_id="sthr_1",
            call_id=call_id,
            name="bash",
            input={"command": command},
            recipe=Recipe(environment=environment or {}),
            placement=Placement(host_id="host_1", journal_id=journal_id),
        )

    return make
