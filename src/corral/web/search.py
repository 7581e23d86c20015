"""Searching the web: the port, and its adapter for SearXNG.

SearXNG asks other engines and keeps nothing about who asked. It must have `json` among its
`search.formats`; a fresh installation has not, and answers 403.
Source: SearXNG documentation, "Search API" (`/search?q=&format=json&language=`).
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx2

from corral.catalog.web.rules import WebRules
from corral.catalog.web.urls import BadUrl, web_url
from corral.kernel.limits import (
    WEB_CONNECT_SECONDS,
    WEB_SEARCH_BYTES_MAX,
    WEB_SEARCH_LOOKED_AT_MAX,
    WEB_SEARCH_RESULTS_MAX,
    WEB_SEARCH_SECONDS,
    WEB_SNIPPET_CHARS_MAX,
)
from corral.web.fetch import WebFailed
from corral.web.results import Found

__all__ = ["SearXNG", "SearchProvider"]

_TITLE_CHARS: Final = 300


class SearchProvider(Protocol):
    """Asks a search engine that the operator chose."""

    async def search(self, query: str, rules: WebRules) -> Sequence[Found]:
        """At most WEB_SEARCH_RESULTS_MAX results, best first, all of them allowed by the rules.

        Cancelling ends the request. Repeat: safe. Raises WebFailed.
        """

    async def aclose(self) -> None:
        """Repeat: safe."""


class SearXNG:
    """`SearchProvider` at a URL of the operator's, who may run it at a private address: nobody else chooses
    where this goes, so the address is not checked, and no redirect is followed."""

    def __init__(self, url: str, *, seconds: float = WEB_SEARCH_SECONDS) -> None:
        """url: of the instance, `/search` left out. Raises ValueError for what is none."""
        self._url = url.rstrip("/") + "/search"
        self._seconds = seconds
        self._client = httpx2.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=httpx2.Timeout(seconds, connect=min(seconds, WEB_CONNECT_SECONDS)),
        )

    async def search(self, query: str, rules: WebRules) -> Sequence[Found]:
        answer = await self._ask(_parameters(query, rules.user_location))
        results = answer.get("results")
        if not isinstance(results, list):
            raise WebFailed("unavailable", "the search engine's answer has no results")
        found: dict[str, Found] = {}
        for each in _found(results, rules):
            found.setdefault(each.url, each)
            if len(found) == WEB_SEARCH_RESULTS_MAX:
                break
        return list(found.values())

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _ask(self, parameters: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._client.stream("GET", self._url, params=parameters) as response,
            ):
                if response.status_code == 429:
                    raise WebFailed("too_many_requests", "the search engine is asked too often; wait")
                if response.status_code != 200:
                    raise WebFailed(
                        "unavailable", f"the search engine answered HTTP {response.status_code}"
                    )
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > WEB_SEARCH_BYTES_MAX:
                        raise WebFailed("unavailable", "the search engine's answer is too long")
        except (httpx2.HTTPError, TimeoutError):
            # Where it is, and what went wrong there, is for the operator alone.
            raise WebFailed("unavailable", "the search engine cannot be reached") from None
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise WebFailed("unavailable", "the search engine did not answer in JSON") from None
        return answer if isinstance(answer, dict) else {}


def _parameters(query: str, location: Mapping[str, Any]) -> dict[str, str]:
    """SearXNG knows languages, and no places: a place goes into the words of the query. A time zone says
    nothing more."""
    place = [str(location[name]) for name in ("city", "region", "country") if location.get(name)]
    words = f"{query} {', '.join(place)}" if place else query
    return {"q": words, "format": "json", "safesearch": "1"}


def _found(results: Sequence[Any], rules: WebRules) -> Iterator[Found]:
    """What may be shown of the first results; what the rules do not allow is dropped without a word."""
    for each in results[:WEB_SEARCH_LOOKED_AT_MAX]:
        if not isinstance(each, dict):
            continue
        try:
            url = web_url(_text(each.get("url")))
        except BadUrl:
            continue
        if rules.allows(url.host, urlsplit(url.text).path):
            yield Found(
                url=url.text,
                title=" ".join(_text(each.get("title")).split())[:_TITLE_CHARS],
                snippet=_text(each.get("content")).strip()[:WEB_SNIPPET_CHARS_MAX],
            )


def _text(value: object) -> str:
    return value.encode("utf-8", "replace").decode().replace("\0", "") if isinstance(value, str) else ""
