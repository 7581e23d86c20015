"""The host's side of a sandbox: frames to and from the agent inside, whatever isolates it.

Rules of this file:
- What comes out of a sandbox is hostile. A frame that is too long, malformed, late or unasked for kills the
  sandbox; no loop, buffer or wait here depends on its good will.
- A bash call waits here, not inside, for its thread's shell; so its time starts when it is sent.
- A lost sandbox answers every call with SandboxLost, except a cancelled one: that is what was wanted.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import orjson

from corral.catalog.sandbox import DEFAULT_BOUNDS, Bounds
from corral.hands.ports import SandboxLost
from corral.hands.toolset import BadInput, checked_input
from corral.hands.way_out import WayOut
from corral.kernel import limits
from corral.session.call import INTERRUPTED, ToolCall
from corral.session.content import Json, ToolResult, text_block

__all__ = ["AgentSandbox", "Machine", "start_message"]

_HEADER_BYTES = 4
_OURS: Final = "check"  # the id of a call that is no agent's
_MEDIA_TYPES: Final = {
    "image": {"image/png", "image/jpeg", "image/gif", "image/webp"},
    "document": {"application/pdf"},
}


class Machine(Protocol):
    """A started, isolated process that runs the agent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def kill(self) -> None:
        """Kill all of it at once. Repeat: safe."""

    async def close(self) -> None:
        """Kill it and wait until nothing of it is left. Repeat: safe."""


