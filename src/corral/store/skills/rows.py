"""Rows to records, and how a version is found by what a client calls it."""

from typing import Any

from sqlalchemy import Connection, bindparam, select

from corral.catalog.skills.ports import LATEST, Skill, SkillKey, SkillVersion, Source, blob_key
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import SKILL_VERSION, SkillId, SkillVersionId
from corral.kernel.limits import INTEGER_MAX
from corral.store.rows import AnyRow, AnySelect
from corral.store.schema import from_us, skill_versions, skills

__all__ = [
    "IS_SKILL",
    "IS_THERE",
    "SKILL",
    "VERSIONS",
    "key_values",
    "locked",
    "no_skill",
    "skill_of",
    "the_version",
    "version_of",
    "version_or_none",
    "version_values",
]

SKILL: AnySelect = select(skills)
IS_SKILL = (skills.c.workspace_id == bindparam("of_workspace_id")) & (
    skills.c.skill_id == bindparam("of_skill_id")
)
_LOCKED = SKILL.where(IS_SKILL).with_for_update()
IS_THERE = skill_versions.c.gone_since.is_(None)
VERSIONS: AnySelect = select(skill_versions).where(
    skill_versions.c.workspace_id == bindparam("of_workspace_id"),
    skill_versions.c.skill_id == bindparam("of_skill_id"),
    IS_THERE,
)
_BY_ID = VERSIONS.where(skill_versions.c.skill_version_id == bindparam("of_version_id"))
_BY_NUMBER = VERSIONS.where(skill_versions.c.created_at == bindparam("of_number"))
_NEWEST = VERSIONS.order_by(skill_versions.c.created_at.desc()).limit(1)


def key_values(at: SkillKey) -> dict[str, Any]:
    """Parameters of the statements here."""
    return {"of_workspace_id": at.workspace_id, "of_skill_id": at.skill_id}


def locked(connection: Connection, at: SkillKey, source: Source) -> Skill:
    """For changes by those that this source belongs to. Raises NotFound, InvalidRequest."""
    row = connection.execute(_LOCKED, key_values(at)).first()
    if row is None:
        raise no_skill(at)
    if row.source != source:
        whose = "the operator's: see `corral skills`" if source == "custom" else "the clients'"
        raise InvalidRequest(f"Skill {at.skill_id!r} is read-only here; it is {whose}")
    return skill_of(row)


def version_or_none(connection: Connection, at: SkillKey, which: str) -> SkillVersion | None:
    """By id, by number, or the latest."""
    values = key_values(at)
    if which == LATEST:
        statement = _NEWEST
    elif which.startswith(f"{SKILL_VERSION}_"):
        statement, values = _BY_ID, {**values, "of_version_id": which}
    elif which.isascii() and which.isdecimal() and int(which[:20]) <= INTEGER_MAX:
        statement, values = _BY_NUMBER, {**values, "of_number": from_us(int(which))}
    else:
        return None
    row = connection.execute(statement, values).first()
    return None if row is None else version_of(row)


def the_version(connection: Connection, at: SkillKey, which: str) -> SkillVersion:
    """Raises NotFound."""
    found = version_or_none(connection, at, which)
    if found is None:
        raise NotFound(f"Version {which!r} of skill {at.skill_id!r} was not found.")
    return found


def skill_of(row: AnyRow) -> Skill:
    return Skill(
        skill_id=SkillId(row.skill_id),
        source=row.source,
        display_name=row.display_name,
        name=row.name,
        latest_version_id=None if row.latest_version_id is None else SkillVersionId(row.latest_version_id),
        latest_created_at=row.latest_created_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def version_of(row: AnyRow) -> SkillVersion:
    return SkillVersion(
        skill_version_id=SkillVersionId(row.skill_version_id),
        skill_id=SkillId(row.skill_id),
        name=row.name,
        description=row.description,
        directory=row.directory,
        files=row.files,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        blob_key=row.blob_key or blob_key(SkillVersionId(row.skill_version_id)),
        created_at=row.created_at,
    )


def version_values(at: SkillKey, version: SkillVersion) -> dict[str, Any]:
    return {
        "skill_version_id": version.skill_version_id,
        "workspace_id": at.workspace_id,
        "skill_id": at.skill_id,
        "name": version.name,
        "description": version.description,
        "directory": version.directory,
        "files": version.files,
        "size_bytes": version.size_bytes,
        "sha256": version.sha256,
        "created_at": version.created_at,
    }


def no_skill(at: SkillKey) -> NotFound:
    return NotFound(f"Skill {at.skill_id!r} was not found.")
