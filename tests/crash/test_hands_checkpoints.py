"""Checkpoints taken and restored while hosts and servers die, stop, and find blobs broken or away."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from corral.hands.news import NEWS_LOST
from corral.kernel.errors import Conflict, HandsUnavailable, NotFound
from corral.kernel.limits import NODE_LOST_SECONDS
from corral.orchestrator.cleanup import forget_checkpoint
from corral.orchestrator.sandboxes import sweep_host
from tests.crash.hosts import (
    SECONDS,
    HandsCluster,
    Host,
    end,
    until,
)


@pytest.mark.parametrize("point", ["restore.before", "restore.after"])
async def test_a_host_killed_while_it_restores(cluster, point):
    lost = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.keep(lost)
    await lost.kill()
    lost.age_seconds = NODE_LOST_SECONDS + 1
    host = await cluster.start("b", crash_at=point)
    with pytest.raises(HandsUnavailable):
        await router.placement(session_id)
    await host.process.wait()
    await cluster.start("b")
    news, text = await cluster.run(cluster.router(), session_id, "cat file")
    assert (news[:49], text) == ("[This is a fresh sandbox on another machine. The ", "x\n")


async def test_a_brain_that_dies_between_placing_and_restoring_leaves_the_rest_to_the_next(cluster):
    lost = await cluster.start("a")
    session_id = await cluster.session()
    await cluster.run(cluster.router(), session_id, "echo x > file")
    await cluster.keep(lost)
    await lost.kill()
    lost.age_seconds = NODE_LOST_SECONDS + 1
    host = await cluster.start("b")
    placed = await cluster.placements.find(session_id)
    await cluster.placements.place(
        session_id, host_id=host.facts.host_id, instead_of=placed
    )  # and here it died
    assert (await cluster.run(cluster.router(), session_id, "cat file"))[-1] == "x\n"


_TAKER = """
import asyncio, os, signal, sys
from contextlib import nullcontext
from pathlib import Path
from corral.daemon import socket_path, token_path
from corral.hands.client import HandsClient
from corral.kernel.clock import SystemClock
from corral.kernel.crash import intercepted
from corral.kernel.ids import Ids
from corral.orchestrator.checkpoint import Checkpointer
from corral.store.blobs import LocalBlobs
from corral.store.checkpoints import Checkpoints
from corral.store.database import Database

def stop(point):
    if point == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGSTOP)

async def main():
    directory, data_dir = Path(sys.argv[1]), Path(sys.argv[2])
    database = await Database.open(directory / "corral.db")
    client = HandsClient(socket_path(data_dir, "hands"), token=token_path(data_dir, "hands").read_text())
    blobs = await LocalBlobs.open(directory / "blobs")
    taker = Checkpointer(Checkpoints(database), blobs, clock=SystemClock(), ids=Ids())
    host_id = (await client.placement("")).host_id
    for held in await client.held():
        print(await taker.take(client, held, host_id=host_id) is not None)

with intercepted(stop) if len(sys.argv) > 3 else nullcontext():
    asyncio.run(main())
"""


@dataclass(kw_only=True)
class Taker:
    """A server that takes checkpoints of a host, as a process."""

    process: asyncio.subprocess.Process

    async def stopped(self) -> None:
        """Until it has stopped itself. No signal tells us: asyncio waits for the end of our children."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    async def has_taken(self) -> bool:
        """Whether its copy counts, once it goes on."""
        self.process.send_signal(signal.SIGCONT)
        said, _ = await asyncio.wait_for(self.process.communicate(), SECONDS)
        assert self.process.returncode == 0
        return said == b"True\n"


async def taking(cluster: HandsCluster, host: Host, *stops_at: str, **environment: str) -> Taker:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _TAKER, str(cluster.directory), str(host.data_dir), *stops_at,
        env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    cluster.stack.push_async_callback(end, process)
    return Taker(process=process)


@pytest.mark.parametrize("point", ["checkpoint.before", "checkpoint.after"])
async def test_a_server_killed_while_it_takes_a_checkpoint(cluster, point):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo one > file")
    await cluster.keep(host)
    first = await cluster.checkpoints.newest(session_id)
    await cluster.run(router, session_id, "echo two > file")
    taker = await taking(cluster, host, CORRAL_CRASH_AT=point)
    assert await asyncio.wait_for(taker.process.wait(), SECONDS) == -signal.SIGKILL
    assert await cluster.checkpoints.newest(session_id) == first
    assert first and [c async for c in cluster.blobs.get(first.blob_key)]
    await cluster.keep(host)  # the next server
    newest = await cluster.checkpoints.newest(session_id)
    assert newest and newest.taken_at > first.taken_at
    with pytest.raises(NotFound):
        [c async for c in cluster.blobs.get(first.blob_key)]
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    await cluster.start("b")
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "two\n"


