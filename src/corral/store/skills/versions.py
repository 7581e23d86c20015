"""Versions of skills, and which of them are to be forgotten."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from corral.catalog.skills.ports import SkillKey, SkillVersion, Source
from corral.kernel.cursor import Page, decode, encode
from corral.kernel.errors import BlobUnavailable, InvalidRequest
from corral.kernel.ids import SkillVersionId, WorkspaceId
from corral.kernel.limits import SKILL_FORGET_SECONDS
from corral.store.database import Database
from corral.store.schema import from_us, session_skills, skill_versions, skills, to_us
from corral.store.skills.rows import (
    IS_SKILL,
    VERSIONS,
    key_values,
    locked,
    no_skill,
    the_version,
    version_of,
    version_or_none,
    version_values,
)

__all__ = ["SkillForgetTable", "SkillVersionTable", "keep_reserved"]

_OF_ID = skill_versions.c.skill_version_id == bindparam("of_version_id")
_KEPT = select(skill_versions).where(_OF_ID, skill_versions.c.workspace_id == bindparam("of_workspace_id"))
_LAST = select(skills.c.last_created_at).where(IS_SKILL)
_EXISTS = select(skills.c.skill_id).where(IS_SKILL)
_NEWEST_FIRST = VERSIONS.order_by(skill_versions.c.created_at.desc())
_SKILL = update(skills).where(IS_SKILL)
_VERSION = update(skill_versions).where(_OF_ID)
_IS_USED = (
    select(session_skills.c.session_id)
    .where(session_skills.c.skill_version_id == skill_versions.c.skill_version_id)
    .exists()
)
_OVER = (
    select(skill_versions)
    .where(
        skill_versions.c.gone_since <= bindparam("before", type_=skill_versions.c.gone_since.type),
        ~_IS_USED,
    )
    .order_by(skill_versions.c.gone_since)
)
_FORGET = delete(skill_versions).where(_OF_ID, skill_versions.c.gone_since.is_not(None), ~_IS_USED)


class SkillVersionTable:
    """`catalog.skills.ports.SkillVersions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reserve(self, at: SkillKey, version: SkillVersion) -> None:
        def body(connection: Connection) -> None:
            now = from_us(self._database.now_us(connection))
            connection.execute(insert(skill_versions), {**version_values(at, version), "gone_since": now})

        await self._database.write(body, locks=())

    async def add(self, at: SkillKey, version: SkillVersion, *, source: Source = "custom") -> SkillVersion:
        def body(connection: Connection) -> SkillVersion:
            skill = locked(connection, at, source)
            if version.name != skill.name:
                raise InvalidRequest(
                    f"files: this is {version.name!r}, and skill {at.skill_id} is {skill.name!r}: every"
                    " version of a skill has the same name"
                )
            last = connection.execute(_LAST, key_values(at)).scalar_one()
            added = replace(version, created_at=max(version.created_at, last + timedelta(microseconds=1)))
            keep_reserved(connection, added)
            connection.execute(
                _SKILL.values(
                    latest_version_id=added.skill_version_id,
                    latest_created_at=added.created_at,
                    last_created_at=added.created_at,
                    updated_at=added.created_at,
                ),
                key_values(at),
            )
            return added

        return await self._database.write(body)

    async def read(self, at: SkillKey, which: str) -> SkillVersion:
        return await self._database.read(lambda connection: the_version(connection, at, which))

    async def page(self, at: SkillKey, *, limit: int, cursor: str | None) -> Page[SkillVersion]:
        kind = f"versions of {at.skill_id}"
        statement = _NEWEST_FIRST.limit(limit + 1)
        if cursor is not None:
            last = from_us(decode(kind, cursor, shape=(int,))[0])
            statement = statement.where(skill_versions.c.created_at < last)

        def body(connection: Connection) -> Page[SkillVersion]:
            rows = connection.execute(statement, key_values(at)).all()
            if not rows and connection.execute(_EXISTS, key_values(at)).first() is None:
                raise no_skill(at)
            next_cursor = None
            if len(rows) > limit:
                next_cursor = encode(kind, to_us(rows[limit - 1].created_at))
            return Page(items=[version_of(row) for row in rows[:limit]], next_cursor=next_cursor)

        return await self._database.read(body)

    async def delete(self, at: SkillKey, which: str, *, may_empty: bool = False) -> SkillVersion:
        def body(connection: Connection) -> SkillVersion:
            locked(connection, at, "custom")
            gone = the_version(connection, at, which)
            rows = connection.execute(_NEWEST_FIRST.limit(2), key_values(at)).all()
            left = [row for row in rows if row.skill_version_id != gone.skill_version_id]
            if not left and not may_empty:
                raise InvalidRequest(
                    f"Version {which!r} is the only one of skill {at.skill_id}, and a skill has at least"
                    " one. Delete the skill, or upload another version first."
                )
            now = from_us(self._database.now_us(connection))
            connection.execute(_VERSION.values(gone_since=now), {"of_version_id": gone.skill_version_id})
            connection.execute(
                _SKILL.values(
                    latest_version_id=left[0].skill_version_id if left else None,
                    latest_created_at=left[0].created_at if left else None,
                    updated_at=now,
                ),
                key_values(at),
            )
            return gone

        return await self._database.write(body, checks_first=True)

    async def find(self, asked: Sequence[tuple[SkillKey, str]]) -> Sequence[SkillVersion | None]:
        return await self._database.read(
            lambda connection: [version_or_none(connection, at, which) for at, which in asked]
        )

    async def kept(self, workspace_id: WorkspaceId, version_id: SkillVersionId) -> SkillVersion | None:
        values = {"of_version_id": version_id, "of_workspace_id": workspace_id}
        row = await self._database.read(lambda connection: connection.execute(_KEPT, values).first())
        return None if row is None else version_of(row)


class SkillForgetTable:
    """`catalog.skills.ports.SkillForgetting`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def over(self, *, limit: int) -> Sequence[SkillVersion]:
        def body(connection: Connection) -> Sequence[SkillVersion]:
            now = from_us(self._database.now_us(connection))
            before = {"before": now - timedelta(seconds=SKILL_FORGET_SECONDS)}
            return [version_of(row) for row in connection.execute(_OVER.limit(limit), before)]

        return await self._database.read(body)

    async def forget(self, version_ids: Sequence[SkillVersionId]) -> None:
        rows: list[dict[str, Any]] = [{"of_version_id": version_id} for version_id in version_ids]

        def body(connection: Connection) -> None:
            connection.execute(_FORGET, rows)

        if rows:
            await self._database.write(body)


def keep_reserved(connection: Connection, version: SkillVersion) -> None:
    """A version that was reserved is there from now on. Raises BlobUnavailable."""
    kept = connection.execute(
        _VERSION.where(skill_versions.c.gone_since.is_not(None)).values(
            gone_since=None, created_at=version.created_at, blob_key=version.blob_key
        ),
        {"of_version_id": version.skill_version_id},
    )
    if kept.rowcount != 1:
        raise BlobUnavailable("The upload took so long that it was given up. Send it again.")
