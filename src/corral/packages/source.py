"""Packages as a mount: a layer, which a host needs before the session's first tool call."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from corral.catalog.packages import MOUNT_ID, PLACE, Wanted, layer_digest, wanted
from corral.hands.providers.binary import CannotWork
from corral.hands.providers.ground import ground
from corral.hands.providers.system import MACHINE, System
from corral.kernel.ids import SessionId, WorkspaceId
from corral.kernel.limits import LAYERS_KNOWN_MAX
from corral.packages.installer import PackagesFailed
from corral.packages.layers import Layers
from corral.session.call import Mount
from corral.session.mounts import Attached, MountFailed

__all__ = ["PackageSource"]

_NO_PYTHON = "The server's machine has no Python 3 for sandboxes, so packages cannot be installed."


class PackageSource:
    """`session.mounts.MountSource` of kind "packages"."""

    def __init__(
        self,
        layers: Layers,
        *,
        workspace: Callable[[SessionId], Awaitable[WorkspaceId]],
        system: System = MACHINE,
    ) -> None:
        """workspace: whose a session is. Raises NotFound. system: what packages are installed on."""
        self._layers = layers
        self._system = system
        self._workspace = workspace
        # By the digest that we gave it; empty: it cannot be made.
        self._known: OrderedDict[str, Wanted] = OrderedDict()

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        packages = wanted(attached.environment)
        if not packages:
            return ()
        try:
            below = await asyncio.to_thread(ground, packages, self._system)
            digest = layer_digest(packages, ground=below)
        except CannotWork:  # no host has this one, so we are asked for it
            digest, packages = layer_digest(packages, ground=""), {}
        self._known[digest] = packages
        self._known.move_to_end(digest)
        if len(self._known) > LAYERS_KNOWN_MAX:
            self._known.popitem(last=False)
        return [Mount(mount_id=MOUNT_ID, kind="packages", path=PLACE, digest=digest, mode="read_only")]

    async def open(self, session_id: SessionId, mount: Mount) -> AsyncGenerator[bytes, None]:
        packages = self._known.get(mount.digest)
        if not packages:
            raise _failed(
                "The session's packages are not known any more." if packages is None else _NO_PYTHON
            )
        whose = await self._workspace(session_id)
        try:
            layer = self._layers.archive(mount.digest, packages, session_id=session_id, workspace_id=whose)
            async with aclosing(layer) as archive:
                async for chunk in archive:
                    yield chunk
        except PackagesFailed as error:
            raise _failed(error.message, error.detail) from error


def _failed(message: str, detail: str | None = None) -> MountFailed:
    return MountFailed.unknown(message, mount_id=MOUNT_ID, detail=detail)
