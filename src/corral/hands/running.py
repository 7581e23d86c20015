"""The calls that a part of the host carries out itself, outside of every sandbox."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from corral.session.call import INTERRUPTED
from corral.session.content import ToolResult

__all__ = ["RunningCalls"]


class RunningCalls:
    """Of one part of one host, by their ids, so that each can be ended."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[ToolResult]] = {}

    async def run(self, call_id: str, work: Coroutine[Any, Any, ToolResult]) -> ToolResult:
        """What the work comes to; if the call is cancelled first, an error result that says so.
        Raises what the work raises. Nothing of it runs on once this is left, however that comes."""
        task = asyncio.ensure_future(work)
        self._tasks[call_id] = task
        try:
            await asyncio.wait({task})
            if task.cancelled():
                return ToolResult.text(INTERRUPTED, is_error=True)
            return task.result()
        finally:
            del self._tasks[call_id]
            task.cancel()  # if we were cancelled ourselves
            await asyncio.gather(task, return_exceptions=True)

    def cancel(self, call_id: str) -> None:
        """`run` then returns. Unknown ids are ignored. Repeat: safe."""
        if task := self._tasks.get(call_id):
            task.cancel()

    async def aclose(self) -> None:
        """End them all. Repeat: safe."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
