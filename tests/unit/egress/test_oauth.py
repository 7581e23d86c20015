"""What is said to token endpoints, and how their answers are read."""

import json
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qsl

import pytest

from corral.egress.credentials import Credential, CredentialUnusable
from corral.egress.oauth import NotGranted, granted, refresh_request
from corral.kernel.ids import WorkspaceId

SECRETS = {"refresh_token": "canary r&=+", "client_secret": "canary:s%+/ü"}


def credential(kind: str = "none", *, secrets: dict[str, str] | None = None, **refresh: Any) -> Credential:
    record = {
        "id": "vcrd_1",
        "auth": {
            "type": "mcp_oauth",
            "refresh": {
                "client_id": "client:of ours",
                "token_endpoint": "https://login.test/token",
                "token_endpoint_auth": {"type": kind},
                "resource": None,
                "scope": None,
                **refresh,
            },
        },
    }
    return Credential(
        workspace_id=WorkspaceId("wrkspc_1"),
        record=record,
        secrets=SECRETS if secrets is None else secrets,
    )


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("none", {"client_id": "client:of ours"}),
        ("client_secret_post", {"client_id": "client:of ours", "client_secret": SECRETS["client_secret"]}),
        ("client_secret_basic", {}),
    ],
)
def test_how_a_client_shows_itself(kind: str, fields: dict[str, str]) -> None:
    headers, body = refresh_request(credential(kind, scope="a b", resource="https://mcp.test/a?b=c"))
    assert dict(parse_qsl(body.decode(), strict_parsing=True)) == {
        "grant_type": "refresh_token",
        "refresh_token": SECRETS["refresh_token"],
        "scope": "a b",
        "resource": "https://mcp.test/a?b=c",
        **fields,
    }
    found = dict(headers)
    assert found[b"Content-Type"] == b"application/x-www-form-urlencoded"
    if kind != "client_secret_basic":
        assert b"Authorization" not in found
        return
    scheme, pair = found[b"Authorization"].split()
    assert (scheme, b64decode(pair)) == (b"Basic", b"client%3Aof+ours:canary%3As%25%2B%2F%C3%BC")


def test_what_is_not_said() -> None:
    _, body = refresh_request(credential(scope="", resource=None))
    assert [name for name, _ in parse_qsl(body.decode())] == ["grant_type", "refresh_token", "client_id"]
    for kind, secrets in (("none", {}), ("client_secret_post", {"refresh_token": "canary"})):
        with pytest.raises(CredentialUnusable) as unusable:
            refresh_request(credential(kind, secrets=secrets))
        assert "canary" not in str(unusable.value)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"access_token": "a"}, ("a", None, None)),
        ({"access_token": "a", "token_type": "bEARER", "expires_in": 60}, ("a", None, 60.0)),
        ({"access_token": "a", "refresh_token": "r s", "expires_in": "3600"}, ("a", "r s", 3600.0)),
        ({"access_token": "a", "refresh_token": "", "expires_in": -1}, ("a", None, None)),
        ({"access_token": "a", "refresh_token": 7, "expires_in": True}, ("a", None, None)),
        ({"access_token": "a", "expires_in": 1e300, "more": {"x": 1}}, ("a", None, None)),
        ({"access_token": "a", "expires_in": "soon"}, ("a", None, None)),
    ],
)
def test_tokens(answer: Any, expected: Any) -> None:
    found = granted(200, json.dumps(answer).encode())
    assert (found.access_token, found.refresh_token, found.lifetime_seconds) == expected
    assert "'a'" not in repr(found)


@pytest.mark.parametrize(
    ("status", "body", "said", "is_final"),
    [
        (400, '{"error": "invalid_grant"}', "HTTP 400 (invalid_grant)", True),
        (401, '{"error": "canary\\nline"}', "HTTP 401", True),
        (400, '{"error": {"code": 1}}', "HTTP 400", True),
        (429, "", "HTTP 429", False),
        (503, "<html>", "HTTP 503", False),
        (302, "", "HTTP 302", False),
        (200, "", "no access token", True),
        (200, "[" * 100_000, "no access token", True),
        (200, '["a"]', "no access token", True),
        (200, '{"access_token": ""}', "no access token", True),
        (200, '{"access_token": "canary\\r\\nx: y"}', "no access token", True),
        (200, '{"access_token": "canary canary"}', "no access token", True),
        (200, '{"access_token": "canary\\u00fc"}', "no access token", True),
        (200, json.dumps({"access_token": "x" * 20_000}), "no access token", True),
        (200, '{"access_token": "a", "token_type": "mac"}', "no bearer token", True),
    ],
)
def test_no_tokens(status: int, body: str, said: str, is_final: bool) -> None:
    with pytest.raises(NotGranted) as refused:
        granted(status, body.encode())
    assert said in str(refused.value) and "canary" not in str(refused.value)
    assert (refused.value.status, refused.value.is_final) == (status, is_final)
