"""Claude models, and whatever else speaks the Messages API behind a base URL.

Over plain HTTP and not by the official SDK, which takes 1.1 s of CPU and 42 MB in every brain (ADR 19). The
stream's events keep the JSON they came with, because typed ones would lose what a library does not know.

Failures become `ModelFailed` with a message for the session's user: what the provider said, its request id,
and what to do when it is ours to mend. A key never appears in one.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx2
import orjson

from corral import __version__
from corral.brain.models.messages_stream import BrokenStream, MessageStream
from corral.brain.ports import ModelEvent, ModelFailed, ModelFailure, ModelRequest
from corral.catalog.models import ModelInfo, ModelTable
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import CORRAL_KEY_PREFIX
from corral.kernel.limits import (
    MODEL_CONNECT_SECONDS,
    MODEL_COUNT_SECONDS_MAX,
    MODEL_DRAIN_SECONDS,
    MODEL_ERROR_BYTES_MAX,
    MODEL_EVENT_BYTES_MAX,
    MODEL_KEEPALIVE_SECONDS,
    MODEL_MESSAGE_CHARS_MAX,
    MODEL_POOL_REQUESTS,
    MODEL_SILENCE_SECONDS_MAX,
    MODEL_THINKING_TOKENS,
)
from corral.session.content import Json

BASE_URL = "https://api.anthropic.com"
_VERSION: Final = {"anthropic-version": "2023-06-01", "user-agent": f"corral/{__version__}"}
_COUNTING_BETA = "token-counting-2024-11-01"
_THINKING_TOKENS_MIN = 1024  # the API's lower bound of a thinking budget


class AnthropicModel:
    """`Model` for `claude-*`. One per process; it holds a connection pool.

    api_key:         None: every request fails with advice, nothing is sent.
    silence_seconds: no byte for this long is a broken stream.
    """

    def __init__(
        self,
        *,
        api_key: str | None,
        models: ModelTable,
        base_url: str = BASE_URL,
        silence_seconds: float = MODEL_SILENCE_SECONDS_MAX,
    ) -> None:
        self._api_key = api_key
        self._models = models
        self._base_url = base_url
        self._silence_seconds = silence_seconds
        self._pools: list[_Pool] = []
        self._tls: ssl.SSLContext | None = None

    @property
    def problem(self) -> str | None:
        """Why no request can be made, for `corral doctor` and readiness; None if one can."""
        if not self._api_key:
            return "no key for Claude models: set CORRAL_ANTHROPIC_API_KEY (or ANTHROPIC_API_KEY)"
        if self._api_key.startswith(CORRAL_KEY_PREFIX):  # sent upstream, it would be leaked
            return (
                "the key for Claude models is a key of Corral itself, which is never sent anywhere: "
                "set CORRAL_ANTHROPIC_API_KEY to a key of the model provider"
            )
        return None

    async def aclose(self) -> None:
        while self._pools:
            await self._pools.pop().client.aclose()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Ask once; see `Model.stream`."""
        if self.problem is not None:
            raise ModelFailed(self.problem, failure="request_failed", retryable=False)
        body, headers = _encoded(request, self._models.resolve(request.model))
        message = MessageStream()
        try:
            async with (
                self._client() as client,
                client.sse(
                    "/v1/messages",
                    method="POST",
                    content=body,
                    headers=headers,
                    max_event_size=MODEL_EVENT_BYTES_MAX,
                ) as stream,
            ):
                if stream.response.status_code != 200:
                    raise await self._status_failure(stream.response)
                events = aiter(stream)
                async for event in events:
                    if event.event == "error":
                        raise _stream_failure(event.data, stream.response.headers.get("request-id"))
                    if not event.data:
                        continue
                    seen = message.feed(orjson.loads(event.data))
                    if seen is not None:
                        yield seen
                    if message.is_finished:
                        # Before the reply, because whoever asked stops listening after it, and a
                        # connection that is not read to its end cannot be used again.
                        await _drain(events)
                        yield message.reply()
                        return
        except httpx2.TimeoutException as error:
            raise _broken("sent nothing for too long") from error
        except (BrokenStream, httpx2.SSEError, httpx2.DecodingError, ValueError) as error:
            raise _broken("sent a malformed stream") from error
        except httpx2.TransportError as error:
            raise _broken("broke the connection, or could not be reached") from error
        raise _broken("ended its stream before the message was complete")

    async def count_tokens(self, request: Mapping[str, Json]) -> int:
        """`catalog.models.TokenCounter`, of this provider's models: the provider counts."""
        if self.problem is not None:
            raise InvalidRequest(self.problem)
        headers = {"content-type": "application/json", "anthropic-beta": _COUNTING_BETA}
        try:
            async with (
                asyncio.timeout(MODEL_COUNT_SECONDS_MAX),
                self._client() as client,
                client.stream(
                    "POST",
                    "/v1/messages/count_tokens?beta=true",
                    content=orjson.dumps(request),
                    headers=headers,
                ) as response,
            ):
                if response.status_code != 200:
                    failure = await self._status_failure(response)
                    raise failure if failure.retryable else InvalidRequest(failure.message)
                counted: int = orjson.loads(await _read(response))["input_tokens"]
        except (TimeoutError, httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            raise _broken("did not count the tokens") from error
        return counted

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client with room for one more request.

        An HTTP pool looks at each of its connections for every request: with 100 in flight that is more
        work than the request itself. So there are many small pools, filled in order.
        """
        pool = next((pool for pool in self._pools if pool.in_flight < MODEL_POOL_REQUESTS), None)
        if pool is None:
            pool = self._new_pool()
            self._pools.append(pool)
        pool.in_flight += 1
        try:
            yield pool.client
        finally:
            pool.in_flight -= 1

    def _new_pool(self) -> "_Pool":
        if self._tls is None:
            self._tls = httpx2.create_ssl_context()  # 20 ms and 1 MB: made once, shared by the pools
        return _Pool(
            httpx2.AsyncClient(
                base_url=self._base_url,
                headers={**_VERSION, "x-api-key": self._api_key or ""},
                timeout=httpx2.Timeout(self._silence_seconds, connect=MODEL_CONNECT_SECONDS),
                verify=self._tls,
                limits=httpx2.Limits(
                    max_connections=MODEL_POOL_REQUESTS, keepalive_expiry=MODEL_KEEPALIVE_SECONDS
                ),
            )
        )

    async def _status_failure(self, response: httpx2.Response) -> ModelFailed:
        status, headers = response.status_code, response.headers
        kind, text = _details(await _read(response))
        failure, retryable = classify(status, kind, text)
        if headers.get("x-should-retry") == "false":
            retryable = False
        said = f"{status} {kind}".strip() + (f": {text}" if text else "")
        if self._api_key:
            said = said.replace(self._api_key, "[key]")
        return ModelFailed(
            _sentence(said, headers.get("request-id")),
            failure=failure,
            retryable=retryable,
            retry_after_seconds=retry_after(headers),
            is_refused=failure == "request_failed" and status in (400, 413),
        )


@dataclass(slots=True)
class _Pool:
    client: httpx2.AsyncClient
    in_flight: int = 0


def _encoded(request: ModelRequest, model: ModelInfo) -> tuple[bytes, dict[str, str]]:
    """Body and headers of `POST /v1/messages`.

    Of `metadata` only `user_id` is sent: the API knows nothing else. Raises ModelFailed when the model
    cannot do what is asked; the table said otherwise when the agent was saved.
    """
    try:
        model.check(effort=request.effort, speed=request.speed, inference_geo=request.inference_geo)
    except InvalidRequest as error:
        raise ModelFailed(error.message, failure="request_failed", retryable=False) from error
    headers = {"content-type": "application/json"}
    max_tokens = min(request.max_tokens, model.max_output_tokens)
    body: dict[str, Json] = {
        "model": request.model,
        "max_tokens": max_tokens,
        "messages": request.messages,
        "stream": True,
    }
    if request.system:
        body["system"] = request.system
    if request.tools:
        body["tools"] = request.tools
    if model.thinking == "adaptive":
        body["thinking"] = {"type": "adaptive"}
    elif model.thinking == "budget" and max_tokens > _THINKING_TOKENS_MIN:
        budget = max(_THINKING_TOKENS_MIN, min(MODEL_THINKING_TOKENS, max_tokens // 2))
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if request.effort is not None:
        body["output_config"] = {"effort": request.effort}
    if request.speed == "fast":
        body["speed"] = "fast"
        if model.fast_beta is not None:
            headers["anthropic-beta"] = model.fast_beta
    if request.inference_geo is not None:
        body["inference_geo"] = request.inference_geo
    if "user_id" in request.metadata:
        body["metadata"] = {"user_id": request.metadata["user_id"]}
    return orjson.dumps(body), headers


# -- failures --------------------------------------------------------------------------------------
_BY_STATUS: Mapping[int, tuple[ModelFailure, bool]] = {
    402: ("billing", False),
    408: ("request_failed", True),
    409: ("request_failed", True),
    413: ("context_overflow", False),
    429: ("rate_limited", True),
    529: ("overloaded", True),
}
_BY_TYPE: Mapping[str, tuple[ModelFailure, bool]] = {  # also what a mid-stream error is known by
    "overloaded_error": ("overloaded", True),
    "rate_limit_error": ("rate_limited", True),
    "api_error": ("request_failed", True),
    "timeout_error": ("request_failed", True),
    "billing_error": ("billing", False),
    "authentication_error": ("request_failed", False),
    "permission_error": ("request_failed", False),
    "not_found_error": ("request_failed", False),
    "request_too_large": ("context_overflow", False),
}
_OVERFLOW_WORDS = (
    *("prompt is too long", "exceed context limit", "context window"),
    # what others say behind a compatible base URL: gateways, vLLM, llama.cpp
    *("input is too long", "maximum context length", "context length exceeded", "context size"),
)
_BILLING_WORDS = ("credit balance is too low",)


def classify(status: int | None, error_type: str, message: str) -> tuple[ModelFailure, bool]:
    """What an error means to the loop, and whether asking again may help.

    status: of the response; None for an `error` event in mid-stream.
    Source: API docs, errors-limits; the documented errors of the Messages API.
    """
    words = message.lower()
    if error_type == "invalid_request_error" or status == 400:
        if any(phrase in words for phrase in _OVERFLOW_WORDS):
            return "context_overflow", False
        if any(phrase in words for phrase in _BILLING_WORDS):
            return "billing", False
        return "request_failed", False
    if status is not None and status in _BY_STATUS:
        return _BY_STATUS[status]
    if error_type in _BY_TYPE:
        return _BY_TYPE[error_type]
    return "request_failed", status is None or status >= 500


def retry_after(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds a response asks us to wait: `retry-after-ms`, or `retry-after` as seconds or a date."""
    with suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    text = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):  # TypeError: a date without a zone
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
    return None


