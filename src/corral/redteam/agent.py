"""The agent of a session, which does what it is told: a model that calls the tool that its user names."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

import anthropic

from corral.redteam.stage import Broken
from corral.session.content import Json
from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, Reply

__all__ = ["MODEL", "as_told", "turn"]

MODEL: Final = "claude-opus-5-5"
_CALL: Final = "call "


def as_told(request: Request) -> Answer:
    """The model: it calls the tool that its user names, and is done."""
    last = request.json["messages"][-1]["content"]
    blocks = [{"type": "text", "text": last}] if isinstance(last, str) else last
    said = [block["text"] for block in blocks if block["type"] == "text" and _CALL in block["text"]]
    if any(block["type"] == "tool_result" for block in blocks) or not said:
        return Reply.text("Done.")
    name, fields = json.loads(said[-1].partition(_CALL)[2])
    return Reply(
        content=[
            {"type": "tool_use", "id": f"toolu_{secrets.token_hex(8)}", "name": name, "input": fields}
        ],
        stop_reason="tool_use",
        delta_chars=1 << 20,
    )


async def turn(
    client: anthropic.AsyncAnthropic,
    session_id: str,
    name: str,
    fields: Mapping[str, Json],
    *,
    note: str = "",
    may_fail: bool = False,
) -> str:
    """Have the agent call a tool; its answer. note: words before the order. may_fail: what goes wrong in
    the session beside the call is no matter. Raises Broken."""
    text = f"{note} {_CALL}{json.dumps([name, fields])}"
    events, said = client.beta.sessions.events, None
    try:
        async with asyncio.timeout(60 + int(fields.get("timeout_ms", 0)) / 1000):
            async with await events.stream(session_id) as stream:
                message: Any = {"type": "user.message", "content": [{"type": "text", "text": text}]}
                await events.send(session_id, events=[message])
                async for event in stream:
                    if event.type in ("agent.tool_result", "agent.mcp_tool_result"):
                        said = "".join(block.text for block in event.content or () if block.type == "text")
                    elif event.type == "session.error" and not may_fail:
                        raise Broken(f"the session failed: {event.error}")
                    elif event.type == "session.status_idle" and said is not None:
                        return said
    except (TimeoutError, anthropic.APIError) as error:
        raise Broken(f"the agent gave no answer: {error!r}") from error
    raise Broken("the stream ended before the agent's answer")
