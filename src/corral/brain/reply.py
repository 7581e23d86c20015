"""From a model's reply to events: messages, thinking and tool uses in the order of its blocks."""

from dataclasses import asdict
from typing import Literal

from corral.brain import policy
from corral.brain.actions import Replied
from corral.brain.draft import Draft
from corral.brain.judge import UNDECIDED
from corral.brain.ports import Usage
from corral.catalog.models import ModelTable
from corral.catalog.toolset import SANDBOX_TOOLS
from corral.session import events as ev
from corral.session.content import Block, Json, text_block
from corral.session.state import Thread


def write_summary(draft: Draft, done: Replied, *, models: ModelTable) -> None:
    """The reply to a request for a summary. One without words changes nothing, and is counted."""
    thread, reply = draft.state.threads[done.action.thread_id], done.reply
    texts = [block["text"] for block in reply.content if block["type"] == "text"]
    summary = "\n\n".join(texts).strip()
    if summary and reply.stop_reason not in ("refusal", "tool_use"):
        draft.add(
            ev.AgentThreadContextCompacted,
            thread.thread_id,
            private={**(thread.compacts or {}), "summary": summary},
        )
    _end(draft, thread, done, models)


def write_reply(draft: Draft, done: Replied, *, epoch: int, models: ModelTable) -> None:
    """One model reply: agent events in the order of its blocks, then the end of its span."""
    thread = draft.state.threads[done.action.thread_id]
    reply = done.reply
    texts: list[Block] = []
    first_text = 0

    def flush() -> None:
        if texts:
            message_id = done.message_ids.get(first_text)
            draft.add(ev.AgentMessage, thread.thread_id, event_id=message_id, content=list(texts))
            texts.clear()

    for index, block in enumerate(reply.content):
        if block["type"] == "text":
            if block["text"]:
                first_text = first_text if texts else index
                texts.append(text_block(block["text"]))
            continue
        flush()
        if block["type"] in ("thinking", "redacted_thinking"):
            draft.add(ev.AgentThinking, thread.thread_id, event_id=done.message_ids.get(index))
        elif block["type"] == "tool_use" and reply.stop_reason == "tool_use":
            _tool_use(draft, thread, block, done, epoch=epoch)
    flush()
    _end(draft, thread, done, models)


def _end(draft: Draft, thread: Thread, done: Replied, models: ModelTable) -> None:
    """The end of the request's span, with the reply as it came and what it cost."""
    reply = done.reply
    info = models.resolve(thread.model)
    speed: Literal["standard", "fast"] = thread.agent["model"].get("speed") or "standard"
    cost = models.request_cost(
        info, reply.usage, speed=speed, inference_geo=thread.agent["model"].get("inference_geo")
    )
    usage = reply.usage
    for judgement in done.judgements.values():
        if judgement.model is not None:
            usage = usage.plus(judgement.usage)
            judged = models.request_cost(
                models.resolve(judgement.model),
                judgement.usage,
                inference_geo=thread.agent["model"].get("inference_geo"),
            )
            cost = judged if cost is None else cost + (judged or 0)
    draft.add(
        ev.SpanModelRequestEnd,
        thread.thread_id,
        is_error=False,
        model_request_start_id=done.action.request,
        model_usage=model_usage(usage) | {"speed": speed},
        private={
            "content": list(reply.content),
            "stop_reason": reply.stop_reason,
            "stop_details": reply.stop_details,
            "reply_tokens": reply.usage.total,
            "usage": asdict(usage) | {"cost_microcents": None if cost is None else str(cost)},
        },
    )


def _tool_use(draft: Draft, thread: Thread, block: Block, done: Replied, *, epoch: int) -> None:
    judged, placement = done.judgements.get(block["id"], UNDECIDED), done.placement
    verdict = policy.evaluate(thread.agent, block["name"], judged=judged.evaluated(), told=thread.mcp)
    is_remote = draft.state.is_self_hosted and block["name"] in SANDBOX_TOOLS and not verdict.is_custom
    dispatch = None if verdict.permission == "ask" or verdict.is_custom or is_remote else placement
    private = {
        "model_tool_use_id": block["id"],
        "epoch": epoch,
        "placement": None if dispatch is None else asdict(dispatch),
    }
    if is_remote:
        private["remote"] = True
    if verdict.is_custom:
        draft.add(
            ev.AgentCustomToolUse,
            thread.thread_id,
            private=private,
            name=block["name"],
            input=block["input"],
        )
        return
    fields: dict[str, Json] = {} if verdict.evaluation is None else {"evaluation": verdict.evaluation}
    if verdict.tool is not None:
        fields["mcp_server_name"] = verdict.tool.server
    draft.add(
        ev.AgentToolUse if verdict.tool is None else ev.AgentMcpToolUse,
        thread.thread_id,
        private=private,
        name=block["name"] if verdict.tool is None else verdict.tool.name,
        input=block["input"],
        evaluated_permission=verdict.permission,
        **fields,
    )


def model_usage(usage: Usage) -> dict[str, Json]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_5m_input_tokens
        + usage.cache_creation_1h_input_tokens,
    }
