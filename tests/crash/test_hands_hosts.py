"""Two hands hosts, killed and lost: a session goes on elsewhere with its files, and no call runs twice."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from corral.cluster.node import HostFacts, Node, SeenNode
from corral.daemon import socket_path
from corral.hands.address import client_of, unix_address
from corral.hands.client import HandsClient
from corral.hands.news import NEWS_KEPT, NEWS_LOST, OUTCOME_UNKNOWN
from corral.hands.router import MOVED, HandsRouter
from corral.hands.wire import Restored
from corral.kernel.clock import SystemClock
from corral.kernel.errors import Conflict, HandsUnavailable, NotFound
from corral.kernel.ids import Ids, SessionId
from corral.kernel.limits import NODE_LOST_SECONDS
from corral.orchestrator.checkpoint import Checkpointer
from corral.orchestrator.cleanup import forget_checkpoint
from corral.orchestrator.sandboxes import AllHosts, Desk, drain_host, sweep_host
from corral.session.call import NeverStarted, Placement, Recipe, ToolCall
from corral.session.content import ToolResult
from corral.session.events import AgentToolResult, AgentToolUse
from corral.session.lease import Claim
from corral.store.blobs import LocalBlobs
from corral.store.bus import LocalBus
from corral.store.checkpoints import Checkpoints
from corral.store.database import Database
from corral.store.log import Log
from corral.store.placements import Placements
from corral.store.sessions import Sessions
from corral.testing.sessions import Draft, new_session, user_message

LOCAL_HOST = Path(__file__).parents[1] / "unit" / "hands_host" / "local_host.py"
WORK = "echo ran >> log; touch begun; while [ ! -e go ]; do sleep 0.01; done; echo true result"
SECONDS = 20.0  # for anything that another process does


@dataclass(kw_only=True)
class Host:
    data_dir: Path
    process: asyncio.subprocess.Process
    facts: HostFacts
    age_seconds: float = 0.0

    def files(self, session_id: SessionId) -> Path:
        return self.data_dir / "hands" / "workspaces" / session_id

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@dataclass(kw_only=True)
class Cluster:
    """Hosts as processes; the brain's and the server's parts in this one."""

    directory: Path
    sessions: Sessions
    log: Log
    placements: Placements
    checkpoints: Checkpoints
    blobs: LocalBlobs
    hosts: dict[str, Host] = field(default_factory=dict)
    stack: contextlib.AsyncExitStack
    calls: int = 0
    silence_seconds: float = 0.0  # since the list of nodes was last written, for us who read it

    async def __aenter__(self) -> "Cluster":
        return self

    async def session(self) -> SessionId:
        return (await self.sessions.create(new_session(Ids(), SystemClock().now()))).session_id

    async def acted(self, session_id: SessionId) -> None:
        """Its log says that a tool of it has run."""
        ids = Ids()
        await self.log.accept(session_id, [user_message(ids)], now=SystemClock().now())
        seen = await self.log.snapshot(session_id)
        use = AgentToolUse(id=ids.event(), type=AgentToolUse.TYPE, name="bash", input={"command": "true"})
        result = AgentToolResult(id=ids.event(), type=AgentToolResult.TYPE, tool_use_id=use.id)
        claim = Claim(session_id=session_id, owner="us", epoch=seen.record.epoch + 1)
        draft = Draft(seen=seen, lease=claim, now=SystemClock().now())
        await self.log.append(draft.append([use, result], takes=seen.inbox, answers={result.id: use.id}))

    async def start(self, name: str, *, crash_at: str = "") -> Host:
        """Start a host, or start it again."""
        data_dir = self.directory / name
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(LOCAL_HOST),
            str(data_dir),
            env={**os.environ, "CORRAL_CRASH_AT": crash_at},
            stdout=asyncio.subprocess.PIPE,
        )
        self.stack.push_async_callback(_end, process)
        assert process.stdout
        assert await asyncio.wait_for(process.stdout.readline(), SECONDS) == b"ready\n"
        client = client_of(unix_address(socket_path(data_dir, "hands")), is_same_machine=True, tls=None)
        health = await client.health()
        await client.aclose()
        host = Host(
            data_dir=data_dir,
            process=process,
            facts=HostFacts(
                host_id=str(health["host_id"]),
                journal_id=str(health["journal_id"]),
                address=unix_address(socket_path(data_dir, "hands")),
                capacity=int(health["capacity"]),
                disk_free_bytes=int(health["disk_free_bytes"]),
            ),
        )
        self.hosts[name] = host
        return host

    def nodes(self) -> list[SeenNode]:
        """What the list of nodes says; a node without hands is always there: this one."""
        us = _node("brain", None)
        return [
            SeenNode(node=us, age_seconds=self.silence_seconds),
            *(
                SeenNode(node=_node(name, host.facts), age_seconds=host.age_seconds + self.silence_seconds)
                for name, host in self.hosts.items()
            ),
        ]

    def router(self, *, is_same_machine: bool = True) -> HandsRouter:
        """What one brain has."""
        router = HandsRouter(
            placements=self.placements,
            checkpoints=self.checkpoints,
            blobs=self.blobs,
            nodes=self.nodes,
            connect=lambda seen: client_of(
                seen.node.host.address, is_same_machine=is_same_machine, tls=None
            ),
            copy=self.checkpointer().copy,
        )
        self.stack.push_async_callback(router.aclose)
        return router

    def client(self, host: Host) -> HandsClient:
        client = client_of(host.facts.address, is_same_machine=True, tls=None)
        self.stack.push_async_callback(client.aclose)
        return client

    def host_of(self, placement: Placement) -> Host:
        return next(host for host in self.hosts.values() if host.facts.host_id == placement.host_id)

    def checkpointer(self) -> Checkpointer:
        return Checkpointer(self.checkpoints, self.blobs, clock=SystemClock(), ids=Ids())

    async def keep(self, host: Host) -> None:
        """Checkpoints of everything on it."""
        assert await self.checkpointer().look(self.client(host), idle_seconds=0) == 0

    def desk(self, router: HandsRouter) -> Desk:
        return Desk(
            AllHosts(router),
            checkpoints=self.checkpoints,
            checkpointer=self.checkpointer(),
            placements=self.placements,
        )

    def bash(self, session_id: SessionId, placement: Placement, command: str) -> ToolCall:
        self.calls += 1
        return ToolCall(
            session_id=session_id, thread_id="sthr_1", call_id=f"c{self.calls}", name="bash",
            input={"command": command}, recipe=Recipe(), placement=placement,
        )  # fmt: skip

    async def run(self, router: HandsRouter, session_id: SessionId, command: str) -> list[str]:
        """The texts of a call's result."""
        call = self.bash(session_id, await router.placement(session_id), command)
        result = await asyncio.wait_for(router.execute(call, epoch=1), SECONDS)
        return [block["text"] for block in result.content]


