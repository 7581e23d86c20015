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
