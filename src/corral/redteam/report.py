"""What a run has found, of one provider."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from corral.redteam.attack import Finding
from corral.session.content import Json

__all__ = ["Report"]


@dataclass(kw_only=True, slots=True)
class Report:
    """kind: of the provider. problem: why no attempt was made at all. unsearched: place -> why nothing was
    looked for there. hits: (what was planted, where it was found)."""

    kind: str
    isolation: str = ""
    gaps: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    findings: Sequence[Finding] = ()
    canaries: int = 0
    searches: int = 0
    searched_bytes: int = 0
    unsearched: Mapping[str, str] = field(default_factory=dict)
    hits: Sequence[tuple[str, str]] = ()
    seconds: float = 0.0

    @property
    def has_held(self) -> bool:
        """Nothing escaped and nothing leaked; and something was tried."""
        return not self.problem and not self.escaped and not self.hits and bool(self.findings)

    @property
    def escaped(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict == "escaped"]

    def counts(self) -> Mapping[str, Counter[str]]:
        """Group -> verdict -> how many, in the order of the attempts."""
        found: dict[str, Counter[str]] = {}
        for finding in self.findings:
            found.setdefault(finding.group, Counter())[finding.verdict] += 1
        return found

    def as_json(self) -> Json:
        """findings: those that say more than "held"; of the others, `counts` says how many there are."""
        told = [asdict(finding) for finding in self.findings if finding.verdict != "held"]
        counts = Counter(finding.verdict for finding in self.findings)
        return {**asdict(self), "findings": told, "counts": counts, "has_held": self.has_held}
