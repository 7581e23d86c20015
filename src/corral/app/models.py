"""The models of this server, and the provider that asks for a key."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from corral.catalog.models import ModelTable, TokenCounter
from corral.config import Config
from corral.session.content import Json

if TYPE_CHECKING:
    from corral.brain.models.anthropic import AnthropicModel

__all__ = ["LateCounter", "anthropic_model", "model_table"]


def model_table(config: Config) -> ModelTable:
    return ModelTable.packaged().extended(config.models)


def anthropic_model(config: Config, models: ModelTable) -> "AnthropicModel":
    from corral.brain.models.anthropic import BASE_URL, AnthropicModel

    return AnthropicModel(
        api_key=config.anthropic_api_key.reveal() if config.anthropic_api_key else None,
        base_url=config.anthropic_base_url or BASE_URL,
        models=models,
    )


class LateCounter:
    """`catalog.models.TokenCounter`, made when it is first asked: an API node has no brain to import."""

    def __init__(self, config: Config, models: ModelTable, stack: AsyncExitStack) -> None:
        self._config = config
        self._models = models
        self._stack = stack
        self._counter: TokenCounter | None = None

    async def count_tokens(self, request: Mapping[str, Json]) -> int:
        if self._counter is None:
            from corral.brain.models.counting import RoutedCounter

            model = anthropic_model(self._config, self._models)
            self._stack.push_async_callback(model.aclose)
            self._counter = RoutedCounter(self._models, {"anthropic": model})
        return await self._counter.count_tokens(request)
