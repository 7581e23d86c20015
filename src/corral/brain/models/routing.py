"""One `Model` in front of all providers: the table says who serves a name."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from corral.brain.ports import Model, ModelEvent, ModelFailed, ModelReply, ModelRequest
from corral.catalog.models import ModelTable
from corral.kernel.metrics import count, observe


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
        asked_at, outcome = time.perf_counter(), "aborted"
        try:
            async with aclosing(model.stream(request)) as stream:  # type: ignore[type-var]  # a generator
                async for event in stream:
                    if isinstance(event, ModelReply):  # the last one: nobody asks for what comes after it
                        outcome = "ok"
                    yield event
        except ModelFailed as error:
            outcome = error.failure
            raise
        finally:
            count("model_requests", outcome=outcome)
            observe("model_seconds", time.perf_counter() - asked_at)

    async def aclose(self) -> None:
        for model in self._providers.values():
            await model.aclose()
