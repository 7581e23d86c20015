"""Who reaches which hands: the host of this node, and, for brain and API, every session's own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

from corral.api.dependencies import Check
from corral.app.ground import Ground
from corral.app.part import Duty, Part
from corral.catalog.blobs import BlobStore
from corral.cluster.node import SeenNode
from corral.config import Config
from corral.daemon import socket_path, token_path
from corral.hands.address import client_of
from corral.hands.client import HandsClient
from corral.hands.router import HandsRouter
from corral.hands.tls import ClusterTls, client_context
from corral.kernel.clock import Clock
from corral.kernel.errors import BlobUnavailable, HandsUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    BLOB_PROBE_SECONDS,
    HANDS_DRAIN_CHECKPOINT_SECONDS,
    HANDS_RETRY_SECONDS,
    READINESS_TIMEOUT_SECONDS,
)
from corral.orchestrator.checkpoint import Checkpointer
from corral.orchestrator.cleanup import forget_checkpoint
from corral.orchestrator.node import NodeDuty
from corral.orchestrator.outputs import OutputsCollector
from corral.orchestrator.sandboxes import AllHosts, Desk, OneHost, drain_host, sweep_sandboxes
from corral.session.sandboxes import SandboxDesk
from corral.store.blobs import open_blobs
from corral.store.checkpoints import Checkpoints
from corral.store.placements import Placements

__all__ = [
    "BlobsLook",
    "Keeping",
    "Reach",
    "SessionHands",
    "cluster_tls",
    "hands_part",
    "open_keeping",
    "open_local_hands",
    "open_reach",
]

log = logging.getLogger(__name__)

SessionHands: TypeAlias = HandsClient | HandsRouter


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """Where sessions are placed, and files and workspaces kept. checkpointer: where hosts share work; one
    host alone keeps workspaces as directories."""

    placements: Placements
    checkpoints: Checkpoints
    blobs: BlobStore
    checkpointer: Checkpointer | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What brain and API act through. forget_blobs: of a session that was deleted. unreachable: why no call
    from here reaches a host that is listed as live, by its id."""

    hands: SessionHands
    desk: SandboxDesk
    forget_blobs: Callable[[SessionId], Awaitable[None]]
    unreachable: Callable[[], Mapping[str, str]] = dict


async def open_keeping(ground: Ground, stack: AsyncExitStack) -> Keeping:
    checkpoints = Checkpoints(ground.database)
    checkpointer = None
    blobs = await open_blobs(ground.config)
    stack.push_async_callback(blobs.aclose)
    if ground.config.is_postgres:
        checkpointer = Checkpointer(checkpoints, blobs, clock=ground.clock, ids=ground.ids)
    return Keeping(
        placements=Placements(ground.database, owner=ground.start.owner),
        checkpoints=checkpoints,
        blobs=blobs,
        checkpointer=checkpointer,
    )


def open_local_hands(ground: Ground, stack: AsyncExitStack) -> HandsClient:
    """The hands host of this node, which a process of its own is."""
    data_dir = ground.config.data_dir
    hands = HandsClient(socket_path(data_dir, "hands"), token=token_path(data_dir, "hands").read_text())
    stack.push_async_callback(hands.aclose)
    return hands


def open_reach(
    ground: Ground, keeping: Keeping, node: NodeDuty, local: HandsClient | None, stack: AsyncExitStack
) -> Reach:
    """With one node, its own host; `node` knows the others."""
    if keeping.checkpointer is None:
        hands = local or open_local_hands(ground, stack)

        async def nothing(session_id: SessionId) -> None:
            """One host alone has no checkpoints."""

        desk = Desk(OneHost(hands), checkpoints=keeping.checkpoints, checkpointer=None, placements=None)
        return Reach(hands=hands, desk=desk, forget_blobs=nothing)
    blobs = keeping.blobs
    router = HandsRouter(
        placements=keeping.placements,
        checkpoints=keeping.checkpoints,
        blobs=blobs,
        nodes=node.seen,
        connect=_connecting(ground, node),
        copy=keeping.checkpointer.copy,
    )
    stack.push_async_callback(router.aclose)
    return Reach(
        hands=router,
        desk=Desk(
            AllHosts(router),
            checkpoints=keeping.checkpoints,
            checkpointer=keeping.checkpointer,
            placements=keeping.placements,
        ),
        forget_blobs=lambda session_id: forget_checkpoint(session_id, keeping.checkpoints, blobs),
        unreachable=router.unreachable,
    )