def _stream_failure(data: str, request_id: str | None) -> ModelFailed:
    kind, text = _details(data)
    failure, retryable = classify(None, kind, text)
    return ModelFailed(
        _sentence(f"{kind or 'error'}: {text}", request_id), failure=failure, retryable=retryable
    )


def _details(body: bytes | str) -> tuple[str, str]:
    """Type and message of an error envelope; empty for anything else, such as a proxy's page."""
    try:
        error = orjson.loads(body)["error"]
        return str(error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "", ""


def _broken(what: str) -> ModelFailed:
    return ModelFailed(f"The model provider {what}.", failure="request_failed", retryable=True)


def _sentence(said: str, request_id: str | None) -> str:
    said = said[:MODEL_MESSAGE_CHARS_MAX]
    return f"The model provider answered {said}" + (f" (request {request_id[:64]})" if request_id else "")


async def _drain(events: AsyncIterator[object]) -> None:
    """Read to the end of a finished response, so that its connection can be used again."""
    with suppress(TimeoutError, httpx2.TransportError):
        async with asyncio.timeout(MODEL_DRAIN_SECONDS):
            async for _ in events:
                pass


async def _read(response: httpx2.Response) -> bytes:
    """The beginning of a body that is small unless something is wrong."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) >= MODEL_ERROR_BYTES_MAX:
            break
    return body
