"""Repairing what nobody would find: rows that contradict each other, and leases from a clock that jumped.

By construction none of this happens; a restored backup, a statement typed by hand or a clock that was set
can still make it. A repair only notes that a session needs a brain, or ends a lease: what follows is for
the brain that folds the log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from corral.kernel.ids import SessionId

Repair = Literal["unserved_session", "untaken_input", "dead_lease", "far_lease", "far_backoff"]
"""unserved_session: at work by its status, but nobody would look for a brain. untaken_input: an input that
only a brain can take, likewise. dead_lease: past its time, of a session that needs nobody. far_lease,
far_backoff: they end later than any that could have been given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What was repaired; `after`: where the next look into the inbox begins, None for its beginning."""

    repaired: Mapping[Repair, Sequence[SessionId]]
    after: SessionId | None


class SweepStore(Protocol):
    async def sweep(self, *, after: SessionId | None) -> Swept:
        """Find and repair up to SWEEP_BATCH_MAX sessions of each kind; of the inbox, the entries of so many
        sessions after `after`. Writes only what it repairs. Repeat: safe, also on several nodes at once."""
