"""Ports of memory stores. Implemented by `store/memory`; each method is one transaction, but `forget`.

Every method raises NotFound for a store that is not there, or not in that workspace, and StoreUnavailable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from corral.catalog.records import Wire
from corral.kernel.cursor import Page
from corral.kernel.errors import CallerError
from corral.kernel.ids import MemoryId, MemoryStoreId, MemoryVersionId, WorkspaceId

__all__ = [
    "Actor",
    "ActorType",
    "Applied",
    "Change",
    "Changes",
    "Edit",
    "Entry",
    "Listing",
    "Memories",
    "Memory",
    "MemoryForgetting",
    "MemoryMounts",
    "MemoryStores",
    "MemoryVersion",
    "MemoryVersions",
    "Operation",
    "Remove",
    "Rename",
    "StoreKey",
    "VersionFilter",
    "Write",
]

ActorType = Literal["session_actor", "api_actor", "user_actor", "service_account_actor"]
Operation = Literal["created", "modified", "deleted"]


class StoreKey(NamedTuple):
    """A memory store, as somebody in that workspace names it."""

    workspace_id: WorkspaceId
    memory_store_id: MemoryStoreId


class Actor(NamedTuple):
    """Who changed something: the id is of a session, an API key, a user or a service account."""

    type: ActorType
    id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """content: None where it was not asked for."""

    memory_id: MemoryId
    memory_store_id: MemoryStoreId
    path: str
    content: str | None
    content_sha256: str
    content_size_bytes: int
    memory_version_id: MemoryVersionId
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryVersion:
    """content: None where it was not asked for, of a deletion, or redacted; so are hash and size of the
    latter two. path: None exactly if it is redacted."""

    memory_version_id: MemoryVersionId
    memory_id: MemoryId
    memory_store_id: MemoryStoreId
    operation: Operation
    path: str | None
    content: str | None
    content_sha256: str | None
    content_size_bytes: int | None
    created_at: datetime
    created_by: Actor | None
    redacted_at: datetime | None
    redacted_by: Actor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionFilter:
    """None: any. Times are inclusive. A change has one actor, so several `actors` find nothing."""

    memory_id: MemoryId | None = None
    operation: Operation | None = None
    actors: Sequence[Actor] = ()
    created_gte: datetime | None = None
    created_lte: datetime | None = None


class MemoryStores(Protocol):
    async def create(self, workspace_id: WorkspaceId, store: Wire) -> None:
        """An existing id is a bug."""

    async def read(self, at: StoreKey) -> Wire: ...

    async def update(self, at: StoreKey, change: Callable[[Wire], Wire]) -> Wire:
        """Read under a lock, apply `change` (pure; may raise CallerError), store. Raises what it raises."""

    async def archive(self, at: StoreKey, *, now: datetime) -> Wire:
        """Repeat: safe."""

    async def delete(self, at: StoreKey) -> None:
        """With all memories and versions: nobody sees them from now on; `MemoryForgetting` removes them."""

    async def page(
        self,
        workspace_id: WorkspaceId,
        *,
        limit: int,
        cursor: str | None,
        include_archived: bool,
        created_gte: datetime | None = None,
        created_lte: datetime | None = None,
    ) -> Page[Wire]:
        """Newest created first; times are inclusive. Raises InvalidRequest for a foreign cursor."""


class Memories(Protocol):
    """Of one store at a time. Paths and contents are checked by the caller (`paths`), and everything that
    depends on what is there is checked here. What is written is returned with its content.

    Raises NotFound (a memory, too); those that create or update: MemoryRefused (archived, full),
    MemoryPathConflict. A refusal has changed nothing.
    """

    async def create(self, at: StoreKey, *, path: str, content: str, actor: Actor) -> Memory:
        """Repeat: a conflict with itself."""

    async def read(self, at: StoreKey, memory_id: MemoryId, *, has_content: bool) -> Memory: ...

    async def update(
        self,
        at: StoreKey,
        memory_id: MemoryId,
        *,
        path: str | None,
        content: str | None,
        expected_sha256: str | None,
        actor: Actor,
    ) -> Memory:
        """None keeps. What would change nothing adds no version, and succeeds whatever is expected.

        Raises MemoryPreconditionFailed if its content is not `expected_sha256`.
        """

    async def delete(
        self, at: StoreKey, memory_id: MemoryId, *, expected_sha256: str | None, actor: Actor
    ) -> None:
        """In archived stores, too. Raises MemoryPreconditionFailed."""

    async def page(
        self,
        at: StoreKey,
        *,
        prefix: str,
        depth: Literal[0, 1],
        limit: int,
        cursor: str | None,
        has_content: bool,
    ) -> Page[Memory | str]:
        """By path, what is below `prefix`; at depth 1 what is deeper is its directory, once: a `str` that
        ends with `/`. Costs what it shows,
        not what there is. Raises InvalidRequest for a cursor that is not of this list."""


class MemoryVersions(Protocol):
    async def read(
        self, at: StoreKey, memory_version_id: MemoryVersionId, *, has_content: bool
    ) -> MemoryVersion:
        """Raises NotFound."""

    async def page(
        self, at: StoreKey, *, only: VersionFilter, limit: int, cursor: str | None, has_content: bool
    ) -> Page[MemoryVersion]:
        """Newest first. Raises InvalidRequest for a cursor that is not of this store."""

    async def redact(
        self, at: StoreKey, memory_version_id: MemoryVersionId, *, actor: Actor
    ) -> MemoryVersion:
        """Remove path, content, hash and size, for ever; in archived stores, too. Repeat: safe, the first
        redaction stays. Raises NotFound; InvalidRequest for the head of a memory that lives."""


# -- mounts ---------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A file of a mounted store."""

    memory_id: MemoryId
    path: str
    content_sha256: str
    content_size_bytes: int


