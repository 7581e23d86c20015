"""What the gate decides before any route runs: headers, rates, origins, codings."""

import asyncio
import gzip
import json
from typing import Any

import pytest
import zstandard
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from corral.api.admission import Admission
from corral.api.auth import Authenticator
from corral.api.coding import accepted
from corral.api.dependencies import Operations
from corral.api.edge import Edge
from corral.api.gate import Gate, paced
from corral.api.guard import least_role
from corral.api.operations import create_operations
from corral.api.rate import Rate, Rates
from corral.catalog.keys import as_record
from corral.catalog.records import ApiKey
from corral.catalog.roles import Role
from corral.kernel.errors import NotFound, RequestTooSlow, StoreUnavailable
from corral.kernel.ids import Ids
from corral.kernel.limits import (
    API_KEY_CACHE_SECONDS,
    CODED_BODY_BYTES_MIN,
    REQUEST_BODY_BYTES_MAX,
)
from corral.kernel.request import request_id
from corral.session.content import Json
from corral.testing.clock import ManualClock, skip

KEY = "corral_key_of_this_test"
LONG = [{"id": "x" * CODED_BODY_BYTES_MIN}]


class Keys:
    """One key, as a store has it."""

    def __init__(self, clock: ManualClock) -> None:
        self.key: ApiKey | None = as_record(KEY, name="k", ids=Ids(), now=clock.now())
        self.finds = 0
        self.uses: dict[str, Any] = {}
        self.is_there = True

    async def find(self, sha256: bytes) -> ApiKey | None:
        self.finds += 1
        return self.key if self.key is not None and self.key.sha256 == sha256 else None

    async def used(self, at: Any) -> None:
        if not self.is_there:
            raise StoreUnavailable("away")
        self.uses |= at


class NoWorkspaces:
    async def read(self, workspace_id: str) -> Any:
        raise NotFound(workspace_id)


class Edged:
    """A gate around three routes."""

    def __init__(self, **edge: Any) -> None:
        self.clock = ManualClock()
        self.keys = Keys(self.clock)
        self.authenticator = Authenticator(self.keys, NoWorkspaces(), self.clock)  # type: ignore[arg-type]
        app = FastAPI()

        @app.get("/v1/agents")
        async def agents() -> Response:
            return JSONResponse({"data": LONG, "request_id": request_id.get()})

        @app.post("/v1/agents")
        async def echo(request: Request) -> Response:
            return JSONResponse({"bytes": len(await request.body())})

        @app.get("/v1/sessions/x/events/stream")
        async def stream() -> Response:
            return StreamingResponse(iter(["data: 1\n\n"] * 2), media_type="text/event-stream")

        @app.get("/corral/v1/keys")
        async def keys() -> Response:
            return JSONResponse({"data": LONG})

        settings = Edge(**edge)
        self.app = app
        app.add_middleware(
            Gate,
            authenticator=self.authenticator,
            ids=Ids(),
            admission=Admission(),
            allowed_hosts=frozenset({"*"}) if not edge.get("cors_origins") else frozenset(),
            rates=Rates(settings, self.clock),
            edge=settings,
        )

    async def ask(
        self, method: str, path: str = "/v1/agents", *, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"x-api-key": KEY, "host": "localhost", **named}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(k.encode(), v.encode()) for k, v in sent.items() if v],
        }
        messages: list[Any] = []
        bodies = [body[:10], body[10:]]

        async def receive() -> Any:
            if not bodies:  # nobody goes away
                await asyncio.Event().wait()
            return {"type": "http.request", "body": bodies.pop(0), "more_body": bool(bodies)}

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        got = {k.decode(): v.decode() for k, v in messages[0]["headers"]}
        return messages[0]["status"], got, b"".join(each.get("body", b"") for each in messages[1:])


def error(body: bytes) -> dict[str, Any]:
    return json.loads(body)["error"]  # type: ignore[no-any-return]


BETA = "managed-agents-2026-04-01"


@pytest.mark.parametrize(
    ("path", "version", "beta", "status"),
    [
        ("/v1/agents", "2026-10-21", BETA, 200),
        ("/v1/agents", "2023-06-01", f"skills-2025-10-02, {BETA}", 200),
        ("/v1/agents", "", BETA, 400),
        ("/v1/agents", "2024-01-01", BETA, 400),
        ("/v1/agents", "2026-10-21", "", 404),
        ("/v1/agents", "2026-10-21", "agent-memory-2026-07-22", 404),
        ("/v1/agents", "2026-10-21", f"{BETA},future-2030-01-01", 400),
        ("/corral/v1/keys", "", "", 200),
    ],
)
async def test_strict_headers(path: str, version: str, beta: str, status: int) -> None:
    headers = {"anthropic_version": version, "anthropic_beta": beta}
    got, _, body = await Edged(strict_headers=True).ask("GET", path, **headers)
    assert got == status
    if beta.endswith("2030-01-01"):
        assert "'future-2030-01-01'" in error(body)["message"]
    assert (await Edged().ask("GET", path, **headers))[0] == 200


