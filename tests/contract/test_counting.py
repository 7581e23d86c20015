"""Counting tokens: the provider of the model is asked, and what it refuses is said."""

import pytest

from corral.brain.models.anthropic import AnthropicModel
from corral.brain.models.counting import RoutedCounter
from corral.brain.ports import ModelFailed
from corral.catalog.models import ModelTable
from corral.kernel.errors import InvalidRequest
from corral.testing.messages_api import BYTES_PER_TOKEN, MessagesApi

MODELS = ModelTable.packaged()
KEY = "sk-upstream-canary"
ASKED = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "x" * 400}]}


def counter(url: str, *, key: str | None = KEY) -> tuple[RoutedCounter, AnthropicModel]:
    model = AnthropicModel(api_key=key, models=MODELS, base_url=url)
    return RoutedCounter(MODELS, {"anthropic": model}), model


async def test_the_provider_counts_what_was_sent() -> None:
    async with MessagesApi([]) as api:
        tokens, model = counter(api.url)
        assert await tokens.count_tokens(ASKED) >= 400 // BYTES_PER_TOKEN
        request = await api.request(1)
        await model.aclose()
    assert (request.json, request.api_key) == (ASKED, KEY)
    assert request.headers["anthropic-beta"] == "token-counting-2024-11-01"


async def test_a_wrong_key_is_said_without_it() -> None:
    async with MessagesApi([], api_key="another") as api:
        tokens, model = counter(api.url)
        with pytest.raises(InvalidRequest) as refused:
            await tokens.count_tokens(ASKED)
        await model.aclose()
    assert "401" in refused.value.message
    assert KEY not in refused.value.message


async def test_a_provider_that_is_away_may_be_asked_again() -> None:
    async with MessagesApi([]) as api:
        url = api.url
    tokens, model = counter(url)
    with pytest.raises(ModelFailed) as failed:
        await tokens.count_tokens(ASKED)
    await model.aclose()
    assert failed.value.retryable


@pytest.mark.parametrize(
    ("model", "says"),
    [("replay", "'replay' models cannot be counted"), ("gpt-nonsense", "no model provider")],
)
async def test_other_models_cannot_be_counted(model: str, says: str) -> None:
    tokens, _ = counter("http://127.0.0.1:1")
    with pytest.raises(InvalidRequest, match=says):
        await tokens.count_tokens({**ASKED, "model": model})


async def test_no_key_says_what_to_set() -> None:
    tokens, _ = counter("http://127.0.0.1:1", key=None)
    with pytest.raises(InvalidRequest, match="CORRAL_ANTHROPIC_API_KEY"):
        await tokens.count_tokens(ASKED)
