"""Attempts in two parts: what the agent plants, and what the host then does with it. Whether it worked is
seen on the host alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from corral.kernel.errors import CorralError
from corral.redteam import races, servers, unpacking
from corral.redteam.attack import Finding, Verdict
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.stage import Stage

__all__ = ["SCENARIOS", "Scenario", "play"]

_SECONDS: Final = 180.0  # for what the host does; longer is a host that was held up


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """title: after "it". plays: raises Held, Won or Untried."""

    title: str
    plays: Callable[[Stage], Awaitable[None]]


async def play(stage: Stage, names: Sequence[str], *, show: Callable[[str], None]) -> list[Finding]:
    findings = []
    for number, name in enumerate(names, start=1):
        scenario = SCENARIOS[name]
        verdict: Verdict = "untried"
        try:
            async with asyncio.timeout(_SECONDS):
                await scenario.plays(stage)
            why = "it ended without a word"
        except Won as won:
            verdict, why = "escaped", str(won)
        except Held as held:
            verdict, why = "held", str(held)
        except TimeoutError:
            verdict, why = "escaped", f"the host was held up for {_SECONDS:.0f} s"
        except (Untried, CorralError) as untried:
            why = str(untried)
        findings.append(Finding(name=name, title=scenario.title, verdict=verdict, why=why))
        if number % 8 == 0 or number == len(names):
            show(f"{number}/{len(names)} scenarios")
    return findings


SCENARIOS: Final[dict[str, Scenario]] = {
    f"{group}.{name}": Scenario(title=title, plays=plays)
    for group, name, title, plays in (*servers.PLAYS, *races.PLAYS, *unpacking.PLAYS)
}