async def test_rates_are_of_reads_and_of_the_rest_apart() -> None:
    edged = Edged(reads_per_minute=3)
    for left in (2, 1, 0):
        status, headers, _ = await edged.ask("GET")
        assert (status, headers["anthropic-ratelimit-requests-remaining"]) == (200, str(left))
        assert headers["anthropic-ratelimit-requests-limit"] == "3"
    status, headers, body = await edged.ask("GET")
    assert (status, error(body)["type"], headers["retry-after"]) == (429, "rate_limit_error", "20")
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    status, headers, _ = await edged.ask("POST")
    assert status == 200 and "anthropic-ratelimit-requests-limit" not in headers
    edged.clock.advance(20)
    assert [(await edged.ask("GET"))[0] for _ in range(2)] == [200, 429]


def test_a_bucket_gives_what_it_has_and_refills_evenly() -> None:
    clock = ManualClock()
    rate = Rate(60, clock.monotonic)
    assert [rate.take("a").remaining for _ in range(60)] == list(reversed(range(60)))
    assert rate.take("a").wait_seconds == pytest.approx(1.0)
    assert rate.take("b").remaining == 59
    clock.advance(2.5)
    assert [rate.take("a").wait_seconds > 0 for _ in range(3)] == [False, False, True]
    clock.advance(3600)
    assert rate.take("a").remaining == 59


async def test_origins() -> None:
    page = "https://app.test"
    edged = Edged(cors_origins=frozenset({page}))
    asked = {"origin": page, "access_control_request_method": "POST", "x_api_key": ""}
    status, headers, body = await edged.ask(
        "OPTIONS", **asked, access_control_request_headers="x-api-key, anthropic-beta"
    )
    assert (status, body, headers["access-control-allow-origin"]) == (204, b"", page)
    assert headers["access-control-allow-headers"] == "x-api-key, anthropic-beta"
    assert "POST" in headers["access-control-allow-methods"]
    status, headers, _ = await edged.ask("GET", origin=page)
    assert (status, headers["access-control-allow-origin"]) == (200, page)
    assert "request-id" in headers["access-control-expose-headers"]
    for refused in (
        await edged.ask("OPTIONS", **{**asked, "origin": "https://evil.test"}),
        await Edged().ask("OPTIONS", **asked),
    ):
        assert refused[0] in (401, 403) and "access-control-allow-origin" not in refused[1]
    assert (await edged.ask("GET", origin="https://evil.test"))[0] == 403
    assert (await edged.ask("OPTIONS", **asked, host="evil.test"))[0] == 403
    anybody = Edged(cors_origins=frozenset({"*"}))
    assert (await anybody.ask("GET", origin=page))[1]["access-control-allow-origin"] == page


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None),
        (b"", None),
        (b"identity", None),
        (b"gzip", b"gzip"),
        (b"gzip, deflate, br, zstd", b"zstd"),
        (b"zstd;q=0.1, gzip;q=0.5", b"gzip"),
        (b"gzip;q=0", None),
        (b"*", b"zstd"),
        (b"zstd;q=0, *;q=0.1", b"gzip"),
        (b"gzip;q=x", None),
    ],
)
def test_which_coding_a_client_takes(header: bytes | None, coding: bytes | None) -> None:
    assert accepted(header) == coding


async def test_answers_are_packed_when_it_pays_and_tells_nothing() -> None:
    edged = Edged()
    plain = json.loads((await edged.ask("GET"))[2])["data"]
    for coding, unpack in (("gzip", gzip.decompress), ("zstd", zstandard.decompress)):
        status, headers, body = await edged.ask("GET", accept_encoding=coding)
        assert (status, headers["content-encoding"], headers["vary"]) == (200, coding, "Accept-Encoding")
        assert int(headers["content-length"]) == len(body) < CODED_BODY_BYTES_MIN
        assert json.loads(unpack(body))["data"] == plain
    for method, path in (("POST", "/v1/agents"), ("GET", "/corral/v1/keys")):
        assert "content-encoding" not in (await edged.ask(method, path, accept_encoding="gzip"))[1]
    path = "/v1/sessions/x/events/stream"
    _, headers, body = await edged.ask("GET", path, accept_encoding="gzip")
    assert "content-encoding" not in headers and body == b"data: 1\n\n" * 2


async def test_bodies_may_come_packed() -> None:
    edged, body = Edged(), b"x" * 5000
    for coding, pack in (("gzip", gzip.compress), ("zstd", zstandard.compress)):
        status, _, got = await edged.ask("POST", body=pack(body), content_encoding=coding)
        assert (status, json.loads(got)["bytes"]) == (200, 5000)
        bomb = pack(bytes(REQUEST_BODY_BYTES_MAX + 1))
        assert len(bomb) < 100_000
        status, _, got = await edged.ask("POST", body=bomb, content_encoding=coding)
        assert (status, error(got)["type"]) == (413, "request_too_large")
        status, _, got = await edged.ask("POST", body=b"no " + pack(body), content_encoding=coding)
        assert status == 400 and coding in error(got)["message"]
    cut = gzip.compress(body)[:-9]
    assert (await edged.ask("POST", body=cut, content_encoding="gzip"))[0] == 400
    status, _, got = await edged.ask("POST", body=body, content_encoding="br")
    assert status == 415 and "'br'" in error(got)["message"]
    assert (await edged.ask("POST", body=body, content_encoding="identity"))[0] == 200


