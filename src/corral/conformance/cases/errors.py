"""What every endpoint has in common: keys, envelopes, request ids, bodies."""

import json

from corral.conformance.case import Target, case, check, same


@case("errors", "GET /v1/agents")
async def no_key_and_a_wrong_key_are_refused(to: Target) -> None:
    for headers in (
        {"x-api-key": ""},
        {"x-api-key": "sk-wrong"},
        {"x-api-key": "", "authorization": "Bearer x"},
    ):
        response = await to.http.get("/v1/agents", headers=headers)
        same(response.status_code, 401, "status")
        same(response.json()["error"]["type"], "authentication_error", "error type")


@case("errors", "GET /v1/agents")
async def a_bearer_token_is_as_good_as_x_api_key(to: Target) -> None:
    request = to.http.build_request("GET", "/v1/agents")
    request.headers["authorization"] = f"Bearer {request.headers.pop('x-api-key')}"
    same((await to.http.send(request)).status_code, 200, "status")


@case("errors", "GET /v1/agents")
async def every_answer_has_a_request_id(to: Target) -> None:
    fine = await to.http.get("/v1/agents", params={"limit": 1})
    check(fine.headers.get("request-id"), "request-id of an answer")
    lost = await to.http.get("/v1/no_such_thing")
    same(lost.status_code, 404, "status of an unknown path")
    same(lost.json()["error"]["type"], "not_found_error", "its error type")
    same(lost.json()["request_id"], lost.headers.get("request-id"), "request_id of its body and header")
    check(fine.headers["request-id"] != lost.headers["request-id"], "each request has its own")


@case("errors", "POST /v1/agents")
async def a_body_that_is_no_json_is_refused(to: Target) -> None:
    deep = "[" * 10_000 + "]" * 10_000
    for body in (b"", b"{", b"[]", b"nonsense", b'{"name": "\xff"}', deep.encode()):
        response = await to.http.post(
            "/v1/agents", content=body, headers={"content-type": "application/json"}
        )
        same(response.status_code, 400, f"status for {body[:20]!r}")
        same(response.json()["error"]["type"], "invalid_request_error", "error type")


@case("errors", "POST /v1/agents")
async def a_body_over_32_mb_is_refused_as_too_large(to: Target) -> None:
    body = json.dumps({"name": "x", "model": to.model, "system": "a" * (33 * 1024 * 1024)})
    response = await to.http.post("/v1/agents", content=body, headers={"content-type": "application/json"})
    same(response.status_code, 413, "status")
    same(response.json()["error"]["type"], "request_too_large", "error type")


@case("errors", "GET /v1/agents")
async def a_limit_out_of_range_is_named(to: Target) -> None:
    for limit in ("0", "-1", "x", "1000000"):
        response = await to.http.get("/v1/agents", params={"limit": limit})
        same(response.status_code, 400, f"status of limit={limit}")
        check("limit" in response.json()["error"]["message"], "the message names `limit`")
