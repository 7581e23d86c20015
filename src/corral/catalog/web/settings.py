"""The settings of `web_fetch` and `web_search` in an agent's toolset, from request to stored form.

The shapes were checked at the edge. Source: API docs, tools "Web tool restrictions".
"""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from corral.catalog.records import Wire
from corral.catalog.web.domains import resolve_domains
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import INTEGER_MAX, WEB_URL_SOURCE_TOOLS_MAX

__all__ = ["NO_SEARCH", "WEB_SETTINGS", "WEB_TOOLS", "resolve_web_tool"]

WEB_TOOLS: Final = ("web_fetch", "web_search")
WEB_SETTINGS: Final[Mapping[str, Collection[str]]] = {
    "web_fetch": ("allowed_domains", "blocked_domains", "max_content_tokens", "url_sources"),
    "web_search": ("allowed_domains", "blocked_domains", "user_location"),
}
NO_SEARCH: Final = (
    "web_search needs a search engine, and this server has none; leave it out, set enabled to false, or let"
    " the operator set CORRAL_SEARCH_URL to a SearXNG"
)
_TIMEZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
_LOCATION: Final = ("city", "region", "country", "timezone")


def resolve_web_tool(
    name: str, given: Mapping[str, Any], at: str, *, custom_tools: Collection[str]
) -> Wire:
    """The settings of one web tool, each of them named; None where nothing is set.

    at: where they stand, such as `tools.0.configs.1`. custom_tools: those of the same tools array.
    Raises InvalidRequest naming the field.
    """
    for setting in {name for names in WEB_SETTINGS.values() for name in names}:
        if given.get(setting) is not None and setting not in WEB_SETTINGS[name]:
            raise InvalidRequest(f"{at}.{setting}: Extra inputs are not permitted for {name!r}")
    settings: dict[str, Any] = resolve_domains(given, at, has_paths=name == "web_search")
    if name == "web_search":
        location = given.get("user_location")
        settings["user_location"] = location and _location(location, f"{at}.user_location")
        return settings
    tokens = given.get("max_content_tokens")
    if tokens is not None and not 1 <= tokens <= INTEGER_MAX:
        raise InvalidRequest(f"{at}.max_content_tokens: must be a positive number, not {tokens}")
    settings["max_content_tokens"] = tokens
    sources = given.get("url_sources")
    settings["url_sources"] = (
        None if sources is None else _sources(sources, f"{at}.url_sources", custom_tools=custom_tools)
    )
    return settings


def _location(given: Mapping[str, Any], at: str) -> Wire:
    country, timezone = given.get("country"), given.get("timezone")
    if country is not None and not (len(country) == 2 and country.isascii() and country.isupper()):
        raise InvalidRequest(f"{at}.country: {country!r} is not a two-letter ISO 3166-1 code in upper case")
    if timezone is not None and not _is_timezone(timezone):
        raise InvalidRequest(f"{at}.timezone: {timezone!r} is not an IANA time zone, as Europe/Berlin")
    return {"type": "approximate", **{name: given.get(name) for name in _LOCATION}}


def _is_timezone(name: str) -> bool:
    """On a machine without the time zone database, whether it looks like one."""
    return _TIMEZONE.fullmatch(name) is not None and (_exists(name) or not _exists("Europe/London"))


@lru_cache(maxsize=1024)
def _exists(timezone: str) -> bool:
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):  # OSError: a directory of zones
        return False
    return True


def _sources(given: Mapping[str, Any], at: str, *, custom_tools: Collection[str]) -> Wire:
    """Each source in the object form, None where it was not set."""
    known = {"user_input": (), "client_tool_results": custom_tools, "server_tool_results": WEB_TOOLS}
    resolved = {
        source: _source(given.get(source), f"{at}.{source}", known=names) for source, names in known.items()
    }
    if all(chosen is not None and chosen["type"] == "none" for chosen in resolved.values()):
        raise InvalidRequest(f"{at}: all three sources are 'none', so nothing could be fetched")
    return resolved


def _source(chosen: Any, at: str, *, known: Collection[str]) -> Wire | None:
    if chosen is None:
        return None
    if isinstance(chosen, str):
        return {"type": chosen}
    if chosen["type"] in ("all", "none"):
        return {"type": chosen["type"]}
    names = [tool["name"] for tool in chosen["tools"]]
    if not 1 <= len(names) <= WEB_URL_SOURCE_TOOLS_MAX:
        raise InvalidRequest(f"{at}.tools: must have 1 to {WEB_URL_SOURCE_TOOLS_MAX} entries")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InvalidRequest(f"{at}.tools.{number}.name: {name!r} is named twice")
        if name not in known:
            kind = (
                "web_search or web_fetch" if known is WEB_TOOLS else "a custom tool of the same tools array"
            )
            raise InvalidRequest(f"{at}.tools.{number}.name: {name!r} is not {kind}")
    return {"type": chosen["type"], "tools": [{"type": "tool_reference", "name": name} for name in names]}