async def test_a_large_body_is_refused_before_it_is_read() -> None:
    edged = Edged()
    status, _, got = await edged.ask("POST", body=b"", content_length=str(REQUEST_BODY_BYTES_MAX + 1))
    assert (status, error(got)["type"]) == (413, "request_too_large")


async def test_head_is_get_without_what_streams() -> None:
    edged = Edged()
    status, headers, _ = await edged.ask("HEAD")  # the server leaves the body out
    assert status == 200 and int(headers["content-length"]) > CODED_BODY_BYTES_MIN
    assert (await edged.ask("HEAD", "/v1/sessions/x/events/stream"))[0] == 405


async def test_what_is_logged_meanwhile_names_the_request() -> None:
    _, headers, body = await Edged().ask("GET")
    assert json.loads(body)["request_id"] == headers["request-id"]


async def test_a_key_is_looked_up_once_in_a_while_and_its_use_noted() -> None:
    edged = Edged()
    assert edged.keys.key is not None
    key_id = edged.keys.key.api_key_id
    first = edged.clock.now()
    for _ in range(5):
        await edged.ask("GET")
    assert edged.keys.finds == 1
    edged.keys.is_there = False
    with pytest.raises(StoreUnavailable):
        await edged.authenticator.note()
    edged.keys.is_there = True
    await edged.authenticator.note()
    assert edged.keys.uses == {key_id: first}
    edged.keys.key = None
    assert (await edged.ask("GET"))[0] == 200, "believed for a while"
    edged.clock.advance(API_KEY_CACHE_SECONDS)
    assert (await edged.ask("GET"))[0] == 401


@pytest.mark.parametrize(("role", "status"), [("admin", 200), ("developer", 403), ("user", 403)])
async def test_a_node_without_the_api_asks_for_the_role_too(role: Role, status: int) -> None:
    clock = ManualClock()
    keys = Keys(clock)
    keys.key = as_record(KEY, name="k", ids=Ids(), now=clock.now(), role=role)

    async def told() -> dict[str, Json]:
        return {"role": "server"}

    async def no_metrics() -> bytes:
        return b""

    edged = Edged()
    edged.app = create_operations(
        Operations(
            api_keys=keys,  # type: ignore[arg-type]
            workspace_records=NoWorkspaces(),  # type: ignore[arg-type]
            ids=Ids(),
            clock=clock,
            readiness=dict,
            status=told,
            metrics=no_metrics,
        )
    )
    assert (await edged.ask("GET", "/corral/v1/status"))[0] == status
    assert (await edged.ask("GET", "/healthz"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/v1/agents", "user"),
        ("POST", "/v1/agents", "developer"),
        ("DELETE", "/v1/files/{file_id}", "developer"),
        ("POST", "/v1/files", "user"),
        ("POST", "/v1/sessions/{session_id}/events", "user"),
        ("GET", "/corral/v1/sandboxes", "admin"),
        ("POST", "/corral/v1/something/new", "admin"),
        ("GET", "/corral/v1/workspaces", "operator"),
        ("GET", "/corral/v1/status", "operator"),
    ],
)
def test_least_roles(method: str, path: str, needed: str) -> None:
    assert least_role(method, path) == needed


# -- the pace of bodies ----------------------------------------------------------------------------------


async def read(pauses: list[float], *, size: int) -> int:
    """How many pieces of a body come through, of `size` bytes each, after these pauses."""
    left = list(pauses)

    async def receive() -> Any:
        await asyncio.sleep(left.pop(0))
        return {"type": "http.request", "body": b"x" * size, "more_body": bool(left)}

    limited, count = paced(receive, silence_seconds=0.2, bytes_per_second=1000), 0
    while left:
        await limited()
        count += 1
    return count


@pytest.mark.parametrize(("pauses", "size"), [([0.5, 0.0], 1000), ([0.02] * 30, 1), ([0.0, 0.5], 10**6)])
async def test_a_body_that_comes_too_slowly(pauses: list[float], size: int) -> None:
    """Silence, a trickle, and silence after a flood: bytes do not buy more patience than there was."""
    with pytest.raises(RequestTooSlow, match="a second"):
        await read(pauses, size=size)


async def test_a_body_that_comes_fast_enough() -> None:
    """What comes earns patience for longer than there was at first. By jumps of time: a pause of a busy
    machine is no pause of the client."""
    left = 20

    async def receive() -> Any:
        nonlocal left
        left -= 1
        skip(100.0)
        await asyncio.sleep(0.001)  # what is due comes first
        return {"type": "http.request", "body": b"x" * 500, "more_body": bool(left)}

    limited = paced(receive, silence_seconds=1000.0, bytes_per_second=5.0)
    while left:
        await limited()
