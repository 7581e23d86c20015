"""What a hands host needs from a provider of sandboxes. One contract suite tests every provider:
`corral.testing.contract_provider`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from corral.kernel.errors import WorldError
from corral.session.call import Recipe, ToolCall
from corral.session.content import ToolResult


class SandboxLost(WorldError):
    """The sandbox died under the call. Never shown to the model as if the command had said it."""


class WorkspaceMissing(WorldError):
    """The host does not hold the workspace of this placement: restore it first. Nothing was started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """Optional abilities, as data. `isolation` is what `corral doctor` prints."""

    isolation: str
    network: bool = False
    memory_limit: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Whether a provider works on this machine, tried for real.

    summary: what works, or what is wrong, for anybody: it names no path of the machine. detail: all of it,
    and remedy: what to do, for whoever owns the machine: the log, `corral doctor`.
    """

    is_available: bool
    summary: str
    detail: str = ""
    remedy: str = ""

    @property
    def report(self) -> str:
        """For whoever owns the machine."""
        return self.detail or self.summary


class Sandbox(Protocol):
    """One isolated machine. Cattle: it may vanish at any time, its workspace directory stays."""

    @property
    def is_alive(self) -> bool: ...

    async def run(self, call: ToolCall) -> ToolResult:
        """Run one built-in tool (bash, read, write, edit, glob, grep) in the sandbox.

        Calls of one thread that need its shell run one after another; the timeout starts with the
        execution. Raises SandboxLost.
        """

    async def cancel(self, call_id: str) -> None:
        """Kill this call's command; `run` then returns an error result that says so."""

    async def destroy(self) -> None:
        """Kill everything inside. Repeat: safe. The workspace is not touched."""


class Provider(Protocol):
    """A factory of sandboxes."""

    name: str
    capabilities: Capabilities

    async def probe(self) -> Probe:
        """Boot a throw-away sandbox, run a command, check that escapes are denied."""

    async def create(self, *, session_id: str, workspace: Path, recipe: Recipe) -> Sandbox:
        """A fresh sandbox on `workspace`, a host directory this provider prepared: its files at
        /workspace, its outputs and uploads below /mnt/session, and the memory stores of the recipe.
        What lies where in it is the provider's affair (`place`).
        Raises SandboxUnavailable with a remedy."""

    async def prepare_workspace(self, workspace: Path) -> None:
        """Make the directory that a sandbox will own. Repeat: safe."""

    def place(self, workspace: Path, place: str) -> Path:
        """Where on this host a place of a workspace lies, which may not be there yet. "uploads": seen
        read-only at /mnt/session/uploads; "notes": in no sandbox; only the host writes in these two.
        "outputs", "memory/<slug>": written by the agent, so opened with `hands.trees` only. All of them
        are on one file system. Raises InvalidRequest for any other."""

    async def prepare_memory(self, workspace: Path, slug: str) -> int | None:
        """Make the directory of a memory store. Returns the uid that its files are to have, if it is not
        ours. Repeat: safe. Raises InvalidRequest."""

    async def import_archive(
        self, workspace: Path, archive: AsyncIterator[bytes], *, below: str | None = None
    ) -> None:
        """Unpack a tar stream below the workspace, inside a sandbox or with links refused.

        below: of a copy, a path relative to /workspace where its members go; its links stay as they are,
        and a directory that is new appears whole or not at all. Raises InvalidRequest for a hostile or
        oversized archive; nothing outside is ever touched."""

    def export_archive(self, workspace: Path) -> AsyncIterator[bytes]:
        """A tar stream of the workspace; agent-made links are packed as links, never followed."""

    def pack(self, workspace: Path) -> AsyncIterator[bytes]:
        """A tar stream of all that a session keeps, outputs too, for `unpack`."""

    async def unpack(self, workspace: Path, archive: AsyncIterator[bytes]) -> None:
        """Put what `pack` made, on this host or another, into an empty workspace, links as they were.
        Raises InvalidRequest for a broken archive, SandboxUnavailable if something else prevented it;
        nothing outside is ever touched."""

    async def remove_workspace(self, workspace: Path) -> None:
        """Delete it, whoever owns the files in it. Repeat: safe."""

    async def aclose(self) -> None:
        """Destroy every sandbox, warm ones too."""
