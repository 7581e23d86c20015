"""MCP servers that ask for a token, and the vaults that have one: official SDK, real processes."""

import json
from typing import Any

import pytest
import pytest_asyncio

from corral.testing.messages_reply import Reply
from tests.mcp_host import McpHost
from tests.oauth_host import OAuthHost
from tests.sdk.turns.test_mcp import ALLOW, call, server, toolset
from tests.served import text
from tests.stage import Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def vault(stage: Stage) -> Any:
    return await stage.client.beta.vaults.create(display_name="v")


async def test_a_token_is_used_changed_and_taken_away(stage: Stage, locked: McpHost, vault: Any) -> None:
    """The session says what is wrong once, goes on, and tries again when it next goes running."""
    credentials = stage.client.beta.vaults.credentials
    locked.allow("canary-of-the-user")
    spelled = locked.url.replace("https://localhost", "HTTPS://LocalHost") + "/"
    auth = {"type": "static_bearer", "mcp_server_url": spelled, "token": "canary-that-is-wrong"}
    made = await credentials.create(vault.id, auth=auth)
    stage.play(
        Reply.text("One."),
        Reply.tools(call(1, "mcp__notes__echo", text="with a token")),
        Reply.text("Two."),
    )
    session = await stage.session(
        toolset(default_config=ALLOW), mcp_servers=[server(locked)], vault_ids=[vault.id]
    )
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        (error,) = tail.of("session.error")
        assert error.error.type == "mcp_authentication_failed_error"
        assert error.error.mcp_server_name == "notes"
        assert made.id in error.error.message
        right = {"type": "static_bearer", "token": "canary-of-the-user"}
        await credentials.update(made.id, vault_id=vault.id, auth=right)
        await stage.send(session.id, text("Go."))
        await tail.idle(2)
    (result,) = tail.of("agent.mcp_tool_result")
    assert words(result) == "with a token"
    assert len(tail.of("session.error")) == 1
    said = json.dumps([event.to_dict(mode="json") for event in tail.events])
    assert "canary" not in said + str([request.body for request in stage.requests])


async def test_a_session_with_an_expired_token(
    stage: Stage, locked: McpHost, login: OAuthHost, vault: Any
) -> None:
    credentials = stage.client.beta.vaults.credentials
    made = await credentials.create(vault.id, auth=login.auth())
    before = len(login.requests)
    stage.play(Reply.tools(call(1, "mcp__notes__echo", text="refreshed")), Reply.text("Done."))
    session = await stage.session(
        toolset(default_config=ALLOW), mcp_servers=[server(locked)], vault_ids=[vault.id]
    )
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    (result,) = tail.of("agent.mcp_tool_result")
    assert (words(result), tail.of("session.error")) == ("refreshed", [])
    assert len(login.requests) == before + 1
    now = await credentials.retrieve(made.id, vault_id=vault.id)
    assert now.auth.expires_at is not None and now.updated_at > made.updated_at


async def test_a_credential_is_validated(
    stage: Stage, locked: McpHost, login: OAuthHost, vault: Any
) -> None:
    credentials = stage.client.beta.vaults.credentials

    async def validated(auth: dict[str, Any]) -> Any:
        made = await credentials.create(vault.id, auth=auth)
        found = await credentials.mcp_oauth_validate(made.id, vault_id=vault.id)
        assert (found.type, found.vault_id, found.credential_id) == (
            "vault_credential_validation", vault.id, made.id,
        )  # fmt: skip
        assert "canary" not in found.to_json()
        await credentials.archive(made.id, vault_id=vault.id)
        return found

    locked.allow("canary-access-0")
    before = len(login.requests)
    good = await validated(login.auth())
    assert (good.status, good.has_refresh_token, good.mcp_probe, good.refresh) == (
        "valid",
        True,
        None,
        None,
    )
    assert len(login.requests) == before
    locked.allow()
    renewed = await validated(login.auth())
    assert (renewed.status, renewed.mcp_probe, renewed.refresh.status) == ("valid", None, "succeeded")
    assert len(login.requests) == before + 1
    locked.allow()
    bare = await validated(login.auth(refresh=None))
    assert (bare.status, bare.has_refresh_token, bare.refresh.status) == (
        "invalid", False, "no_refresh_token",
    )  # fmt: skip
    assert (bare.mcp_probe.method, bare.mcp_probe.http_response.status_code) == ("initialize", 401)
    login.answer = (400, json.dumps({"error": "invalid_grant", "access_token": "canary-x"}) + "x" * 3_000)
    refused = await validated(login.auth())
    login.answer = (503, f"busy with {login.refresh_token}")
    busy = await validated(login.auth())
    login.answer = None
    response = refused.refresh.http_response
    assert (refused.status, refused.refresh.status, response.status_code) == ("invalid", "failed", 400)
    assert response.body.startswith('{"error": "invalid_grant", "access_token": "[redacted]')
    assert (len(response.body), response.body_truncated) == (2_000, True)
    assert response.content_type == "application/json"
    assert (busy.status, busy.refresh.http_response.body) == ("unknown", "busy with [redacted]")
    auth = login.auth()
    nobody = {**auth, "refresh": {**auth["refresh"], "token_endpoint": "https://localhost:1/token"}}
    away = await validated(nobody)
    assert (away.status, away.refresh.status, away.refresh.http_response) == (
        "unknown",
        "connect_error",
        None,
    )


async def test_servers_of_other_kinds_are_validated(
    stage: Stage, mcp: McpHost, liar: McpHost, vault: Any
) -> None:
    credentials = stage.client.beta.vaults.credentials

    async def validated(host: McpHost) -> Any:
        auth = {"type": "mcp_oauth", "mcp_server_url": host.url, "access_token": "canary-token"}
        made = await credentials.create(vault.id, auth=auth)
        found = await credentials.mcp_oauth_validate(made.id, vault_id=vault.id)
        await credentials.archive(made.id, vault_id=vault.id)
        assert "canary" not in found.to_json()
        return found.status, found.mcp_probe and (
            found.mcp_probe.method,
            found.mcp_probe.http_response and found.mcp_probe.http_response.status_code,
        )

    assert await validated(mcp) == ("valid", None), "it has a session to begin and to end"
    accepted = {"raw": "", "status": 202}
    liar.lie(**{"notifications/initialized": accepted, "tools/list": {"raw": "no", "status": 403}})
    assert await validated(liar) == ("invalid", ("tools/list", 403))
    liar.lie(initialize={"raw": "broken: canary-token", "status": 500})
    assert await validated(liar) == ("unknown", ("initialize", 500))
    liar.lie(initialize={"raw": "", "status": 405}, GET={"raw": "event: x", "type": "text/event-stream"})
    assert await validated(liar) == ("valid", None), "it speaks the older transport"
