"""What no model is asked about."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from corral.brain.judge import UNDECIDED, ModelJudge, Question
from corral.brain.ports import ModelEvent, ModelRequest
from corral.kernel.ids import SessionId
from corral.kernel.limits import JUDGE_CALL_BYTES_MAX
from tests.unit.brain.scene import MODELS, call


class NeverAsked:
    """A model that must not be asked."""

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        pytest.fail(f"{request.model} is asked")
        yield

    async def aclose(self) -> None:
        return


def question(**fields: Any) -> Question:
    plain: dict[str, Any] = {
        "session_id": SessionId("sesn_1"),
        "model": "claude-opus-5-5",
        "inference_geo": None,
        "system": "",
        "entries": [],
        "call": call(),
    }
    return Question(**{**plain, **fields})


@pytest.mark.parametrize(
    "asked",
    [
        question(call=call(command="x" * JUDGE_CALL_BYTES_MAX)),
        question(model="local"),
        question(model="replay"),
        question(model="claude-haiku-4-5", inference_geo="us"),
        question(model="nobody-knows-this"),
    ],
    ids=["too-large", "too-small", "recorded", "elsewhere", "unknown"],
)
async def test_what_cannot_be_judged_is_asked(asked: Question) -> None:
    assert await ModelJudge(NeverAsked(), MODELS).judge(asked) == UNDECIDED
