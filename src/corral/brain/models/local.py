"""A GGUF model on this machine, in a child process: no key, no network, small and fallible.

The child gets a minimal environment, is started by the first request, answers one request at a time and is
replaced when it dies. A request that is abandoned is cancelled in the child, whose answer nobody reads.

`local` is the configured model; `local:NAME` is NAME.gguf in the models directory. A model name never is a
path: names come from API users, files belong to the operator.
"""

import asyncio
import contextlib
import itertools
import re
import secrets
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import orjson

from corral.brain.models import local_prompt
from corral.brain.models.local_install import check_gguf, installed_path
from corral.brain.ports import (
    BlockStarted,
    ModelEvent,
    ModelFailed,
    ModelReply,
    ModelRequest,
    TextDelta,
    Usage,
)
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    LOCAL_CONTEXT_TOKENS,
    LOCAL_CRASHES_MAX,
    LOCAL_LOAD_SECONDS_MAX,
    LOCAL_OUTPUT_TOKENS,
    LOCAL_QUEUE_MAX,
    MODEL_SILENCE_SECONDS_MAX,
)
from corral.session.content import Block, Json, text_block

_NAME = re.compile(r"local[:/]([A-Za-z0-9][A-Za-z0-9._-]{0,127})")
_LINE_BYTES_MAX = 1024 * 1024  # of one line from the child; a piece of text is a few hundred
TEMPERATURE, TEMPERATURE_AFTER_REPEAT = 0.0, 0.8


