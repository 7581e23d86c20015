"""Token counts of a thread, cumulative, and how the wire shows them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from corral.session.content import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Cumulative counts; `input_tokens` excludes cached ones. Same names as one request's usage."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_5m_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    web_search_requests: int = 0

    def plus(self, usage: Mapping[str, int]) -> "Tokens":
        """Add one request's usage (the private payload of its span end); unknown names are ignored."""
        return Tokens(**{name: count + int(usage.get(name, 0)) for name, count in asdict(self).items()})

    @property
    def is_zero(self) -> bool:
        return not any(asdict(self).values())

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
                "web_fetch_requests": 0,
            },
        }
