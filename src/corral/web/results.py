"""From pages and search results to what the model gets.

A page is a `document` block: its text is data of somebody else, and a block of its own says so better than
a quotation would. Search results are `search_result` blocks. Errors are text that begins with the
documented code. Source: API docs, tools; `anthropic` 2.10.0, BetaWebFetchToolResultErrorCode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from corral.kernel.clock import rfc3339
from corral.session.content import ToolResult
from corral.web.fetch import Page, WebFailed

__all__ = ["Found", "failure", "page_result", "search_results"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One result of a search. snippet: what the engine says of the page."""

    url: str
    title: str
    snippet: str


def page_result(page: Page, *, now: datetime) -> ToolResult:
    """retrieved at `now`, UTC."""
    cut = "; only its beginning, the page is longer" if page.is_cut else ""
    document = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": page.text or "(no text)"},
        "title": page.title or page.url,
        "context": f"Fetched from {page.url} at {rfc3339(now)}{cut}.",
    }
    return ToolResult(content=(document,), is_error=False)


def search_results(found: Sequence[Found]) -> ToolResult:
    if not found:
        return ToolResult.text("No results.")
    return ToolResult(
        content=tuple(
            {
                "type": "search_result",
                "source": each.url,
                "title": each.title or each.url,
                "content": [{"type": "text", "text": each.snippet or "(no description)"}],
                "citations": {"enabled": False},
            }
            for each in found
        ),
        is_error=False,
    )


def failure(error: WebFailed) -> ToolResult:
    return ToolResult.text(f"{error.code}: {error.message}", is_error=True)
