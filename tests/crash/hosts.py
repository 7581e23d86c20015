"""Hands hosts as processes, each with local sandboxes; the brain's and the server's parts in this one."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from corral.cluster.node import HostFacts, Node, SeenNode
from corral.cluster.placement import PlacementStore
from corral.daemon import socket_path
from corral.hands.address import client_of, unix_address
from corral.hands.client import HandsClient
from corral.hands.news import OUTCOME_UNKNOWN
from corral.hands.router import HandsRouter
from corral.kernel.clock import SystemClock
from corral.kernel.ids import Ids, SessionId
from corral.orchestrator.checkpoint import Checkpointer
from corral.orchestrator.sandboxes import AllHosts, Desk
from corral.session.call import Placement, Recipe, ToolCall
from corral.session.content import ToolResult
from corral.session.events import AgentToolResult, AgentToolUse
from corral.session.lease import Claim
from corral.store.blobs import LocalBlobs
from corral.store.checkpoints import Checkpoints
from corral.store.log import Log
from corral.store.placements import Placements
from corral.store.sessions import Sessions
from corral.testing.sessions import Draft, new_session, user_message

LOCAL_HOST = Path(__file__).parents[1] / "unit" / "hands_host" / "local_host.py"
WORK = "echo ran >> log; touch begun; while [ ! -e go ]; do sleep 0.01; done; echo true result"
SECONDS = 60.0  # for anything that another process does, on a machine that has much else to do


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
class HandsCluster:
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

    async def __aenter__(self) -> "HandsCluster":
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
        self.stack.push_async_callback(end, process)
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

    def router(
        self, *, is_same_machine: bool = True, placements: PlacementStore | None = None
    ) -> HandsRouter:
        """What one brain has."""
        router = HandsRouter(
            placements=placements or self.placements,
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


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact about another process, which can send no signal to us."""
    async with asyncio.timeout(SECONDS):
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def unknown(result: ToolResult) -> bool:
    return result == ToolResult.text(OUTCOME_UNKNOWN, is_error=True)
