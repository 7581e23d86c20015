"""What a role adds to the server process."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from corral.app.readiness import Look

__all__ = ["Part"]

Duty = Callable[[], Coroutine[None, None, None]]


async def _nothing() -> None:
    return


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """
    looks:  its readiness checks, by name.
    looks_elsewhere: likewise, of what other nodes do: shown, but no start waits for them, because nodes
            start in any order.
    duties: what it does from the start until it is cancelled; `later` begins once the process serves.
    drain:  hand over what is going on; the process ends afterwards.
    sessions: running in it now.
    gauges: what it shows in `/metrics`, by name; cheap.
    """

    looks: Mapping[str, Look] = field(default_factory=dict)
    looks_elsewhere: Mapping[str, Look] = field(default_factory=dict)
    duties: Sequence[Duty] = ()
    later: Sequence[Duty] = ()
    drain: Duty = _nothing
    sessions: Callable[[], int] = lambda: 0
    gauges: Callable[[], Mapping[str, float]] = dict
