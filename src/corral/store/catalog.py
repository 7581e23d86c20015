"""Agents and environments on the database: bodies as the wire shows them, heads for lists and locks."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    select,
    update,
)

from corral.catalog.records import Wire
from corral.kernel.clock import parse_rfc3339, rfc3339
from corral.kernel.cursor import Page, decode, encode
from corral.kernel.errors import Conflict, NotFound
from corral.kernel.ids import AgentId, EnvironmentId, WorkspaceId
from corral.store.database import Database
from corral.store.driver import Query
from corral.store.newest_first import NewestFirst, with_archival
from corral.store.rows import AnySelect
from corral.store.schema import agent_versions, agents, environments, sessions

__all__ = ["Agents", "Environments"]

_AGENT: AnySelect = select(
    agents.c.agent_id, agents.c.version, agents.c.created_at, agents.c.archived_at, agent_versions.c.body
).join_from(
    agents,
    agent_versions,
    and_(agent_versions.c.agent_id == agents.c.agent_id, agent_versions.c.version == agents.c.version),
)
_IS_THE_AGENT = and_(
    agents.c.agent_id == bindparam("of_id"), agents.c.workspace_id == bindparam("of_workspace_id")
)
_THE_AGENT = _AGENT.where(_IS_THE_AGENT)
# Two statements: PostgreSQL re-reads the row that it waited for, but not the version joined to it.
_LOCK_AGENT = select(agents.c.agent_id).where(_IS_THE_AGENT).with_for_update()
_VERSION = (
    select(agents.c.archived_at, agent_versions.c.version, agent_versions.c.body)
    .join_from(agents, agent_versions, agent_versions.c.agent_id == agents.c.agent_id)
    .where(_IS_THE_AGENT)
)
_READ_AGENT = Query(_THE_AGENT)
_READ_VERSION = Query(_VERSION.where(agent_versions.c.version == bindparam("of_version")))
_ENVIRONMENT: AnySelect = select(
    environments.c.environment_id,
    environments.c.created_at,
    environments.c.archived_at,
    environments.c.body,
)
_THE_ENVIRONMENT = _ENVIRONMENT.where(
    environments.c.environment_id == bindparam("of_id"),
    environments.c.workspace_id == bindparam("of_workspace_id"),
)
_READ_ENVIRONMENT = Query(_THE_ENVIRONMENT)
_ENVIRONMENT_LOCKED = _THE_ENVIRONMENT.with_for_update()
_USERS = select(sessions.c.session_id).where(
    sessions.c.environment_id == bindparam("of_id"), sessions.c.archived_at.is_(None)
)

_AGENTS = NewestFirst(kind=agents.name, id_=agents.c.agent_id)
_ENVIRONMENTS = NewestFirst(kind=environments.name, id_=environments.c.environment_id)


class Agents:
    """`catalog.records.AgentStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, agent: Wire, *, workspace_id: WorkspaceId) -> None:
        def body(connection: Connection) -> None:
            connection.execute(
                insert(agents),
                {
                    "agent_id": agent["id"],
                    "version": agent["version"],
                    "created_at": parse_rfc3339(agent["created_at"]),
                    "archived_at": None,
                    "workspace_id": workspace_id,
                },
            )
            _add_version(connection, agent)

        await self._database.write(body)

    async def read(
        self, agent_id: AgentId, *, workspace_id: WorkspaceId, version: int | None = None
    ) -> Wire:
        def body(connection: Connection) -> Wire:
            values = {"of_id": agent_id, "of_workspace_id": workspace_id}
            if version is None:
                row = _READ_AGENT.first(connection, values)
            else:
                row = _READ_VERSION.first(connection, {**values, "of_version": version})
            if row is None:
                raise _no_agent(agent_id, version)
            return with_archival(row)

        return await self._database.look(body)

    async def update(
        self, agent_id: AgentId, change: Callable[[Wire], Wire], *, workspace_id: WorkspaceId
    ) -> Wire:
        def body(connection: Connection) -> Wire:
            current = self._locked(connection, agent_id, workspace_id)
            changed = change(current)
            if changed == current:
                return current
            assert changed["version"] == current["version"] + 1, "versions increase by one"
            _add_version(connection, changed)
            connection.execute(
                update(agents).where(agents.c.agent_id == agent_id).values(version=changed["version"])
            )
            return changed

        return await self._database.write(body, checks_first=True)

    async def archive(self, agent_id: AgentId, *, workspace_id: WorkspaceId, now: datetime) -> Wire:
        def body(connection: Connection) -> Wire:
            current = self._locked(connection, agent_id, workspace_id)
            if current["archived_at"] is not None:
                return current
            connection.execute(update(agents).where(agents.c.agent_id == agent_id).values(archived_at=now))
            return {**current, "archived_at": rfc3339(now)}

        return await self._database.write(body, checks_first=True)

    async def page(
        self,
        *,
        workspace_id: WorkspaceId,
        limit: int,
        cursor: str | None,
        include_archived: bool,
        created_gte: datetime | None = None,
        created_lte: datetime | None = None,
    ) -> Page[Wire]:
        statement = _AGENTS.behind(_AGENT.where(agents.c.workspace_id == workspace_id), cursor)
        if not include_archived:
            statement = statement.where(agents.c.archived_at.is_(None))
        if created_gte is not None:
            statement = statement.where(agents.c.created_at >= created_gte)
        if created_lte is not None:
            statement = statement.where(agents.c.created_at <= created_lte)
        return await self._database.read(
            lambda connection: _AGENTS.page(connection, statement, {}, limit=limit, item=with_archival)
        )

    async def versions(
        self, agent_id: AgentId, *, workspace_id: WorkspaceId, limit: int, cursor: str | None
    ) -> Page[Wire]:
        kind = f"versions of {agent_id}"
        before = None if cursor is None else decode(kind, cursor, shape=(int, str))[0]

        def body(connection: Connection) -> Page[Wire]:
            of_agent = {"of_id": agent_id, "of_workspace_id": workspace_id}
            if connection.execute(_VERSION.limit(1), of_agent).first() is None:
                raise _no_agent(agent_id, None)
            statement = _VERSION.order_by(agent_versions.c.version.desc()).limit(limit + 1)
            if before is not None:
                statement = statement.where(agent_versions.c.version < before)
            rows = connection.execute(statement, of_agent).all()
            last = rows[limit - 1].version if len(rows) > limit else None
            return Page(
                items=[with_archival(row) for row in rows[:limit]],
                next_cursor=None if last is None else encode(kind, last, agent_id),
            )

        return await self._database.read(body)

    def _locked(self, connection: Connection, agent_id: AgentId, workspace_id: WorkspaceId) -> Wire:
        of_agent = {"of_id": agent_id, "of_workspace_id": workspace_id}
        connection.execute(_LOCK_AGENT, of_agent)
        row = connection.execute(_THE_AGENT, of_agent).first()
        if row is None:
            raise _no_agent(agent_id, None)
        return with_archival(row)


class Environments:
    """`catalog.records.EnvironmentStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, environment: Wire, *, workspace_id: WorkspaceId) -> None:
        def body(connection: Connection) -> None:
            connection.execute(
                insert(environments),
                {
                    "environment_id": environment["id"],
                    "body": environment,
                    "created_at": parse_rfc3339(environment["created_at"]),
                    "archived_at": None,
                    "workspace_id": workspace_id,
                },
            )

        await self._database.write(body)

    async def read(self, environment_id: EnvironmentId, *, workspace_id: WorkspaceId) -> Wire:
        def body(connection: Connection) -> Wire:
            row = _READ_ENVIRONMENT.first(
                connection, {"of_id": environment_id, "of_workspace_id": workspace_id}
            )
            if row is None:
                raise _no_environment(environment_id)
            return with_archival(row)

        return await self._database.look(body)

    async def update(
        self,
        environment_id: EnvironmentId,
        change: Callable[[Wire], Wire],
        *,
        workspace_id: WorkspaceId,
    ) -> Wire:
        def body(connection: Connection) -> Wire:
            current = self._locked(connection, environment_id, workspace_id)
            changed = change(current)
            if changed != current:
                connection.execute(
                    update(environments)
                    .where(environments.c.environment_id == environment_id)
                    .values(body=changed)
                )
            return changed

        return await self._database.write(body, checks_first=True)

    async def archive(
        self, environment_id: EnvironmentId, *, workspace_id: WorkspaceId, now: datetime
    ) -> Wire:
        def body(connection: Connection) -> Wire:
            current = self._locked(connection, environment_id, workspace_id)
            if current["archived_at"] is not None:
                return current
            connection.execute(
                update(environments)
                .where(environments.c.environment_id == environment_id)
                .values(archived_at=now)
            )
            return {**current, "archived_at": rfc3339(now)}

        return await self._database.write(body, checks_first=True)

    async def delete(self, environment_id: EnvironmentId, *, workspace_id: WorkspaceId) -> None:
        def body(connection: Connection) -> None:
            self._locked(connection, environment_id, workspace_id)
            if connection.scalar(select(exists(_USERS)), {"of_id": environment_id}):
                raise Conflict(
                    f"Environment {environment_id} is used by sessions. Archive or delete them first."
                )
            connection.execute(delete(environments).where(environments.c.environment_id == environment_id))

        await self._database.write(body, checks_first=True)

    async def page(
        self, *, workspace_id: WorkspaceId, limit: int, cursor: str | None, include_archived: bool
    ) -> Page[Wire]:
        of_workspace = _ENVIRONMENT.where(environments.c.workspace_id == workspace_id)
        statement = _ENVIRONMENTS.behind(of_workspace, cursor)
        if not include_archived:
            statement = statement.where(environments.c.archived_at.is_(None))
        return await self._database.read(
            lambda connection: _ENVIRONMENTS.page(
                connection, statement, {}, limit=limit, item=with_archival
            )
        )

    def _locked(
        self, connection: Connection, environment_id: EnvironmentId, workspace_id: WorkspaceId
    ) -> Wire:
        of_environment = {"of_id": environment_id, "of_workspace_id": workspace_id}
        row = connection.execute(_ENVIRONMENT_LOCKED, of_environment).first()
        if row is None:
            raise _no_environment(environment_id)
        return with_archival(row)


def _add_version(connection: Connection, agent: Wire) -> None:
    connection.execute(
        insert(agent_versions), {"agent_id": agent["id"], "version": agent["version"], "body": agent}
    )


def _no_agent(agent_id: AgentId, version: int | None) -> NotFound:
    which = "" if version is None else f" version {version}"
    return NotFound(f"Agent {agent_id!r}{which} was not found.")


def _no_environment(environment_id: EnvironmentId) -> NotFound:
    return NotFound(f"Environment {environment_id!r} was not found.")
