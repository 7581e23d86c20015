"""/v1/sessions/{id}/events: send and list. Streams are in `sse.py`. Source: API docs, events."""

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import bytes_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.file_blocks import check_file_blocks
from corral.api.idempotency import OnceOnly
from corral.api.inputs import new_inputs
from corral.api.openapi import takes
from corral.api.paging import decode, encode
from corral.api.schema.events import EventsSend
from corral.api.schema.query import EventListQuery, NoQuery, Order, parse_query
from corral.api.schema.strict import parse
from corral.api.views import joined, sent_view
from corral.api.visible_files import VisibleFiles
from corral.api.worker import check_sends
from corral.catalog.idempotency import Answer
from corral.kernel.ids import SessionId
from corral.session.events import SystemMessage, UserInterrupt
from corral.session.log import EventFilter, EventPage, InboxEntry, Position, StoredEvent


def event_routes(deps: Dependencies, once: OnceOnly, visible: VisibleFiles) -> APIRouter:
    router = APIRouter(tags=["events"])

    @router.post("/v1/sessions/{session_id}/events", openapi_extra=takes(body=EventsSend))
    @once.per_key
    async def send_events(request: Request, session_id: SessionId) -> Response:
        parse_query(NoQuery, request.query_params)
        asked = parse(EventsSend, await request.body()).events
        inputs = new_inputs(asked, field="events", ids=deps.ids)
        if caller(request).worker is not None:
            check_sends(asked, field="events")
        await check_file_blocks(asked, visible, caller(request), field="events", clock=deps.clock)
        if not all(isinstance(event, UserInterrupt) for event in inputs):
            deps.admission.check_new_work()  # not at the gate: an interrupt is always taken
        if any(isinstance(event, SystemMessage) for event in inputs):  # a session's model never changes
            record = await deps.sessions.read(session_id)
            deps.models.resolve(record.agent["model"]["id"]).check_mid_conversation_system()
        now = deps.clock.now()
        return await once.perform(request, lambda: deps.log.accept(session_id, inputs, now=now), _sent)

    @router.get("/v1/sessions/{session_id}/events", openapi_extra=takes(query=EventListQuery))
    async def list_events(request: Request, session_id: SessionId) -> Response:
        query = parse_query(EventListQuery, request.query_params)
        where = EventFilter(
            types=query.types,
            created_gt=query.created_gt,
            created_gte=query.created_gte,
            created_lt=query.created_lt,
            created_lte=query.created_lte,
        )
        list_name = f"events {session_id}"
        order, after = event_position(list_name, query.page, query.order)
        page = await deps.log.page(
            session_id, where, descending=order == "desc", limit=query.limit, after=after
        )
        return event_page_response(list_name, order, page)

    return router


def _sent(entries: Sequence[StoredEvent | InboxEntry]) -> Answer:
    return Answer(status=200, body=joined([sent_view(entry) for entry in entries]))


def event_position(list_name: str, page: str | None, order: Order | None) -> tuple[Order, Position | None]:
    """Order and position of a page of events. Raises InvalidRequest."""
    if page is None:
        return order or "asc", None
    carried, (seq, arrival) = decode(list_name, page, order, shape=(int, int))
    return carried, Position(seq=seq, arrival=arrival)


def event_page_response(list_name: str, order: Order, page: EventPage) -> Response:
    following = page.next_position
    cursor = None if following is None else encode(list_name, order, following.seq, following.arrival)
    return bytes_response(joined([entry.body for entry in page.events], next_page=cursor))
