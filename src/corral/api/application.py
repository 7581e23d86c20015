"""The API, put together: routes in order of heat, one gate around them, one error envelope."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.routing import Route

from corral import __version__
from corral.api.auth import Authenticator
from corral.api.dependencies import Dependencies
from corral.api.guard import SessionOwners, guard
from corral.api.idempotency import OnceOnly
from corral.api.openapi import document
from corral.api.operations import enclose
from corral.api.resources import ResourceKinds
from corral.api.routes.agents import agent_routes
from corral.api.routes.audit import audit_routes
from corral.api.routes.corral import KeyCreate, corral_routes
from corral.api.routes.docs import docs_routes
from corral.api.routes.environment_keys import environment_key_routes
from corral.api.routes.environment_sandbox import environment_sandbox_routes
from corral.api.routes.environments import environment_routes
from corral.api.routes.events import event_routes
from corral.api.routes.files import file_routes
from corral.api.routes.kill import Kill, kill_routes
from corral.api.routes.memories import memory_routes
from corral.api.routes.memory_stores import memory_store_routes
from corral.api.routes.models import model_routes
from corral.api.routes.operations import operations_routes
from corral.api.routes.resources import resource_routes
from corral.api.routes.sessions import session_routes
from corral.api.routes.skills import skill_routes
from corral.api.routes.threads import thread_routes
from corral.api.routes.vault_keys import vault_key_routes
from corral.api.routes.vaults import vault_routes
from corral.api.routes.work import work_routes
from corral.api.routes.workspaces import WorkspaceCreate, workspace_routes
from corral.api.schema.agents import AgentCreate, AgentUpdate
from corral.api.schema.environments import (
    EnvironmentCreate,
    EnvironmentSandboxUpdate,
    EnvironmentUpdate,
)
from corral.api.schema.events import EventsSend
from corral.api.schema.memory import MemoryCreate, MemoryStoreCreate, MemoryStoreUpdate, MemoryUpdate
from corral.api.schema.models import TokenCount
from corral.api.schema.resources import FileAdd, ResourceUpdate
from corral.api.schema.sessions import SessionCreate, SessionUpdate
from corral.api.schema.vaults import CredentialCreate, CredentialUpdate, VaultCreate, VaultUpdate
from corral.api.schema.work import EnvironmentKeyCreate, WorkStop, WorkUpdate
from corral.api.sse import Streams
from corral.api.visible_files import VisibleFiles
from corral.api.worker import WorkerRights, Workers

__all__ = ["create_api"]

_BODIES: list[type[BaseModel]] = [
    AgentCreate,
    AgentUpdate,
    EnvironmentCreate,
    EnvironmentUpdate,
    EventsSend,
    FileAdd,
    KeyCreate,
    Kill,
    MemoryCreate,
    MemoryStoreCreate,
    MemoryStoreUpdate,
    MemoryUpdate,
    ResourceUpdate,
    SessionCreate,
    SessionUpdate,
    TokenCount,
    CredentialCreate,
    CredentialUpdate,
    VaultCreate,
    VaultUpdate,
    WorkspaceCreate,
    EnvironmentKeyCreate,
    EnvironmentSandboxUpdate,
    WorkStop,
    WorkUpdate,
]
_STREAMS = [
    "/v1/sessions/{session_id}/events/stream",
    "/v1/sessions/{session_id}/threads/{thread_id}/stream",
]


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document(self, _BODIES, _STREAMS)
        return self.openapi_schema


def _stream_route(path: str, streams: Streams) -> Route:
    route = Route(path, streams, methods=["GET"])
    route.methods = {"GET"}  # not HEAD, which would wait for the end of it
    return route


def create_api(dependencies: Dependencies) -> FastAPI:
    """The ASGI application. `api.state.streams.close()` ends all event streams; a server calls it first
    when it stops, because it waits for open responses."""
    api = _Api(
        title="Corral",
        version=__version__,
        docs_url=None,  # their pages load scripts from elsewhere; ours: routes/docs.py
        redoc_url=None,
        openapi_url="/corral/v1/openapi.json",
        redirect_slashes=False,
    )
    workers = Workers(dependencies.environment_keys, dependencies.work)
    authenticator = Authenticator(
        dependencies.api_keys,
        dependencies.workspace_records,
        dependencies.clock,
        workers=workers,
    )
    owners = SessionOwners(dependencies.sessions)
    once = OnceOnly(dependencies.idempotency)
    streams = Streams(dependencies, workers)
    kinds = ResourceKinds(dependencies)
    visible = VisibleFiles(dependencies, owners)
    api.state.streams, api.state.authenticator = streams, authenticator
    # The router tries routes in order: the hot ones first.
    # One flat list: an included router would be a second dispatch per request.
    api.router.routes += [
        *event_routes(dependencies, once, visible).routes,
        *(_stream_route(path, streams) for path in _STREAMS),
        *session_routes(dependencies, once, owners, kinds, visible).routes,
        *resource_routes(dependencies, once, kinds, visible).routes,
        *thread_routes(dependencies).routes,
        *agent_routes(dependencies, once).routes,
        *work_routes(dependencies, once).routes,
        *environment_routes(dependencies, once).routes,
        *file_routes(dependencies, once, visible).routes,
        *memory_store_routes(dependencies, once).routes,
        *memory_routes(dependencies, once).routes,
        *skill_routes(dependencies, once).routes,
        *vault_routes(dependencies, once).routes,
        *model_routes(dependencies).routes,
        *corral_routes(dependencies, authenticator, owners).routes,
        *workspace_routes(dependencies, once, authenticator).routes,
        *vault_key_routes(dependencies).routes,
        *environment_key_routes(dependencies).routes,
        *environment_sandbox_routes(dependencies).routes,
        *kill_routes(dependencies).routes,
        *audit_routes(dependencies).routes,
        *operations_routes(dependencies).routes,
        *docs_routes().routes,
    ]
    rights = WorkerRights(dependencies.sessions)
    for route in api.router.routes:
        guard(route, owners, rights)
    enclose(api, dependencies, authenticator)
    return api
