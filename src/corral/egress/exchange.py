"""One request to the token endpoint of a credential, and what it answers."""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from corral.catalog.audit import Ended
from corral.egress.book import Book
from corral.egress.credentials import Credential
from corral.egress.oauth import refresh_request
from corral.egress.outside import BrokenOff, Outside
from corral.egress.policy import Refused
from corral.egress.target import whole_url
from corral.kernel.ids import SessionId
from corral.kernel.limits import TOKEN_ANSWER_BYTES_MAX, TOKEN_EXCHANGE_SECONDS

__all__ = ["Exchange", "booked", "exchanged"]

_POST: Final = "POST"
_BAD_REQUEST: Final = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What a token endpoint said. body: may hold secrets; at most TOKEN_ANSWER_BYTES_MAX."""

    status: int
    content_type: str
    body: bytes = field(repr=False)


async def booked(outside: Outside, credential: Credential, session_id: SessionId, book: Book) -> Exchange:
    """`exchanged`, and written down, as everything is that is sent for a session. Raises BookFull, too."""
    loop = asyncio.get_running_loop()
    _, target, _ = whole_url(str(credential.auth["refresh"]["token_endpoint"]).encode())
    note = partial(book.begin, session_id, target, _POST)
    try:
        await outside.judge(target)
    except Refused as refused:
        note("denied", reason=refused.reason, detail=refused.detail)
        raise
    entry_id = note("allowed", credential_id=credential.credential_id)
    began_at, failed, received = loop.time(), "", 0
    try:
        exchange = await exchanged(outside, credential)
        received = len(exchange.body)
        failed = f"it answers {exchange.status}" if exchange.status >= _BAD_REQUEST else ""
        return exchange
    except Exception as error:
        failed = str(error)
        raise
    finally:
        seconds = loop.time() - began_at
        book.end(Ended(entry_id=entry_id, received_bytes=received, seconds=seconds, failed=failed))


async def exchanged(outside: Outside, credential: Credential) -> Exchange:
    """What the token endpoint of the credential answers to its refresh token.

    Raises CredentialUnusable, Refused, Unreachable, BrokenOff, BadTarget.
    """
    headers, body = refresh_request(credential)
    scheme, target, path = whole_url(str(credential.auth["refresh"]["token_endpoint"]).encode())
    await outside.judge(target)
    default_port = 443 if scheme == "https" else 80
    framing = [
        (b"Host", target.authority(default_port=default_port)),
        (b"Content-Length", str(len(body)).encode()),
    ]
    try:
        async with (
            asyncio.timeout(TOKEN_EXCHANGE_SECONDS),
            outside.answer(_POST, scheme, target, path, headers=[*framing, *headers], body=body) as answer,
        ):
            found = bytearray()
            async for chunk in answer.chunks:
                found += chunk
                if len(found) > TOKEN_ANSWER_BYTES_MAX:
                    raise BrokenOff("its answer is too long")
    except TimeoutError:
        raise BrokenOff("it did not answer in time") from None
    return Exchange(
        status=answer.status,
        content_type=answer.header(b"content-type").decode("latin-1"),
        body=bytes(found),
    )
