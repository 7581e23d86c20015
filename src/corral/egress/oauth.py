"""What is said to a token endpoint to refresh a credential, and what it answers. No input or output here.

Source: RFC 6749, 2.3.1, 5 and 6; RFC 8707 (`resource`). ADR 20 says why no library says it.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

from corral.egress.credentials import Credential
from corral.egress.headers import RawHeaders
from corral.kernel.limits import SECRET_CHARS_MAX

__all__ = ["Granted", "NotGranted", "granted", "refresh_request"]

_SENDABLE: Final = re.compile(r"[\x21-\x7e]+")  # in a header, and not as two words
_TEXT: Final = re.compile(r"[\x20-\x7e]+")
_CODE: Final = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]{1,100}")  # RFC 6749, 5.2


class NotGranted(Exception):
    """The endpoint gave no token. The message names no secret; status: of its answer.

    is_final: asking again with the same refresh token will not help.
    """

    def __init__(self, reason: str, *, status: int, is_final: bool) -> None:
        super().__init__(reason)
        self.status = status
        self.is_final = is_final


@dataclass(frozen=True, kw_only=True, slots=True)
class Granted:
    """lifetime_seconds: None if it is not said. refresh_token: None if the old one stays."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime_seconds: float | None


def refresh_request(credential: Credential) -> tuple[RawHeaders, bytes]:
    """Headers (without Host and framing) and body of the POST. Raises CredentialUnusable."""
    refresh: Mapping[str, Any] = credential.auth["refresh"]
    form = {"grant_type": "refresh_token", "refresh_token": credential.secret("refresh_token")}
    form |= {name: refresh[name] for name in ("scope", "resource") if refresh.get(name)}
    headers: RawHeaders = [
        (b"Accept", b"application/json"),
        (b"Content-Type", b"application/x-www-form-urlencoded"),
        (b"User-Agent", b"Corral"),
    ]
    client_id, kind = refresh["client_id"], refresh["token_endpoint_auth"]["type"]
    if kind == "client_secret_basic":
        # Both are form-encoded first (2.3.1), which many leave out and every server has to expect.
        pair = f"{quote_plus(client_id)}:{quote_plus(credential.secret('client_secret'))}"
        headers.append((b"Authorization", b"Basic " + b64encode(pair.encode())))
    else:
        form["client_id"] = client_id
    if kind == "client_secret_post":
        form["client_secret"] = credential.secret("client_secret")
    return headers, urlencode(form).encode()


def granted(status: int, body: bytes) -> Granted:
    """Raises NotGranted."""
    answer = _object(body)
    if status != 200:
        code = answer.get("error")
        said = f" ({code})" if isinstance(code, str) and _CODE.fullmatch(code) else ""
        is_final = 400 <= status < 500 and status not in (408, 425, 429)
        raise NotGranted(f"answered with HTTP {status}{said}", status=status, is_final=is_final)
    token, kind = answer.get("access_token"), answer.get("token_type", "bearer")
    if not _is_token(token, _SENDABLE):
        raise NotGranted("gave no access token that can be sent", status=status, is_final=True)
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise NotGranted("gave a token that is no bearer token", status=status, is_final=True)
    seconds = answer.get("expires_in")
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
        seconds = int(seconds)  # a spelling that some have
    is_lifetime = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e9
    refresh_token = answer.get("refresh_token")
    return Granted(
        access_token=str(token),
        refresh_token=refresh_token if _is_token(refresh_token, _TEXT) else None,
        lifetime_seconds=float(seconds) if is_lifetime and seconds is not None else None,
    )


def _is_token(token: object, letters: re.Pattern[str]) -> bool:
    return isinstance(token, str) and len(token) <= SECRET_CHARS_MAX and bool(letters.fullmatch(token))


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
