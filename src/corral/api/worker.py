"""Workers of self-hosted environments: who they are, and the little that they may do.

Two credentials, both kept as hashes only and looked up for each request, so that what is revoked ends with
the next one:

- an environment key asks for work of its environment, and reads and answers the sessions there;
- a sessions token, from the secret of a claimed work item, is for that item and its session alone, for as
  long as the item is its holder's.

What is not listed here they may not do (403), and what is not theirs does not exist (404). Of events they
send results of tools, which is what the SDK's worker sends: an agent whose commands run beside the
credential could allow them to itself, speak as its user, or read what others uploaded. Source: API docs,
self-hosted "Credentials"; docs/DIVERGENCES.md.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256

from starlette.types import Scope

from corral.api.caller import Caller, Worker
from corral.api.schema.events import FileSource, Input, UserCustomToolResult, UserToolResult
from corral.catalog.environment_keys import EnvironmentKeyStore
from corral.kernel.errors import AuthenticationFailed, NotFound, PermissionDenied
from corral.kernel.ids import ENVIRONMENT_KEY_PREFIX, SESSIONS_TOKEN_PREFIX, SessionId, WorkspaceId
from corral.session.record import SessionRecord, SessionStore
from corral.session.work import WorkQueue

__all__ = ["WorkerRights", "Workers", "check_sends", "is_workers"]

_WORK = "/v1/environments/{environment_id}/work"
_OF_ITEM = frozenset({("POST", f"{_WORK}/{{work_id}}/{what}") for what in ("ack", "heartbeat", "stop")})
_OF_QUEUE = _OF_ITEM | {("GET", _WORK), ("GET", f"{_WORK}/poll"), ("GET", f"{_WORK}/stats")}
_SESSION = "/v1/sessions/{session_id}"
_OF_SESSION = frozenset(
    {
        ("POST", f"{_SESSION}/events"),
        ("GET", _SESSION),
        *(
            ("GET", f"{_SESSION}/{what}")
            for what in (
                "events",
                "events/stream",
                "resources",
                "resources/{resource_id}",
                "threads",
                "threads/{thread_id}",
                "threads/{thread_id}/events",
                "threads/{thread_id}/stream",
            )
        ),
    }
)
_VERSION = "/v1/skills/{skill_id}/versions/{version}"
_OF_SKILLS = frozenset({("GET", _VERSION), ("GET", f"{_VERSION}/content")})
_STORE = "/v1/memory_stores/{memory_store_id}"
_MEMORY_READS = frozenset(
    {
        ("GET", _STORE),
        ("GET", f"{_STORE}/memories"),
        ("GET", f"{_STORE}/memories/{{memory_id}}"),
        ("GET", f"{_STORE}/memory_versions"),
        ("GET", f"{_STORE}/memory_versions/{{memory_version_id}}"),
    }
)
_MEMORY_WRITES = frozenset(
    {
        ("POST", f"{_STORE}/memories"),
        *((method, f"{_STORE}/memories/{{memory_id}}") for method in ("POST", "PATCH", "DELETE")),
    }
)
_STATS = ("GET", f"{_WORK}/stats")


def is_workers(secret: bytes) -> bool:
    """Whether what a request comes with looks like one of a worker's credentials."""
    return secret.startswith((ENVIRONMENT_KEY_PREFIX.encode(), SESSIONS_TOKEN_PREFIX.encode()))


def check_sends(shapes: Sequence[Input], *, field: str) -> None:
    """Whether a worker may send these events. field: of their list, for messages. Raises
    PermissionDenied."""
    for number, shape in enumerate(shapes):
        if not isinstance(shape, UserToolResult | UserCustomToolResult):
            raise PermissionDenied(
                f"{field}.{number}: a worker sends user.tool_result and user.custom_tool_result; send"
                f" {shape.type} with an API key"
            )
        for position, block in enumerate(shape.content or ()):
            if isinstance(getattr(block, "source", None), FileSource):
                raise PermissionDenied(
                    f"{field}.{number}.content.{position}.source: a worker sends the content itself, and"
                    " names no files"
                )


