"""/v1/environments/{id}/work: the queue that workers of a self-hosted environment serve.

Source: API docs, self-hosted; the SDK's lib/environments.
"""

import asyncio
import base64
import time
from contextlib import suppress

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import bytes_response, json_answer, json_response
from corral.api.caller import Worker, caller
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly
from corral.api.openapi import takes
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import parse, parse_empty
from corral.api.schema.work import (
    WorkHeartbeatQuery,
    WorkListQuery,
    WorkPollQuery,
    WorkStop,
    WorkUpdate,
)
from corral.catalog.metadata import merged
from corral.kernel.clock import rfc3339
from corral.kernel.errors import Conflict, HeartbeatRefused, InvalidRequest, PermissionDenied
from corral.kernel.ids import EnvironmentId, WorkId
from corral.kernel.limits import WORKER_ID_CHARS_MAX, WORKER_NOTE_SECONDS, WORKERS_NOTED_MAX
from corral.session.content import Json
from corral.session.work import Beat, Claimed, Queue, Work, topic

__all__ = ["work_routes"]

_WORK = "/v1/environments/{environment_id}/work"


def work_routes(deps: Dependencies, once: OnceOnly) -> APIRouter:
    router = APIRouter(tags=["environments"])
    noted = _Noted()

    @router.get(f"{_WORK}/poll", openapi_extra=takes(query=WorkPollQuery))
    async def poll_work(request: Request, environment_id: EnvironmentId) -> Response:
        await _worker(deps, request, environment_id)
        query = parse_query(WorkPollQuery, request.query_params)
        queue = _queue(request, environment_id)
        worker_id = request.headers.get("anthropic-worker-id")
        if worker_id is not None and noted.is_due(environment_id, _worker_id(worker_id)):
            await deps.work.note_worker(queue, worker_id)
        claimed = await _poll(deps, queue, query)
        return bytes_response(b"null") if claimed is None else json_response(_claimed_view(claimed))

    @router.get(f"{_WORK}/stats")
    async def work_stats(request: Request, environment_id: EnvironmentId) -> Response:
        parse_query(NoQuery, request.query_params)
        queue = await _known_queue(deps, request, environment_id)
        stats = await deps.work.stats(queue)
        return json_response(
            {
                "type": "work_queue_stats",
                "depth": stats.depth,
                "pending": stats.pending,
                "oldest_queued_at": (
                    None if stats.oldest_queued_at is None else rfc3339(stats.oldest_queued_at)
                ),
                "workers_polling": stats.workers_polling,
            }
        )

    @router.get(_WORK, openapi_extra=takes(query=WorkListQuery))
    async def list_work(request: Request, environment_id: EnvironmentId) -> Response:
        query = parse_query(WorkListQuery, request.query_params)
        queue = await _known_queue(deps, request, environment_id)
        page = await deps.work.page(queue, limit=query.limit, cursor=query.page)
        items = [_view(item) for item in page.items]
        return bytes_response(orjson.dumps({"data": items, "next_page": page.next_cursor}))

    @router.get(_WORK + "/{work_id}")
    async def retrieve_work(request: Request, environment_id: EnvironmentId, work_id: WorkId) -> Response:
        parse_query(NoQuery, request.query_params)
        return json_response(_view(await deps.work.read(_queue(request, environment_id), work_id)))

    @router.post(_WORK + "/{work_id}", openapi_extra=takes(body=WorkUpdate))
    @once.per_key
    async def update_work(request: Request, environment_id: EnvironmentId, work_id: WorkId) -> Response:
        parse_query(NoQuery, request.query_params)
        patch = parse(WorkUpdate, await request.body()).metadata
        queue = _queue(request, environment_id)
        return await once.perform(
            request,
            lambda: deps.work.update(queue, work_id, lambda current: merged(current, patch)),
            lambda item: json_answer(_view(item)),
        )

    @router.post(_WORK + "/{work_id}/ack")
    @once.per_key
    async def ack_work(request: Request, environment_id: EnvironmentId, work_id: WorkId) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        if not (await _worker(deps, request, environment_id)).is_current:
            raise Conflict(f"Work item {work_id} was claimed by another worker since")
        queue = _queue(request, environment_id)
        return await once.perform(
            request, lambda: deps.work.acknowledge(queue, work_id), lambda item: json_answer(_view(item))
        )

    @router.post(_WORK + "/{work_id}/heartbeat", openapi_extra=takes(query=WorkHeartbeatQuery))
    @once.per_key
    async def heartbeat_work(request: Request, environment_id: EnvironmentId, work_id: WorkId) -> Response:
        query = parse_query(WorkHeartbeatQuery, request.query_params)
        parse_empty(await request.body())
        queue = _queue(request, environment_id)
        if not (await _worker(deps, request, environment_id)).is_current:
            raise _lost(await deps.work.read(queue, work_id))
        return await once.perform(
            request,
            lambda: deps.work.beat(
                queue,
                work_id,
                expected=query.expected_last_heartbeat,
                desired_seconds=query.desired_ttl_seconds,
                is_repeat=request.headers.get("x-stainless-retry-count", "0") != "0",
            ),
            lambda beat: json_answer(_beat_view(beat)),
        )

    @router.post(_WORK + "/{work_id}/stop", openapi_extra=takes(body=WorkStop))
    @once.per_key
    async def stop_work(request: Request, environment_id: EnvironmentId, work_id: WorkId) -> Response:
        parse_query(NoQuery, request.query_params)
        raw = await request.body()
        asked = parse(WorkStop, raw) if raw else WorkStop()
        worker, queue = caller(request).worker, _queue(request, environment_id)
        if worker is not None and not worker.is_current:
            raise Conflict(f"Work item {work_id} was claimed by another worker since")
        return await once.perform(
            request,
            lambda: deps.work.stop(queue, work_id, force=bool(asked.force), by_worker=worker is not None),
            lambda item: json_answer(_view(item)),
        )

    return router


