"""GET /corral/v1/docs: the OpenAPI document as a page that sends requests. Nothing of it is elsewhere.

Where a browser looks first, `/` and `/docs`, leads there, without a key.
"""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

__all__ = ["docs_routes"]

DOCS_PATH: Final = "/corral/v1/docs"


def docs_routes() -> APIRouter:
    router = APIRouter(tags=["corral"])

    @router.get(DOCS_PATH)
    async def show_docs() -> Response:
        page, policy = _page()
        headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return Response(page, headers=headers, media_type="text/html; charset=utf-8")

    @router.get("/", include_in_schema=False)
    @router.get("/docs", include_in_schema=False)
    async def lead_to_docs() -> Response:
        words = f"This is Corral. {DOCS_PATH} describes its API, and can be read without a key.\n"
        return Response(words, 307, headers={"location": DOCS_PATH}, media_type="text/plain; charset=utf-8")

    return router


@cache
def _page() -> tuple[bytes, str]:
    """The page, and what its browser may do: run what is in it, and ask this server."""
    page = files("corral.api").joinpath("docs.html").read_bytes()
    [script], [style] = (_hashes(page, tag) for tag in (b"script", b"style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _hashes(page: bytes, tag: bytes) -> list[str]:
    return [
        f"'sha256-{b64encode(sha256(text).digest()).decode()}'"
        for text in re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    ]
