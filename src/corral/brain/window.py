"""When a conversation has to become shorter, and how: what is logged with the next model request. Pure.

What a request will take is known from the last one, which the provider counted, and from the weight of what
came since. Three steps, each at a logged point, so that between them requests share their prefix:

1. Old tool results become notes, once that makes enough room at once.
2. What is new and too large for what is left is cut to its head and tail.
3. The model is asked for a summary, which takes the place of all but the newest part.

A request that the provider finds too long all the same leads here, too, with half as much room each time.
Source: docs/ARCHITECTURE.md "Context".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from corral.catalog.models import ModelInfo
from corral.kernel.limits import (
    CLEAR_AT,
    CLEAR_GAIN,
    CLEAR_KEEPS,
    COMPACT_AT,
    COMPACT_KEEPS,
    COMPACT_SUMMARY,
    COMPACT_TASK,
    COMPACTIONS_MAX,
    CUT_BYTES_MIN,
    MODEL_OUTPUT_TOKENS,
    TASK_BYTES_MIN,
    TOKEN_BYTES,
    TOKEN_BYTES_MAX,
)
from corral.session.content import Json
from corral.session.conversation import Entry, clear, entry_weight, even_cut, is_clearable, newest
from corral.session.state import Thread

__all__ = ["TooLong", "output_tokens", "plan"]

_ACTS_ONLY = frozenset({"local"})
"""Providers whose models call a tool or end, and nothing else, as long as they are shown one: they are
given a transcript to summarise."""


class TooLong(Exception):
    """The conversation was made as short as it can be, and still does not fit."""


def output_tokens(info: ModelInfo) -> int:
    """`max_tokens` of every request."""
    return min(MODEL_OUTPUT_TOKENS, info.max_output_tokens, info.context_window_tokens // 2)


def plan(thread: Thread, info: ModelInfo, fixed: Callable[[], int]) -> Mapping[str, Json]:
    """What goes into `private` of the next `span.model_request_start`: nothing most of the time; `clears`,
    with which the request begins; or `compacts`, which makes it a request for a summary.

    fixed: weight of system prompt and tools; only asked for when it matters.
    Raises TooLong.
    """
    room = info.context_window_tokens - output_tokens(info)
    if thread.overflow is None and thread.measured_tokens:
        added = thread.weight - thread.measured_weight
        if thread.measured_tokens + added / TOKEN_BYTES < CLEAR_AT * room:
            return {}
    return _Plan(thread, info, fixed(), room).made()


@dataclass(slots=True)
class _Plan:
    """room: tokens of the window for a prompt. fixed: weight of what is sent with every request."""

    thread: Thread
    info: ModelInfo
    fixed: int
    room: int

    def made(self) -> Mapping[str, Json]:
        thread, taken, limit = self.thread, self._taken(), COMPACT_AT * self.room
        if thread.overflow is not None:  # whatever we think it takes, and was counted, it is too much
            taken = max(taken, (self.fixed + thread.weight) / TOKEN_BYTES)
            limit = min(limit, taken) * 0.5 ** max(1, thread.overflows)
        elif taken < CLEAR_AT * self.room:
            return {}
        at = len(thread.entries) if thread.is_paused else self._tail(COMPACT_KEEPS * limit)
        # A summary that was too long itself is summarised, too.
        old = (None, "summary") if thread.overflow is not None else (None,)
        has_old = any(e.kept in old and e.role != "system" for e in thread.entries[:at])
        is_summarised = has_old and thread.compactions < COMPACTIONS_MAX
        if not thread.is_paused:
            clears = self._clearing(taken, limit, is_all=not is_summarised)
            if clears is not None:
                return {"clears": clears}
        if taken > limit and is_summarised:
            return {"compacts": self._compaction(at, taken, limit)}
        if thread.overflow is not None:
            raise TooLong
        return {}  # nothing can be made shorter; whether it is too long, the provider will say

    # -- the steps ---------------------------------------------------------------------------------

    def _clearing(self, taken: float, limit: float, *, is_all: bool) -> Mapping[str, Json] | None:
        """Old results become notes, and if need be what is new is cut, if that is enough.
        is_all: there is nothing else that could be done."""
        entries = self.thread.entries
        new_at = newest(entries)
        through = self._old_results(entries[:new_at], CLEAR_KEEPS * limit)
        cleared = clear(entries, through=through, block_bytes=None)
        freed = self._tokens(self.thread.weight - sum(map(entry_weight, cleared)))
        if taken - freed <= limit:
            is_worth_it = freed >= CLEAR_GAIN * min(self.room, taken)
            return {"through": through, "block_bytes": None} if is_worth_it else None
        new = [entry_weight(entry) for entry in cleared[new_at:] if entry.role != "assistant"]
        rest = taken - freed - self._tokens(sum(new))
        if rest > limit / 2 and not is_all:
            return None  # what is old needs a summary
        block_bytes = even_cut(new, self._bytes(limit - rest))
        if block_bytes < CUT_BYTES_MIN or block_bytes >= max(new, default=0):
            return None
        return {"through": through, "block_bytes": block_bytes}

    def _old_results(self, seen: Sequence[Entry], keep: float) -> int:
        """The seq up to which results may be cleared: the newest ones that the model saw stay."""
        for entry in reversed(seen):
            if is_clearable(entry):
                keep -= self._tokens(entry_weight(entry))
                if keep < 0:
                    return entry.seq
        return 0

    def _compaction(self, at: int, taken: float, limit: float) -> Mapping[str, Json]:
        """What the summary will stand for, and how it is asked for."""
        thread = self.thread
        tail = [entry_weight(entry) for entry in thread.entries[at:] if entry.role != "assistant"]
        fits = taken <= self.room and thread.overflow is None and thread.compactions == 0
        is_verbatim = fits and self.info.provider not in _ACTS_ONLY
        return {
            "through": max(entry.seq for entry in thread.entries[:at]),
            "summary_bytes": max(TASK_BYTES_MIN, self._bytes(COMPACT_SUMMARY * limit)),
            "task_bytes": max(TASK_BYTES_MIN, self._bytes(COMPACT_TASK * limit)),
            "block_bytes": max(CUT_BYTES_MIN, even_cut(tail, self._bytes(limit / 3))),
            "transcript_bytes": None
            if is_verbatim
            else max(self._bytes(0.8 * limit) - self.fixed, self._bytes(0.3 * limit)),
        }

    def _tail(self, keep: float) -> int:
        """Where the part begins that stays as it is: what is new to the model, and some of what is not."""
        entries = self.thread.entries
        at = place = newest(entries)
        while place > 0 and entries[place - 1].kept is None:
            place -= 1
            keep -= self._tokens(entry_weight(entries[place]))
            if keep < 0:
                break
            if not entries[place].is_result and entries[place].role != "system":
                at = place
        return at

    # -- tokens and bytes --------------------------------------------------------------------------

    def _taken(self) -> float:
        thread = self.thread
        if not thread.measured_tokens:
            return (self.fixed + thread.weight) / TOKEN_BYTES
        added = thread.weight - thread.measured_weight
        return thread.measured_tokens + added * max(self._rate(), 1 / TOKEN_BYTES)

    def _rate(self) -> float:
        """Tokens per byte of weight, as the provider counted last; a cautious guess before."""
        if not self.thread.measured_tokens:
            return 1 / TOKEN_BYTES
        counted = self.thread.measured_tokens / max(1, self.fixed + self.thread.measured_weight)
        least = TOKEN_BYTES_MAX if self.thread.overflow is None else TOKEN_BYTES
        return min(1.0, max(1 / least, counted))

    def _tokens(self, weight: float) -> float:
        return weight * self._rate()

    def _bytes(self, tokens: float) -> int:
        return int(max(tokens, 0) / max(self._rate(), 1 / TOKEN_BYTES))
