"""Claude models through the official SDK.

The SDK is imported on first use (1.1 s), never retries (the loop does, visibly) and is told everything it
would otherwise read from the environment: key and base URL come from Corral's configuration, because
ANTHROPIC_BASE_URL is what *clients* set to reach Corral, and a request must not come back to us.

Requests go through the client's `post` with a body we encoded, the stream through the SDK's own event
decoder: `messages.create` copies the whole conversation and encodes it slowly (measured, 400 KB of context
and a short reply: 3.3 ms of CPU, against 0.8), and typed events would lose what this SDK does not know.

Failures become `ModelFailed` with a message for the session's user: what the provider said, its request id,
and what to do when it is ours to mend. A key never appears in one.
"""

import asyncio
import importlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx2
import orjson

from corral.brain.models.messages_stream import BrokenStream, MessageStream
from corral.brain.ports import ModelEvent, ModelFailed, ModelFailure, ModelRequest
from corral.catalog.models import ModelInfo, ModelTable
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import CORRAL_KEY_PREFIX
from corral.kernel.limits import (
    MODEL_CONNECT_SECONDS,
    MODEL_COUNT_SECONDS_MAX,
    MODEL_DRAIN_SECONDS,
    MODEL_KEEPALIVE_SECONDS,
    MODEL_MESSAGE_CHARS_MAX,
    MODEL_POOL_REQUESTS,
    MODEL_SILENCE_SECONDS_MAX,
    MODEL_THINKING_TOKENS,
)
from corral.session.content import Json

if TYPE_CHECKING:
    import anthropic

BASE_URL = "https://api.anthropic.com"
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

    async def warm(self) -> None:
        """Import the SDK in a thread and make the client, so that the first request need not wait."""
        await asyncio.to_thread(importlib.import_module, "anthropic.resources.messages")
        if self.problem is None and not self._pools:
            self._pools.append(self._new_pool())

    async def aclose(self) -> None:
        while self._pools:
            await self._pools.pop().client.close()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Ask once; see `Model.stream`."""
        if self.problem is not None:
            raise ModelFailed(self.problem, failure="request_failed", retryable=False)
        if not self._pools:
            await self.warm()
        import anthropic
        from anthropic.types import Message, RawMessageStreamEvent

        body, headers = _encoded(request, self._models.resolve(request.model))
        message = MessageStream()
        try:
            async with (
                self._client() as client,
                await client.post(
                    "/v1/messages",
                    content=body,
                    options={"headers": headers},
                    cast_to=Message,
                    stream=True,
                    stream_cls=anthropic.AsyncStream[RawMessageStreamEvent],
                ) as stream,
            ):
                events = anthropic.AsyncStream.raw_events(stream.response)
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
        except anthropic.APIStatusError as error:
            raise self._status_failure(error) from error
        except (anthropic.APITimeoutError, httpx2.TimeoutException) as error:
            raise _broken("sent nothing for too long") from error
        except (anthropic.APIConnectionError, httpx2.TransportError) as error:
            raise _broken("broke the connection, or could not be reached") from error
        except (BrokenStream, orjson.JSONDecodeError, UnicodeDecodeError) as error:
            raise _broken("sent a malformed stream") from error
        raise _broken("ended its stream before the message was complete")

    async def count_tokens(self, request: Mapping[str, Json]) -> int:
        """`catalog.models.TokenCounter`, of this provider's models: the provider counts."""
        if self.problem is not None:
            raise InvalidRequest(self.problem)
        if not self._pools:
            await self.warm()
        import anthropic
        from anthropic.types.beta import BetaMessageTokensCount

        headers = {"content-type": "application/json", "anthropic-beta": _COUNTING_BETA}
        try:
            async with asyncio.timeout(MODEL_COUNT_SECONDS_MAX), self._client() as client:
                counted = await client.post(
                    "/v1/messages/count_tokens?beta=true",
                    content=orjson.dumps(request),
                    options={"headers": headers},
                    cast_to=BetaMessageTokensCount,
                )
        except anthropic.APIStatusError as error:
            failure = self._status_failure(error)
            raise failure if failure.retryable else InvalidRequest(failure.message) from error
        except (TimeoutError, anthropic.APIConnectionError, httpx2.TransportError) as error:
            raise _broken("did not count the tokens") from error
        return counted.input_tokens

    @asynccontextmanager
    async def _client(self) -> "AsyncIterator[anthropic.AsyncAnthropic]":
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
        import anthropic

        if self._tls is None:
            self._tls = httpx2.create_ssl_context()  # 20 ms and 1 MB: made once, shared by the pools
        with _without("ANTHROPIC_CUSTOM_HEADERS"):
            client = anthropic.AsyncAnthropic(
                api_key=self._api_key,
                base_url=self._base_url,
                max_retries=0,
                timeout=httpx2.Timeout(self._silence_seconds, connect=MODEL_CONNECT_SECONDS),
                open_telemetry=False,
                http_client=anthropic.DefaultAsyncHttpxClient(
                    verify=self._tls,
                    limits=httpx2.Limits(
                        max_connections=MODEL_POOL_REQUESTS, keepalive_expiry=MODEL_KEEPALIVE_SECONDS
                    ),
                ),
            )
        return _Pool(client)

    def _status_failure(self, error: "anthropic.APIStatusError") -> ModelFailed:
        kind, text = _details(error.body)
        failure, retryable = classify(error.status_code, kind, text)
        asked = error.response.headers.get("x-should-retry")
        if asked == "false":
            retryable = False
        said = f"{error.status_code} {kind}".strip() + (f": {text}" if text else "")
        if self._api_key:
            said = said.replace(self._api_key, "[key]")
        return ModelFailed(
            _sentence(said, error.response.headers.get("request-id")),
            failure=failure,
            retryable=retryable,
            retry_after_seconds=retry_after(error.response.headers),
            is_refused=failure == "request_failed" and error.status_code in (400, 413),
        )


@dataclass(slots=True)
class _Pool:
    client: "anthropic.AsyncAnthropic"
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
    try:
        kind, text = _details(orjson.loads(data))
    except orjson.JSONDecodeError:
        kind, text = "", ""
    failure, retryable = classify(None, kind, text)
    return ModelFailed(
        _sentence(f"{kind or 'error'}: {text}", request_id), failure=failure, retryable=retryable
    )


def _details(body: Json) -> tuple[str, str]:
    """Type and message of an error envelope; empty for anything else, such as a proxy's page."""
    try:
        return str(body["error"]["type"]), str(body["error"]["message"])
    except (KeyError, TypeError):
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


@contextmanager
def _without(variable: str) -> Iterator[None]:
    """The SDK adds this variable's headers to every request and has no argument against it."""
    value = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[variable] = value
