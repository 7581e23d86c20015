"""A provider without isolation, for tests of the host alone: a "sandbox" is a process group that runs real
bash commands in the workspace. As a script, `python local_host.py DATA_DIR [UNADOPTED_SECONDS]` is a
whole hands host on it; it prints `ready`.
"""

import asyncio
import contextlib
import ctypes
import io
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from corral.hands.ports import Capabilities, Probe, SandboxLost
from corral.hands.process import serve_hands
from corral.kernel.errors import InvalidRequest, SandboxUnavailable
from corral.session.call import Recipe, ToolCall
from corral.session.content import ToolResult

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_host() -> None:
    os.setsid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _spawn(*argv: str, cwd: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        preexec_fn=_die_with_host,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class LocalSandbox:
    def __init__(self, anchor: asyncio.subprocess.Process, workspace: Path) -> None:
        self._anchor = anchor
        self._workspace = workspace
        self._commands: dict[str, asyncio.subprocess.Process] = {}
        self._cancelled: set[str] = set()
        self.ignores_cancel = False

    @property
    def pid(self) -> int:
        return self._anchor.pid

    @property
    def is_alive(self) -> bool:
        return self._anchor.returncode is None

    async def run(self, call: ToolCall) -> ToolResult:
        if not self.is_alive:
            raise SandboxLost("gone before the call")
        command = await _spawn("/bin/bash", "-c", str(call.input["command"]), cwd=self._workspace)
        self._commands[call.call_id] = command
        if call.call_id in self._cancelled:  # while it was started
            _kill(command)
        try:
            reading = asyncio.ensure_future(command.communicate())
            dying = asyncio.ensure_future(self._anchor.wait())
            await asyncio.wait([reading, dying], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                _kill(command)
                await reading
                raise SandboxLost("the sandbox died")
            dying.cancel()
            if call.call_id in self._cancelled:
                return ToolResult.text("interrupted by request", is_error=True)
            return ToolResult.text((await reading)[0].decode(), is_error=command.returncode != 0)
        finally:
            del self._commands[call.call_id]

    async def cancel(self, call_id: str) -> None:
        if not self.ignores_cancel:
            self._cancelled.add(call_id)
            if command := self._commands.get(call_id):
                _kill(command)

    async def destroy(self) -> None:
        _kill(self._anchor)
        await self._anchor.wait()
        for command in list(self._commands.values()):
            _kill(command)


class LocalProvider:
    name = "local"
    capabilities = Capabilities(isolation="none: for tests only")

    def __init__(self) -> None:
        self.created: list[LocalSandbox] = []
        self.layers: dict[str, bytes] = {}
        self.unavailable = ""
        self.detail: str | None = None  # what only the owner of the machine may read
        self.probes = 0

    async def probe(self) -> Probe:
        self.probes += 1
        return Probe(
            is_available=not self.unavailable,
            summary="local processes",
            detail=self.detail or "",
            remedy=self.unavailable,
        )

    async def create(self, *, session_id: str, workspace: Path, recipe: Recipe) -> LocalSandbox:
        if self.unavailable:
            raise SandboxUnavailable(self.unavailable, retryable=False, detail=self.detail)
        sandbox = LocalSandbox(await _spawn("sleep", "infinity", cwd=workspace), workspace)
        self.created.append(sandbox)
        return sandbox

    def has_layer(self, digest: str) -> bool:
        return digest in self.layers

    async def put_layer(self, digest: str, archive: AsyncIterator[bytes]) -> None:
        self.layers[digest] = b"".join([chunk async for chunk in archive])

    async def prepare_workspace(self, workspace: Path) -> None:
        workspace.mkdir(exist_ok=True)

    def place(self, workspace: Path, place: str) -> Path:
        return workspace.parent / f".{workspace.name}" / place

    def seen(self, workspace: Path, path: str) -> str:
        return path

    async def import_archive(
        self, workspace: Path, archive: AsyncIterator[bytes], *, below: str | None = None
    ) -> None:
        data = io.BytesIO(b"".join([chunk async for chunk in archive]))
        try:
            with tarfile.open(fileobj=data) as tar:
                # Not as `filter="data"`: Python 3.11 knows that since 3.11.4 only.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(workspace)
        except tarfile.TarError as error:
            raise InvalidRequest(f"not an archive that can be unpacked here: {error}") from error

    async def export_archive(self, workspace: Path) -> AsyncIterator[bytes]:
        tar = await _spawn("tar", "-cf", "-", ".", cwd=workspace)
        assert tar.stdout
        while chunk := await tar.stdout.read(65536):
            yield chunk
        await tar.wait()

    pack = export_archive
    unpack = import_archive

    async def remove_workspace(self, workspace: Path) -> None:
        shutil.rmtree(workspace, ignore_errors=True)

    async def aclose(self) -> None:
        for sandbox in self.created:
            await sandbox.destroy()


if __name__ == "__main__":
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    asyncio.run(
        serve_hands(
            data_dir=Path(sys.argv[1]),
            provider=lambda state_dir: LocalProvider(),
            unadopted_seconds=seconds,
            on_ready=lambda: print("ready", flush=True),
        )
    )
