"""`web_fetch` and `web_search` as a hands host calls them."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from corral.catalog.web.rules import WebRules
from corral.catalog.web.settings import NO_SEARCH
from corral.hands.running import RunningCalls
from corral.kernel.clock import Clock
from corral.kernel.ids import SessionId
from corral.kernel.limits import WEB_CALLS_AT_ONCE, WEB_QUERY_CHARS_MAX
from corral.kernel.shares import Shares
from corral.session.call import ToolCall
from corral.session.content import Json, ToolResult
from corral.web.fetch import Fetcher, WebFailed
from corral.web.results import failure, page_result, search_results
from corral.web.search import SearchProvider

__all__ = ["WebTools"]


class WebTools:
    """`corral.hands.ports.Web`. search: None where the operator has set none."""

    def __init__(self, fetcher: Fetcher, search: SearchProvider | None, *, clock: Clock) -> None:
        self._fetcher = fetcher
        self._search = search
        self._clock = clock
        self._running = RunningCalls()
        self._places = Shares(WEB_CALLS_AT_ONCE)

    def place(self, session_id: SessionId) -> AbstractAsyncContextManager[None]:
        """As `corral.hands.ports.Web.place`: a session that asks for many takes not all."""
        return self._places.one(session_id)

    async def run(self, call: ToolCall) -> ToolResult:
        """Never raises for what the web does: that is an error result. Raises SandboxUnavailable where no
        sandbox can be made."""
        assert call.web is not None, "whoever calls a web tool says what it may reach"
        return await self._running.run(call.call_id, self._act(call, call.web))

    async def cancel(self, call_id: str) -> None:
        """`run` then returns a result that says so. Repeat: safe."""
        self._running.cancel(call_id)

    async def aclose(self) -> None:
        """Repeat: safe."""
        await self._running.aclose()
        await self._fetcher.aclose()
        if self._search is not None:
            await self._search.aclose()

    async def _act(self, call: ToolCall, rules: WebRules) -> ToolResult:
        given = call.input
        try:
            if call.name == "web_fetch":
                url = _string(given, "url")
                page = await self._fetcher.fetch(url, rules, session_id=call.session_id)
                return page_result(page, now=self._clock.now())
            query = _string(given, "query").strip()
            if len(query) > WEB_QUERY_CHARS_MAX:
                raise WebFailed("query_too_long", f"at most {WEB_QUERY_CHARS_MAX} characters")
            if self._search is None:
                raise WebFailed("unavailable", NO_SEARCH)
            return search_results(await self._search.search(query, rules))
        except WebFailed as error:
            return failure(error)


def _string(given: Mapping[str, Json], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value.strip():
        raise WebFailed("invalid_tool_input", f"{name} must be a string that is not empty")
    return value
