"""A thread's conversation as the model will be shown it, and how it is made shorter. Pure.

The log is never rewritten; what is shown of it is. Three things make a conversation shorter, each at a
point that is itself in the log, so that folding the log again gives the same conversation:

* `leave_out`: the provider refuses what was sent (`session.error`).
* `clear`: old tool results, and what is too large, keep a note in their place (`span.model_request_start`).
* `compact`: a summary takes the place of all but the newest part (`agent.thread_context_compacted`).

What the assistant said is kept word for word or not at all: a provider signs its thinking, and refuses a
call or a thought that was edited. Source: docs/ARCHITECTURE.md "Context"; platform documentation "Extended
thinking", "Handle tool calls".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from corral.session.content import Block, Json, text_block

LEFT_OUT = "(This result was left out: the model's provider refused it.)"
CLEARED = "(This result was cleared to save room. It is line {seq} of the session's log.)"
CUT = "\n[... {count} characters were cut here to save room; line {seq} of the session's log has all ...]\n"
MEDIA_CUT = "(This {kind} was cleared to save room. It is in line {seq} of the session's log.)"
SUMMARY = (
    "[This conversation outgrew your context window. What came between the message above and what follows"
    " here, lines 1 to {through} of the session's log, was replaced by this summary, which you wrote.]\n\n"
)

Kept = Literal["task", "summary", "request"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of a thread's conversation, in the provider's own blocks.

    seq:  of its event.
    kept: what a compaction left of what it covered: the user's first message, the summary, and the user's
          latest message.
    """

    role: Literal["user", "assistant", "system"]
    content: tuple[Block, ...]
    seq: int = 0
    kept: Kept | None = None

    @property
    def is_result(self) -> bool:
        """A tool's result, as opposed to words of the user."""
        return bool(self.content) and self.content[0]["type"] == "tool_result"


# -- how much it is ----------------------------------------------------------------------------------

IMAGE_BYTES = 14_400  # an image is read as up to some 4,800 tokens, however many bytes it has
_PDF_BYTES_PER_BYTE = 7  # a page of PDF of 50 KB, in base64, is read as some 3,000 tokens


