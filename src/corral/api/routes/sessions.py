"""/v1/sessions. Source: API docs, sessions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import bytes_response, json_answer, json_response
from corral.api.caller import Caller, caller
from corral.api.dependencies import Dependencies
from corral.api.file_blocks import check_file_blocks
from corral.api.guard import SessionOwners
from corral.api.idempotency import OnceOnly, digest_of
from corral.api.inputs import new_inputs
from corral.api.openapi import takes
from corral.api.paging import decode, encode
from corral.api.resources import ResourceKinds, named_files
from corral.api.schema.query import NoQuery, Order, SessionListQuery, parse_query
from corral.api.schema.sessions import SessionCreate, SessionUpdate
from corral.api.schema.strict import parse, parse_empty
from corral.api.sealing import taken_body, wipe
from corral.api.views import NEW_USAGE, session_view
from corral.api.visible_files import VisibleFiles
from corral.catalog.agents import check_budgetable, session_agent, session_tools, thread_agent
from corral.catalog.credentials import check_session_vaults
from corral.catalog.environments import check_session_environment
from corral.catalog.idempotency import Answer
from corral.catalog.mcp.servers import check_mcp_networking
from corral.catalog.resources import check_self_hosted
from corral.catalog.sandbox import config_of
from corral.catalog.skills.attached import attach
from corral.catalog.toolset import check_web_networking
from corral.kernel.clock import parse_rfc3339, rfc3339
from corral.kernel.cursor import BAD_CURSOR
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import SESSION, THREAD, AgentId, EnvironmentId, SessionId, ThreadId, VaultId
from corral.session.content import Json
from corral.session.record import (
    SessionChanges,
    SessionFilter,
    SessionOwner,
    SessionPage,
    SessionRecord,
    ThreadRecord,
)
from corral.session.resources import Resource

_AGENT_REFERENCE = frozenset({"type", "id", "version"})


def session_routes(
    deps: Dependencies, once: OnceOnly, owners: SessionOwners, kinds: ResourceKinds, visible: VisibleFiles
) -> APIRouter:
    router = APIRouter(tags=["sessions"])

    def answer(record: SessionRecord) -> Answer:
        return json_answer(session_view(record, now=deps.clock.now()))

    @router.post("/v1/sessions", openapi_extra=takes(body=SessionCreate))
    async def create_session(request: Request) -> Response:
        raw = await taken_body(request)
        digest = digest_of(request, raw)
        if (replayed := await once.replay(request, digest)) is not None:
            wipe(raw)
            return replayed
        parse_query(NoQuery, request.query_params)
        try:
            asked = parse(SessionCreate, raw)
        finally:
            wipe(raw)
        initial = new_inputs(asked.initial_events or [], field="initial_events", ids=deps.ids)
        chosen = asked.agent.given()
        who = caller(request)
        await check_file_blocks(
            asked.initial_events or [], visible, who, field="initial_events", clock=deps.clock
        )
        agent = await deps.agents.read(
            AgentId(asked.agent.id), workspace_id=who.workspace_id, version=asked.agent.version
        )
        overrides = {name: value for name, value in chosen.items() if name not in _AGENT_REFERENCE}
        if overrides.get("skills"):
            chosen_skills = await attach(
                deps.skill_versions, who.workspace_id, overrides["skills"], where="agent.skills"
            )
            overrides["skills"] = [skill.wire for skill in chosen_skills]
        snapshot = session_agent(agent, overrides, models=deps.models, has_search=deps.has_search)
        # Once more: a version that the agent was saved with may be gone.
        skills = await attach(
            deps.skill_versions, who.workspace_id, snapshot["skills"], where="agent.skills"
        )
        if asked.budget is not None:
            check_budgetable(snapshot, models=deps.models)
        environment = await deps.environments.read(
            EnvironmentId(asked.environment_id), workspace_id=who.workspace_id
        )
        check_session_environment(environment)
        check_web_networking(snapshot["tools"], environment["config"])
        check_mcp_networking(snapshot["mcp_servers"], environment["config"])
        vault_ids = [VaultId(vault_id) for vault_id in asked.vault_ids or ()]
        if vault_ids:
            vaults = await deps.vaults.contents(vault_ids, workspace_id=who.workspace_id)
            check_session_vaults(vaults, environment["config"])
        now = deps.clock.now()
        resources = asked.resources or ()
        check_self_hosted(
            environment["config"],
            [each.type for each in resources],
            where=[f"resources.{number}." for number in range(len(resources))],
        )
        await visible.check(who, named_files(resources))
        new = await kinds.prepare(resources, agent=snapshot, workspace_id=who.workspace_id, now=now)
        record = _new_record(
            deps,
            asked,
            resources=[each.resource for each in new],
            snapshot=snapshot,
            environment=config_of(environment),
            vault_ids=vault_ids,
            skills=[skill.kept for skill in skills],
            is_running=bool(initial),
            who=who,
            now=now,
        )
        copies = [copy for each in new for copy in each.copies]
        tokens = [each.token for each in new if each.token is not None]
        created = await once.perform(
            request,
            lambda: deps.sessions.create(record, initial=initial, copies=copies, tokens=tokens),
            answer,
            digest=digest,
        )
        owners.learn(record.session_id, SessionOwner(record.workspace_id, record.api_key_id))
        return created

    @router.get("/v1/sessions", openapi_extra=takes(query=SessionListQuery))
    async def list_sessions(request: Request) -> Response:
        query, who = parse_query(SessionListQuery, request.query_params), caller(request)
        if query.agent_version is not None and query.agent_id is None:
            raise InvalidRequest("agent_version: needs agent_id")
        order, after, before = _positions(query)
        if query.deployment_id is not None:
            page = SessionPage(sessions=(), has_more=False, has_previous=False)  # no session has one
        else:
            page = await deps.sessions.page(
                SessionFilter(
                    workspace_id=who.workspace_id,
                    api_key_id=who.api_key_id if who.role == "user" else None,
                    agent_id=query.agent_id,
                    agent_version=query.agent_version,
                    memory_store_id=query.memory_store_id,
                    statuses=query.statuses,
                    created_gt=query.created_gt,
                    created_gte=query.created_gte,
                    created_lt=query.created_lt,
                    created_lte=query.created_lte,
                    include_archived=query.include_archived,
                ),
                descending=order == "desc",
                limit=query.limit,
                after=after,
                before=before,
            )
        now = deps.clock.now()
        return bytes_response(
            orjson.dumps(
                {
                    "data": [session_view(record, now=now) for record in page.sessions],
                    "next_page": _cursor(page, order, "after") if page.has_more else None,
                    "prev_page": _cursor(page, order, "before") if page.has_previous else None,
                }
            )
        )

    @router.get("/v1/sessions/{session_id}")
    async def retrieve_session(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        record = await deps.sessions.read(session_id)
        return json_response(session_view(record, now=deps.clock.now()))

    @router.post("/v1/sessions/{session_id}", openapi_extra=takes(body=SessionUpdate))
    @once.per_key
    async def update_session(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        changes = _changes(parse(SessionUpdate, await request.body()), has_search=deps.has_search)
        if changes.budget is not None:
            record = await deps.sessions.read(session_id)
            if record.budget is not None:  # else it cannot have one, whatever it costs
                check_budgetable(record.agent, models=deps.models)
        return await once.perform(request, lambda: deps.sessions.update(session_id, changes), answer)

    @router.delete("/v1/sessions/{session_id}")
    @once.per_key
    async def delete_session(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        return await once.perform(
            request,
            lambda: deps.sessions.delete(session_id),
            lambda _: json_answer({"id": session_id, "type": "session_deleted"}),
        )

    @router.post("/v1/sessions/{session_id}/archive")
    @once.per_key
    async def archive_session(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        return await once.perform(request, lambda: deps.sessions.archive(session_id), answer)

    return router


def _new_record(
    deps: Dependencies,
    asked: SessionCreate,
    *,
    resources: Sequence[Resource],
    snapshot: Mapping[str, Json],
    environment: Mapping[str, Json],
    vault_ids: Sequence[VaultId],
    skills: Sequence[Mapping[str, Json]],
    is_running: bool,
    who: Caller,
    now: datetime,
) -> SessionRecord:
    thread_id = ThreadId(deps.ids.mint(THREAD))
    return SessionRecord(
        session_id=SessionId(deps.ids.mint(SESSION)),
        primary_thread_id=thread_id,
        title=asked.title,
        metadata=asked.metadata or {},
        agent=snapshot,
        environment_id=EnvironmentId(asked.environment_id),
        environment=environment,
        vault_ids=vault_ids,
        resources=resources,
        skills=skills,
        status="running" if is_running else "idle",
        usage=NEW_USAGE,
        active_seconds=0.0,
        running_since=None,
        blocked_on=(),
        budget=None if asked.budget is None else asked.budget.given(),
        requests_cost=Decimal(0),
        runtime_rate=deps.models.runtime_rate,
        last_seq=0,
        last_arrival=0,
        epoch=0,
        api_key_id=who.api_key_id,
        workspace_id=who.workspace_id,
        created_at=now,
        updated_at=now,
        archived_at=None,
        terminated_at=None,
        threads=(
            ThreadRecord(thread_id=thread_id, agent=thread_agent(snapshot), created_at=now, updated_at=now),
        ),
    )


def _changes(asked: SessionUpdate, *, has_search: bool) -> SessionChanges:
    given = asked.given()
    names = set(given) & {"title", "metadata", "budget"}
    metadata = given.get("metadata") or {}
    tools = mcp_servers = None
    agent = given.get("agent")
    if agent:
        tools = session_tools(agent, has_search=has_search)
        mcp_servers = (agent["mcp_servers"] or []) if "mcp_servers" in agent else None
        names |= set(agent)
    return SessionChanges(
        given=frozenset(names),
        title=given.get("title"),
        metadata=metadata,
        tools=tools,
        mcp_servers=mcp_servers,
        budget=given.get("budget"),
    )


def _cursor(page: SessionPage, order: Order, direction: str) -> str:
    edge = page.sessions[-1 if direction == "after" else 0]
    return encode("sessions", order, direction, rfc3339(edge.created_at), edge.session_id)


Edge = tuple[datetime, str]


def _positions(query: SessionListQuery) -> tuple[Order, Edge | None, Edge | None]:
    """Order, and the position after or before which the page lies. Raises InvalidRequest."""
    if query.page is None:
        return query.order or "desc", None, None
    order, (direction, created, session_id) = decode(
        "sessions", query.page, query.order, shape=(str, str, str)
    )
    try:
        at = parse_rfc3339(created)
        if direction not in ("after", "before"):
            raise ValueError(direction)
    except ValueError:
        raise InvalidRequest(BAD_CURSOR) from None
    if (
        (query.created_gt is not None and at <= query.created_gt)
        or (query.created_gte is not None and at < query.created_gte)
        or (query.created_lt is not None and at >= query.created_lt)
        or (query.created_lte is not None and at > query.created_lte)
    ):
        raise InvalidRequest("page: the created_at filter excludes this cursor's position; start anew")
    position = (at, session_id)
    return (order, position, None) if direction == "after" else (order, None, position)
