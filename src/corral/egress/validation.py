"""Whether a credential is taken: its MCP server is asked with its access token, and if the server answers
401, once more with a new one.

    POST .../validation/validate    {"credential": as in `wishes`}
                                    {"status", "has_refresh_token", "mcp_probe", "refresh"}, as on the wire

What is asked changes nothing at the server: `initialize`, `tools/list`, and the end of the session. What it
answers is shown, cut and without any secret of the credential. Source: API docs, credential validation.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from corral import __version__
from corral.egress.credentials import Credential, CredentialUnusable
from corral.egress.dial import Unreachable
from corral.egress.headers import RawHeaders
from corral.egress.keeping import Seals
from corral.egress.outside import BrokenOff, Outside
from corral.egress.policy import Refused
from corral.egress.refresh import NotRefreshed, Refresher
from corral.egress.substitution import mask_of
from corral.egress.target import BadTarget, whole_url
from corral.egress.wishes import sealed_credential
from corral.kernel.errors import VaultUnavailable
from corral.kernel.limits import (
    VALIDATION_BODY_BYTES_MAX,
    VALIDATION_BODY_CHARS_MAX,
    VALIDATION_STEP_SECONDS,
)

__all__ = ["ValidationDesk"]

_PROTOCOL: Final = "2025-06-18"
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_HAS_OLD_TRANSPORT: Final = (400, 404, 405, 406, 415, 501)
_EITHER: Final = b"application/json, text/event-stream"
_REDACTED: Final = "[redacted]"
_TOKEN_MEMBERS: Final = re.compile(
    r'("(?:access_token|refresh_token|id_token|client_secret)"\s*:\s*")(?:[^"\\]|\\.)*'
)
_INITIALIZE: Final = {
    "protocolVersion": _PROTOCOL,
    "capabilities": {},
    "clientInfo": {"name": "corral", "version": __version__},
}

_Step = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """An answer of the server."""

    status: int
    content_type: str
    session: bytes
    body: bytes
    is_cut: bool

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300


class _Stuck(Exception):
    """The probe got no further. said: None if there was no answer."""

    def __init__(self, method: str, said: _Said | None) -> None:
        super().__init__(method)
        self.method = method
        self.said = said

    @property
    def status(self) -> int | None:
        return None if self.said is None else self.said.status


class ValidationDesk:
    def __init__(self, outside: Outside, refresher: Refresher, seals: Seals) -> None:
        self._outside = outside
        self._refresher = refresher
        self._seals = seals

    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """Status line and body of the answer."""
        if what != "validate":
            return "404 Not Found", {"error": "no such path"}
        try:
            credential = await self._seals.open(sealed_credential(json.loads(body)["credential"]))
            return "200 OK", await self.validate(credential)
        except (VaultUnavailable, CredentialUnusable) as error:
            return "409 Conflict", {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return "400 Bad Request", {"error": f"not a request of ours ({type(error).__name__})"}

    async def validate(self, credential: Credential) -> dict[str, object]:
        """Raises CredentialUnusable: it has no access token that opens here."""
        credential = self._refresher.newest(credential)
        secrets = set(credential.secrets.values())
        refresh: _Step | None = None
        status, stuck = "valid", await self._stuck(credential)
        if stuck is not None and stuck.status == _UNAUTHORIZED:
            status, refresh, newer = await self._refreshed(credential, secrets)
            if newer is not None:
                secrets |= set(newer.secrets.values())
                stuck = await self._stuck(newer)
                status = "valid" if stuck is None else _verdict(stuck)
        elif stuck is not None:
            status = _verdict(stuck)
        return {
            "status": status,
            "has_refresh_token": credential.auth["refresh"] is not None,
            "mcp_probe": None if stuck is None else _shown_probe(stuck, secrets),
            "refresh": refresh,
        }

    async def _refreshed(
        self, credential: Credential, secrets: Collection[str]
    ) -> tuple[str, _Step, Credential | None]:
        """Verdict, what is shown of it, and the credential with another token, if there is one."""
        if credential.auth["refresh"] is None:
            return "invalid", {"status": "no_refresh_token", "http_response": None}, None
        try:
            newer = await self._refresher.validated(credential)
        except NotRefreshed as failed:
            if failed.exchange is None:
                return "unknown", {"status": "connect_error", "http_response": None}, None
            shown = _shown(
                failed.exchange.status, failed.exchange.content_type, failed.exchange.body, secrets
            )
            verdict = "invalid" if failed.is_final else "unknown"
            return verdict, {"status": "failed", "http_response": shown}, None
        return "valid", {"status": "succeeded", "http_response": None}, newer

    # -- the probe ------------------------------------------------------------------------------------

    async def _stuck(self, credential: Credential) -> _Stuck | None:
        """Where it ends, None if it does not. Raises CredentialUnusable."""
        try:
            await self._probe(str(credential.auth["mcp_server_url"]), credential.secret("access_token"))
        except _Stuck as stuck:
            return stuck
        return None

    async def _probe(self, url: str, token: str) -> None:
        """Raises _Stuck."""
        said = await self._ask(url, token, "initialize", params=_INITIALIZE)
        if said.status in _HAS_OLD_TRANSPORT:
            older = await self._ask(url, token, "initialize", http_method="GET")
            if older.is_good and older.content_type.startswith("text/event-stream"):
                return
        if not said.is_good:
            raise _Stuck("initialize", said)
        more = [(b"Mcp-Session-Id", said.session)] if said.session else []
        try:
            await self._ask(url, token, "notifications/initialized", more=more)
            said = await self._ask(url, token, "tools/list", params={}, more=more)
            if not said.is_good:
                raise _Stuck("tools/list", said)
        finally:
            if more:
                await self._leave(url, token, more)

    async def _leave(self, url: str, token: str, more: RawHeaders) -> None:
        with contextlib.suppress(_Stuck):  # servers forget sessions by themselves
            await self._ask(url, token, "", http_method="DELETE", more=more)

    async def _ask(
        self,
        url: str,
        token: str,
        method: str,
        *,
        params: Mapping[str, Any] | None = None,
        http_method: str = "POST",
        more: RawHeaders | None = None,
    ) -> _Said:
        """params: None for a notification. Raises _Stuck: there is no answer."""
        message = {"jsonrpc": "2.0", "method": method}
        asked = message if params is None else {**message, "id": 1, "params": params}
        body = json.dumps(asked).encode() if http_method == "POST" else b""
        headers: RawHeaders = [
            (b"Accept", b"text/event-stream" if http_method == "GET" else _EITHER),
            (b"Authorization", b"Bearer " + token.encode()),
            (b"User-Agent", b"Corral"),
            (b"MCP-Protocol-Version", _PROTOCOL.encode()),
            *(more or []),
        ]
        if body:
            headers += [
                (b"Content-Type", b"application/json"),
                (b"Content-Length", str(len(body)).encode()),
            ]
        try:
            scheme, target, path = whole_url(url.encode())
            host = target.authority(default_port=443 if scheme == "https" else 80)
            async with asyncio.timeout(VALIDATION_STEP_SECONDS):
                await self._outside.judge(target)
                async with self._outside.answer(
                    http_method, scheme, target, path, headers=[(b"Host", host), *headers], body=body
                ) as answer:
                    # Of what succeeded one chunk is enough: a stream may never end.
                    is_good = 200 <= answer.status < 300
                    said, is_cut = bytearray(), False
                    async for chunk in answer.chunks:
                        said += chunk
                        if is_good or len(said) > VALIDATION_BODY_BYTES_MAX:
                            is_cut = True
                            break
        except (Refused, Unreachable, BrokenOff, BadTarget, TimeoutError):
            raise _Stuck(method, None) from None
        return _Said(
            status=answer.status,
            content_type=answer.header(b"content-type").decode("latin-1"),
            session=answer.header(b"mcp-session-id"),
            body=bytes(said),
            is_cut=is_cut,
        )


def _verdict(stuck: _Stuck) -> str:
    return "invalid" if stuck.status in (_UNAUTHORIZED, _FORBIDDEN) else "unknown"


def _shown_probe(stuck: _Stuck, secrets: Collection[str]) -> _Step:
    said = stuck.said
    shown = None
    if said is not None:
        shown = _shown(said.status, said.content_type, said.body, secrets, is_cut=said.is_cut)
    return {"method": stuck.method, "http_response": shown}


def _shown(
    status: int, content_type: str, body: bytes, secrets: Collection[str], *, is_cut: bool = False
) -> _Step:
    """Of an answer; what is secret goes before anything is cut, so that no part of it stays. is_cut: the
    body was, so the end of it may be a part of a secret."""
    text = _scrubbed(body, secrets, is_cut=is_cut)
    return {
        "status_code": status,
        "content_type": _scrubbed(content_type.encode(), secrets)[:VALIDATION_BODY_CHARS_MAX],
        "body": text[:VALIDATION_BODY_CHARS_MAX],
        "body_truncated": is_cut or len(text) > VALIDATION_BODY_CHARS_MAX,
    }


def _scrubbed(data: bytes, secrets: Collection[str], *, is_cut: bool = False) -> str:
    mask = mask_of(*secrets, instead=_REDACTED)
    text = (mask.feed(data) + (b"" if is_cut else mask.end())).decode(errors="replace")
    return _TOKEN_MEMBERS.sub(lambda found: found[1] + _REDACTED, text)
