"""Idempotency keys: a request takes effect once, whatever dies. Source: docs/ARCHITECTURE.md.

The record and the effect share one transaction. The API enters `scope(...)` around the one store call
that has the effect; the store's transaction runner, after the effect and before the commit, renders the
answer from the call's result and inserts the record.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A stored HTTP answer, replayed for a repeated key."""

    status: int
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Idempotent:
    """One keyed request. `render` is pure and turns the store call's result into the answer."""

    api_key_id: str
    path: str
    key: str
    request_sha256: bytes
    render: Callable[[Any], Answer]


current: ContextVar[Idempotent | None] = ContextVar("idempotent", default=None)


@contextmanager
def scope(request: Idempotent | None) -> Iterator[None]:
    """Make `request` the one whose answer the next store transaction records."""
    token = current.set(request)
    try:
        yield
    finally:
        current.reset(token)


class IdempotencyStore(Protocol):
    async def find(self, *, api_key_id: str, path: str, key: str, request_sha256: bytes) -> Answer | None:
        """The answer to an earlier equal request within IDEMPOTENCY_SECONDS, or None.

        Raises Conflict for the same key with another body. A request whose twin commits first fails with
        Conflict ("in progress") from the store call itself, and has no effect.
        """
