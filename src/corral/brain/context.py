"""State -> model request. The log is never rewritten; the context is built from it each time.

Consecutive requests of a thread share their prefix byte for byte, cache marks aside: entries are only
ever added behind, except where the log says that old ones were cleared or compacted (`window`). Cache
breakpoints (four, the provider's limit): last tool, last system block, last and second-to-last message.
Source: docs/ARCHITECTURE.md.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile

from corral.brain import policy
from corral.brain.own_log import LOG_NOTE
from corral.brain.ports import ModelRequest
from corral.brain.skills import skills_note
from corral.brain.summary import INSTRUCTION, summary_messages
from corral.brain.window import output_tokens
from corral.catalog.models import ModelInfo
from corral.kernel.ids import SessionId
from corral.session.content import Block, Json, text_block
from corral.session.conversation import Entry, weight
from corral.session.state import Thread

_MARK = {"type": "ephemeral"}

ENVIRONMENT_NOTE = (
    "You work in an isolated Linux sandbox. Your working directory is /workspace; put files meant for the"
    " user into /mnt/session/outputs. Programs in the sandbox reach the network only through the proxy that"
    " HTTP_PROXY and HTTPS_PROXY name, if they are set, and only hosts that its environment allows: what is"
    " refused is a 403 that names the host; no other way helps. No host name resolves without the proxy."
)
"""Said when the agent has tools that act in the sandbox. Source: docs/DIVERGENCES.md."""

WEB_NOTE = "The web can be reached with web_fetch, which does not run in the sandbox."


def build(
    session_id: SessionId,
    thread: Thread,
    info: ModelInfo,
    *,
    is_self_hosted: bool = False,
    has_search: bool = False,
) -> ModelRequest:
    """The next request of a thread, from everything it has folded; for a summary, if it came to that.

    is_self_hosted: its tools act on a machine that we know nothing about, so nothing is said of it.
    has_search: as for `policy.offered`.
    """
    tools, system, entries = _fixed(thread, is_self_hosted=is_self_hosted, has_search=has_search)
    messages = _messages(entries)
    if thread.compacts is not None:
        transcript_bytes = thread.compacts["transcript_bytes"]
        if transcript_bytes is None:
            messages = _messages([*entries, Entry("user", (text_block(INSTRUCTION),))])
        else:
            tools = []
            messages = summary_messages(entries, bytes_max=transcript_bytes)
    model = thread.agent["model"]
    effort = model.get("effort")
    return ModelRequest(
        model=thread.model,
        session_id=session_id,
        system=_mark_last(system),
        messages=_mark_messages(messages),
        tools=_mark_last(tools),
        max_tokens=output_tokens(info),
        effort=effort["type"] if isinstance(effort, Mapping) else effort,
        speed=model.get("speed") or "standard",
        inference_geo=model.get("inference_geo"),
    )


def fixed_weight(thread: Thread, *, is_self_hosted: bool = False, has_search: bool = False) -> int:
    """Of what is sent with every request: tools and system prompt. What the system said before the user is
    counted with the conversation."""
    tools = policy.offered(thread.agent, has_search=has_search, told=thread.mcp)
    return weight(tools) + weight(_system(thread, tools, is_self_hosted=is_self_hosted))


def _fixed(
    thread: Thread, *, is_self_hosted: bool, has_search: bool
) -> tuple[Sequence[Mapping[str, Json]], list[Block], list[Entry]]:
    """Tools, system prompt, and the conversation behind them."""
    tools = policy.offered(thread.agent, has_search=has_search, told=thread.mcp)
    # A conversation begins with the user: what was said before is part of the system prompt.
    early = list(takewhile(lambda entry: entry.role == "system", thread.entries))
    system = _system(thread, tools, is_self_hosted=is_self_hosted)
    system += [block for entry in early for block in entry.content]
    return tools, system, thread.entries[len(early) :]


def system_text(agent: Mapping[str, Json]) -> str:
    """The agent's own system prompt; "" for none."""
    return str(agent.get("system") or "")


def _system(thread: Thread, tools: Sequence[Mapping[str, Json]], *, is_self_hosted: bool) -> list[Block]:
    names = {tool["name"] for tool in tools}
    has_sandbox = not is_self_hosted
    texts = [
        thread.agent.get("system"),
        ENVIRONMENT_NOTE if has_sandbox and "bash" in names else None,
        WEB_NOTE if has_sandbox and {"bash", "web_fetch"} <= names else None,
        thread.memory_note if names & {"bash", "read"} else None,
        LOG_NOTE if has_sandbox and "read" in names else None,
        skills_note(_found_in_working_directory(thread.skills) if is_self_hosted else thread.skills),
    ]
    return [text_block(text) for text in texts if text]


def _found_in_working_directory(skills: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """A worker has them in its working directory, wherever that is."""
    return [{**skill, "path": skill["path"].removeprefix("/workspace/")} for skill in skills]


def _messages(entries: Sequence[Entry]) -> list[dict[str, Json]]:
    """Entries of one role in a row become one message; results come before what the user said next."""
    messages: list[dict[str, Json]] = []
    for entry in entries:
        if messages and messages[-1]["role"] == entry.role:
            messages[-1]["content"].extend(entry.content)
        else:
            messages.append({"role": entry.role, "content": list(entry.content)})
    return messages


def _mark_last(blocks: Sequence[Block]) -> list[Block]:
    return [*blocks[:-1], {**blocks[-1], "cache_control": _MARK}] if blocks else []


def _mark_messages(messages: list[dict[str, Json]]) -> list[dict[str, Json]]:
    """Mark the last two messages, on their last block that may carry a mark."""
    for message in messages[-2:]:
        content = message["content"]
        for position in range(len(content) - 1, -1, -1):
            if content[position]["type"] not in ("thinking", "redacted_thinking"):
                content[position] = {**content[position], "cache_control": _MARK}
                break
    return messages
