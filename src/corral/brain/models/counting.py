"""Who counts the tokens of a request: the provider of its model, where it can."""

from collections.abc import Mapping

from corral.catalog.models import ModelTable, TokenCounter
from corral.kernel.errors import InvalidRequest
from corral.session.content import Json

__all__ = ["RoutedCounter"]


class RoutedCounter:
    """`catalog.models.TokenCounter`. providers: by their names in the table."""

    def __init__(self, table: ModelTable, providers: Mapping[str, TokenCounter]) -> None:
        self._table = table
        self._providers = providers

    async def count_tokens(self, request: Mapping[str, Json]) -> int:
        provider = self._table.resolve(str(request["model"])).provider
        if provider not in self._providers:
            raise InvalidRequest(f"model: the tokens of {provider!r} models cannot be counted here")
        return await self._providers[provider].count_tokens(request)
