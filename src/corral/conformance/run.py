"""Runs cases against a server, some at a time, each with a bound on its time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import anthropic
import httpx2

from corral.conformance.case import Case, Nonconforming, Target

__all__ = ["CASES_AT_ONCE", "CASE_SECONDS_MAX", "Outcome", "Server", "run_all"]

CASES_AT_ONCE = 4
CASE_SECONDS_MAX = 300.0
CLEAN_SECONDS_MAX = 60.0
REQUEST_SECONDS_MAX = 60.0
RETRIES_MAX = 4  # of the SDK: a hosted server has rate limits

Verdict = Literal["passed", "failed", "not run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """What to test. model: which the agents of cases get. is_strict: an answer that is not of the SDK's
    types fails; an older SDK does not know all of them."""

    url: str
    api_key: str
    model: str
    is_strict: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """`reason`: of a failure what was expected; of a case that was not run, why."""

    case: Case
    verdict: Verdict
    seconds: float = 0.0
    reason: str = ""


async def run_all(
    server: Server,
    cases: Sequence[Case],
    *,
    uses_model: bool = True,
    show: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """In the order of `cases`; `show` hears of each as it ends."""
    places = asyncio.Semaphore(CASES_AT_ONCE)

    async def one(case: Case) -> Outcome:
        if case.needs_model and not uses_model:
            outcome = Outcome(case=case, verdict="not run", reason="it needs a model")
        else:
            async with places:
                outcome = await _run(server, case)
        show(outcome)
        return outcome

    return await asyncio.gather(*(one(case) for case in cases))


async def _run(server: Server, case: Case) -> Outcome:
    started = time.monotonic()
    reason = ""
    async with _target(server) as target:
        try:
            async with asyncio.timeout(CASE_SECONDS_MAX):
                await case.run(target)
        except Nonconforming as found:
            reason = str(found)
        except TimeoutError:
            reason = f"it did not end within {time.monotonic() - started:.0f} s"
        except (anthropic.APIError, httpx2.HTTPError) as error:
            reason = f"{type(error).__name__}: {error}"
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"an answer is not of its shape: {type(error).__name__}: {error}"
    return Outcome(
        case=case,
        verdict="failed" if reason else "passed",
        seconds=time.monotonic() - started,
        reason=reason,
    )


@asynccontextmanager
async def _target(server: Server) -> AsyncIterator[Target]:
    headers = {"x-api-key": server.api_key, "anthropic-version": "2023-06-01"}
    async with (
        anthropic.AsyncAnthropic(
            base_url=server.url,
            api_key=server.api_key,
            timeout=REQUEST_SECONDS_MAX,
            max_retries=RETRIES_MAX,
            _strict_response_validation=server.is_strict,
        ) as client,
        httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=REQUEST_SECONDS_MAX) as http,
    ):
        target = Target(client=client, http=http, model=server.model)
        try:
            yield target
        finally:
            try:
                async with asyncio.timeout(CLEAN_SECONDS_MAX):
                    await target.clean()
            except TimeoutError:
                pass  # what is left has `conformance-` in its name
