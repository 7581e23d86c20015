"""The turns of this folder once more, side by side, on servers whose notifications are lost or repeated:
at random, then all of them. Everything still happens, only later: sweeps and looks at the store find it.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.sdk.turns import (
    test_endings,
    test_interrupts,
    test_life,
    test_requires_action,
    test_streams,
    test_text_and_tools,
)
from tests.stage import Stage, Stages, staged

pytestmark = pytest.mark.asyncio(loop_scope="session")

Turn = Callable[[Stage], Awaitable[None]]
MODULES = (
    test_endings,
    test_interrupts,
    test_life,
    test_requires_action,
    test_streams,
    test_text_and_tools,
)
AT_ONCE = 24  # more would measure the machine
ABOUT_HINTS = {
    # Previews are nothing but hints.
    test_endings.test_a_failure_in_mid_stream_leaves_no_half_reply,
    test_interrupts.test_while_the_model_streams,
    test_life.test_the_sync_client,
    test_streams.test_previews_are_prefixes_of_what_follows,
    test_streams.test_the_sdks_own_accumulator_takes_them,
    test_streams.test_a_preview_of_a_failed_request_has_no_final_event,
    # An echo that is told late is told just before its processed form.
    test_streams.test_a_stream_without_a_cursor_begins_now,
    test_text_and_tools.test_a_text_turn,
}
CANARY = {"AWS_SECRET_ACCESS_KEY": "canary-5f2d9c"}  # as the servers of this folder have it


def turns() -> Iterator[tuple[str, Turn]]:
    """Every test of the folder that needs nothing but a stage."""
    for module in MODULES:
        for name, function in vars(module).items():
            if (
                name.startswith("test_")
                and function not in ABOUT_HINTS
                and [*inspect.signature(function).parameters] == ["stage"]
            ):
                yield f"{module.__name__}.{name}", function


@pytest.mark.parametrize("faults", ["bus.drop=0.5,bus.duplicate=0.5", "bus.drop=1"])
async def test_turns_need_no_hint(faults: str) -> None:
    busy = asyncio.Semaphore(AT_ONCE)

    async def play(stages: Stages, turn: Turn) -> None:
        async with busy, stages.open() as stage:
            await turn(stage)

    async with staged(CORRAL_FAULTS=faults, **CANARY) as stages:
        names, functions = zip(*turns(), strict=True)
        ended: list[Any] = await asyncio.gather(
            *(play(stages, turn) for turn in functions), return_exceptions=True
        )
    failed = [f"{name}: {error!r}" for name, error in zip(names, ended, strict=True) if error is not None]
    assert not failed, "\n".join(failed)
    assert len(names) > 40
