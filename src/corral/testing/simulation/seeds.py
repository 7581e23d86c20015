"""Schedules that once broke a law, with what they showed. They are played again by every `make test`.

A seed stands for a schedule only as long as nothing draws differently before the interesting moment; what
it showed has a test of its own beside the code that was wrong.
"""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["SEEDS"]

SEEDS: Mapping[int, str] = MappingProxyType(
    {
        102929: "a sandbox dies between the journal's `started` and the effect: unknown, and nothing ran",
        109572: "a brain claims what another has finished, and its release is lost: the lease ends by time",
        2287: "a call is said not to have run for want of a sandbox, and its first request comes late",
        500146: "a session whose brains died again and again: that its turn is ended is logged as an error",
        3: "the first call of a fresh sandbox carries a note; the result behind it is still the real one",
    }
)
