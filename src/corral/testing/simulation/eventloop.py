"""An asyncio event loop that runs many processes in virtual time, from a seed.

Rules of this file:
* A process is a set of tasks with one ready queue of its own, first in, first out, as a real event loop
  has. Which process goes next is drawn from the seed: that is the concurrency under test.
* Time stands still while anything is ready, then jumps to the next timer. A schedule of minutes takes
  milliseconds, and nothing waits for the machine.
* A dead process is cut off from the world first (its ports refuse) and then unwound, so whatever its
  `finally` blocks do reaches nobody. A stopped process (SIGSTOP) keeps its queue; its timers come due.
* Sets of tasks iterate in the order in which the tasks were made: a run is a function of its seed.
"""

import asyncio
import asyncio.events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, TypeVar, TypeVarTuple

__all__ = ["CURRENT", "Process", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Process:
    """What lives and dies together. Make one with `VirtualLoop.process`."""

    __slots__ = ("context", "is_alive", "is_stopped", "name", "ready", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.is_stopped = False
        self.ready: deque[_Handle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = copy_context()
        self.context.run(CURRENT.set, self)


CURRENT: ContextVar[Process] = ContextVar("process")
"""The process whose code runs now. Tasks and callbacks inherit it."""


class _Handle(asyncio.TimerHandle):
    """A callback that waits for its turn or its time. The fields are the parent's."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self._callback = callback  # not the parent's: it does twice the work, and there are millions
        self._args = args
        self._context = context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True


class _Task(asyncio.Task[T]):
    """A task whose hash is its number, not its address."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """Only what asyncio's tasks, futures, locks and timeouts ask of a loop: no sockets, no threads."""

    def __init__(self, chance: Random) -> None:
        asyncio.tasks._all_tasks.clear()  # type: ignore[attr-defined]  # of earlier loops, with equal hashes
        self.now = 0.0
        self.steps = 0
        self._random = chance.random
        self._busy: list[Process] = []  # those with something ready that are not stopped
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = count(1)
        self.world = Process("world")

    # -- processes ---------------------------------------------------------------------------------------

    def spawn(self, process: Process, main: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a task in a process, from outside of it."""
        return self.create_task(main, context=process.context.copy())

    def post(self, process: Process, callback: Callable[..., object], *args: Any, after: float = 0) -> None:
        """Run a callback in a process, as soon as it comes to it, or after so many seconds."""
        if after > 0:
            self.call_at(self.now + after, callback, *args, context=process.context)
        else:
            self._enqueue(process, _Handle(callback, args, process.context))

    def kill(self, process: Process) -> None:
        """End a process here and now; its ports must look at `is_alive`. Repeat: safe."""
        if process.is_alive:
            process.is_alive = False
            self.resume(process)  # it has to unwind, whatever stopped it
            for task in process.tasks:
                if not task.done():
                    task.cancel()

    def stop_process(self, process: Process) -> None:
        """SIGSTOP."""
        if process.is_alive and not process.is_stopped:
            process.is_stopped = True
            if process.ready:
                self._busy.remove(process)

    def resume(self, process: Process) -> None:
        """SIGCONT. Repeat: safe."""
        if process.is_stopped:
            process.is_stopped = False
            if process.ready:
                self._busy.append(process)

    # -- running -----------------------------------------------------------------------------------------

    def run(self, is_over: Callable[[], bool], *, until: float, steps_max: int) -> bool:
        """Run until `is_over()`, asked whenever time is about to move. False: `until` came first.

        Raises RuntimeError after `steps_max` callbacks: something spins without time passing.
        """
        asyncio.events._set_running_loop(self)
        try:
            busy, random = self._busy, self._random
            while True:
                while busy:
                    process = busy[0] if len(busy) == 1 else busy[int(random() * len(busy))]
                    handle = process.ready.popleft()
                    if not process.ready:
                        busy.remove(process)
                    if not handle._cancelled:
                        handle._context.run(handle._callback, *handle._args)
                        self.steps += 1
                        if self.steps > steps_max:
                            raise RuntimeError(f"{steps_max} steps, and still at {self.now:.3f} s")
                if is_over():
                    return True
                if not self._advance(until):
                    return False
        finally:
            asyncio.events._set_running_loop(None)

    def _advance(self, until: float) -> bool:
        """Jump to the next timer and make all that are due then ready."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if not timers or timers[0][0] > until:
            self.now = until
            return False
        self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            handle = heappop(timers)[2]
            if not handle._cancelled:
                self._enqueue(handle._context[CURRENT], handle)
        return True

    def _enqueue(self, process: Process, handle: _Handle) -> None:
        if not process.ready and not process.is_stopped:
            self._busy.append(process)
        process.ready.append(handle)

    # -- what asyncio asks -------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        context = context or copy_context()
        handle = _Handle(callback, args, context)
        self._enqueue(context[CURRENT], handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = _Handle(callback, args, context or copy_context())
        heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> "asyncio.Task[T]":
        context = context or copy_context()
        task = _Task(coro, loop=self, name=name or "task", context=context)
        task.number = next(self._numbers)
        context[CURRENT].tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error that nobody looked at: of a process that is dead, or of a reply nobody waits for."""
