"""Who reaches which hands: the host of this node, and, for brain and API, every session's own."""

from contextlib import AsyncExitStack

from corral.api.dependencies import Check
from corral.app.ground import Ground
from corral.app.part import Part
from corral.daemon import socket_path, token_path
from corral.hands.client import HandsClient
from corral.orchestrator.node import NodeDuty

__all__ = ["hands_part", "open_local_hands", "open_session_hands"]


def open_local_hands(ground: Ground, stack: AsyncExitStack) -> HandsClient:
    """The hands host of this node, which a process of its own is."""
    data_dir = ground.config.data_dir
    hands = HandsClient(socket_path(data_dir, "hands"), token=token_path(data_dir, "hands").read_text())
    stack.push_async_callback(hands.aclose)
    return hands


def open_session_hands(
    ground: Ground, node: NodeDuty, local: HandsClient | None, stack: AsyncExitStack
) -> HandsClient:
    """What brain and API act through: with one node, its own host; `node` knows the others."""
    return local or open_local_hands(ground, stack)


def hands_part(hands: HandsClient) -> Part:
    """The role `hands` in the server process: the host itself is a process of its own."""

    async def look() -> Check:
        probe = await hands.probe()
        if not probe.is_available:
            return Check(status="failed", reason=f"{probe.detail}. {probe.remedy}".strip())
        return Check(status="ok")

    return Part(looks={"hands": look})