class Workers:
    """Finds out whose a worker's credential is."""

    def __init__(self, keys: EnvironmentKeyStore, work: WorkQueue) -> None:
        self._keys = keys
        self._work = work

    async def authenticate(self, secret: bytes, *, workspace: bytes | None) -> Caller:
        """`workspace`: the header that names one, if it was sent.

        Raises AuthenticationFailed, PermissionDenied, StoreUnavailable.
        """
        digest = sha256(secret).digest()
        if secret.startswith(ENVIRONMENT_KEY_PREFIX.encode()):
            key = await self._keys.find(digest)
            if key is None:
                raise AuthenticationFailed("invalid environment key")
            worker = Worker(environment_id=key.environment_id, credential=digest)
            return _caller(key.environment_key_id, key.workspace_id, worker, workspace)
        holder = await self._work.holder(digest)
        if holder is None:
            raise AuthenticationFailed("invalid sessions token")
        worker = Worker(
            environment_id=holder.environment_id,
            credential=digest,
            work_id=holder.work_id,
            session_id=holder.session_id,
            is_current=holder.is_current,
            holds=holder.holds,
        )
        return _caller(holder.work_id, holder.workspace_id, worker, workspace)

    async def is_good(self, worker: Worker) -> bool:
        """Whether it may still read its session. Raises StoreUnavailable."""
        if worker.session_id is None:
            return await self._keys.find(worker.credential) is not None
        holder = await self._work.holder(worker.credential)
        return holder is not None and holder.holds


def _caller(name: str, workspace_id: WorkspaceId, worker: Worker, header: bytes | None) -> Caller:
    if header is not None and header != workspace_id.encode():
        raise PermissionDenied(
            f"anthropic-workspace-id: this credential belongs to {workspace_id!r}; leave the header out"
        )
    return Caller(
        api_key_id=name,
        workspace_id=workspace_id,
        role="user",
        is_operator=False,
        covers=workspace_id,
        worker=worker,
    )


class WorkerRights:
    """What a worker may do, by the route's path template."""

    def __init__(self, sessions: SessionStore) -> None:
        self._sessions = sessions

    async def check(self, who: Caller, scope: Scope, template: str) -> None:
        """Raises PermissionDenied, NotFound, AuthenticationFailed (the token's time is over)."""
        worker = who.worker
        assert worker is not None
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        asked, at = (method, template), scope["path_params"]
        if worker.session_id is None:
            await self._check_key(who, worker, asked, at)
        else:
            await self._check_token(who, worker, asked, at)

    async def _check_key(
        self, who: Caller, worker: Worker, asked: tuple[str, str], at: Mapping[str, str]
    ) -> None:
        if asked in _OF_QUEUE:
            _check_environment(worker, at)
        elif asked in _OF_SESSION:
            record = await self._sessions.read(SessionId(at["session_id"]))
            if (record.workspace_id, record.environment_id) != (who.workspace_id, worker.environment_id):
                raise NotFound(f"Session {at['session_id']!r} was not found.")
        elif asked not in _OF_SKILLS:
            raise PermissionDenied(
                "An environment key is for the work of its environment, for reading and answering the"
                " sessions there, and for downloading skills; this takes an API key"
            )

    async def _check_token(
        self, who: Caller, worker: Worker, asked: tuple[str, str], at: Mapping[str, str]
    ) -> None:
        if asked in _OF_ITEM:
            _check_environment(worker, at)
            if at["work_id"] != worker.work_id:
                raise NotFound(f"Work item {at['work_id']!r} was not found.")
            return  # also to one who has lost it, who learns here that it has
        if not worker.holds:
            raise AuthenticationFailed(
                "The work item of this sessions token has ended, or is another's now"
            )
        if asked == _STATS:
            _check_environment(worker, at)
        elif asked in _OF_SESSION:
            if at["session_id"] != worker.session_id:
                raise NotFound(f"Session {at['session_id']!r} was not found.")
        elif asked in _OF_SKILLS:
            record = await self._session(worker)
            skills = {skill["skill_id"] for skill in record.agent.get("skills") or ()}
            if at["skill_id"] not in skills:
                raise NotFound(f"Skill {at['skill_id']!r} was not found.")
        elif asked in _MEMORY_READS | _MEMORY_WRITES:
            _check_memory(
                await self._session(worker), at["memory_store_id"], writes=asked in _MEMORY_WRITES
            )
        else:
            raise PermissionDenied(
                "A sessions token is for one work item and its session; this takes an API key"
            )

    async def _session(self, worker: Worker) -> SessionRecord:
        assert worker.session_id is not None
        return await self._sessions.read(worker.session_id)


def _check_environment(worker: Worker, at: Mapping[str, str]) -> None:
    if at["environment_id"] != worker.environment_id:
        raise NotFound(f"Environment {at['environment_id']!r} was not found.")


def _check_memory(record: SessionRecord, memory_store_id: str, *, writes: bool) -> None:
    for resource in record.resources:
        if resource.type == "memory_store" and resource.body["memory_store_id"] == memory_store_id:
            if writes and resource.body.get("access") == "read_only":
                raise PermissionDenied(
                    f"Memory store {memory_store_id} is attached to session {record.session_id} read-only"
                )
            return
    raise NotFound(f"Memory store {memory_store_id!r} was not found.")
