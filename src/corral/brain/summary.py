"""The request for a summary, and what becomes of its reply.

It is a model request like any other: announced, counted, fenced, made again after a crash. As a rule it is
the conversation as it stands with one more message, so that the provider has nearly all of it in its cache.
If that would not fit, or a try has failed, it is a transcript in plain text, cut to what fits.
"""

from collections.abc import Sequence

import orjson

from corral.session.content import Block, Json, text_block
from corral.session.conversation import Entry, even_cut, shortened, weight

INSTRUCTION = (
    "[This conversation is about to outgrow your context window. Do not go on with the task now, and call"
    " no tool. Write a summary instead. It will take the place of this conversation; only the user's first"
    " and latest messages and the last few steps stay beside it, so whatever you will need must be in it:\n"
    "1. What the user wants, with every instruction, constraint and preference that still counts.\n"
    "2. What was done and found out, with exact names, paths, numbers, identifiers and quotations.\n"
    "3. How things stand: files, running processes, open problems, and what was tried and did not work.\n"
    "4. What is left to do, and what you were about to do next.\n"
    "If there is an earlier summary above, carry over what still matters. Answer with the summary alone.]"
)
TRANSCRIPT = "This is the transcript of a conversation between you (assistant), a user, and tools.\n\n"


def summary_messages(entries: Sequence[Entry], *, bytes_max: int) -> list[dict[str, Json]]:
    """The request's only message: a transcript no longer than about `bytes_max`, and what to do with it."""
    content = [text_block(TRANSCRIPT + transcript(entries, bytes_max=bytes_max)), text_block(INSTRUCTION)]
    return [{"role": "user", "content": content}]


def transcript(entries: Sequence[Entry], *, bytes_max: int) -> str:
    """A conversation as plain text, the largest parts cut first."""
    parts = [part for entry in entries for part in _said(entry)]
    each = even_cut([weight(text) for text, _ in parts], bytes_max)
    told = "\n\n".join(shortened(text, max(each, 1), seq) for text, seq in parts)
    # Very many small parts: the notes in place of what was cut have a length, too.
    return shortened(told, bytes_max, entries[-1].seq if entries else 0)


def _said(entry: Entry) -> list[tuple[str, int]]:
    return [(f"{entry.role}: {text}", entry.seq) for block in entry.content if (text := _text(block))]


def _text(block: Block) -> str:
    match block["type"]:
        case "text":
            return str(block["text"])
        case "tool_use":
            return f"calls {block['name']} with {orjson.dumps(block['input']).decode()}"
        case "tool_result":
            told = "\n".join(filter(None, map(_text, block.get("content") or ())))
            return f"{'error' if block.get('is_error') else 'result'} of a tool: {told}"
        case "thinking" | "redacted_thinking":
            return ""
        case kind:
            return f"({kind})"