class _Hostile(Exception):
    """The agent broke the protocol."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Running:
    answer: "asyncio.Future[ToolResult]"
    task: "asyncio.Task[Json] | None" = None  # who waits for a shell
    is_cancelled: bool = False
    is_sent: bool = False


class AgentSandbox:
    """`hands.ports.Sandbox` over a machine's two pipes. Start it before use."""

    def __init__(
        self, machine: Machine, *, bounds: Bounds = DEFAULT_BOUNDS, full: str | None = None
    ) -> None:
        """bounds: `command_seconds` is held here. full: it ends when nothing runs in it, and whatever it
        answers, these words follow."""
        self._machine = machine
        self._bounds, self._full = bounds, full
        self.way_out: WayOut | None = None  # closed with the sandbox
        self._shells: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._calls: dict[str, _Running] = {}
        self._abandoned: set[str] = set()  # their answers may still come
        self._lost: str | None = None
        self._listener: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        return self._lost is None

    async def start(self, message: Mapping[str, Json]) -> None:
        """Send the start message and wait for the agent to be ready. Raises SandboxLost."""
        try:
            async with asyncio.timeout(limits.SANDBOX_BOOT_SECONDS_MAX):
                await self._send(message)
                if (await self._frame()).get("op") != "ready":
                    raise _Hostile("the first frame is not ready")
        except (_Hostile, TimeoutError, asyncio.IncompleteReadError, OSError) as e:
            self._lost = "the sandbox did not start"
            raise SandboxLost(self._lost, detail=repr(e)) from e
        except asyncio.CancelledError:
            self._lost = "its start was cancelled"
            raise
        self._listener = asyncio.create_task(self._listen(), name="sandbox-listener")

    async def run(self, call: ToolCall) -> ToolResult:
        result = await self._run(call)
        if self._full is None:
            return result
        return replace(result, content=[*result.content, text_block(self._full)])

    async def _run(self, call: ToolCall) -> ToolResult:
        try:
            fields = checked_input(call.name, call.input)
        except BadInput as e:
            return ToolResult.text(str(e), is_error=True)
        running = _Running(answer=asyncio.get_running_loop().create_future(), task=asyncio.current_task())
        if call.call_id in self._calls:
            raise ValueError(f"call {call.call_id!r} is already running")
        self._calls[call.call_id] = running
        try:
            if call.name != "bash":
                return await self._exchange(call, fields, running, limits.TOOL_TIMEOUT_SECONDS)
            async with self._shells[call.thread_id]:
                asked = (fields.get("timeout_ms") or 0) / 1000 or limits.TOOL_TIMEOUT_SECONDS
                timeout = min(asked, self._bounds.command_seconds)
                if timeout < asked:
                    fields["timeout_ms"] = int(timeout * 1000)
                return await self._exchange(call, fields, running, timeout)
        except asyncio.CancelledError:
            # cancel() wakes a call that waits for its shell this way; anybody else's cancellation goes on.
            if (
                running.is_cancelled
                and not running.is_sent
                and running.task
                and not running.task.uncancel()
            ):
                return _interrupted()
            raise
        finally:
            del self._calls[call.call_id]
            if self._full is not None and not self._calls:
                self._lose("it was for one call")

    def stop(self, why: str) -> None:
        """Kill all of it; what runs in it is answered with these words, an error result."""
        for running in self._calls.values():
            if running.is_sent and not running.is_cancelled and not running.answer.done():
                running.answer.set_result(ToolResult.text(why, is_error=True))
        self._lose(why)

    async def check(self, *, absent: Sequence[str], closed: Sequence[str], stranger: int) -> Sequence[str]:
        """The agent's self-check of its walls: which escapes worked. absent, closed: host paths that must
        not be visible, that must not open. stranger: pid of a host process. Raises SandboxLost."""
        fields = {"absent": list(absent), "closed": list(closed), "stranger": stranger}
        result = await self._asked("check", fields)
        said = str(result.content[0]["text"])
        return [] if said == "sealed" and not result.is_error else said.splitlines()

    async def trial(self, command: str) -> str | None:
        """What a command of bash says when it fails; None if it works. Raises SandboxLost."""
        result = await self._asked("bash", {"command": command})
        return str(result.content[0]["text"]) if result.is_error else None

    async def cancel(self, call_id: str) -> None:
        running = self._calls.get(call_id)
        if running is None or running.is_cancelled:
            return
        running.is_cancelled = True
        if not running.is_sent:
            if running.task:
                running.task.cancel()
            return
        try:
            async with asyncio.timeout(limits.CANCEL_GRACE_SECONDS * 0.75):  # leaves time to kill it all
                await self._send({"op": "cancel", "id": call_id})
                await asyncio.wait([running.answer])
        except (TimeoutError, OSError):
            self._lose("it did not answer a cancel")

    async def destroy(self) -> None:
        self._lose("it was destroyed")
        if self._listener:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
        if self.way_out is not None:
            await self.way_out.close()
        await self._machine.close()

    # -- calls ------------------------------------------------------------------------------------

    async def _asked(self, name: str, fields: Mapping[str, Json]) -> ToolResult:
        """Of a new sandbox that is nobody's yet, by us. Raises SandboxLost."""
        running = _Running(answer=asyncio.get_running_loop().create_future())
        self._calls[_OURS] = running
        try:
            frame = {"op": "run", "id": _OURS, "thread": _OURS, "name": name, "input": dict(fields)}
            await self._send(frame)
            return await asyncio.wait_for(running.answer, limits.SANDBOX_BOOT_SECONDS_MAX)
        except (TimeoutError, OSError) as e:
            raise SandboxLost("the self-check got no answer", detail=repr(e)) from e
        finally:
            del self._calls[_OURS]

    async def _exchange(
        self, call: ToolCall, fields: Mapping[str, Json], running: _Running, timeout: float
    ) -> ToolResult:
        if self._lost:
            raise SandboxLost(self._lost)
        message = {
            "op": "run", "id": call.call_id, "thread": call.thread_id, "name": call.name, "input": fields,
        }  # fmt: skip
        frame = _packed(message)
        if len(frame) > limits.TOOL_INPUT_BYTES_MAX:
            text = f"{call.name}: the input exceeds {limits.TOOL_INPUT_BYTES_MAX} bytes"
            return ToolResult.text(text, is_error=True)
        running.is_sent = True
        try:
            async with asyncio.timeout(max(timeout, 0) + limits.SANDBOX_ANSWER_SECONDS):
                self._machine.writer.write(frame)
                await self._machine.writer.drain()
                return await running.answer
        except (TimeoutError, OSError) as e:
            self._lose(f"no answer from it ({type(e).__name__})")
            if running.is_cancelled:
                return _interrupted()
            raise SandboxLost(self._lost or "") from e
        except SandboxLost:
            if running.is_cancelled:
                return _interrupted()
            raise
        except asyncio.CancelledError:  # our caller is gone: so is its command
            self._abandoned.add(call.call_id)
            with contextlib.suppress(OSError):
                self._machine.writer.write(_packed({"op": "cancel", "id": call.call_id}))
            raise

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = f"the sandbox was lost: {why}"
        self._machine.kill()
        for running in self._calls.values():
            if not running.answer.done():
                running.answer.set_exception(SandboxLost(self._lost))
                running.answer.exception()  # retrieved: a call that has not been sent never awaits it

    # -- frames -----------------------------------------------------------------------------------

    async def _send(self, message: Mapping[str, Json]) -> None:
        if self._machine.writer.is_closing():  # uvloop would raise RuntimeError, asyncio say nothing
            raise BrokenPipeError("it has ended")
        self._machine.writer.write(_packed(message))
        await self._machine.writer.drain()

    async def _frame(self) -> Mapping[str, Json]:
        size = int.from_bytes(await self._machine.reader.readexactly(_HEADER_BYTES), "big")
        if size > limits.TOOL_RESULT_BYTES_MAX:
            raise _Hostile(f"a frame of {size} bytes")
        try:
            message = orjson.loads(await self._machine.reader.readexactly(size))
        except orjson.JSONDecodeError as e:
            raise _Hostile("a frame that is no JSON") from e
        if not isinstance(message, dict):
            raise _Hostile("a frame that is no object")
        return message

    async def _listen(self) -> None:
        why = "it ended"
        try:
            while True:
                self._settle(await self._frame())
        except asyncio.IncompleteReadError:
            pass
        except (_Hostile, OSError) as e:
            why = f"it broke the protocol: {e}"
        self._lose(why)
        if self.way_out is not None:  # one that died may never be destroyed by anybody
            await self.way_out.close()
        await self._machine.close()

    def _settle(self, message: Mapping[str, Json]) -> None:
        call_id = message.get("id")
        if not isinstance(call_id, str) or message.get("op") != "result":
            raise _Hostile("a frame that is no result")
        if call_id in self._abandoned:
            self._abandoned.discard(call_id)
            return
        running = self._calls.get(call_id)
        if running is None or (not running.is_sent and call_id != _OURS) or running.answer.done():
            raise _Hostile("a result that nobody asked for")
        running.answer.set_result(_result(message))