class Listing(NamedTuple):
    """The whole store, by path, without contents. `change`: the number of the last change in it; 0 if none
    was ever made."""

    change: int
    is_archived: bool
    entries: Sequence[Entry]


class Change(NamedTuple):
    """What has become of a memory: `entry` is None if it was deleted."""

    memory_id: MemoryId
    entry: Entry | None


class Changes(NamedTuple):
    """Everything up to `change`, each memory once; None: too much has happened, list anew."""

    change: int
    changes: Sequence[Change] | None


class Write(NamedTuple):
    """Create the file, or replace its content. expected_sha256: only if it has this content now; None: the
    last close wins."""

    path: str
    content: bytes
    expected_sha256: str | None = None


class Rename(NamedTuple):
    """As rename(2) does it: what is at `new_path` is deleted. The memory keeps its id."""

    path: str
    new_path: str


class Remove(NamedTuple):
    path: str
    expected_sha256: str | None = None


Edit = Write | Rename | Remove


class Applied(NamedTuple):
    """One result for each edit: the entry, None for a removal, or why it had no effect. `change`: the
    number of the last change of the store; since the mount looked, others may have made some, too."""

    change: int
    results: Sequence[Entry | CallerError | None]


class MemoryMounts(Protocol):
    """What a mounted store needs; the control plane calls it for a session. Sessions that share a store see
    each other's changes by `positions`, cheap enough for several times a second, then `changes`."""

    async def listing(self, at: StoreKey) -> Listing: ...

    async def contents(self, at: StoreKey, memory_ids: Sequence[MemoryId]) -> Mapping[MemoryId, bytes]:
        """Of at most MEMORY_EDITS_MAX memories, those that are there. Newer than the listing, perhaps."""

    async def apply(self, at: StoreKey, edits: Sequence[Edit], *, actor: Actor) -> Applied:
        """At most MEMORY_EDITS_MAX edits, in order, all that can be done; the limits of the API hold. What
        is there already adds no version, so a repeat is safe where nobody else wrote meanwhile.

        Results may be NotFound (no such file), MemoryRefused, MemoryPathConflict, MemoryPreconditionFailed.
        """

    async def changes(self, at: StoreKey, *, after: int) -> Changes:
        """What has changed since change `after`, whoever did it."""

    async def positions(self, at: Sequence[StoreKey]) -> Mapping[MemoryStoreId, int]:
        """The number of the last change of each store that is there. One statement."""


class MemoryForgetting(Protocol):
    async def forget(self) -> bool:
        """Remove some versions whose time is over, and some of what deleted stores left; whether there may
        be more. Any process may, at any time."""
