"""What sessions can have mounted: the sources of a brain, one for each kind."""

from collections.abc import Mapping, Sequence

from corral.app.ground import Ground
from corral.app.hands import SessionHands
from corral.hands.mounting import Mounting
from corral.kernel.ids import SessionId
from corral.session.content import Json
from corral.session.mounts import MountSource

__all__ = ["open_mounting"]


def open_mounting(ground: Ground, hands: SessionHands) -> Mounting:
    """To add a kind: one line in `sources`."""
    sources: dict[str, MountSource] = {}

    async def resources(session_id: SessionId) -> Sequence[Mapping[str, Json]]:
        return ()

    return Mounting(hands, resources=resources, sources=sources)
