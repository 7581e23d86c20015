"""Who may take a session from its host, and when: nobody who was cut off himself, nor who is late.

A move brings the last checkpoint, so what was done since is gone: it has to be the host that is lost.
"""

import asyncio
import time
from collections.abc import Sequence

import pytest

from corral.cluster.placement import Placed
from corral.hands.router import MOVED
from corral.kernel.errors import HandsUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import NODE_LIST_SECONDS, NODE_LOST_SECONDS
from corral.session.content import ToolResult
from corral.store.placements import Placements
from tests.crash.hosts import SECONDS, HandsCluster


class FarPlacements(Placements):
    """As for a brain whose way to the database is cut when it has found a host lost."""

    def cut(self) -> None:
        self.is_writing, self.is_back = asyncio.Event(), asyncio.Event()

    async def place(
        self, session_id: SessionId, *, host_id: str, instead_of: Placed | None, until: float | None = None
    ) -> Placed:
        if instead_of is not None:
            self.is_writing.set()
            await self.is_back.wait()
        return await super().place(session_id, host_id=host_id, instead_of=instead_of, until=until)


async def files(cluster: HandsCluster, session_id: SessionId) -> Sequence[str]:
    return (await cluster.run(cluster.router(), session_id, "cat file"))[-1].split()


async def test_a_move_that_comes_late_takes_no_session_from_a_host_that_works_on(
    cluster, database, monkeypatch
):
    """Meanwhile its host is back, and another brain has claimed it and done something there."""
    monkeypatch.setattr("corral.hands.placer.MOVE_SECONDS_MAX", SECONDS)  # not even in time
    host = await cluster.start("a")
    session_id = await cluster.session()
    await cluster.run(cluster.router(), session_id, "echo one > file")
    await cluster.keep(host)
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    far = FarPlacements(database)
    far.cut()
    late = asyncio.create_task(cluster.router(placements=far).placement(session_id))
    await asyncio.wait_for(far.is_writing.wait(), SECONDS)

    host = await cluster.start("a")
    await cluster.acted(session_id)
    await cluster.run(cluster.router(), session_id, "echo two >> file")
    far.is_back.set()
    assert (await asyncio.wait_for(late, SECONDS)).host_id == host.facts.host_id
    assert await files(cluster, session_id) == ["one", "two"]


async def test_a_host_is_looked_at_again_before_a_move_that_waited_long(cluster, database, monkeypatch):
    """Nobody else had the session, and its host was away for a moment only."""
    monkeypatch.setattr("corral.hands.placer.MOVE_SECONDS_MAX", 0.0)
    host = await cluster.start("a")
    session_id = await cluster.session()
    await cluster.run(cluster.router(), session_id, "echo one > file")
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    far = FarPlacements(database)
    far.cut()
    late = asyncio.create_task(cluster.router(placements=far).placement(session_id))
    await asyncio.wait_for(far.is_writing.wait(), SECONDS)
    host = await cluster.start("a")
    far.is_back.set()
    assert (await asyncio.wait_for(late, SECONDS)).host_id == host.facts.host_id
    assert await files(cluster, session_id) == ["one"]


async def test_a_move_that_is_always_late_ends(cluster, monkeypatch):
    monkeypatch.setattr("corral.hands.placer.MOVE_SECONDS_MAX", -1.0)
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await router.placement(session_id)
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    with pytest.raises(HandsUnavailable):
        await asyncio.wait_for(router.placement(session_id), SECONDS)


async def test_a_brain_that_hears_of_nobody_gives_nobody_up(cluster):
    """The host beat a second before us: its row is too old a moment before our own is."""
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo one > file")
    await cluster.start("b")
    await host.kill()
    cluster.silence_seconds = NODE_LOST_SECONDS - 0.5
    host.age_seconds = 1.0
    with pytest.raises(HandsUnavailable):
        await router.placement(session_id)
    cluster.silence_seconds = 0.0
    await cluster.start("a")
    assert await files(cluster, session_id) == ["one"]


async def test_what_a_brain_that_was_cut_off_could_not_reach_is_not_away_for_that(cluster, monkeypatch):
    monkeypatch.setattr("corral.hands.hosts.NODE_LOST_SECONDS", 1.0)
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await router.placement(session_id)
    await cluster.start("b")
    await host.kill()
    cluster.silence_seconds = NODE_LIST_SECONDS + 0.1
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        with pytest.raises(HandsUnavailable):
            await router.placement(session_id)
    cluster.silence_seconds, back_at = 0.0, time.monotonic()
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                placement = await router.placement(session_id)
                break
            except HandsUnavailable:
                continue
    assert cluster.host_of(placement) is cluster.hosts["b"] and time.monotonic() - back_at > 0.9


async def test_a_call_goes_nowhere_that_its_session_left_before_it_was_claimed(cluster):
    """Its place was looked up for an answer of a person, in the moment before the lease."""
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), "echo ran >> log")
    await cluster.start("b")
    host.age_seconds = NODE_LOST_SECONDS + 1
    placed = await cluster.placements.find(session_id)
    host_id = cluster.hosts["b"].facts.host_id
    await cluster.placements.place(session_id, host_id=host_id, instead_of=placed)
    await cluster.acted(session_id)
    epoch = (await cluster.placements.find(session_id)).epoch
    assert await router.execute(call, epoch=epoch) == ToolResult.text(MOVED, is_error=True)


async def test_after_a_long_outage_of_the_database_new_sessions_try_the_hosts_of_the_old_list(cluster):
    await cluster.start("a")
    cluster.silence_seconds = 10 * NODE_LOST_SECONDS
    assert await cluster.run(cluster.router(), await cluster.session(), "echo on") == ["on\n"]