class _Noted:
    """Which workers' polls were written down lately: a hint, so not each of them is."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, str], float] = {}

    def is_due(self, environment_id: EnvironmentId, worker_id: str) -> bool:
        now, key = time.monotonic(), (environment_id, worker_id)
        if now - self._at.get(key, -WORKER_NOTE_SECONDS) < WORKER_NOTE_SECONDS:
            return False
        if len(self._at) >= WORKERS_NOTED_MAX:
            self._at.clear()
        self._at[key] = now
        return True


async def _poll(deps: Dependencies, queue: Queue, query: WorkPollQuery) -> Claimed | None:
    """Claim what there is, else wait for a hint that there is something; and look once more at the end, for
    what became free meanwhile or was told to nobody."""
    reclaim_seconds = query.reclaim_older_than_ms / 1000
    if query.block_ms is None:
        return await deps.work.claim(queue, reclaim_seconds=reclaim_seconds)
    until = asyncio.get_running_loop().time() + query.block_ms / 1000
    async with deps.bus.subscribe(topic(queue.environment_id), buffer=1) as hints:
        while True:
            claimed = await deps.work.claim(queue, reclaim_seconds=reclaim_seconds)
            if claimed is not None or asyncio.get_running_loop().time() >= until:
                return claimed
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await anext(aiter(hints))


def _queue(request: Request, environment_id: EnvironmentId) -> Queue:
    return Queue(caller(request).workspace_id, environment_id)


async def _known_queue(deps: Dependencies, request: Request, environment_id: EnvironmentId) -> Queue:
    """Raises NotFound: there is no such environment."""
    queue = _queue(request, environment_id)
    await deps.environments.read(environment_id, workspace_id=queue.workspace_id)
    return queue


async def _worker(deps: Dependencies, request: Request, environment_id: EnvironmentId) -> Worker:
    """Raises PermissionDenied; NotFound: there is no such environment."""
    worker = caller(request).worker
    if worker is None:
        await _known_queue(deps, request, environment_id)
        raise PermissionDenied(
            "Work is polled for, acknowledged and kept with an environment key, not an API key; make one"
            " with `corral environments key create`"
        )
    return worker


def _worker_id(header: str) -> str:
    """Raises InvalidRequest."""
    if not header or len(header) > WORKER_ID_CHARS_MAX or not header.isprintable():
        raise InvalidRequest(
            f"Anthropic-Worker-ID: 1 to {WORKER_ID_CHARS_MAX} printable characters name a worker"
        )
    return header


def _lost(item: Work) -> HeartbeatRefused:
    last = item.latest_heartbeat_at
    return HeartbeatRefused(
        f"Work item {item.work_id} was claimed by another worker since",
        last_heartbeat=None if last is None else rfc3339(last),
        state=item.state,
        ttl_seconds=item.ttl_seconds,
    )


def _claimed_view(claimed: Claimed) -> dict[str, Json]:
    secret = base64.urlsafe_b64encode(orjson.dumps({"sessions_token": claimed.token})).rstrip(b"=")
    return {**_view(claimed.work), "secret": secret.decode()}


def _view(item: Work) -> dict[str, Json]:
    times = {
        name: None if at is None else rfc3339(at)
        for name, at in (
            ("acknowledged_at", item.acknowledged_at),
            ("started_at", item.started_at),
            ("latest_heartbeat_at", item.latest_heartbeat_at),
            ("stop_requested_at", item.stop_requested_at),
            ("stopped_at", item.stopped_at),
        )
    }
    return {
        "id": item.work_id,
        "type": "work",
        "environment_id": item.environment_id,
        "data": {"type": "session", "id": item.session_id},
        "state": item.state,
        "metadata": item.metadata,
        "secret": None,
        "created_at": rfc3339(item.created_at),
        **times,
    }


def _beat_view(beat: Beat) -> dict[str, Json]:
    last = beat.work.latest_heartbeat_at
    return {
        "type": "work_heartbeat",
        "last_heartbeat": "" if last is None else rfc3339(last),
        "lease_extended": beat.lease_extended,
        "state": beat.work.state,
        "ttl_seconds": beat.work.ttl_seconds,
    }
