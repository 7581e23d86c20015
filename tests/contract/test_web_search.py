"""Searches at a server that answers as SearXNG does. Its answers were shaped after searxng/searxng,
`searx/webutils.py` get_json_response, and its documentation "Search API"."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from corral.catalog.web.rules import WebRules
from corral.cli.doctor_web import examine_search
from corral.config import Config
from corral.web.fetch import WebFailed
from corral.web.search import SearXNG
from tests.web_host import Answer, WebHost

JSON = {"Content-Type": "application/json"}
ANY = WebRules()


def result(url: str, *, title: str = "A title", content: str = "What it is about.") -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "url": url,
        "title": title,
        "content": content,
        "publishedDate": None,
        "thumbnail": None,
        "engine": "duckduckgo",
        "template": "default.html",
        "parsed_url": [parts.scheme, parts.netloc, parts.path, "", parts.query, ""],
        "img_src": "",
        "priority": "",
        "engines": ["duckduckgo", "brave"],
        "positions": [1, 3],
        "score": 2.6,
        "category": "general",
    }


def answer(*results: Any) -> Answer:
    body = {
        "query": "q",
        "number_of_results": 0,
        "results": list(results),
        "answers": [],
        "corrections": [],
        "infoboxes": [],
        "suggestions": ["something else"],
        "unresponsive_engines": [["google", "CAPTCHA"]],
    }
    return Answer(body=json.dumps(body).encode(), headers=JSON)


@pytest.fixture(scope="module")
def searxng() -> Iterator[WebHost]:
    with WebHost.start() as running:
        yield running


@pytest.fixture(autouse=True)
def untouched(searxng: WebHost) -> None:
    searxng.answers.clear()
    searxng.requests.clear()
    searxng.arrived.clear()


@pytest.fixture
async def opened(searxng: WebHost) -> AsyncIterator[Callable[..., SearXNG]]:
    made: list[SearXNG] = []

    def open_search(**options: float) -> SearXNG:
        made.append(SearXNG(searxng.url("/"), **options))
        return made[-1]

    yield open_search
    for search in made:
        await search.aclose()


def asked(searxng: WebHost) -> dict[str, list[str]]:
    ((path, _),) = searxng.requests
    assert urlsplit(path).path == "/search"
    return parse_qs(urlsplit(path).query)


async def test_results_come_with_url_title_and_description(searxng: WebHost, opened) -> None:
    searxng.answers["/search"] = answer(
        result("https://example.com/a?b=c", title=" A\n title ", content=" What "),
        result("https://example.com/a?b=c", title="again"),
        result("http://example.org/", title="", content=""),
    )
    found = await opened().search("ada & babbage", ANY)
    assert [(each.url, each.title, each.snippet) for each in found] == [
        ("https://example.com/a?b=c", "A title", "What"),
        ("http://example.org/", "", ""),
    ]
    assert asked(searxng) == {"q": ["ada & babbage"], "format": ["json"], "safesearch": ["1"]}


async def test_a_place_is_part_of_the_question(searxng: WebHost, opened) -> None:
    searxng.answers["/search"] = answer()
    place = {"type": "approximate", "city": "Berlin", "region": None, "country": "DE", "timezone": None}
    assert await opened().search("weather", WebRules(user_location=place)) == []
    assert asked(searxng)["q"] == ["weather Berlin, DE"]


async def test_what_the_rules_do_not_allow_is_dropped(searxng: WebHost, opened) -> None:
    searxng.answers["/search"] = answer(
        *(
            result(url)
            for url in (
                "https://docs.example.com/a",
                "https://example.com/docs/x",
                "https://example.com/blog",
                "https://example.org/",
                "https://other.net/",
            )
        )
    )

    async def urls(**rules: Any) -> list[str]:
        return [each.url for each in await opened().search("q", WebRules(**rules))]

    assert await urls(allowed_domains=("example.com/docs", "example.org")) == [
        "https://example.com/docs/x",
        "https://example.org/",
    ]
    assert await urls(blocked_domains=("example.com",)) == ["https://example.org/", "https://other.net/"]
    assert await urls(allowed_hosts=("*.example.com",)) == ["https://docs.example.com/a"]
    assert await urls(allowed_hosts=()) == []


async def test_strange_results_are_passed_over(searxng: WebHost, opened) -> None:
    strange: list[Any] = [
        None,
        "x",
        {},
        {"url": 7},
        {"url": "javascript:alert(1)"},
        {"url": "https://user:pw@example.com/"},
        {"url": "https://good.example/", "title": None, "content": ["x"]},
    ]
    searxng.answers["/search"] = answer(*strange)
    (found,) = await opened().search("q", ANY)
    assert (found.url, found.title, found.snippet) == ("https://good.example/", "", "")


async def test_no_more_than_ten_and_none_too_long(searxng: WebHost, opened) -> None:
    searxng.answers["/search"] = answer(
        *(result(f"https://example.com/{n}", content="x" * 9_000, title="y" * 900) for n in range(30))
    )
    found = await opened().search("q", ANY)
    assert len(found) == 10
    assert (len(found[0].snippet), len(found[0].title)) == (2_000, 300)


async def test_of_a_long_answer_the_first_results_are_looked_at(searxng: WebHost, opened) -> None:
    blocked = [result(f"https://blocked.example/{n}") for n in range(199)]
    allowed = [result(f"https://example.com/{n}") for n in range(5)]
    searxng.answers["/search"] = answer(*blocked, *allowed)
    found = await opened().search("q", WebRules(blocked_domains=("blocked.example",)))
    assert [each.url for each in found] == ["https://example.com/0"]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Answer(status=403, body=b"Forbidden"), "unavailable"),  # JSON is not among its formats
        (Answer(status=429), "too_many_requests"),
        (Answer(status=500), "unavailable"),
        (Answer(status=302, headers={"Location": "http://169.254.169.254/"}), "unavailable"),
        (Answer(body=b"<html>", headers=JSON), "unavailable"),
        (Answer(body=b"[]", headers=JSON), "unavailable"),
        (Answer(body=b'{"results": 1}', headers=JSON), "unavailable"),
        (Answer(body=b"[" * 200_000, headers=JSON), "unavailable"),
        (Answer(body=b" " * (5 * 1024**2), headers=JSON), "unavailable"),
    ],
)
async def test_an_engine_that_does_not_answer_as_it_should(
    searxng: WebHost, opened, said: Answer, code: str
) -> None:
    searxng.answers["/search"] = said
    with pytest.raises(WebFailed) as failed:
        await opened().search("q", ANY)
    assert failed.value.code == code
    assert str(searxng.port) not in failed.value.message, "where it is, is the operator's affair"


async def test_an_engine_that_drips_is_given_up(searxng: WebHost, opened) -> None:
    searxng.answers["/search"] = Answer(body=b" ", headers=JSON, drip=0.05)
    async with asyncio.timeout(60):
        with pytest.raises(WebFailed, match="cannot be reached"):
            await opened(seconds=0.5).search("q", ANY)


@pytest.mark.parametrize(
    ("said", "state", "named"),
    [
        (answer(result("https://example.com/")), "ok", "1 results"),
        (Answer(status=403), "failed", "JSON"),
        (Answer(body=b"<html>", headers={"Content-Type": "text/html"}), "failed", "as SearXNG does"),
    ],
)
def test_the_doctor_searches_once(
    searxng: WebHost, tmp_path: Path, said: Answer, state: str, named: str
) -> None:
    searxng.answers["/search"] = said
    finding = examine_search(Config(data_dir=tmp_path, search_url=searxng.url("/")))
    assert (finding.state, named in finding.detail) == (state, True)
    assert (finding.remedy == "") is (state == "ok")


def test_the_doctor_says_how_to_get_a_search_engine(tmp_path: Path) -> None:
    finding = examine_search(Config(data_dir=tmp_path))
    assert finding.state == "warning"
    assert "CORRAL_SEARCH_URL" in finding.remedy


async def test_an_engine_that_is_not_there() -> None:
    search = SearXNG("http://127.0.0.1:1")
    with pytest.raises(WebFailed) as failed:
        await search.search("q", ANY)
    assert failed.value.code == "unavailable"
    await search.aclose()
