"""What is kept of skills. Implemented by `store/skills`; each method is one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple, Protocol

from corral.kernel.cursor import Page
from corral.kernel.ids import SkillId, SkillVersionId, WorkspaceId

__all__ = [
    "LATEST",
    "Skill",
    "SkillForgetting",
    "SkillKey",
    "SkillVersion",
    "SkillVersions",
    "Skills",
    "Source",
    "blob_key",
]

Source = Literal["custom", "anthropic"]
LATEST: Final = "latest"


class SkillKey(NamedTuple):
    """A skill of a workspace. Those that the operator installed have the prebuilt ids: `pptx`, ..."""

    workspace_id: WorkspaceId
    skill_id: SkillId


@dataclass(frozen=True, kw_only=True, slots=True)
class SkillVersion:
    """One upload, packed (`package`) under the key `blob_key`; sha256 and size_bytes are the blob's.

    created_at: later than that of every earlier version of the skill; in microseconds since 1970 it is the
                number by which clients of the older API name the version.
    directory:  the top-level one, as uploaded.
    """

    skill_version_id: SkillVersionId
    skill_id: SkillId
    name: str
    description: str
    directory: str
    files: int
    size_bytes: int
    sha256: str
    blob_key: str
    created_at: datetime

    @property
    def number(self) -> str:
        return _number(self.created_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Skill:
    """`latest_*`: None if a client of the older API has deleted every version: such a skill can take a new
    one and be deleted, and nobody else sees it."""

    skill_id: SkillId
    source: Source
    display_name: str
    name: str
    latest_version_id: SkillVersionId | None
    latest_created_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def latest_number(self) -> str | None:
        return None if self.latest_created_at is None else _number(self.latest_created_at)


class Skills(Protocol):
    async def create(
        self, at: SkillKey, version: SkillVersion, *, source: Source, display_name: str
    ) -> Skill:
        """A skill and its first version, which was reserved. An existing id is a bug.

        Raises BlobUnavailable (retryable): the reservation was given up; reserve again.
        """

    async def read(self, at: SkillKey, *, is_empty_shown: bool = False) -> Skill:
        """is_empty_shown: also without a version. Raises NotFound."""

    async def page(
        self,
        workspace_id: WorkspaceId,
        *,
        limit: int,
        cursor: str | None,
        source: Source | None = None,
        is_empty_shown: bool = False,
    ) -> Page[Skill]:
        """Newest first. Raises InvalidRequest for a cursor that is not ours."""

    async def delete(self, at: SkillKey, *, source: Source = "custom") -> None:
        """With all versions. Raises NotFound; InvalidRequest: it is of another source."""


class SkillVersions(Protocol):
    """`which` is a version's id, its number, or LATEST where it says so."""

    async def reserve(self, at: SkillKey, version: SkillVersion) -> None:
        """Say that its blob is about to be put. If nothing comes of it, `SkillForgetting` removes both."""

    async def add(self, at: SkillKey, version: SkillVersion, *, source: Source = "custom") -> SkillVersion:
        """A version that was reserved, whose blob is there, becomes the latest of its skill. Returns it as
        stored. Raises NotFound; InvalidRequest: another name than the skill's, or it is of
        another source; BlobUnavailable as `create`."""

    async def read(self, at: SkillKey, which: str) -> SkillVersion:
        """LATEST too. Raises NotFound."""

    async def page(self, at: SkillKey, *, limit: int, cursor: str | None) -> Page[SkillVersion]:
        """Newest first. Raises NotFound, InvalidRequest."""

    async def delete(self, at: SkillKey, which: str, *, may_empty: bool = False) -> SkillVersion:
        """Returns what it was. may_empty: also the only one. Raises NotFound; InvalidRequest: the only
        one, or of a prebuilt skill."""

    async def find(self, asked: Sequence[tuple[SkillKey, str]]) -> Sequence[SkillVersion | None]:
        """Each of them, LATEST too; None for what is not there."""

    async def kept(self, workspace_id: WorkspaceId, version_id: SkillVersionId) -> SkillVersion | None:
        """That version, deleted or not, for a session that has it; None if it is forgotten."""


class SkillForgetting(Protocol):
    """Packages that nobody needs: deleted, or reserved and given up, SKILL_FORGET_SECONDS ago, and no
    session has them."""

    async def over(self, *, limit: int) -> Sequence[SkillVersion]:
        """Some of them. Delete their blobs, then call `forget`."""

    async def forget(self, version_ids: Sequence[SkillVersionId]) -> None:
        """Repeat: safe."""


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _number(created_at: datetime) -> str:
    return str((created_at - _EPOCH) // timedelta(microseconds=1))


def blob_key(version_id: SkillVersionId) -> str:
    """Where a version's package is."""
    return f"skills/{version_id}.zip"
