"""One `Model` in front of all providers: the table says who serves a name."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from corral.brain.ports import Model, ModelEvent, ModelFailed, ModelRequest
from corral.catalog.models import ModelTable


class RoutedModel:
    """providers: a `Model` per provider name of the table."""

    def __init__(self, table: ModelTable, providers: Mapping[str, Model]) -> None:
        self._table = table
        self._providers = providers

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        provider = self._table.resolve(request.model).provider
        model = self._providers.get(provider)
        if model is None:
            raise ModelFailed(
                f"this server has no {provider!r} provider for the model {request.model!r}",
                failure="request_failed",
                retryable=False,
            )
        async with aclosing(model.stream(request)) as stream:  # type: ignore[type-var]  # a generator
            async for event in stream:
                yield event

    async def aclose(self) -> None:
        for model in self._providers.values():
            await model.aclose()
