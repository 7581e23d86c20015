"""A stage of sandboxes alone: a provider in this process, without a server, a store or a proxy. For whoever
writes a provider, and for tests that take walls away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from corral.hands.ports import Provider, Sandbox, SandboxLost
from corral.hands.trees import open_file, walk
from corral.kernel import limits
from corral.kernel.errors import NotFound
from corral.redteam.outside import Outside
from corral.redteam.stage import Broken
from corral.session.content import Json
from corral.testing.lab import Lab, text_of

__all__ = ["BareStage", "bounds"]

_NEIGHBOUR: Final = "sesn_neighbour"


class BareStage:
    """`redteam.stage.Stage`."""

    def __init__(self, lab: Lab, outside: Outside) -> None:
        self.kind = lab.provider.name
        self.capabilities = lab.provider.capabilities
        self.facts: dict[str, Json] = {**outside.facts, **bounds(), "gaps": list(self.capabilities.gaps)}
        self._lab = lab
        self._boxes: dict[str, Sandbox] = {}

    @classmethod
    @asynccontextmanager
    async def around(cls, provider: Provider, outside: Outside) -> "AsyncIterator[BareStage]":
        """Below the root of `outside`."""
        async with Lab.open(provider, root=outside.root) as lab:
            stage = cls(lab, outside)
            await stage._settle(outside)
            yield stage

    async def _settle(self, outside: Outside) -> None:
        """A neighbour with a secret in a file."""
        await self._lab.sandbox(_NEIGHBOUR)
        home = self._lab.root / _NEIGHBOUR
        secret = outside.canaries.plant("neighbour")
        box = self._box_of(_NEIGHBOUR, await self._lab.sandbox(_NEIGHBOUR))
        await self._lab.bash(box, f"echo {secret} > mine")
        self.facts |= {
            "neighbour_home": str(home),
            "neighbour_files": str(home / "files"),
            "neighbour_secret": str(home / "files" / "mine"),
            "workspaces": str(self._lab.root),
            "uploads": self._lab.seen("/mnt/session/uploads"),
            "agent_program": "/run/corral/agent/__main__.py",
        }
        self.facts["listings"][str(home / "files")] = ["mine"]
        self.facts["listings"][str(self._lab.root)] = [_NEIGHBOUR]
        self.facts["inodes"][str(home)] = [home.stat().st_ino]

    def _box_of(self, session: str, box: Sandbox) -> Sandbox:
        self._boxes[session] = box
        return box

    async def _box(self, who: str) -> Sandbox:
        box = self._boxes.get(who)
        if box is None or not box.is_alive:
            box = self._box_of(who, await self._lab.sandbox(f"sesn_{who}"))
        return box

    async def bash(self, who: str, command: str, *, seconds: float) -> str:
        box = await self._box(who)
        try:
            call = self._lab.call("bash", command=command, timeout_ms=int(seconds * 1000))
            return text_of(await box.run(call))
        except SandboxLost as error:
            raise Broken(f"the sandbox was lost: {error}") from error

    async def write(self, who: str, path: str, text: str) -> None:
        result = await (await self._box(who)).run(self._lab.call("write", file_path=path, content=text))
        if result.is_error:
            raise Broken(f"{path} cannot be written: {text_of(result)[:200]}")

    async def restart(self, who: str) -> None:
        if (box := self._boxes.pop(who, None)) is not None:
            await box.destroy()

    def home(self, who: str) -> Path:
        return self._lab.root / f"sesn_{who}"

    def seen(self, who: str, path: str) -> str:
        return self._lab.seen(path, f"sesn_{who}")

    def export(self, who: str) -> AsyncIterator[bytes]:
        return self._lab.provider.export_archive(self.home(who))

    async def bring(self, who: str, archive: AsyncIterator[bytes]) -> None:
        await self._lab.provider.import_archive(self.home(who), archive)

    async def outputs(self, who: str) -> Sequence[tuple[str, bytes]]:
        folder = self._lab.provider.place(self.home(who), "outputs")
        found = []
        for entry in (await asyncio.to_thread(walk, folder)).entries:
            with contextlib.suppress(NotFound):
                descriptor, _ = open_file(folder, entry.path)
                with open(descriptor, "rb") as file:  # noqa: PTH123  (it is open already)
                    found.append((entry.path, await asyncio.to_thread(file.read)))
        return found

    def trips(self) -> Mapping[str, str]:
        with contextlib.suppress(KeyError):
            files = Path(self.facts["neighbour_files"])
            if files.is_dir() and sorted(each.name for each in files.iterdir()) != ["mine"]:
                return {"neighbour-files": "something was put into another sandbox's workspace"}
        return {}


def bounds() -> dict[str, Json]:
    """What a sandbox may use."""
    return {
        "processes_max": limits.SANDBOX_PROCESSES_MAX,
        "memory_bytes": limits.SANDBOX_MEMORY_BYTES,
        "open_files_max": limits.SANDBOX_OPEN_FILES_MAX,
        "file_bytes_max": limits.SANDBOX_FILE_BYTES_MAX,
        "tmp_bytes": limits.SANDBOX_TMP_BYTES,
        "proxy_port": limits.EGRESS_PORT,
    }
