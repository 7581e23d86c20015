"""Cursors of every list: another list's, with another position, made up, damaged."""

import base64
import json
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sdk.conftest import Server
from tests.sdk.hostile.bodies import check


@pytest.fixture(scope="module")
def cursors(server: Server, bodies: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """By list: how to ask for a page, and a cursor of it."""
    found: dict[str, tuple[str, str]] = {}
    with server.http() as http:
        paths = list(bodies)
        for path, body in bodies.items():
            if path.endswith(("/memories", "/credentials")) or path.count("/") == 2:
                for number in range(3):  # names of their own, where a list has one of each only
                    changed = json.loads(
                        json.dumps(body).replace("TOKEN", f"T{number}").replace("/a.md", f"/{number}.md")
                    )
                    http.post(path, json=changed)
        for number in range(3):
            http.post("/v1/files", files={"file": (f"{number}.txt", b"x")})
        [session] = [
            path for path in paths if path.startswith("/v1/sessions/") and path.endswith("/events")
        ]
        [agent] = [path for path in paths if path.startswith("/v1/agents/")]
        [store] = [path for path in paths if path.endswith("/memories")]
        http.post(session, json=bodies[session])
        for number in range(3):
            http.post(agent, json={"name": f"{number}"})
        lists = [
            *(
                "/v1/agents",
                "/v1/environments",
                "/v1/sessions",
                "/v1/memory_stores",
                "/v1/vaults",
                "/v1/files",
            ),
            *(path for path in paths if path.endswith(("/memories", "/credentials"))),
            *(session, f"{agent}/versions", store.replace("memories", "memory_versions")),
        ]
        for path in lists:
            for query in ("limit=1", *(["limit=1&order=asc"] if path in ("/v1/sessions", session) else [])):
                answer = http.get(f"{path}?{query}")
                assert answer.status_code == 200, (path, answer.text)
                page = answer.json()["next_page"]
                assert page is not None, path
                found[f"{path}?{query}"] = (f"{path}?{query}&page=", page)
    assert len(found) >= 12
    return found


def unpacked(cursor: str) -> tuple[str, Any]:
    """The mark before it, if its list has one, and what is in it."""
    mark, begin, rest = cursor.partition("Wy")  # `["` in base64
    content = begin + rest
    return mark, json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


ODD: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        2**53,
        2**63,
        2**64,
        10**400,
        1.5,
        [],
        {},
        [[]] * 9,
        "",
        "\0",
        "\ud800",
        "x" * 9_000,
    ),
    *(
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59.999999-14:00",
        "2026-02-30T00:00:00Z",
        "asc",
        "before",
    ),
]


def test_cursors(http: httpx2.Client, cursors: dict[str, tuple[str, str]]) -> None:
    """None of another list, none with another position than a list may have, none that is made up."""
    for name, (asked, page) in cursors.items():
        check(http.get(asked + page), name, statuses={200})
        for other, (_, foreign) in cursors.items():
            is_alike = other.split("?")[0] == name.split("?")[0]
            check(http.get(asked + foreign), (name, other), statuses={200, 400} if is_alike else {400})
        mark, raw = unpacked(page)
        for number in range(len(raw)):
            for odd in ODD:
                changed = packed([*raw[:number], odd, *raw[number + 1 :]])
                check(http.get(asked + mark + changed), (name, number, odd), statuses={200, 400})
        for changed in (
            packed(raw[:-1]),
            packed([*raw, 1]),
            packed(raw * 99),
            packed({"a": raw}),
            "e" * 9_999,
        ):
            check(http.get(asked + mark + changed), name, statuses={400})
        deep = base64.urlsafe_b64encode(b"[" * 20_000).decode()
        check(http.get(asked + deep), name, statuses={400})


def test_damaged_cursors(http: httpx2.Client, cursors: dict[str, tuple[str, str]]) -> None:
    @given(st.sampled_from(sorted(cursors)), st.integers(0, 200), st.text(max_size=3), st.integers(0, 3))
    @settings(
        max_examples=100,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def damage(name: str, at: int, instead: str, size: int) -> None:
        asked, page = cursors[name]
        at %= len(page)
        changed = page[:at] + instead + page[at + size :]
        check(
            http.get(asked + quote(changed.encode("utf-8", "surrogatepass"), safe="")),
            (name, changed),
            statuses={200, 400},
        )

    damage()
