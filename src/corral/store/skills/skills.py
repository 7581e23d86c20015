"""Skills themselves."""

from sqlalchemy import Connection, bindparam, delete, insert, update

from corral.catalog.skills.ports import Skill, SkillKey, SkillVersion, Source
from corral.kernel.cursor import Page
from corral.kernel.errors import Conflict
from corral.kernel.ids import WorkspaceId
from corral.store.database import Database
from corral.store.newest_first import NewestFirst
from corral.store.schema import from_us, skill_versions, skills
from corral.store.skills.rows import IS_SKILL, IS_THERE, SKILL, key_values, locked, no_skill, skill_of
from corral.store.skills.versions import keep_reserved

__all__ = ["SkillTable"]

_THE_SKILL = SKILL.where(IS_SKILL)
_IN_WORKSPACE = SKILL.where(skills.c.workspace_id == bindparam("of_workspace_id"))
_SKILLS = NewestFirst(kind=skills.name, id_=skills.c.skill_id)
_DELETE = delete(skills).where(IS_SKILL)
_VERSIONS_GO = update(skill_versions).where(
    skill_versions.c.workspace_id == bindparam("of_workspace_id"),
    skill_versions.c.skill_id == bindparam("of_skill_id"),
    IS_THERE,
)


class SkillTable:
    """`catalog.skills.ports.Skills`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, at: SkillKey, version: SkillVersion, *, source: Source, display_name: str
    ) -> Skill:
        def body(connection: Connection) -> Skill:
            if connection.execute(_THE_SKILL, key_values(at)).first() is not None:
                raise Conflict(f"Skill {at.skill_id!r} has just been made; try again.", retryable=True)
            keep_reserved(connection, version)
            connection.execute(
                insert(skills),
                {
                    **at._asdict(),
                    "source": source,
                    "display_name": display_name,
                    "name": version.name,
                    "latest_version_id": version.skill_version_id,
                    "latest_created_at": version.created_at,
                    "last_created_at": version.created_at,
                    "created_at": version.created_at,
                    "updated_at": version.created_at,
                },
            )
            return skill_of(connection.execute(_THE_SKILL, key_values(at)).one())

        return await self._database.write(body)

    async def read(self, at: SkillKey, *, is_empty_shown: bool = False) -> Skill:
        def body(connection: Connection) -> Skill:
            row = connection.execute(_THE_SKILL, key_values(at)).first()
            if row is None or (row.latest_version_id is None and not is_empty_shown):
                raise no_skill(at)
            return skill_of(row)

        return await self._database.read(body)

    async def page(
        self,
        workspace_id: WorkspaceId,
        *,
        limit: int,
        cursor: str | None,
        source: Source | None = None,
        is_empty_shown: bool = False,
    ) -> Page[Skill]:
        statement = _SKILLS.behind(_IN_WORKSPACE, cursor)
        if source is not None:
            statement = statement.where(skills.c.source == source)
        if not is_empty_shown:
            statement = statement.where(skills.c.latest_version_id.is_not(None))
        of_workspace = {"of_workspace_id": workspace_id}
        return await self._database.read(
            lambda connection: _SKILLS.page(connection, statement, of_workspace, limit=limit, item=skill_of)
        )

    async def delete(self, at: SkillKey, *, source: Source = "custom") -> None:
        def body(connection: Connection) -> None:
            locked(connection, at, source)
            connection.execute(_DELETE, key_values(at))
            now = from_us(self._database.now_us(connection))
            connection.execute(_VERSIONS_GO.values(gone_since=now), key_values(at))

        await self._database.write(body, checks_first=True)
