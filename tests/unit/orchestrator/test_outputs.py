"""What a collector of outputs does about sessions whose outputs cannot be collected, and endless trees."""

import asyncio
from typing import Any

import orjson
import pytest

from corral.hands.trees import Tree, TreeEntry
from corral.hands.wire import HeldWorkspace, TreeNews
from corral.kernel.errors import HandsUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import SESSION_OUTPUTS_MAX, TREE_ENTRIES_MAX, TREE_NOTE_BYTES_MAX
from corral.orchestrator import outputs
from corral.orchestrator.outputs import OutputsCollector

HELD = HeldWorkspace(
    session_id=SessionId("sesn_1"),
    placed_at=1,
    provider=None,
    is_busy=False,
    idle_seconds=60.0,
    changes=1,
    kept=0,
    has_memory=False,
)


def tree(prefix: str, *, entries: int, is_whole: bool) -> Tree:
    found = [
        TreeEntry(path=f"{prefix}{number:0200}", size=0, mtime_ns=1, ctime_ns=1, inode=number)
        for number in range(entries)
    ]
    return Tree(entries=found, is_whole=is_whole)


class Host:
    """Of one session, that is among the recent ones only once. Its first looks fail."""

    def __init__(self, now: Tree, *, failures: int = 0) -> None:
        self.now, self.note, self.version = now, dict[str, Any](), 0
        self.failures, self.looks, self.full, self.noted = failures, 0, 0, asyncio.Event()

    async def held(self, *, only_recent: bool) -> list[HeldWorkspace]:
        self.full += not only_recent
        return [] if only_recent else [HELD]

    async def tree(self, session_id: SessionId, place: str) -> TreeNews:
        self.looks += 1
        if self.looks <= self.failures:
            raise HandsUnavailable("not now")
        return TreeNews(tree=self.now, note=self.note, version=self.version)

    async def note_tree(
        self, session_id: SessionId, place: str, note: dict[str, Any], *, instead_of: int
    ) -> None:
        assert instead_of == self.version and len(orjson.dumps(note)) < TREE_NOTE_BYTES_MAX
        self.note, self.version = note, self.version + 1
        self.noted.set()


class Full:
    """Files of a session that has as many outputs as it may."""

    async def outputs(self, session_id: SessionId) -> dict[str, Any]:
        return {f"kept{number}": None for number in range(SESSION_OUTPUTS_MAX)}

    async def put_output(self, *_: Any) -> None:
        raise AssertionError("bytes are stored for nothing")


async def test_a_tree_without_end_is_noted_and_settles() -> None:
    files: Any = Full()
    host: Any = Host(tree("a", entries=TREE_ENTRIES_MAX, is_whole=False))
    for prefix in "abcdea":
        host.now = tree(prefix, entries=TREE_ENTRIES_MAX, is_whole=False)
        assert await OutputsCollector(files).collect(host, HELD)
    version = host.version
    assert await OutputsCollector(files).collect(host, HELD) and host.version == version


async def test_a_session_that_failed_is_looked_at_again_though_it_is_not_recent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outputs, "OUTPUTS_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(outputs, "OUTPUTS_BUSY_SECONDS", 0.01)
    files: Any = Full()
    host: Any = Host(tree("a", entries=1, is_whole=True), failures=4)
    running = asyncio.create_task(OutputsCollector(files).run(host))
    try:
        async with asyncio.timeout(60):
            await host.noted.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert host.looks == 5
    assert outputs._pause(1) < outputs._pause(3) < outputs._pause(50) == outputs.OUTPUTS_RETRY_SECONDS_MAX
