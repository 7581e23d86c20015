"""Whether the web tools have what they need: a search engine that answers in JSON."""

from corral.cli.finding import Finding
from corral.config import Config
from corral.kernel.limits import WEB_SEARCH_SECONDS

__all__ = ["examine_search"]


def examine_search(config: Config) -> Finding:
    """Searches once, as an agent would."""
    if config.search_url is None:
        detail = "no search engine, so agents cannot have web_search"
        remedy = "run a SearXNG and set CORRAL_SEARCH_URL, if they are to search"
        return Finding(name="web_search", state="warning", detail=detail, remedy=remedy)
    import httpx2

    url = config.search_url.rstrip("/") + "/search"
    try:
        answer = httpx2.get(
            url, params={"q": "corral", "format": "json"}, timeout=WEB_SEARCH_SECONDS, trust_env=False
        )
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return Finding(
            name="web_search",
            state="failed",
            detail=f"{url} cannot be reached ({type(error).__name__})",
            remedy="check CORRAL_SEARCH_URL, and that the SearXNG runs",
        )
    if answer.status_code == 403:
        return Finding(
            name="web_search",
            state="failed",
            detail=f"{url} refuses to answer in JSON (403)",
            remedy="add json to search.formats in the settings.yml of the SearXNG; check its limiter",
        )
    try:
        results = answer.json()["results"]
    except (ValueError, KeyError, TypeError):
        return Finding(
            name="web_search",
            state="failed",
            detail=f"{url} does not answer as SearXNG does ({answer.status_code})",
            remedy="check CORRAL_SEARCH_URL: the URL of the instance, without /search",
        )
    return Finding(name="web_search", state="ok", detail=f"{url} answers, {len(results)} results")
