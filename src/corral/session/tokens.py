"""Token counts and list cost, cumulative, and how the wire shows them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal

from corral.session.content import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Cumulative counts; `input_tokens` excludes cached ones. Same names as one request's usage.

    cost_microcents: list cost of the requests, as priced when they were made; runtime excluded.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_5m_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    web_search_requests: int = 0
    cost_microcents: Decimal = Decimal(0)

    def plus(self, usage: Mapping[str, Json]) -> "Tokens":
        """Add one request (the private payload of its span end); unknown names are ignored."""
        get = usage.get
        return Tokens(  # spelled out: a long log has one for each request
            input_tokens=self.input_tokens + int(get("input_tokens", 0)),
            output_tokens=self.output_tokens + int(get("output_tokens", 0)),
            cache_read_input_tokens=self.cache_read_input_tokens + int(get("cache_read_input_tokens", 0)),
            cache_creation_5m_input_tokens=self.cache_creation_5m_input_tokens
            + int(get("cache_creation_5m_input_tokens", 0)),
            cache_creation_1h_input_tokens=self.cache_creation_1h_input_tokens
            + int(get("cache_creation_1h_input_tokens", 0)),
            web_search_requests=self.web_search_requests + int(get("web_search_requests", 0)),
            cost_microcents=self.cost_microcents + Decimal(get("cost_microcents") or 0),
        )

    def merged(self, other: "Tokens") -> "Tokens":
        return Tokens(**{name: getattr(self, name) + getattr(other, name) for name in _NAMES})

    @property
    def total(self) -> int:
        """Tokens read, written and cached."""
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_input_tokens
            + self.cache_creation_5m_input_tokens
            + self.cache_creation_1h_input_tokens
        )

    @property
    def is_zero(self) -> bool:
        return not any(getattr(self, name) for name in _NAMES)

    def wire(self) -> dict[str, Json]:
        """Fields shared by `usage` of sessions, threads and `session.usage`. A session that made no
        request yet has `cache_creation: null` (observed)."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_input_tokens": self.cache_read_input_tokens,
            "cache_creation": None
            if self.is_zero
            else {
                "ephemeral_5m_input_tokens": self.cache_creation_5m_input_tokens,
                "ephemeral_1h_input_tokens": self.cache_creation_1h_input_tokens,
            },
            "server_tool_use": {
                "web_search_requests": self.web_search_requests,
                "web_fetch_requests": 0,  # never counted. Source: API docs, sessions
            },
        }


def tokens_of_request(usage: Mapping[str, Json]) -> int:
    """All tokens of one request and its reply, however they were cached."""
    return Tokens().plus(usage).total


_NAMES = tuple(field.name for field in fields(Tokens))