def _connecting(ground: Ground, node: NodeDuty) -> Callable[[SeenNode], HandsClient]:
    files = cluster_tls(ground.config)
    tls = client_context(files) if files else None

    def connect(seen: SeenNode) -> HandsClient:
        assert seen.node.host is not None
        ours = {each.node.machine for each in node.seen() if each.node.node_id == ground.start.node}
        return client_of(seen.node.host.address, is_same_machine=seen.node.machine in ours, tls=tls)

    return connect


def cluster_tls(config: Config) -> ClusterTls | None:
    """The files by which nodes know each other, if they are set."""
    if config.cluster_ca is None or config.cluster_cert is None or config.cluster_key is None:
        return None
    return ClusterTls(ca=config.cluster_ca, cert=config.cluster_cert, key=config.cluster_key)


class BlobsLook:
    """A readiness check: whether copies of workspaces have a place to go to, tried at most every
    BLOB_PROBE_SECONDS. A warning at worst: calls go on without it; what they do has no second copy."""

    def __init__(self, blobs: BlobStore, clock: Clock) -> None:
        self._blobs = blobs
        self._clock = clock
        self._known: tuple[float, Check] | None = None

    async def __call__(self) -> Check:
        now = self._clock.monotonic()
        if self._known is None or now - self._known[0] > BLOB_PROBE_SECONDS:
            self._known = (now, await self._probe())
        return self._known[1]

    async def _probe(self) -> Check:
        reason = f"no answer within {READINESS_TIMEOUT_SECONDS / 2:g} s"
        try:
            async with asyncio.timeout(READINESS_TIMEOUT_SECONDS / 2):
                await self._blobs.probe()
            return Check(status="ok")
        except BlobUnavailable as error:
            reason = error.message
            log.warning(
                "workspaces cannot be copied: %s", error
            )  # where the blobs are is for the log alone
        except OSError as error:
            reason = error.strerror or reason  # a timeout says nothing
        return Check(status="warning", reason=f"workspaces cannot be copied: {reason}")


def hands_part(
    keeping: Keeping, hands: HandsClient, clock: Clock, *, collector: OutputsCollector | None = None
) -> Part:
    """The role `hands` in the server process: the host itself is a process of its own. Here its workspaces
    are kept, and what should not be there is swept. collector: of
    their outputs."""

    async def look() -> Check:
        probe = await hands.probe()
        if not probe.is_available:
            reason = f"no sandbox can be made: {probe.summary}; `corral doctor` says what to do"
            return Check(status="failed", reason=reason)
        return Check(status="ok")

    duties: list[Duty] = [lambda: sweep_sandboxes(hands, keeping.placements)]
    if collector is not None:
        duties.append(lambda: collector.run(hands))
    checkpointer, blobs = keeping.checkpointer, keeping.blobs
    if checkpointer is None:
        return Part(looks={"hands": look}, duties=duties)

    async def drain() -> None:
        try:
            async with asyncio.timeout(HANDS_DRAIN_CHECKPOINT_SECONDS):
                await drain_host(hands, checkpointer)
        except TimeoutError:
            log.warning("not every workspace could be copied before the end")

    return Part(
        looks={"hands": look, "blobs": BlobsLook(blobs, clock)},
        duties=[*duties, lambda: _open_doors(hands), lambda: checkpointer.run(hands)],
        drain=drain,
    )


async def _open_doors(hands: HandsClient) -> None:
    """A host that outlived a server which drained it takes sessions again."""
    while True:
        try:
            await hands.drain(is_draining=False)
            return
        except HandsUnavailable:
            await asyncio.sleep(HANDS_RETRY_SECONDS)
