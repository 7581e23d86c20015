"""Self-hosted environments: the queue of work, as an operator and as a worker asks for it.

A worker's part needs an environment key, which the hosted service makes in its console only. Where there is
no way to make one, only the operator's part is looked at.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic

from corral.conformance.case import Target, case, check, refused, same

_WORK = "/v1/environments/{environment_id}/work"


async def _environment(to: Target) -> Any:
    return await to.environment(config={"type": "self_hosted"})


async def _offered(to: Target, environment: Any) -> Any:
    """A session with something to do."""
    message = {"type": "user.message", "content": [{"type": "text", "text": "Hello."}]}
    return await to.session(environment=environment, initial_events=[message])


@asynccontextmanager
async def _worker(to: Target, environment: Any) -> AsyncIterator[Any]:
    """`beta.environments.work` with the environment's key; None where none can be made."""
    made = await to.http.post(
        f"/corral/v1/environments/{environment.id}/keys", json={"name": "conformance"}
    )
    if made.status_code == 404:
        yield None
        return
    key = made.json()["key"]
    async with anthropic.AsyncAnthropic(
        base_url=to.client.base_url, api_key=None, auth_token=key, _strict_response_validation=True
    ) as client:
        yield client.beta.environments.work


@case("environments", "POST /v1/environments", f"GET {_WORK}", f"GET {_WORK}/stats")
async def a_self_hosted_environment_has_an_empty_queue(to: Target) -> None:
    environment = await _environment(to)
    same(environment.config.to_dict(), {"type": "self_hosted"}, "config")
    stats = await to.beta.environments.work.stats(environment.id)
    same((stats.type, stats.depth, stats.pending), ("work_queue_stats", 0, 0), "the queue")
    same(await to.every(to.beta.environments.work.list(environment.id)), [], "its items")


@case(
    "environments",
    f"GET {_WORK}/{{work_id}}",
    f"POST {_WORK}/{{work_id}}",
    f"POST {_WORK}/{{work_id}}/stop",
    needs_model=True,
)
async def work_is_offered_noted_and_stopped(to: Target) -> None:
    environment, work = await _environment(to), to.beta.environments.work
    session = await _offered(to, environment)
    [item] = await to.every(work.list(environment.id))
    same((item.type, item.state, item.data.id), ("work", "queued", session.id), "the item")
    changed = await work.update(item.id, environment_id=environment.id, metadata={"on": "here"})
    same(changed.metadata, {"on": "here"}, "metadata")
    shown = await work.retrieve(item.id, environment_id=environment.id)
    same((shown.metadata, shown.secret), ({"on": "here"}, None), "as retrieved")
    stopped = await work.stop(item.id, environment_id=environment.id, force=True)
    check(stopped.state == "stopped" and stopped.stopped_at, "force stops at once")
    with refused(409, "conflict_error"):
        await work.stop(item.id, environment_id=environment.id, force=True)


@case(
    "environments",
    f"GET {_WORK}/poll",
    f"POST {_WORK}/{{work_id}}/ack",
    f"POST {_WORK}/{{work_id}}/heartbeat",
    needs_model=True,
)
async def a_worker_claims_and_keeps_an_item(to: Target) -> None:
    environment = await _environment(to)
    async with _worker(to, environment) as work:
        if work is None:
            return
        same(await work.poll(environment.id), None, "a poll of an empty queue")
        await _offered(to, environment)
        item = await work.poll(environment.id, block_ms=999)
        check(item is not None and item.secret, "the item comes with a secret")
        acknowledged = await work.ack(item.id, environment_id=environment.id)
        same((acknowledged.state, acknowledged.secret), ("starting", None), "acknowledged")
        beat = await work.heartbeat(
            item.id, environment_id=environment.id, expected_last_heartbeat="NO_HEARTBEAT"
        )
        same((beat.state, beat.lease_extended), ("active", True), "the first heartbeat")
        with refused(412):
            await work.heartbeat(
                item.id, environment_id=environment.id, expected_last_heartbeat="NO_HEARTBEAT"
            )
        asked = await work.stop(item.id, environment_id=environment.id)
        same(asked.state, "stopping", "asked to stop")
        await work.stop(item.id, environment_id=environment.id, force=True)
