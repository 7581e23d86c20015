"""`Idempotency-Key` on every POST and DELETE: a repeated request is answered, not repeated.

The key may come from any node, before or after any of them died: its record is where the effect is, in the
database. A body is compared by its bytes, and is known whole before its effect begins. What is recorded is
their SHA-256; of a body that holds secrets a digest with the caller's API key, which is stored nowhere, so
that whoever reads the database cannot try what the secret might be.
"""

import hmac
from collections.abc import Awaitable, Callable
from functools import wraps
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response

from corral.api.auth import presented
from corral.api.caller import caller
from corral.catalog.idempotency import Answer, IdempotencyStore, Idempotent, scope
from corral.kernel.errors import CallerError, InvalidRequest
from corral.kernel.ids import DEFAULT_WORKSPACE
from corral.kernel.limits import IDEMPOTENCY_KEY_CHARS_MAX

Result = TypeVar("Result")
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Response]])


class Digest(NamedTuple):
    """What a body is compared by, once the body itself is gone."""

    sha256: bytes


def secret_digest(request: Request, raw: bytes | bytearray) -> Digest:
    """Of a body that holds secrets."""
    headers = dict(request.scope["headers"])
    key = presented(headers.get(b"x-api-key"), headers.get(b"authorization"))
    assert key is not None, "the gate lets nobody in without"
    return Digest(hmac.digest(key, raw, "sha256"))


def digest_of(request: Request, raw: bytes | bytearray) -> Digest:
    """Of a body that may hold an `authorization_token`: JSON spells that name so, or with escapes."""
    if b"authorization_token" in raw or rb"\u" in raw:
        return secret_digest(request, raw)
    return Digest(sha256(raw).digest())


def render(answer: Answer) -> Response:
    return Response(answer.body, answer.status, media_type="application/json")


class OnceOnly:
    """Runs the effect of a request at most once per key."""

    def __init__(self, store: IdempotencyStore) -> None:
        self._store = store

    def per_key(self, handler: Handler) -> Handler:
        """A route whose repeats are answered before anything else is looked at; it ends in `perform`."""

        @wraps(handler)  # its path parameters are found by its signature
        async def answered(request: Request, **path: Any) -> Response:
            replayed = await self.replay(request, await request.body())
            return replayed if replayed is not None else await handler(request=request, **path)

        return cast(Handler, answered)

    def check_key(self, request: Request) -> None:
        """Before a body is read that takes a while. Raises InvalidRequest (malformed key)."""
        _key(request)

    async def replay(self, request: Request, raw: bytes | Digest) -> Response | None:
        """The earlier answer to this request, if there is one. Before anything else is looked at.

        Raises InvalidRequest (malformed key), Conflict (same key, another body).
        """
        key = _key(request)
        if key is None:
            return None
        answer = await self._store.find(
            api_key_id=caller(request).api_key_id,
            path=_path(request),
            key=key,
            request_sha256=_sha256(raw),
        )
        if answer is None:
            return None
        response = render(answer)
        response.headers["idempotent-replayed"] = "true"
        return response

    async def perform(
        self,
        request: Request,
        effect: Callable[[], Awaitable[Result]],
        answer: Callable[[Result], Answer],
        *,
        digest: Digest | None = None,
    ) -> Response:
        """Run `effect`, which is one store call, with its answer recorded in the same transaction.

        If a twin of the request was first, this one has no effect and gets the twin's answer. digest: of a
        body that was taken.
        """
        key = _key(request)
        if key is None:
            return render(answer(await effect()))
        raw = digest or await request.body()
        recorded: list[Answer] = []

        def record(result: Result) -> Answer:
            recorded.append(answer(result))  # a view has running times: this answer, not a later one
            return recorded[-1]

        keyed = Idempotent(
            api_key_id=caller(request).api_key_id,
            path=_path(request),
            key=key,
            request_sha256=_sha256(raw),
            render=record,
        )
        try:
            with scope(keyed):
                result = await effect()
        except CallerError:
            # A twin may have been first: what refuses this one (gone already, version 2) is its effect.
            if (replayed := await self.replay(request, raw)) is not None:
                return replayed
            raise
        return render(recorded[-1] if recorded else answer(result))


def _sha256(raw: bytes | Digest) -> bytes:
    return raw.sha256 if isinstance(raw, Digest) else sha256(raw).digest()


def _path(request: Request) -> str:
    """What the key is for; a POST and a DELETE of the same path are two things."""
    path: str = request.scope["path"]
    if (workspace_id := caller(request).workspace_id) != DEFAULT_WORKSPACE:
        path = f"{workspace_id} {path}"  # an operator's key acts in many
    return path if request.method == "POST" else f"{request.method} {path}"


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_CHARS_MAX or not all(" " <= char <= "~" for char in key):
        raise InvalidRequest(
            f"Idempotency-Key: must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters"
        )
    return key