def _node(name: str, host: HostFacts | None) -> Node:
    return Node(
        node_id=name,
        owner=f"{name}.1",
        machine="m",
        version="0",
        roles=("hands",) if host else ("brain",),
        url="",
        pid=1,
        host=host,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with contextlib.AsyncExitStack() as stack:
        database = await Database.open(tmp_path / "corral.db")
        stack.push_async_callback(database.close)
        yield Cluster(
            directory=tmp_path,
            sessions=Sessions(database, LocalBus(), SystemClock()),
            log=Log(database, LocalBus()),
            placements=Placements(database),
            checkpoints=Checkpoints(database),
            blobs=await LocalBlobs.open(tmp_path / "blobs"),
            stack=stack,
        )


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact about another process, which can send no signal to us."""
    async with asyncio.timeout(SECONDS):
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def unknown(result: ToolResult) -> bool:
    return result == ToolResult.text(OUTCOME_UNKNOWN, is_error=True)


# -- lost hosts ---------------------------------------------------------------------------------------


async def test_a_host_lost_during_a_call_one_unknown_result_and_the_session_goes_on_elsewhere(cluster):
    await cluster.start("a")
    await cluster.start("b")
    router, session_id = cluster.router(), await cluster.session()
    assert await cluster.run(router, session_id, "echo one > file; echo done") == ["done\n"]
    first = cluster.host_of(await router.placement(session_id))
    await cluster.keep(first)
    call = cluster.bash(session_id, await router.placement(session_id), WORK)
    running = asyncio.create_task(router.execute(call, epoch=1))
    await until((first.files(session_id) / "begun").exists)

    await first.kill()
    with pytest.raises(HandsUnavailable):  # it may come back: its supervisor starts it again
        await running
    with pytest.raises(HandsUnavailable):
        await router.attach(call, epoch=1)
    first.age_seconds = NODE_LOST_SECONDS + 1
    for brain in (router, cluster.router()):  # this one, and one that comes after it
        assert unknown(await brain.attach(call, epoch=2))
        assert unknown(await brain.execute(call, epoch=2))

    news, text = await cluster.run(router, session_id, "cat file; ls")
    assert news.startswith("[This is a fresh sandbox on another machine. The files in /workspace were res")
    assert text == "one\nfile\n"
    second = cluster.host_of(await router.placement(session_id))
    assert second is not first
    assert await cluster.run(router, session_id, "echo on") == ["on\n"]
    assert (first.files(session_id) / "log").read_text() == "ran\n"
    assert not (second.files(session_id) / "log").exists()


async def test_a_call_is_not_waited_for_when_its_host_is_lost_and_silent(cluster, monkeypatch):
    """Stopped, not dead: the connection stands and nothing comes, as of a machine behind a partition."""
    monkeypatch.setattr("corral.hands.hosts.HANDS_CONNECT_SECONDS", 0.2)
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), WORK)
    running = asyncio.create_task(router.execute(call, epoch=1))
    await until((host.files(session_id) / "begun").exists)
    host.process.send_signal(signal.SIGSTOP)
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert unknown(await asyncio.wait_for(running, SECONDS))


async def test_a_missed_heartbeat_does_not_end_a_call_whose_host_answers(cluster, monkeypatch):
    monkeypatch.setattr("corral.hands.hosts.HOST_LOOK_SECONDS", 0.02)
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), WORK)
    running = asyncio.create_task(router.execute(call, epoch=1))
    await until((host.files(session_id) / "begun").exists)
    host.age_seconds = NODE_LOST_SECONDS + 1
    done, _ = await asyncio.wait([running], timeout=0.5)  # many looks
    assert not done
    (host.files(session_id) / "go").touch()
    assert (await asyncio.wait_for(running, SECONDS)).content[0]["text"] == "true result\n"


async def test_a_host_that_only_restarts_keeps_its_sessions(cluster):
    host = await cluster.start("a")
    await cluster.start("b")
    router = cluster.router()
    session_id = await cluster.session()
    await cluster.placements.place(session_id, host_id=host.facts.host_id, instead_of=None)
    assert await cluster.run(router, session_id, "echo x > file; echo done") == ["done\n"]
    await host.kill()
    with pytest.raises(HandsUnavailable):
        await router.placement(session_id)
    await cluster.start("a")
    assert await cluster.run(router, session_id, "cat file") == [NEWS_KEPT, "x\n"]


@pytest.mark.parametrize("is_listed", [True, False], ids=["draining", "left"])
async def test_a_host_that_stops_in_good_order_is_replaced_at_once(cluster, is_listed):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    assert await cluster.run(router, session_id, "echo x > file; echo done") == ["done\n"]
    await cluster.keep(host)
    await cluster.start("b")
    await host.kill()
    if is_listed:
        host.facts = replace(host.facts, is_draining=True)
    else:
        del cluster.hosts["a"]
    placement = await router.placement(session_id)  # the first try: nothing is waited out
    assert cluster.host_of(placement) is cluster.hosts["b"]
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "x\n"


async def test_a_live_host_without_a_way_to_it_is_told_of_once(cluster, caplog):
    host = await cluster.start("a")
    host.facts = replace(host.facts, address="https://10.0.0.5:8421")
    router, session_id = cluster.router(is_same_machine=False), await cluster.session()
    for _ in range(20):
        with pytest.raises(HandsUnavailable, match="asks for a certificate") as caught:
            await router.placement(session_id)
        assert "10.0.0.5" not in caught.value.message, "it may be shown to anybody"
    with pytest.raises(HandsUnavailable, match="asks for a certificate"):
        await router.probe()
    assert len([record for record in caplog.records if "asks for a certificate" in record.message]) == 1
    assert "https://10.0.0.5:8421" in router.unreachable()[host.facts.host_id]


async def test_without_a_checkpoint_the_model_is_told_that_nothing_is_left(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    assert await cluster.run(router, session_id, "echo x > file; echo done") == ["done\n"]
    await cluster.acted(session_id)
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert await cluster.run(router, session_id, "ls; echo on") == [NEWS_LOST, "on\n"]


async def test_a_session_that_was_only_placed_hears_nothing_about_an_earlier_sandbox(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await router.provision(session_id, epoch=1, recipe=Recipe())
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert await cluster.run(router, session_id, "echo first") == ["first\n"]


async def test_a_lost_host_that_comes_back_runs_nothing_and_is_swept(cluster):
    lost = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo old > file")
    late = cluster.bash(session_id, await router.placement(session_id), "echo ran >> log")  # never sent
    await cluster.keep(lost)
    kept = await cluster.start("b")
    await lost.kill()
    lost.age_seconds = NODE_LOST_SECONDS + 1
    await cluster.run(router, session_id, "echo new > file")
    assert cluster.host_of(await router.placement(session_id)) is kept

    back = await cluster.start("a")
    with pytest.raises(NeverStarted):
        await router.attach(late, epoch=1)
    assert await router.execute(late, epoch=1) == ToolResult.text(MOVED, is_error=True)
    await cluster.keep(back)  # what lies there is nobody's: it must not replace the newer one
    await cluster.keep(kept)
    assert await sweep_host(cluster.client(back), cluster.placements) == {session_id: "elsewhere"}
    assert not back.files(session_id).exists()
    assert await sweep_host(cluster.client(back), cluster.placements) == {}
    assert await sweep_host(cluster.client(kept), cluster.placements) == {}
    # And there again, once the other one is gone.
    await kept.kill()
    kept.age_seconds = NODE_LOST_SECONDS + 1
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "new\n"
    assert not (back.files(session_id) / "log").exists()


async def test_cut_off_from_the_list_nobody_is_given_up_on(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), "true")
    await host.kill()
    cluster.silence_seconds = NODE_LOST_SECONDS + 1
    with pytest.raises(HandsUnavailable):
        await router.attach(call, epoch=1)
    cluster.silence_seconds, host.age_seconds = 0.0, NODE_LOST_SECONDS + 1  # it is the host that is cut off
    assert unknown(await router.attach(call, epoch=1))


# -- restores and checkpoints at every crash point -----------------------------------------------------


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
    await cluster.placements.place(
        session_id, host_id=host.facts.host_id, instead_of=lost.facts.host_id
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


async def taking(cluster: Cluster, host: Host, *stops_at: str, **environment: str) -> Taker:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _TAKER, str(cluster.directory), str(host.data_dir), *stops_at,
        env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    cluster.stack.push_async_callback(_end, process)
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
    await cluster.placements.place(session_id, host_id="host_z", instead_of=host.facts.host_id)
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


# -- eviction, drain, capacity ------------------------------------------------------------------------


async def test_an_ended_session_still_has_its_files(cluster):
    await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.sessions.archive(session_id)
    await router.release(session_id, delete_workspace=False)
    packed = b"".join([chunk async for chunk in router.export_workspace(session_id)])
    assert b"file" in packed
    with pytest.raises(NotFound):
        [_ async for _ in router.export_workspace(await cluster.session())]


async def test_an_evicted_session_gets_its_files_back_with_its_next_call(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    desk = cluster.desk(router)
    [view] = await desk.all()
    assert (view.session_id, view.provider, view.is_busy, view.has_changed) == (
        session_id, "local", False, True
    )  # fmt: skip
    assert view.disk_bytes > 0 and view.checkpoint_at is None
    await desk.evict(session_id)
    assert not host.files(session_id).exists() and await desk.all() == []
    with pytest.raises(NotFound):
        await desk.evict(session_id)
    news, text = await cluster.run(router, session_id, "cat file")
    assert "restored" in news and text == "x\n"


async def test_what_was_written_between_calls_is_evicted_with_a_copy(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.keep(host)
    (host.files(session_id) / "file").write_text("by a process that lives on\n")
    await cluster.desk(router).evict(session_id)
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "by a process that lives on\n"


async def test_files_that_no_journal_knows_are_not_evicted(cluster):
    """Of an older Corral, or of an eviction that was killed: nobody can tell, so nobody removes them."""
    host = await cluster.start("a")
    session_id = await cluster.session()
    host.files(session_id).mkdir(parents=True)
    (host.files(session_id) / "file").write_text("the only copy")
    with pytest.raises(Conflict, match="next call"):
        await cluster.desk(cluster.router()).evict(session_id)
    assert (host.files(session_id) / "file").read_text() == "the only copy"


async def test_a_session_at_work_is_not_evicted(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), WORK)
    running = asyncio.create_task(router.execute(call, epoch=1))
    await until((host.files(session_id) / "begun").exists)
    with pytest.raises(Conflict):
        await cluster.desk(router).evict(session_id)
    with pytest.raises(Conflict):
        await cluster.client(host).evict(session_id, changes=1)
    (host.files(session_id) / "go").touch()
    assert (await running).content[0]["text"] == "true result\n"


async def test_a_call_that_meets_an_eviction_runs_after_the_restore_or_not_at_all(cluster):
    await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    call = cluster.bash(session_id, await router.placement(session_id), "cat file")
    await cluster.desk(router).evict(session_id)  # between the intent and the call
    result = await router.execute(call, epoch=1)
    assert result.content[-1]["text"] == "x\n"


async def test_a_host_killed_during_an_eviction_restores_before_the_next_call(cluster):
    host = await cluster.start("a", crash_at="hands.evict")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    with pytest.raises(HandsUnavailable):
        await cluster.desk(router).evict(session_id)
    await host.process.wait()
    (host.files(session_id) / "file").write_text("not from the checkpoint\n")
    await cluster.start("a")
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "x\n"


async def test_a_draining_host_keeps_its_sessions_and_takes_no_new_ones(cluster):
    draining = await cluster.start("a")
    router, old = cluster.router(), await cluster.session()
    await cluster.run(router, old, "echo x > file")
    await drain_host(cluster.client(draining), cluster.checkpointer())
    assert await cluster.checkpoints.newest(old) is not None
    assert await cluster.run(router, old, "cat file") == ["x\n"]
    new = await cluster.session()
    with pytest.raises(HandsUnavailable, match="takes new sessions"):
        await router.placement(new)
    other = await cluster.start("b")
    for _ in range(4):  # the list of nodes does not know yet that the first one drains
        assert cluster.host_of(await router.placement(await cluster.session())) is other


async def test_sessions_spread_over_hosts_by_their_room(cluster):
    for name in ("a", "b"):
        await cluster.start(name)
    router = cluster.router()
    placed = [
        cluster.host_of(await router.placement(await cluster.session())).data_dir.name for _ in range(20)
    ]
    assert 8 <= placed.count("a") <= 12
    full = cluster.hosts["a"]
    full.facts = replace(full.facts, sandboxes=full.facts.capacity)
    placed = {
        cluster.host_of(await router.placement(await cluster.session())).data_dir.name for _ in "1234"
    }
    assert placed == {"b"}


# -- who is behind an address; what has no copy; backups ------------------------------------------------


async def test_another_host_behind_an_address_gets_nothing(cluster, caplog):
    mine, other = await cluster.start("a"), await cluster.start("b")
    facts = other.facts
    other.facts = replace(facts, address=mine.facts.address)  # as in two containers
    router, session_id = cluster.router(), await cluster.session()
    await cluster.placements.place(session_id, host_id=other.facts.host_id, instead_of=None)
    with pytest.raises(HandsUnavailable):
        await router.placement(session_id)
    assert await cluster.client(mine).held() == []
    assert [r.levelname for r in caplog.records if "CORRAL_HANDS_LISTEN" in r.message] == ["WARNING"]
    assert [host_id for host_id, _ in await AllHosts(router).clients()] == [mine.facts.host_id]
    other.facts = facts
    assert await cluster.run(router, session_id, "echo on") == ["on\n"]


async def test_an_import_has_a_second_copy_at_once(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    (cluster.directory / "file").write_text("imported\n")
    tar = await asyncio.create_subprocess_exec(
        "tar", "-cC", str(cluster.directory), "file", stdout=asyncio.subprocess.PIPE
    )
    data, _ = await tar.communicate()

    async def archive() -> AsyncIterator[bytes]:
        yield data

    await router.import_workspace(session_id, archive())
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "imported\n"


async def test_files_without_a_copy_are_not_swept(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    await cluster.run(router, session_id, "echo on")
    host = await cluster.start("a")
    assert await sweep_host(cluster.client(host), cluster.placements) == {}
    assert (host.files(session_id) / "file").read_text() == "x\n"


async def test_a_host_that_saw_a_later_placement_than_a_restored_database_goes_on(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.keep(host)
    placed = await cluster.placements.find(session_id)
    await cluster.client(host).restore(
        session_id, None, placed_at=placed.placed_at + 1, restored=Restored(what="lost")
    )
    assert (await cluster.run(cluster.router(), session_id, "cat file"))[-1] == "x\n"