@pytest.mark.parametrize("harm", ["missing", "cut", "garbled", "longer"])
async def test_a_broken_checkpoint_does_not_block_its_session(cluster, harm):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "head -c 3000000 /dev/urandom > file")
    await cluster.keep(host)
    newest = await cluster.checkpoints.newest(session_id)
    assert newest and newest.size_bytes > 3_000_000
    data = b"".join([chunk async for chunk in cluster.blobs.get(newest.blob_key)])
    if harm == "missing":
        await cluster.blobs.delete(newest.blob_key)
    else:
        broken = {"cut": data[:-1000], "garbled": data[:-9] + b"123456789", "longer": data + data}[harm]

        async def stored() -> AsyncIterator[bytes]:
            yield broken

        await cluster.blobs.put(newest.blob_key, stored())
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert await cluster.run(router, session_id, "ls; echo on") == [NEWS_LOST, "on\n"]


async def test_a_blob_store_that_is_away_is_waited_for(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.keep(host)
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    there = cluster.directory / "blobs"
    there.rename(cluster.directory / "not mounted")
    with pytest.raises(HandsUnavailable, match="checkpoint"):
        await router.placement(session_id)
    (cluster.directory / "not mounted").rename(there)
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "x\n"


async def test_a_workspace_that_changes_while_it_is_copied_is_not_kept(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    client = cluster.client(host)
    [held] = await client.held()
    await cluster.run(router, session_id, "echo y > file")
    with pytest.raises(Conflict):
        await cluster.checkpointer().take(client, held, host_id=host.facts.host_id)
    assert await cluster.checkpoints.newest(session_id) is None
    assert [blob async for blob in cluster.blobs.keys("checkpoints/")] == []
    await cluster.keep(host)
    [held] = await client.held()
    assert held.changes == held.kept > 0


async def test_of_two_copies_the_one_begun_later_stays_whatever_the_clocks_say(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo one > file")
    early = await taking(cluster, host, "checkpoint.after", CORRAL_FAULTS="clock.step=3600")
    await early.stopped()
    await cluster.keep(host)  # of the same files: the host has nothing against either
    newest = await cluster.checkpoints.newest(session_id)
    assert not await early.has_taken()
    assert newest and await cluster.checkpoints.newest(session_id) == newest
    assert [blob.key async for blob in cluster.blobs.keys("checkpoints/")] == [newest.blob_key]


async def test_a_new_checkpoint_removes_what_killed_servers_left(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()

    async def left() -> AsyncIterator[bytes]:
        yield b"by a server that was killed before it named it"

    await cluster.blobs.put(f"checkpoints/{session_id}/left", left())
    await cluster.blobs.put(f"checkpoints/{session_id}0/other", left())
    for word in ("one", "two"):
        await cluster.run(router, session_id, f"echo {word} > file")
        await cluster.keep(host)
        newest = await cluster.checkpoints.newest(session_id)
        there = {blob.key async for blob in cluster.blobs.keys("checkpoints/")}
        assert newest and there == {newest.blob_key, f"checkpoints/{session_id}0/other"}


async def test_a_copy_that_came_too_late_is_not_what_the_host_relies_on(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo one > file")
    late = await taking(cluster, host, "checkpoint.after")
    await late.stopped()
    placed = await cluster.placements.find(session_id)
    await cluster.placements.place(session_id, host_id="host_z", instead_of=placed)
    assert not await late.has_taken()
    [held] = await cluster.client(host).held()
    assert held.kept == 0 and await cluster.checkpoints.newest(session_id) is None


async def test_a_deleted_session_leaves_nothing(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.keep(host)
    newest = await cluster.checkpoints.newest(session_id)
    assert newest

    async def left() -> AsyncIterator[bytes]:
        yield b"by a server that was killed before it named it"

    await cluster.blobs.put(newest.blob_key + "0", left())
    await cluster.blobs.put(f"checkpoints/{session_id}0/other", left())
    await cluster.sessions.delete(session_id)
    await forget_checkpoint(session_id, cluster.checkpoints, cluster.blobs)
    for _ in range(2):
        await router.release(session_id, delete_workspace=True)
    assert not host.files(session_id).exists()
    assert await cluster.placements.find(session_id) is None
    others = [blob.key async for blob in cluster.blobs.keys("checkpoints/")]
    assert others == [f"checkpoints/{session_id}0/other"]
    with pytest.raises(NotFound):
        await router.placement(session_id)


async def test_work_of_a_lost_host_is_dropped_and_swept_when_it_comes_back(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.sessions.delete(session_id)
    await host.kill()
    with pytest.raises(HandsUnavailable):
        await router.release(session_id, delete_workspace=True)
    host.age_seconds = NODE_LOST_SECONDS + 1
    await router.release(session_id, delete_workspace=True)
    assert await cluster.placements.find(session_id) is None
    back = await cluster.start("a")
    assert back.files(session_id).exists()
    assert await sweep_host(cluster.client(back), cluster.placements) == {session_id: "deleted"}
    assert not back.files(session_id).exists()
