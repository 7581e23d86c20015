"""Skills as mounts: copies of their packages below /workspace/skills."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from corral.catalog.blobs import BlobStore
from corral.catalog.skills.package import as_tar
from corral.catalog.skills.ports import blob_key
from corral.kernel.errors import NotFound
from corral.kernel.ids import SessionId, SkillVersionId
from corral.session.call import Mount
from corral.session.mounts import Attached, MountFailed

__all__ = ["SkillSource"]

_MEMORY_BYTES = 1024 * 1024


class SkillSource:
    """`session.mounts.MountSource` of kind "skill"."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        return [
            Mount(
                mount_id=skill["version"],
                kind="skill",
                path=skill["path"],
                digest=skill["sha256"],
                mode="copy",
            )
            for skill in attached.agent.get("skills", ())
            if "version" in skill  # those of repositories come with them
        ]

    async def open(self, session_id: SessionId, mount: Mount) -> AsyncGenerator[bytes, None]:
        with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as package:
            try:
                async with aclosing(self._blobs.get(blob_key(SkillVersionId(mount.mount_id)))) as content:
                    async for chunk in content:
                        await asyncio.to_thread(package.write, chunk)
            except NotFound:
                raise MountFailed.unknown(
                    f"The skill at {mount.path} is lost: its package is not where blobs are kept.",
                    mount_id=mount.mount_id,
                ) from None
            package.seek(0)
            pieces = as_tar(package)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
