"""A tool call as brain and hands speak of it, and the place where it may run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from corral.catalog.mcp.servers import McpCall
from corral.catalog.web.rules import WebRules
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.content import Json

INTERRUPTED: Final = "Tool execution was interrupted before completion. Please retry."
"""The result of a call that an interrupt ended, whoever ended it. Source: docs/DIVERGENCES.md."""


class NeverStarted(Exception):
    """`Hands.attach`: this journal has never seen the call; running it is safe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a call was sent: the hands host, and the journal it kept at that time.

    Logged with the intent, before dispatch. The same journal without the call means "never started";
    another journal means "outcome unknown". Source: docs/ARCHITECTURE.md.
    """

    host_id: str
    journal_id: str


MountKind = Literal["file", "repository", "skill", "memory", "packages"]
MountMode = Literal["read_only", "read_write", "copy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A thing of the control plane that appears in a session's sandbox. Who brings it: `session.mounts`.

    mount_id: of the resource or skill, unique in its session, for as long as the session lives.
    path:     absolute, in the sandbox: below /mnt/session/uploads (file), /workspace (copies), or
              /mnt/memory/<slug>; of packages `catalog.packages.PLACE`.
    digest:   which content: another digest is brought anew. Of memory, whose content lives, the workspace.
              Of packages, the layer's: sessions of one host share it.
    mode:     read_only, read_write: seen in place. copy: unpacked once below /workspace, then the agent's;
              what it does to a copy stays, until there is another digest.
    has_token: of a repository: programs in the sandbox reach it with the session's token.
    """

    mount_id: str
    kind: MountKind
    path: str
    digest: str
    mode: MountMode
    has_token: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a sandbox of this session is made from. Equal recipes make equal sandboxes.

    `environment` is the session's environment config as stored ({"type": "cloud", ...}).
    variables: of the programs inside: the placeholders of what its vaults hold, by name. A sandbox that
    lives keeps those that it has.
    mcp_endpoints: host and port of the agent's MCP servers, if the environment opens them to sandboxes
    (`allow_mcp_servers`); likewise.
    """

    environment: Mapping[str, Json] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    mcp_endpoints: tuple[tuple[str, int], ...] = ()

    @property
    def trusts(self) -> bool:
        """Whether programs are to trust the session's own authority: something is put into what they send
        by TLS."""
        return bool(self.variables) or any(mount.has_token for mount in self.mounts)

    @property
    def memory(self) -> tuple[Mount, ...]:
        """The mounts that are walls of a sandbox, which one that lives cannot get or lose."""
        return tuple(mount for mount in self.mounts if mount.kind == "memory")

    @property
    def packages(self) -> Mount | None:
        """Likewise a wall: the layer of packages."""
        return next((mount for mount in self.mounts if mount.kind == "packages"), None)

    def fits(self, other: "Recipe") -> bool:
        """Whether a sandbox made from this one serves the other: files and copies come and go in it."""
        ours, theirs = ((each.environment, each.memory, each.packages) for each in (self, other))
        return ours == theirs


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call. `call_id` is the id of its tool-use event and names the call for ever.

    web: what a call of a web tool may reach; None for what is none. mcp: the server whose tool it is;
    `name` is then what the model calls it, which no host takes for a tool of its own. Without either it
    runs in the sandbox.
    """

    session_id: SessionId
    thread_id: ThreadId
    call_id: EventId
    name: str
    input: Mapping[str, Json]
    recipe: Recipe
    placement: Placement
    web: WebRules | None = None
    mcp: McpCall | None = None

    @property
    def is_outside(self) -> bool:
        """Whether the host runs it itself, and no sandbox of the session has to do with it."""
        return self.web is not None or self.mcp is not None
