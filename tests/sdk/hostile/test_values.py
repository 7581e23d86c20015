"""Values made to break something, in every place that takes one: kept as they are or refused with a 400, in
the envelope. Places come from the OpenAPI document and from bodies that are taken."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.sdk.conftest import Server
from tests.sdk.hostile.bodies import SECONDS_MAX, check

DEEP = 100_000  # levels
PLACE = "place-of-the-value"
TEXTS = {
    "null": "a\0b",
    "other alphabets": "\u202egnp\u202c \u05e9\u05dc \U0001f9e0\U0010ffff \U0001f468\u200d\U0001f469",
    "controls": "\x01\x1b[31m\x7f\x85\r\n\t\u2028",
    "no character": "\ufffe\uffff\ufdd0",
    "a path": "../../etc/passwd",
    "empty": "",
    "blank": " \u00a0\u3000",
    "long": "\U0001f9e0" * 70_000,
}
RAW = {  # instead of what a JSON string has between its quotes
    "half of a pair": rb"\ud800",
    "the other half": rb"a\udfffb",
    "a pair the wrong way round": rb"\udc00\ud800",
    "overlong": b"\xc0\x80",
    "an overlong slash": b"\xe0\x80\xaf",
    "a surrogate in bytes": b"\xed\xa0\x80",
    "beyond the last character": b"\xf4\x90\x80\x80",
    "cut off": b"\xf0\x9f\xa7",
    "another coding": "ä".encode("latin-1"),
    "a bare control": b"a\x00b",
}


# -- bodies --------------------------------------------------------------------------------------------


def replaced(value: Any, make: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
    """The value once for each of its strings and keys, with that put through `make`: where, and what."""
    match value:
        case str():
            yield "", make(value)
        case list():
            for number, item in enumerate(value):
                for where, changed in replaced(item, make):
                    yield f"[{number}]{where}", [*value[:number], changed, *value[number + 1 :]]
        case dict():
            for key, item in value.items():
                for where, changed in replaced(item, make):
                    yield f".{key}{where}", {**value, key: changed}
                changed = {make(name) if name == key else name: each for name, each in value.items()}
                yield f".{key} (the key)", changed


def contains(value: Any, text: str) -> bool:
    match value:
        case str():
            return value == text
        case list():
            return any(contains(item, text) for item in value)
        case dict():
            return any(key == text or contains(item, text) for key, item in value.items())
    return False


SECRETS = "secret_value"


def test_texts_are_kept_as_they_are_or_refused(http: httpx2.Client, bodies: dict[str, Any]) -> None:
    kept = refused = 0
    for path, body in bodies.items():
        for name, text in TEXTS.items():
            for where, changed in replaced(body, lambda _, text=text: text):
                answer = http.post(path, json=changed)
                check(answer, (path, where, name), statuses={200, 400, 404, 409, 413, 429, 529})
                refused += answer.status_code != 200
                if (
                    answer.status_code == 200
                    and SECRETS not in where
                    and path != "/v1/messages/count_tokens"
                ):
                    kept += 1
                    shown = answer.json()
                    if path.endswith("/memories"):  # the answer leaves contents out
                        shown = http.get(f"{path}/{shown['id']}").json()
                    is_first = "initial_events" in where
                    assert is_first or contains(shown, text) or not text.strip(), (path, where, name)
    print(f"texts: {kept} kept, {refused} refused")
    assert kept > 100 and refused > 100


def test_what_is_no_text_is_refused(http: httpx2.Client, bodies: dict[str, Any]) -> None:
    kinds = cycle(RAW.items())
    for path, body in bodies.items():
        for where, changed in replaced(body, lambda _: PLACE):
            raw = json.dumps(changed).encode()
            for name, piece in islice(kinds, 4):  # each kind in many places, four in each
                answer = http.post(path, content=raw.replace(PLACE.encode(), piece))
                check(answer, (path, where, name), statuses={400})


def test_deep_bodies(http: httpx2.Client, bodies: dict[str, Any]) -> None:
    for path, body in bodies.items():
        whole = json.dumps(body).encode()
        name = next(iter(body))
        for left, right in ((b"[", b"]"), (b'{"a":', b"}")):
            deep = left * DEEP + b"1" + right * DEEP
            inside = whole.replace(json.dumps(body[name]).encode(), deep, 1)
            for raw in (deep, inside, left * DEEP):
                began = time.process_time()
                check(http.post(path, content=raw), (path, name), statuses={400})
                assert time.process_time() - began < SECONDS_MAX


def test_numbers_that_no_integer_holds(http: httpx2.Client, bodies: dict[str, Any]) -> None:
    for path, body in bodies.items():
        for where, changed in replaced(body, lambda _: PLACE):
            if where.endswith("(the key)"):
                continue
            raw = json.dumps(changed).encode()
            for piece in (b"9" * 5_000, b"-1e99999", b"NaN", b"0x1", b"1" + b"0" * 400 + b".5"):
                answer = http.post(path, content=raw.replace(f'"{PLACE}"'.encode(), piece))
                is_free = "input_schema" in where  # may hold anything that JSON has
                check(answer, (path, where, piece[:9]), statuses={200, 400} if is_free else {400})


# -- forms ---------------------------------------------------------------------------------------------


def test_names_of_files(http: httpx2.Client) -> None:
    def form(name: bytes, *, field: bytes) -> tuple[bytes, dict[str, str]]:
        part = b'--b\r\ncontent-disposition: form-data; name="%b"; filename="%b"\r\n\r\n---\nname: a\n---\n'
        return part % (field, name) + b"\r\n--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}

    names = {name: text.encode()[:1000] for name, text in TEXTS.items()} | RAW
    for name, raw in names.items():
        for path, field in (("/v1/files", b"file"), ("/v1/skills", b"files")):
            body, kind = form(raw, field=field)
            answer = http.post(path, content=body, headers=kind)
            check(answer, (path, name), statuses={200, 400})
            if answer.status_code == 200:
                shown = http.get(f"{path}/{answer.json()['id']}")
                check(shown, (path, name), statuses={200})
                content = http.get(f"{path}/{answer.json()['id']}/content")
                check(content, (path, name), statuses={200, 400})  # its name is in a header


# -- paths and queries ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    with server.http() as http:
        return dict(http.get("/corral/v1/openapi.json").json())


IDS = [quote(TEXTS[name], safe="") for name in ("null", "other alphabets", "no character")] + [
    "%c0%80",
    "%ed%a0%80",
    "%zz",
    "%2e%2e%2f%2e%2e",
    "%252e",
    "sesn_" + "x" * 5_000,
    "sesn_%0d%0aset-cookie:%20a",
    "-1",
]


def test_ids_in_paths(http: httpx2.Client, document: dict[str, Any]) -> None:
    count, ids = 0, cycle(IDS)
    for template, operations in document["paths"].items():
        names = [part for part in template.split("/") if part.startswith("{")]
        for method in operations:
            if not names or method not in ("get", "post", "put", "delete", "patch"):
                continue
            for hostile in islice(ids, 5):
                path = template
                for name in names:
                    path = path.replace(name, hostile)
                body = {} if method in ("get", "delete") else {"json": {}}
                answer = http.request(method, path, **body)
                check(answer, (method, path[:200]), statuses={400, 401, 404, 405, 413})
                assert "set-cookie" not in answer.headers
                count += 1
    assert count > 300


def test_every_query(http: httpx2.Client, document: dict[str, Any]) -> None:
    values = [quote(TEXTS[name], safe="") for name in ("null", "other alphabets")] + [
        "%ff",
        "-1",
        "9" * 400,
        "0",
        "true",
        "%00",
    ]
    count = 0
    for template, operations in document["paths"].items():
        if "{" in template or "get" not in operations:
            continue
        named = [
            each["name"] for each in operations["get"].get("parameters", ()) if each.get("in") == "query"
        ]
        for name in named:
            for value in values:
                asked = quote(name, safe="")
                answer = http.get(f"{template}?{asked}={value}")
                check(answer, (template, name, value[:99]), statuses={200, 400, 404})
                check(
                    http.get(f"{template}?{asked}={value}&{asked}={value}"),
                    template,
                    statuses={200, 400, 404},
                )
                count += 2
    assert count > 300
