"""One thing that `corral doctor` found."""

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check. `remedy`: what to do, unless it is ok. A warning does not fail the doctor."""

    name: str
    state: str  # ok | warning | failed
    detail: str
    remedy: str = ""
