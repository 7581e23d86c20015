"""Which brain answers a wake. A wake is heard by all; if all answered, all but one would fold the session
in vain. So everybody computes the same choice; the sweep finds the sessions of a choice that does not act.
"""

import math
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b

from corral.kernel.ids import SessionId
from corral.kernel.limits import NODE_BEAT_SECONDS

__all__ = ["Routing", "chosen"]


class Routing:
    """What the worker of `node_id` asks about each wake: is it ours?

    brains: as for `chosen`, as this node knows them; asked for once per NODE_BEAT_SECONDS.
    """

    def __init__(self, node_id: str, brains: Callable[[], Sequence[str]]) -> None:
        self._node_id = node_id
        self._ask = brains
        self._brains: Sequence[str] = ()
        self._asked_at = -math.inf

    def is_ours(self, session_id: SessionId) -> bool:
        """True also while no brain is known: then nobody would answer."""
        now = time.monotonic()
        if now - self._asked_at >= NODE_BEAT_SECONDS:
            self._brains, self._asked_at = self._ask(), now
        return chosen(session_id, self._brains) in (self._node_id, None)


def chosen(session_id: SessionId, brains: Sequence[str]) -> str | None:
    """The brain that answers this session's wakes; None if there are no brains.

    brains: node ids, in any order, of the brains that live and have room.
    The one with the highest hash of (brain, session) is chosen (rendezvous hashing): the sessions are
    spread evenly, and when a brain comes or goes, only its own sessions move.
    """
    if len(brains) <= 1:
        return brains[0] if brains else None
    return max(brains, key=lambda brain: _weight(brain, session_id))


def _weight(brain: str, session_id: SessionId) -> tuple[bytes, str]:
    return blake2b(f"{brain}\n{session_id}".encode(), digest_size=8).digest(), brain