class LocalModel:
    """`Model` for `local`, `local:NAME`.

    directory: where `local:NAME` is looked up, and the default model was installed.
    path:      the model that plain `local` means; None for the installed one.
    """

    def __init__(
        self,
        *,
        directory: Path,
        path: Path | None = None,
        context_tokens: int = LOCAL_CONTEXT_TOKENS,
        mint: Callable[[], str] = lambda: f"toolu_local_{secrets.token_hex(12)}",
    ) -> None:
        self._directory, self._path = directory, path
        self._context_tokens = context_tokens
        self._mint = mint
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._child: _Child | None = None
        self._crashes = 0

    def path_of(self, name: str) -> Path:
        """The file of a model name. Raises InvalidRequest with advice if there is none."""
        if name == "local":
            path = self._path or installed_path(self._directory)
            if self._path is None and not path.exists():
                raise InvalidRequest("the local model is not installed: run `corral models install local`")
            return check_gguf(path)
        match = _NAME.fullmatch(name)
        if match is None:
            raise InvalidRequest(f"{name!r} does not name a local model: use local or local:NAME")
        return check_gguf(self._directory / f"{match[1].removesuffix('.gguf')}.gguf")

    @property
    def problem(self) -> str | None:
        """Why `local` cannot run, for `corral doctor`; None if nothing is known to be wrong."""
        try:
            self.path_of("local")
        except InvalidRequest as error:
            return error.message
        return None

    async def warm(self, name: str = "local") -> None:
        """Load the model now, so that the first request need not wait. Raises ModelFailed."""
        async with self._turn:
            await self._loaded(name)

    async def aclose(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.stop()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Ask once; see `Model.stream`."""
        if self._waiting >= LOCAL_QUEUE_MAX:
            raise ModelFailed(
                f"The local model answers one request at a time, and {self._waiting} are waiting.",
                failure="overloaded",
                retryable=True,
            )
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            child = await self._loaded(request.model)
            answer = (
                _act(child, request, self._mint)
                if local_prompt.is_agent(request)
                else _talk(child, request)
            )
            async with contextlib.aclosing(answer):
                async for event in answer:
                    yield event
            self._crashes = 0
        except _ChildDied as error:
            await self.aclose()
            self._crashes += 1
            raise ModelFailed(
                f"The local model's process {error}.",
                failure="request_failed",
                retryable=self._crashes < LOCAL_CRASHES_MAX,
            ) from error
        finally:
            self._turn.release()

    async def _loaded(self, name: str) -> "_Child":
        """The running child for this model; starts or replaces it."""
        try:
            path = self.path_of(name)
        except InvalidRequest as error:
            raise ModelFailed(error.message, failure="request_failed", retryable=False) from error
        if self._child is not None and self._child.path == path and self._child.is_alive:
            return self._child
        await self.aclose()
        if self._crashes >= LOCAL_CRASHES_MAX:
            raise ModelFailed(
                f"The local model crashed {self._crashes} times in a row and is not started again "
                "until the server restarts; `corral doctor` may say why.",
                failure="request_failed",
                retryable=False,
            )
        child = _Child(path)
        self._child = child
        try:
            await child.start(self._context_tokens)
        except BaseException:
            self._child = None
            await child.stop()
            raise
        return child


async def _act(
    child: "_Child", request: ModelRequest, mint: Callable[[], str]
) -> AsyncGenerator[ModelEvent, None]:
    """One bash call, or a sentence that ends the turn."""
    turns = local_prompt.chat(request)
    usage = Usage()
    for temperature in (TEMPERATURE, TEMPERATURE_AFTER_REPEAT):
        said, shown, finish = "", 0, ""
        async with contextlib.aclosing(child.ask(_body(request, turns, temperature, agent=True))) as pieces:
            async for piece in pieces:
                if isinstance(piece, _Finish):
                    finish, usage = piece.reason, _sum(usage, piece.usage)
                    continue
                said += piece
                if said.startswith(local_prompt.DONE):
                    if not shown:
                        yield BlockStarted(index=0, type="text")
                        shown = len(local_prompt.DONE)
                    if said[shown:]:
                        yield TextDelta(index=0, text=said[shown:])
                    shown = len(said)
        if said.startswith(local_prompt.DONE):
            content: list[Block] = [text_block(said.removeprefix(local_prompt.DONE))]
            yield ModelReply(content=content, stop_reason=_stop(finish, "end_turn"), usage=usage)
            return
        command = local_prompt.command_of(said)
        if command.strip() != local_prompt.last_command(request.messages):
            break
        # a small model that repeats itself goes on doing so: say it, and shake it once
        turns = [
            *turns,
            {"role": "assistant", "content": said},
            {"role": "user", "content": local_prompt.REPEATED},
        ]
    yield BlockStarted(index=0, type="tool_use")
    call = {"type": "tool_use", "id": mint(), "name": "bash", "input": {"command": command}}
    yield ModelReply(content=[call], stop_reason=_stop(finish, "tool_use"), usage=usage)


async def _talk(child: "_Child", request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
    """Free text: no tools, no grammar."""
    said, finish, usage = "", "", Usage()
    yield BlockStarted(index=0, type="text")
    body = _body(request, local_prompt.chat(request), TEMPERATURE, agent=False)
    async with contextlib.aclosing(child.ask(body)) as pieces:
        async for piece in pieces:
            if isinstance(piece, _Finish):
                finish, usage = piece.reason, piece.usage
            else:
                said += piece
                yield TextDelta(index=0, text=piece)
    yield ModelReply(content=[text_block(said)], stop_reason=_stop(finish, "end_turn"), usage=usage)


def _body(
    request: ModelRequest, turns: local_prompt.Chat, temperature: float, *, agent: bool
) -> dict[str, Json]:
    return {
        "messages": turns,
        "max_tokens": min(request.max_tokens, LOCAL_OUTPUT_TOKENS),
        "temperature": temperature,
        "cache_prompt": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"grammar": local_prompt.grammar(request.messages)} if agent else {}),
    }


def _stop(finish: str, otherwise: str) -> str:
    return "max_tokens" if finish == "length" else otherwise


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cache_read_input_tokens=one.cache_read_input_tokens + other.cache_read_input_tokens,
    )


# -- the child ---------------------------------------------------------------------------------------
class _ChildDied(Exception):
    """The message ends the sentence "The local model's process ..."."""


class _Finish:
    def __init__(self, reason: str, usage: Usage) -> None:
        self.reason, self.usage = reason, usage


class _Child:
    """The process that holds one model. One reader at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process: asyncio.subprocess.Process | None = None
        self._sockets = tempfile.TemporaryDirectory(prefix="corral-local-")
        self._numbers = itertools.count(1)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, context_tokens: int) -> None:
        """Start it and wait for the weights. Raises ModelFailed with advice, _ChildDied."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-m", "corral.brain.models.local_child"),
            *(str(self.path), str(context_tokens), self._sockets.name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},  # no key of the brain reaches native code
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal is for the server, which then stops us
            limit=_LINE_BYTES_MAX,
        )
        hello = await self._line(LOCAL_LOAD_SECONDS_MAX)
        if "failed" in hello:
            text = str(hello["failed"])
            if "No module named" in text:
                text = "its library is not installed: pip install 'corral[local]'"
            raise ModelFailed(
                f"The local model cannot start: {text}", failure="request_failed", retryable=False
            )

    async def ask(self, body: dict[str, Json]) -> AsyncGenerator["str | _Finish", None]:
        """Pieces of text, then one _Finish. Raises ModelFailed, _ChildDied."""
        number = next(self._numbers)
        self._send({"id": number, "body": body})
        is_over = False
        finish, usage = "", Usage()
        try:
            while True:
                line = await self._line(MODEL_SILENCE_SECONDS_MAX)
                if line.get("id") != number:
                    continue  # the rest of an abandoned request
                if "end" in line:
                    is_over = True
                    break
                chunk = line["chunk"]
                if "error" in chunk:
                    raise _refusal(chunk["error"])
                for choice in chunk["choices"]:
                    if text := choice["delta"].get("content"):
                        yield text
                    finish = choice["finish_reason"] or finish
                if "usage" in chunk:
                    usage = _usage(chunk["usage"])
        finally:
            if not is_over and self.is_alive:
                self._send({"cancel": number})
        if not finish:
            raise ModelFailed(
                "The local model stopped without finishing.", failure="request_failed", retryable=True
            )
        yield _Finish(finish, usage)

    async def stop(self) -> None:
        """Kill it; it holds nothing worth saving. Repeat: safe."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._sockets.cleanup()

    def _send(self, message: dict[str, Json]) -> None:
        if self._process is None or self._process.stdin is None:
            raise _ChildDied("is gone")
        self._process.stdin.write(orjson.dumps(message) + b"\n")

    async def _line(self, timeout_seconds: float) -> dict[str, Json]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_seconds):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise _ChildDied(f"said nothing for {timeout_seconds:.0f} seconds") from error
        if not line.endswith(b"\n"):
            raise _ChildDied(f"died (exit status {await self._process.wait()})")
        message: dict[str, Json] = orjson.loads(line)
        return message


def _refusal(error: dict[str, Json]) -> ModelFailed:
    text = str(error.get("message", "no message"))
    if error.get("type") == "exceed_context_size_error":
        return ModelFailed(f"The local model: {text}", failure="context_overflow", retryable=False)
    return ModelFailed(f"The local model: {text}", failure="request_failed", retryable=False)


def _usage(usage: dict[str, Json]) -> Usage:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(
        input_tokens=usage["prompt_tokens"] - cached,
        output_tokens=usage["completion_tokens"],
        cache_read_input_tokens=cached,
    )
