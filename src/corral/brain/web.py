"""What a call of a web tool may reach, as the log says it.

The rules of a call are made from the settings of its agent and its environment, and travel with it. Whether
a URL was ever shown to the model is asked of the log alone: it is never compacted, and no host has it.
Source: API docs, tools "Web tool restrictions"; docs/DIVERGENCES.md.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Final

import orjson

from corral.brain.own_log import stored_events
from corral.catalog.toolset import built_in
from corral.catalog.web.rules import WebRules
from corral.catalog.web.settings import WEB_TOOLS
from corral.catalog.web.urls import BadUrl, WebUrl, mentions, web_url
from corral.kernel.limits import WEB_MISSES_KEPT_MAX
from corral.session.content import Block, Json, ToolResult
from corral.session.log import SessionLog
from corral.session.state import PendingCall, State

__all__ = ["Misses", "refuse_unseen", "rules_of"]

_ALL: Final[Mapping[str, Json]] = {"type": "all"}


def rules_of(state: State, call: PendingCall) -> WebRules | None:
    """What this call may reach; None for what is no web tool.

    A tool that the agent has lost since it asked for the call reaches nothing.
    """
    if call.own_tool not in WEB_TOOLS:
        return None
    config = _config(state, call)
    return WebRules(allowed_hosts=()) if config is None else WebRules.of(config, state.environment)


class Misses:
    """URLs that were looked for in vain, and up to which seq of their log: a model that asks again makes
    nobody read all of it again. Of one process; the last ones asked for."""

    def __init__(self, *, kept_max: int = WEB_MISSES_KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._seqs: OrderedDict[Hashable, int] = OrderedDict()

    def up_to(self, key: Hashable) -> int:
        """0: not looked for, or forgotten."""
        return self._seqs.get(key, 0)

    def remember(self, key: Hashable, seq: int) -> None:
        self._seqs[key] = seq
        self._seqs.move_to_end(key)
        if len(self._seqs) > self._kept_max:
            self._seqs.popitem(last=False)


async def refuse_unseen(
    log: SessionLog, state: State, call: PendingCall, misses: Misses
) -> ToolResult | None:
    """The result of a fetch of a URL that none of the tool's sources has shown; None for every other call.

    Repeat: after a crash it is asked again, and the log may have grown; it never turns from allowed to
    refused.
    """
    sources = (_config(state, call) or {}).get("url_sources") if call.own_tool == "web_fetch" else None
    if sources is None:
        return None
    try:
        wanted = web_url(str(call.input.get("url") or ""))
    except BadUrl:
        return None  # whoever fetches says so
    if await _is_seen(log, state, call, sources, wanted, misses):
        return None
    return ToolResult.text(
        f"url_not_in_prior_context: {wanted.text} is in none of the sources that web_fetch is limited to;"
        " only URLs that were shown there, letter by letter, can be fetched",
        is_error=True,
    )


def _config(state: State, call: PendingCall) -> Mapping[str, Json] | None:
    """Of its tool, if the agent still has it."""
    found = built_in(state.threads[call.thread_id].agent["tools"], call.name)
    return found.config if found is not None and found.config["enabled"] else None


async def _is_seen(
    log: SessionLog,
    state: State,
    call: PendingCall,
    sources: Mapping[str, Json],
    wanted: WebUrl,
    misses: Misses,
) -> bool:
    """The newest events come first: what is fetched was mostly shown a moment ago."""
    key = (
        state.session_id,
        call.thread_id,
        orjson.dumps(sources, option=orjson.OPT_SORT_KEYS),
        wanted.text,
    )
    known, newest = misses.up_to(key), 0
    results: dict[str, Sequence[Block]] = {}  # by the call that they answer, which comes later here
    async for stored in stored_events(log, state.session_id, call.thread_id, newest_first=True):
        newest = max(newest, stored.seq)
        if stored.seq <= known and not results:
            break
        event: Mapping[str, Json] = orjson.loads(stored.body)
        texts: Sequence[str] = ()
        match event["type"]:
            case "agent.custom_tool_use" | "agent.tool_use" as kind:
                content = results.pop(event["id"], ())
                if content and _counts(kind, event["name"], sources):
                    texts = list(_texts(content))
            case _ if stored.seq <= known:
                continue
            case "user.message" if _takes(sources.get("user_input"), ""):
                # Only what is written in it: not documents that were sent along.
                texts = [str(block["text"]) for block in event["content"] if block["type"] == "text"]
            case "user.custom_tool_result":
                results[event["custom_tool_use_id"]] = event.get("content") or ()
            # An error repeats what the model asked for: that would make every URL a seen one.
            case "agent.tool_result" if not event.get("is_error"):
                results[event["tool_use_id"]] = event.get("content") or ()
        if not texts:
            continue
        # A page can be made to be all URLs, in which to look takes half a second: others go on meanwhile.
        if await asyncio.to_thread(_is_mentioned, texts, wanted):
            return True
    misses.remember(key, newest)
    return False


def _counts(kind: str, name: str, sources: Mapping[str, Json]) -> bool:
    """Whether results of such a call do."""
    if kind == "agent.custom_tool_use":
        return _takes(sources.get("client_tool_results"), name)
    return name in WEB_TOOLS and _takes(sources.get("server_tool_results"), name)


def _is_mentioned(texts: Sequence[str], wanted: WebUrl) -> bool:
    return any(mentions(text, wanted) for text in texts)


def _takes(source: Mapping[str, Json] | None, name: str) -> bool:
    """Whether results of the tool of this name count."""
    source = source or _ALL
    if source["type"] in ("all", "none"):
        return bool(source["type"] == "all")
    is_named = any(tool["name"] == name for tool in source["tools"])
    return is_named if source["type"] == "only" else not is_named


def _texts(content: Sequence[Block]) -> Iterator[str]:
    """Everything in a result that can be read."""
    for block in content:
        match block["type"]:
            case "text":
                yield str(block["text"])
            case "search_result":
                yield str(block["source"])
                yield from (str(part["text"]) for part in block["content"])
            case "document":
                source = block["source"]
                yield from (str(block.get(name) or "") for name in ("title", "context"))
                yield str(source.get("data") or "") if source["type"] == "text" else ""
                yield str(source.get("url") or "")
