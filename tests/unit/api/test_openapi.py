"""The document describes every operation, and its page is whole."""

import dataclasses
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from starlette.routing import Route

from corral.api.application import create_api
from corral.api.dependencies import Dependencies
from corral.api.edge import Edge
from corral.api.gate import PUBLIC_PATHS
from corral.api.routes.docs import _page


@pytest.fixture(scope="module")
def api() -> Any:
    """Nothing behind it is called."""
    missing = {field.name: None for field in dataclasses.fields(Dependencies)}
    return create_api(Dependencies(**{**missing, "allowed_hosts": frozenset(), "edge": Edge()}))  # type: ignore[arg-type]


def operations(spec: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_every_route_is_in_it_and_every_reference_leads_somewhere(api: Any) -> None:
    spec = api.openapi()
    routed = {
        (method, route.path)
        for route in api.routes
        if isinstance(route, Route) and getattr(route, "include_in_schema", True)
        for method in (route.methods or ())
    }
    assert routed - {("HEAD", "/corral/v1/openapi.json"), ("GET", "/corral/v1/openapi.json")} == {
        (method, path) for method, path, _ in operations(spec)
    }
    found = set(references(spec))
    assert len(found) > 50
    for reference in found:
        node = spec
        for name in reference.removeprefix("#/").split("/"):
            node = node[name]


def test_every_operation_says_who_may_and_what_comes_back(api: Any) -> None:
    spec = api.openapi()
    names = Counter(operation["operationId"] for _, _, operation in operations(spec))
    assert [name for name, count in names.items() if count > 1] == []
    for method, path, operation in operations(spec):
        where = f"{method} {path}"
        assert operation["responses"]["200"]["content"], where
        assert "422" not in operation["responses"], where
        declared = {parameter.get("name") for parameter in operation.get("parameters", ())}
        assert set(re.findall(r"\{(\w+)\}", path)) <= declared, where
        if path in PUBLIC_PATHS:
            assert "security" not in operation, where
            continue
        assert operation["security"] == [{"ApiKey": []}, {"Bearer": []}], where
        assert {"400", "401", "403", "404", "413", "429", "500", "529"} <= set(operation["responses"]), (
            where
        )
        keyed = {"$ref": "#/components/parameters/IdempotencyKey"} in operation["parameters"]
        assert keyed == (path.startswith("/v1/") and method in ("POST", "DELETE")), where


def test_the_page_runs_what_is_in_it_and_nothing_else() -> None:
    page, policy = _page()
    text = page.decode()
    assert not re.search(r"(src|href)=\"(https?:)?//", text) and "http" not in text.replace("HTTP", "")
    for tag in ("script", "style"):
        [inner] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = b64encode(sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert " on" not in "".join(re.findall(r"<[a-z][^>]*>", text.partition("<script>")[0]))
