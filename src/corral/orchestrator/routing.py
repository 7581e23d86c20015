"""Which brain answers a wake. A wake is heard by all; if all answered, all but one would fold the session
in vain. So everybody computes the same choice; the sweep finds the sessions of a choice that does not act.
"""

from collections.abc import Sequence
from hashlib import blake2b

from corral.kernel.ids import SessionId

__all__ = ["chosen"]


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
