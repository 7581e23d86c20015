"""The workspaces of sandboxes on this machine: what goes in and out of them, and how they are removed.

An agent may have left anything in a workspace, so no process of ours opens it: programs do, each in a
sandbox of its own on that workspace.
"""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.hands.providers.home import (
    AGENT,
    MEMORY,
    NOTES,
    PATHS,
    SCRATCH,
    TMP,
    TRUST,
    UPLOADS,
    WORKDIR,
    lay_out,
    remove_empty,
)
from corral.hands.providers.walls import Process, Walls
from corral.kernel.errors import InvalidRequest, SandboxUnavailable
from corral.kernel.limits import WORKSPACE_ARCHIVE_BYTES_MAX, WORKSPACE_ARCHIVE_MEMBERS_MAX

__all__ = ["Workspaces"]

_CHUNK_BYTES: Final = 256 * 1024
_REASON_BYTES_MAX: Final = 4096
_SIGNALLED: Final = 128  # an exit code above: what ran inside was killed


class Workspaces:
    """walls: of the sandboxes of these programs, which may have others than agents have. Methods are those
    of `hands.ports.Provider`."""

    def __init__(self, walls: Walls) -> None:
        self._walls = walls

    async def take_in(
        self,
        workspace: Path,
        archive: AsyncIterator[bytes],
        *,
        bytes_max: int = WORKSPACE_ARCHIVE_BYTES_MAX,
        members_max: int = WORKSPACE_ARCHIVE_MEMBERS_MAX,
        below: str | None = None,
    ) -> None:
        """As `hands.ports.Provider.import_archive`, within other bounds if there are any."""
        await self._walls.set_up()
        self._lay_out(workspace)
        agent, top = self._seen(workspace, AGENT), self._seen(workspace, WORKDIR)
        words = [str(bytes_max), str(members_max), *([] if below is None else [below])]
        python = self._walls.python.command
        process = await self._start(workspace, [*python, "-IS", agent, "import", top, *words])
        try:
            await self._feed(process, archive, complaint="the archive was refused")
        finally:
            await process.close()

    async def export(self, workspace: Path) -> AsyncIterator[bytes]:
        async for chunk in self._packed(workspace, self._seen(workspace, WORKDIR), "."):
            yield chunk

    async def pack(self, workspace: Path) -> AsyncIterator[bytes]:
        kept = self._kept(workspace)
        async for chunk in self._packed(workspace, kept.top, kept.packed):
            yield chunk

    async def unpack(self, workspace: Path, archive: AsyncIterator[bytes]) -> None:
        # By tar, in a sandbox: what a tool of the agent could make, links to anywhere, is made again.
        await self._walls.set_up()
        self._lay_out(workspace)
        kept = self._kept(workspace)
        unpack = f"cd {shlex.quote(kept.top)} && exec tar {kept.unpacked} -xpf - 2>&1"
        process = await self._start(workspace, ["/bin/sh", "-c", unpack])
        try:
            await self._feed(process, archive, complaint="the checkpoint is broken")
        finally:
            await process.close()

    async def _feed(self, process: Process, archive: AsyncIterator[bytes], *, complaint: str) -> None:
        """Give an archive to a program that says what is wrong with it. Raises InvalidRequest if it does,
        SandboxUnavailable if it did not live to do so: a good archive must not be given up for broken."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it says why below
            async for chunk in archive:
                if process.writer.is_closing():  # uvloop would raise RuntimeError, asyncio say nothing
                    break
                process.writer.write(chunk)
                await process.writer.drain()
            if not process.writer.is_closing():
                process.writer.write_eof()
        reason = await process.reader.read(_REASON_BYTES_MAX)
        if (code := await process.exit_code()) != 0:
            self._raise_if_not_started(process)
            if code < 0 or code > _SIGNALLED:
                raise SandboxUnavailable(
                    f"the sandbox was killed while an archive was unpacked in it ({code})"
                )
            raise InvalidRequest(f"{complaint}: {reason.decode(errors='replace').strip()}")

    async def _packed(self, workspace: Path, top: str, what: str) -> AsyncIterator[bytes]:
        """top: a path inside. what: options of tar and names below it."""
        await self._walls.set_up()
        self._lay_out(workspace)
        # cd, because the -C of tar would read a directory that may only be passed through
        pack = f"cd {shlex.quote(top)} && exec tar --ignore-failed-read -cf - {what} 2>/dev/null"
        process = await self._start(workspace, ["/bin/sh", "-c", pack])
        try:
            while chunk := await process.reader.read(_CHUNK_BYTES):
                yield chunk
            if await process.exit_code() not in (0, 1):  # 1: a file changed under tar; below 0: killed
                self._raise_if_not_started(process)
                raise SandboxUnavailable("the workspace could not be packed")
        finally:
            await process.close()

    def _raise_if_not_started(self, process: Process) -> None:
        """Programs inside print nothing to stderr: what is there, the walls said."""
        if complaint := process.complaint():
            raise self._walls.diagnose(complaint)

    async def remove(self, workspace: Path) -> None:
        for ours in (UPLOADS[0], NOTES, Path(TRUST[0]).parts[0]):  # no agent ever wrote there
            await asyncio.to_thread(shutil.rmtree, workspace / ours, ignore_errors=True)
        if not workspace.exists() or remove_empty(workspace):
            return
        await self._walls.set_up()
        stores = workspace / MEMORY[0]
        memory = {store.name: True for store in stores.iterdir()} if stores.is_dir() else {}
        self._lay_out(workspace, memory)
        documented = [*PATHS.values(), *(f"{MEMORY[1]}/{slug}" for slug in memory)]
        if (workspace / SCRATCH).exists():
            documented.append(TMP)
        places = shlex.join([self._seen(workspace, path) for path in documented])
        clear = f"(chmod -R u+rwX {places}; find {places} -mindepth 1 -delete) 2>/dev/null"
        process = await self._start(workspace, ["/bin/sh", "-c", clear], memory)
        try:
            await process.exit_code()
            self._raise_if_not_started(process)
        finally:
            await process.close()
        if not remove_empty(workspace):
            raise SandboxUnavailable("a workspace could not be emptied", detail=str(workspace))

    async def _start(
        self, home: Path, program: Sequence[str], memory: Mapping[str, bool] | None = None
    ) -> Process:
        await self._walls.set_up()
        return await self._walls.start(home, program, memory or {})

    def _seen(self, workspace: Path, path: str) -> str:
        return self._walls.seen(workspace, path)

    def _lay_out(self, home: Path, memory: Iterable[str] = ()) -> None:
        lay_out(home, memory, owner=self._walls.owner(home), mode=self._walls.home_mode)

    def _kept(self, home: Path) -> "_Kept":
        return _Kept.of({path: self._seen(home, path) for path in PATHS.values()})


@dataclass(frozen=True, slots=True)
class _Kept:
    """All that a session keeps, for GNU tar, in an archive of documented names: where it works,
    its options and what it packs, its options when it unpacks."""

    top: str
    packed: str
    unpacked: str

    @classmethod
    def of(cls, places: Mapping[str, str]) -> "_Kept":
        """places: documented path -> path that programs inside use."""
        top = os.path.commonpath(places.values())
        names = {path.lstrip("/"): os.path.relpath(here, top) for path, here in places.items()}
        moved = {path: here for path, here in names.items() if path != here}
        # S: names of members are translated, what symbolic links point at is the agent's.
        to_documented = [_transform(here, path) for path, here in moved.items()]
        to_here = [_transform(path, here) for path, here in moved.items()]
        return cls(top, " ".join([*to_documented, *names.values()]), " ".join(to_here))


def _transform(old: str, new: str) -> str:
    return shlex.quote(f"--transform=s,^{re.escape(old)}\\(/\\|$\\),{new}\\1,S")
