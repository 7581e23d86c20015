"""What a hands host needs from a provider of sandboxes. One contract suite tests every provider:
`corral.testing.contract_provider`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from corral.catalog.mcp.servers import McpServer, McpTools
from corral.kernel.errors import WorldError
from corral.kernel.ids import SessionId
from corral.session.call import Recipe, ToolCall
from corral.session.content import ToolResult


class SandboxLost(WorldError):
    """The sandbox died under the call. Never shown to the model as if the command had said it."""


class WorkspaceMissing(WorldError):
    """The host does not hold the workspace of this placement: restore it first. Nothing was started."""


WALLS: Final = {
    "kernel": "a kernel of its own stands before the machine's",
    "user": "it has a user of its own, with no rights on the machine",
    "files": "files of the machine can be neither read nor changed, but for programs and libraries",
    "names": "what else lies on the machine cannot be told, nor can its modes and times be changed",
    "places": "where on the machine its own files lie cannot be told",
    "paths": "/workspace, /mnt and a private /tmp are where the documentation says, for commands too",
    "processes": "no process outside can be seen",
    "signals": "no process outside can be signalled",
    "network": "no socket of the machine, no way out but the checked one; among its own, sockets work",
    "memory": "the memory of a whole sandbox has a bound",
    "cpu": "it takes no more of the processors than its bound, and among others a fair share",
    "disk": "what it keeps on the disk has a bound, give or take what is written in some seconds",
    "count": "the number of processes and threads has a bound of its own",
    "end": "when it ends, however that comes, nothing of it runs on",
}
"""What a sandbox keeps apart, as whoever is inside would notice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a provider can do, as data: `corral doctor` and the documentation print it.

    gaps: of WALLS, those that do not hold here, each with a sentence that says in how far. The contract
    suite demands every other one.
    """

    isolation: str
    network: bool = False
    gaps: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.gaps.keys() <= WALLS.keys(), self.gaps

    def holds(self, wall: str) -> bool:
        assert wall in WALLS, wall
        return wall not in self.gaps


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


class Web(Protocol):
    """The web tools of a host: they need no sandbox of a session, and keep nothing."""

    def place(self, session_id: SessionId) -> AbstractAsyncContextManager[None]:
        """Wait for a place among the calls at work, which sessions share; hold it around `run`. Until it
        is there nothing was begun, and waiting for it may be cancelled."""

    async def run(self, call: ToolCall) -> ToolResult:
        """Carry out one call of `web_fetch` or `web_search`. What the web does wrong is an error result.
        Raises SandboxUnavailable where no page can be read at all."""

    async def cancel(self, call_id: str) -> None:
        """End this call; `run` then returns an error result that says so. Unknown ids are ignored."""

    async def aclose(self) -> None:
        """End what still runs. Repeat: safe."""


class Connector(Protocol):
    """Whoever speaks to MCP servers for a host: no sandbox of a session is needed, and what is kept of a
    session is connections, which may end at any time."""

    async def run(self, call: ToolCall) -> ToolResult:
        """Call one tool, once. What the server or the way to it does wrong is an error result, with a
        `trouble` if the server could not be reached."""

    async def list_tools(
        self, session_id: SessionId, servers: Sequence[McpServer], *, only_changed: bool = False
    ) -> Sequence[McpTools]:
        """As `corral.brain.ports.Hands.list_tools`. Raises nothing but cancellation."""

    async def cancel(self, call_id: str) -> None:
        """End this call, and tell its server; `run` then returns an error result that says so. Unknown ids
        are ignored."""

    async def forget(self, session_id: SessionId) -> None:
        """The session ended: close its connections. Repeat: safe."""

    async def aclose(self) -> None:
        """End what still runs. Repeat: safe."""


class Provider(Protocol):
    """A factory of sandboxes."""

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """Of this machine; all of them are known once it was probed."""

    async def probe(self) -> Probe:
        """Boot a throw-away sandbox, run a command, check that escapes are denied."""

    async def create(self, *, session_id: str, workspace: Path, recipe: Recipe) -> Sandbox:
        """A fresh sandbox on `workspace`, a host directory this provider prepared: its files at
        /workspace, its outputs and uploads below /mnt/session, and the memory stores and packages of the
        recipe.
        What lies where in it is the provider's affair (`place`).
        Raises SandboxUnavailable with a remedy."""

    async def prepare_workspace(self, workspace: Path) -> None:
        """Make the directory that a sandbox will own. Repeat: safe."""

    def place(self, workspace: Path, place: str) -> Path:
        """Where on this host a place of a workspace lies, which may not be there yet. "uploads": seen
        read-only at /mnt/session/uploads; "notes": in no sandbox; only the host writes in these two.
        "outputs", "memory/<slug>": written by the agent, so opened with `hands.trees` only. All of them
        are on one file system. Raises InvalidRequest for any other."""

    def seen(self, workspace: Path, path: str) -> str:
        """What commands inside call a path of the documented layout ("/workspace/a"): the same, where the
        wall "paths" holds. File tools understand both."""

    async def prepare_memory(self, workspace: Path, slug: str) -> int | None:
        """Make the directory of a memory store. Returns the uid that its files are to have, if it is not
        ours. Repeat: safe. Raises InvalidRequest."""

    def has_layer(self, digest: str) -> bool:
        """Whether the layer of packages of this name is on this host, ready for sandboxes. Raises
        InvalidRequest."""

    async def put_layer(self, digest: str, archive: AsyncIterator[bytes]) -> None:
        """Put a layer of packages in place, unpacked as a copy is (`import_archive`). Repeat: does nothing,
        and reads nothing of the archive. Raises InvalidRequest, SandboxUnavailable."""

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
        """Put what `pack` made, on this host or another, into an empty workspace, links as they were; or
        files by their names in such an archive ("mnt/session/tool-outputs/a") into one that is in use.
        Raises InvalidRequest for a broken archive, SandboxUnavailable if something else prevented it;
        nothing outside is ever touched."""

    async def remove_workspace(self, workspace: Path) -> None:
        """Delete it, whoever owns the files in it. Repeat: safe."""

    async def aclose(self) -> None:
        """Destroy every sandbox, warm ones too."""
