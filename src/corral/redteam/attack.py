"""Attempts made in the sandboxes of a stage, and what came of them."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from corral.hands.ports import Capabilities
from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.attempts import by_name
from corral.redteam.stage import SCRIPT, TOLD, Broken, Stage, script, told

__all__ = ["Finding", "Verdict", "attack", "judged"]

Verdict = Literal["held", "gap", "escaped", "untried"]
"""gap: it worked, where the provider says that it would. untried: it says nothing about the walls."""

_BATCH: Final = 48  # attempts in one call of a tool
_OVERHEAD_SECONDS: Final = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """name: "group.attempt". why: the evidence, or what stopped it, or why it could not be tried."""

    name: str
    title: str
    verdict: Verdict
    why: str

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]


async def attack(
    stage: Stage, names: Sequence[str], *, trips: Callable[[], dict[str, str]], show: Callable[[str], None]
) -> list[Finding]:
    """Make these attempts. trips: what outside was reached by now, with how it shows."""
    known, findings = by_name(), list[Finding]()
    for who, chosen in _assigned(known, names):
        await stage.write(who, SCRIPT, script())
        await stage.write(who, TOLD, told(stage.facts))
        size = 1 if who == "last" else _BATCH
        for at in range(0, len(chosen), size):
            batch = chosen[at : at + size]
            before = trips()
            said = await _said(stage, who, batch, known)
            after = {what: how for what, how in trips().items() if before.get(what) != how}
            findings += [
                judged(stage.capabilities, name, known[name], said.get(name), trips=after) for name in batch
            ]
            show(f"{len(findings)}/{len(names)} attempts")
    order = {name: number for number, name in enumerate(names)}
    return sorted(findings, key=lambda finding: order[finding.name])


def _assigned(known: dict[str, Attempt], names: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    chosen: dict[str, list[str]] = {}
    for name in names:
        attempt = known[name]
        chosen.setdefault("last" if attempt.ends else attempt.networking, []).append(name)
    return sorted(chosen.items(), key=lambda item: ("limited", "unrestricted", "last").index(item[0]))


async def _said(
    stage: Stage, who: str, batch: Sequence[str], known: dict[str, Attempt]
) -> dict[str, dict[str, object]]:
    """What the script said of each attempt; one that it said nothing of is not among them."""
    seconds = _OVERHEAD_SECONDS + sum(known[name].seconds for name in batch)
    try:
        output = await stage.bash(who, f"python3 -IS {SCRIPT} {TOLD} {' '.join(batch)}", seconds=seconds)
    except Broken as error:
        await stage.restart(who)
        output = str(error)
    found: dict[str, dict[str, object]] = {}
    for line in output.splitlines():
        try:
            said = json.loads(line)
            found[said["attempt"]] = said
        except (ValueError, KeyError, TypeError):
            continue
    if not found:
        why = f"the script said: {output.strip()[-200:]}"
        return {name: {"end": "untried", "why": why} for name in batch if not known[name].dies}
    return found


def judged(
    capabilities: Capabilities,
    name: str,
    attempt: Attempt,
    said: dict[str, object] | None,
    *,
    trips: dict[str, str],
) -> Finding:
    """trips: what was reached while this attempt, and others of its batch, were made. Each one that names
    it in `watches` counts for having worked: it is not known which of them did."""
    end = ("held" if attempt.dies else "untried") if said is None else str(said["end"])
    why = "its sandbox was ended" if said is None else str(said["why"])
    reached = [trips[what] for what in attempt.watches if what in trips]
    if reached:
        end, why = "won", f"outside: {reached[0]}"
    verdict: Verdict
    if end == "won":
        is_excused = bool(attempt.excuse) or (bool(attempt.wall) and not capabilities.holds(attempt.wall))
        if attempt.excuse:
            why = f"{attempt.excuse}: {why}"
        is_its_own = attempt.is_of_kernel and capabilities.holds("kernel") and not reached
        verdict = "gap" if is_excused else "held" if is_its_own else "escaped"
        if is_its_own:
            why = f"of its own kernel: {why}"
    else:
        verdict = "held" if end == "held" else "untried"
    return Finding(name=name, title=attempt.title, verdict=verdict, why=why)