def start_message(
    *,
    env: Mapping[str, str],
    workdir: str,
    roots: Sequence[str],
    spill: str,
    moved: Mapping[str, str] | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
    processes: int | None = None,
    is_full: bool = False,
    way_out: Mapping[str, Json] | None = None,
    rights: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """What the agent must know: its place, the words of an interrupt, its bounds (`sandbox_agent.wire`).

    moved: directories that file tools are asked for -> where they are instead. processes: of its user,
    those of its bounds unless given. is_full: its programs can write to no file. way_out: how
    programs get out (`Expected.told`). rights: what the agent keeps of those that it has
    (`sandbox_agent.rights`), all of them unless given."""
    return {
        "op": "start",
        "env": dict(env),
        "workdir": workdir,
        "roots": list(roots),
        "spill": spill,
        "moved": dict(moved or {}),
        "interrupted": INTERRUPTED,
        "way_out": None if way_out is None else dict(way_out),
        "rights": None if rights is None else dict(rights),
        "limits": {
            "output_chars": limits.TOOL_OUTPUT_CHARS_MAX,
            "preview_chars": limits.TOOL_PREVIEW_CHARS,
            "bash_output_bytes": limits.BASH_OUTPUT_BYTES_MAX,
            "spill_bytes": limits.SPILL_BYTES_MAX,
            "tool_seconds": limits.TOOL_TIMEOUT_SECONDS,
            "read_bytes": limits.READ_BYTES_MAX,
            "image_base64_bytes": limits.READ_IMAGE_BASE64_BYTES_MAX,
            "pdf_bytes": limits.READ_PDF_BYTES_MAX,
            "grep_output_bytes": limits.GREP_OUTPUT_BYTES_MAX,
            "grep_line_bytes": limits.GREP_LINE_BYTES_MAX,
            "grep_cpu_seconds": limits.GREP_CPU_SECONDS,
            "glob_results": limits.GLOB_RESULTS_MAX,
            "walk_entries": limits.WALK_ENTRIES_MAX,
            "frame_bytes": limits.TOOL_RESULT_BYTES_MAX,
            "processes": bounds.processes if processes is None else processes,
            "memory_bytes": bounds.memory_bytes,
            "file_bytes": 0 if is_full else min(bounds.disk_bytes, limits.SANDBOX_FILE_BYTES_MAX),
            "open_files": limits.SANDBOX_OPEN_FILES_MAX,
        },
    }


def _interrupted() -> ToolResult:
    return ToolResult.text(INTERRUPTED, is_error=True)


def _packed(message: Mapping[str, Json]) -> bytes:
    body = orjson.dumps(message)
    return len(body).to_bytes(_HEADER_BYTES, "big") + body


def _result(message: Mapping[str, Json]) -> ToolResult:
    """The result in a frame, rebuilt field by field. Raises _Hostile."""
    blocks, is_error = message.get("content"), message.get("is_error")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 2 or not isinstance(is_error, bool):
        raise _Hostile("a result of a wrong shape")
    return ToolResult(content=tuple(_block(block) for block in blocks), is_error=is_error)


def _block(block: Json) -> Mapping[str, Json]:
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {
            "type": "image" | "document" as kind,
            "source": {"media_type": str(media), "data": str(data)},
        }:
            if media in _MEDIA_TYPES[kind]:
                return {"type": kind, "source": {"type": "base64", "media_type": media, "data": data}}
    raise _Hostile("a block of a wrong shape")
