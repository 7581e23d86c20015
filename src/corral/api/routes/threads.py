"""/v1/sessions/{id}/threads. Only the primary thread exists so far. Source: API docs, multiagent."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_response
from corral.api.dependencies import Dependencies
from corral.api.openapi import takes
from corral.api.paging import decode, encode
from corral.api.routes.events import event_page_response, event_position
from corral.api.schema.query import NoQuery, ThreadEventListQuery, ThreadListQuery, parse_query
from corral.api.schema.strict import parse_empty
from corral.api.views import thread_view
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import SessionId, ThreadId
from corral.session.log import EventFilter
from corral.session.record import SessionRecord, ThreadRecord


def thread_routes(deps: Dependencies) -> APIRouter:
    router = APIRouter(tags=["threads"])

    @router.get("/v1/sessions/{session_id}/threads", openapi_extra=takes(query=ThreadListQuery))
    async def list_threads(request: Request, session_id: SessionId) -> Response:
        query = parse_query(ThreadListQuery, request.query_params)
        record = await deps.sessions.read(session_id)
        list_name, skipped = f"threads {session_id}", 0
        if query.page is not None:
            _, (skipped,) = decode(list_name, query.page, None, shape=(int,))
        wanted = [
            thread for thread in record.threads if not query.statuses or thread.status in query.statuses
        ]
        end = skipped + query.limit
        now = deps.clock.now()
        return json_response(
            {
                "data": [thread_view(record, thread, now=now) for thread in wanted[skipped:end]],
                "next_page": encode(list_name, "asc", end) if end < len(wanted) else None,
            }
        )

    @router.get("/v1/sessions/{session_id}/threads/{thread_id}")
    async def retrieve_thread(request: Request, session_id: SessionId, thread_id: ThreadId) -> Response:
        parse_query(NoQuery, request.query_params)
        record = await deps.sessions.read(session_id)
        return json_response(thread_view(record, _thread(record, thread_id), now=deps.clock.now()))

    @router.get(
        "/v1/sessions/{session_id}/threads/{thread_id}/events",
        openapi_extra=takes(query=ThreadEventListQuery),
    )
    async def list_thread_events(request: Request, session_id: SessionId, thread_id: ThreadId) -> Response:
        query = parse_query(ThreadEventListQuery, request.query_params)
        _thread(await deps.sessions.read(session_id), thread_id)
        list_name = f"events {session_id} {thread_id}"
        order, after = event_position(list_name, query.page, None)
        page = await deps.log.page(
            session_id, EventFilter(thread_id=thread_id), descending=False, limit=query.limit, after=after
        )
        return event_page_response(list_name, order, page)

    @router.post("/v1/sessions/{session_id}/threads/{thread_id}/archive")
    async def archive_thread(request: Request, session_id: SessionId, thread_id: ThreadId) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        thread = _thread(await deps.sessions.read(session_id), thread_id)
        assert thread.parent_thread_id is None, "only primary threads exist"
        raise InvalidRequest(f"Thread {thread_id} is the session's primary thread; archive the session")

    return router


def _thread(record: SessionRecord, thread_id: ThreadId) -> ThreadRecord:
    """Raises NotFound."""
    for thread in record.threads:
        if thread.thread_id == thread_id:
            return thread
    raise NotFound(f"Session {record.session_id} has no thread {thread_id!r}.")
