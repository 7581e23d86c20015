"""A context window and a prompt cache for the fake Messages API.

Tokens are counted as four bytes each of what is sent. A request above the window is refused in the API's
words. The cache keeps what was marked with `cache_control`, and finds it again as the API does: at a mark
of a later request, or up to 20 blocks before one. Source: platform documentation "Context windows", "Prompt
caching".
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from corral.session.content import Json
from corral.testing.messages_reply import Answer, HttpError, Reply

__all__ = ["Window"]

TOKEN_BYTES = 4
LOOKBACK_BLOCKS = 20


@dataclass(kw_only=True)
class Window:
    """Counts what passes through it. `prompt_tokens`, `cached_tokens`: of all requests that it took."""

    tokens: int
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    _known: set[bytes] = field(default_factory=set)

    def refusal(self, body: Mapping[str, Json]) -> HttpError | None:
        """The 400 that a request deserves which is longer than the window."""
        tokens = sum(size for _, size, _ in _prefixes(body))
        if tokens <= self.tokens:
            return None
        self.refused += 1
        return HttpError.prompt_too_long(tokens, self.tokens)

    def counted(self, body: Mapping[str, Json], answer: Answer) -> Answer:
        """The answer with the usage that this request comes to."""
        if not isinstance(answer, Reply):
            return answer
        prefixes = list(_prefixes(body))
        marks = [place for place, (_, _, is_marked) in enumerate(prefixes) if is_marked]
        hits = [
            place
            for mark in marks
            for place in range(mark, max(-1, mark - LOOKBACK_BLOCKS - 1), -1)
            if prefixes[place][0] in self._known
        ]
        read_to, written_to = max(hits, default=-1), max(marks, default=-1)
        self._known |= {prefixes[mark][0] for mark in marks}
        sizes = [size for _, size, _ in prefixes]
        read, total = sum(sizes[: read_to + 1]), sum(sizes)
        written = max(0, sum(sizes[: written_to + 1]) - read)
        self.prompt_tokens += total
        self.cached_tokens += read
        return replace(answer, usage=_usage(answer, total, read, written))


def _usage(reply: Reply, total: int, read: int, written: int) -> Mapping[str, Json]:
    return {
        "output_tokens": max(1, len(json.dumps(list(reply.content))) // TOKEN_BYTES),
        **reply.usage,
        "input_tokens": total - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
    }


def _prefixes(body: Mapping[str, Json]) -> Iterator[tuple[bytes, int, bool]]:
    """Of each block, in the order in which the API reads them: a digest of all up to it, its tokens, and
    whether it has a mark."""
    digest = hashlib.sha256(str(body.get("model")).encode())
    system = body.get("system") or []
    for role, block in (
        *(("tools", tool) for tool in body.get("tools") or ()),
        *(("system", block) for block in ([{"text": system}] if isinstance(system, str) else system)),
        *(
            (message["role"], block)
            for message in body["messages"]
            for block in (
                [{"text": message["content"]}]
                if isinstance(message["content"], str)
                else message["content"]
            )
        ),
    ):
        plain = json.dumps({key: value for key, value in block.items() if key != "cache_control"})
        digest.update(f"{role} {plain}\n".encode())
        yield digest.digest(), -(-len(plain) // TOKEN_BYTES), "cache_control" in block
