"""Workspaces on the database. The default one has no row."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, insert, select, update

from corral.catalog.workspaces import Workspace
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import WorkspaceId
from corral.kernel.limits import WORKSPACES_MAX
from corral.store.database import Database
from corral.store.rows import AnyRow
from corral.store.schema import workspaces

__all__ = ["Workspaces"]

_THE_WORKSPACE = select(workspaces).where(workspaces.c.workspace_id == bindparam("of_workspace_id"))
_COUNT = select(func.count()).select_from(workspaces)
_ARCHIVE = update(workspaces).where(
    workspaces.c.workspace_id == bindparam("of_workspace_id"), workspaces.c.archived_at.is_(None)
)


class Workspaces:
    """`catalog.workspaces.WorkspaceStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, workspace: Workspace) -> None:
        def body(connection: Connection) -> None:
            # Two at once may pass the bound by one: it only keeps the list short.
            if connection.execute(_COUNT).scalar_one() >= WORKSPACES_MAX:
                raise InvalidRequest(f"There are {WORKSPACES_MAX} workspaces already; no more can be made")
            connection.execute(
                insert(workspaces),
                {
                    "workspace_id": workspace.workspace_id,
                    "name": workspace.name,
                    "created_at": workspace.created_at,
                    "archived_at": workspace.archived_at,
                },
            )

        await self._database.write(body, checks_first=True)

    async def read(self, workspace_id: WorkspaceId) -> Workspace:
        return await self._database.read(lambda connection: _read(connection, workspace_id))

    async def all(self) -> Sequence[Workspace]:
        statement = select(workspaces).order_by(workspaces.c.created_at, workspaces.c.workspace_id)
        return await self._database.read(
            lambda connection: [_workspace(row) for row in connection.execute(statement)]
        )

    async def archive(self, workspace_id: WorkspaceId, *, now: datetime) -> Workspace:
        def body(connection: Connection) -> Workspace:
            _read(connection, workspace_id)
            connection.execute(_ARCHIVE.values(archived_at=now), {"of_workspace_id": workspace_id})
            return _read(connection, workspace_id)

        return await self._database.write(body, checks_first=True)


def _read(connection: Connection, workspace_id: WorkspaceId) -> Workspace:
    row = connection.execute(_THE_WORKSPACE, {"of_workspace_id": workspace_id}).first()
    if row is None:
        raise NotFound(f"Workspace {workspace_id!r} was not found.")
    return _workspace(row)


def _workspace(row: AnyRow) -> Workspace:
    return Workspace(
        workspace_id=WorkspaceId(row.workspace_id),
        name=row.name,
        created_at=row.created_at,
        archived_at=row.archived_at,
    )