def weight(value: Json) -> int:
    """About how much of it a provider reads: bytes of text in UTF-8. Pictures count as what they cost."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, (dict, Mapping)):  # the class first: an abstract one is asked for long
        if value.get("type") == "image":
            return IMAGE_BYTES
        if value.get("type") == "base64" and value.get("media_type") == "application/pdf":
            return len(value.get("data") or "") // _PDF_BYTES_PER_BYTE
        return sum(map(weight, value.values()))
    if isinstance(value, (list, tuple, Sequence)):
        return sum(map(weight, value))
    return 4


def entry_weight(entry: Entry) -> int:
    return sum(map(weight, entry.content))


# -- clearing ----------------------------------------------------------------------------------------

CLEARED_BYTES_MIN = 400  # a shorter result is hardly longer than the note in its place


def is_clearable(entry: Entry) -> bool:
    """Whether clearing this entry saves anything."""
    return (
        entry.is_result
        and entry.kept is None
        and weight(entry.content[0].get("content") or ()) > CLEARED_BYTES_MIN
    )


def clear(entries: Sequence[Entry], *, through: int, block_bytes: int | None) -> list[Entry]:
    """Results up to seq `through` become a note; of the rest of what users and tools said, no text is
    longer than `block_bytes`. Repeat: changes nothing more."""
    shorter = []
    for entry in entries:
        if entry.seq <= through and is_clearable(entry):
            note = [text_block(CLEARED.format(seq=entry.seq))]
            entry = replace(entry, content=tuple({**block, "content": note} for block in entry.content))
        shorter.append(entry if block_bytes is None else cut(entry, block_bytes))
    return shorter


def cut(entry: Entry, block_bytes: int) -> Entry:
    """The entry with every text of a user or tool shortened to its head and tail, pictures and files that
    are larger left out. What the assistant said stays as it is."""
    if entry.role == "assistant" or entry.kept == "summary" or entry_weight(entry) <= block_bytes:
        return entry
    return replace(entry, content=tuple(_cut(block, block_bytes, entry.seq) for block in entry.content))


def _cut(block: Block, block_bytes: int, seq: int) -> Block:
    if weight(block) <= block_bytes:
        return block
    if block["type"] == "text":
        return {**block, "text": shortened(block["text"], block_bytes, seq)}
    if block["type"] == "tool_result":
        return {**block, "content": [_cut(inner, block_bytes, seq) for inner in block.get("content") or ()]}
    return text_block(MEDIA_CUT.format(kind=block["type"], seq=seq))


def shortened(text: str, bytes_max: int, seq: int) -> str:
    """Head and tail of a text, and between them a note that says how much is missing."""
    if weight(text) <= bytes_max:
        return text
    half = max(1, (bytes_max - len(CUT) - 20) * len(text) // weight(text) // 2)
    return text[:half] + CUT.format(count=len(text) - 2 * half, seq=seq) + text[-half:]


def even_cut(weights: Iterable[int], total: int) -> int:
    """The length to which parts are cut so that they weigh `total` together: the largest pay first."""
    parts = sorted(weights)
    left = max(total, 0)
    for number, part in enumerate(parts):
        share = left // (len(parts) - number)
        if part > share:
            return share
        left -= part
    return max(parts, default=0)


# -- compaction --------------------------------------------------------------------------------------


def newest(entries: Sequence[Entry]) -> int:
    """Where the part begins that the model has not seen yet, from its place in `entries`: what came since
    it last spoke, with what it said last if that asked for it. What a compaction kept is not new."""
    head = next((n + 1 for n in reversed(range(len(entries))) if entries[n].kept is not None), 0)
    spoken = next((n for n in reversed(range(len(entries))) if entries[n].role == "assistant"), -1)
    asked = spoken >= 0 and any(entry.is_result for entry in entries[spoken + 1 :])
    return max(head, spoken if asked else spoken + 1)


def compact(
    entries: Sequence[Entry], *, summary: str, through: int, task_bytes: int, block_bytes: int
) -> list[Entry]:
    """A conversation in which `summary` stands for everything up to seq `through`.

    Kept of that, word for word: what the system said, and of the user the first message and the latest one
    (cut to `task_bytes`). The rest follows, its texts and results cut to `block_bytes`.
    """
    covered = [entry for entry in entries if entry.seq <= through]
    tail = [entry for entry in entries if entry.seq > through]
    asked = [entry for entry in covered if entry.role == "user" and not entry.is_result]
    task = next((entry for entry in asked if entry.kept in (None, "task")), None)
    latest = next((entry for entry in reversed(asked) if entry.kept in (None, "request")), None)
    kept = [entry for entry in covered if entry.role == "system"]
    if task is not None:
        kept.append(replace(cut(task, task_bytes), kept="task"))
    # Its seq is that of what it covers, so that the next compaction covers it, too.
    kept.append(
        Entry("user", (text_block(SUMMARY.format(through=through) + summary),), through, kept="summary")
    )
    if latest is not None and latest is not task:
        kept.append(replace(cut(latest, task_bytes), kept="request"))
    return [*kept, *(cut(entry, block_bytes) for entry in tail)]


# -- leaving out -------------------------------------------------------------------------------------


def leave_out(entries: Sequence[Entry], *, is_repeated: bool) -> list[Entry]:
    """Without what was sent since the last reply: the provider refuses it, and would again and again.

    Messages go, and results, without which their calls would be refused, keep only their place.
    is_repeated: it refused again, so something that it took before has gone bad: what it had to fetch by
    URL goes, too.
    """
    spoken = [number for number, entry in enumerate(entries) if entry.role == "assistant"]
    since = spoken[-1] + 1 if spoken else 0
    kept = list(entries[:since])
    for entry in entries[since:]:
        if entry.role == "system" or entry.kept is not None:
            kept.append(entry)
        elif entry.is_result:
            content = [text_block(LEFT_OUT)]
            blocks = tuple({**block, "content": content} for block in entry.content)
            kept.append(replace(entry, content=blocks))
    if not is_repeated:
        return kept
    return [replace(entry, content=tuple(map(_without_urls, entry.content))) for entry in kept]


def _without_urls(block: Block) -> Block:
    if isinstance(block.get("source"), Mapping) and block["source"].get("type") == "url":
        return text_block(f"(This {block['type']} was left out: the model's provider refused it.)")
    if block["type"] == "tool_result":
        return {**block, "content": [_without_urls(inner) for inner in block["content"]]}
    return block
