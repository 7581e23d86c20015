"""One session at a terminal: show what happens, pass on what the user types, end when the agent has.

    Ctrl-C          while the agent works: interrupt it; again, or while it is idle: leave
    text            steering: a user.message, whatever the agent is doing
    y / n reason    while the agent asks whether it may use a tool

The stream is live only, so a broken connection is mended as the documentation says: open again, list the
history, skip what was shown.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from corral.cli.outcome import Exit, Problem
from corral.cli.render import Renderer, essence, safe
from corral.kernel.limits import CLI_RECONNECT_SECONDS, CLI_RECONNECTS_MAX

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

__all__ = ["Driver"]

_FAILED = {"retries_exhausted", "refusal", "budget_reached"}


class Driver:
    """Follows one session through one task."""

    def __init__(
        self, client: "AsyncAnthropic", session_id: str, renderer: Renderer, *, is_interactive: bool
    ) -> None:
        self._events = client.beta.sessions.events
        self._session_id = session_id
        self._renderer = renderer
        self._is_interactive = is_interactive
        self._asked: list[dict[str, Any]] = []  # tool uses that wait for y or n
        self._tool_uses: dict[str, dict[str, Any]] = {}
        self._unanswered: set[str] = set()  # our messages that the agent has not taken yet
        self._interrupts = 0
        self._left = asyncio.Event()

    async def drive(self, task: str | None) -> Exit:
        """Send the task, follow the session until it is idle for good. Raises Problem."""
        with self._interruptible():
            following = asyncio.ensure_future(self._follow(task))
            typing = asyncio.ensure_future(self._read_input())
            try:
                await asyncio.wait([following, typing], return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    return following.result()
                typing.result()  # left, unless reading itself failed
                return Exit.DETACHED
            finally:
                for each in (following, typing):
                    each.cancel()
                await asyncio.gather(following, typing, return_exceptions=True)

    # -- what happens -----------------------------------------------------------------------------------
    async def _follow(self, task: str | None) -> Exit:
        async for event, is_news in self._history_and_stream(task):
            self._renderer.show(event)
            end = self._heed(event)
            if is_news and end is not None:
                return end
        raise AssertionError("the stream ends by an error or by a verdict")

    def _heed(self, event: dict[str, Any]) -> Exit | None:
        """What the event means for us: the exit code, once the agent has finished."""
        kind, event_id = event.get("type"), str(event.get("id"))
        if kind in ("agent.tool_use", "agent.mcp_tool_use", "agent.custom_tool_use"):
            self._tool_uses[event_id] = event
        elif kind == "user.message" and event.get("processed_at"):
            self._unanswered.discard(event_id)
        elif kind in ("session.status_terminated", "session.deleted"):
            return Exit.FAILED
        elif kind == "session.status_idle" and event.get("stop_reason"):
            return self._on_idle(event["stop_reason"])
        return None

    def _on_idle(self, reason: dict[str, Any]) -> Exit | None:
        if reason.get("type") == "requires_action":
            return self._ask([str(event_id) for event_id in reason.get("event_ids") or ()])
        if self._unanswered:
            return None  # what we sent meanwhile starts the next turn
        if self._interrupts and self._is_interactive:
            self._renderer.note("interrupted: say what to do instead, or Ctrl-C to leave", "yellow")
            return None
        if self._interrupts:
            return Exit.INTERRUPTED
        return Exit.FAILED if reason.get("type") in _FAILED else Exit.DONE

    def _ask(self, event_ids: list[str]) -> Exit | None:
        uses = [self._tool_uses[event_id] for event_id in event_ids if event_id in self._tool_uses]
        foreign = [use for use in uses if use["type"] == "agent.custom_tool_use"]
        if foreign or not self._is_interactive:
            what = (
                f"the result of {foreign[0].get('name')!r}; send it with the SDK"
                if foreign
                else "an approval; give it at a terminal or with the SDK"
            )
            self._renderer.note(f"the agent waits for {what}", "yellow")
            return Exit.NEEDS_ANSWER
        self._asked = uses
        text, *more = safe(essence(uses[0])).split("\n")  # it stands above in full, maybe beside others
        call = f"{safe(str(uses[0].get('name')))}: {text}{' …' if more else ''}"
        place = f" (1 of {len(uses)})" if len(uses) > 1 else ""
        self._renderer.note(f"may it? {call}{place}\ny, or n and a reason", "yellow")
        return None

    async def _history_and_stream(self, task: str | None) -> AsyncIterator[tuple[dict[str, Any], bool]]:
        """Events, and whether they say how things are now: in a history only the last status does."""
        import anthropic
        import httpx2

        failures = 0
        is_first = True
        while True:
            try:
                previews = ["agent.message", "agent.thinking"]  # text while it is being written
                stream = await self._events.stream(
                    self._session_id,
                    event_deltas=anthropic.omit if self._renderer.as_json else previews,  # type: ignore[arg-type]
                )
                async with stream:
                    if not is_first or task is None:
                        listed = self._events.list(self._session_id, order="asc")
                        history = [past.to_dict(mode="json") async for past in listed]
                        statuses = [e for e in history if str(e["type"]).startswith("session.status_")]
                        for past in history:
                            yield past, past is statuses[-1]
                    if is_first and task is not None:
                        await self._send_message(task)
                    is_first = False
                    async for event in stream:
                        failures = 0
                        yield event.to_dict(mode="json"), True
                why = "the stream ended"
            except (anthropic.APIConnectionError, httpx2.TransportError) as error:
                why = f"the connection broke ({type(error).__name__})"
            failures += 1
            if failures > CLI_RECONNECTS_MAX:
                raise Problem(f"{why} and does not come back\n{self.how_to_return}", exit=Exit.NO_SERVER)
            self._renderer.note(f"{why}; reconnecting", "yellow")
            await asyncio.sleep(CLI_RECONNECT_SECONDS)

    # -- what the user does -----------------------------------------------------------------------------
    @property
    def how_to_return(self) -> str:
        return (
            f"to go on: corral run --session {self._session_id}\n"
            f"to look only: corral sessions tail {self._session_id}"
        )

    async def _read_input(self) -> None:
        """Return when the user leaves."""
        if not self._is_interactive:
            await self._left.wait()
            return
        import anthropic
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import patch_stdout

        prompt: PromptSession[str] = PromptSession()
        with patch_stdout(raw=True):
            while not self._left.is_set():
                try:
                    line = (await prompt.prompt_async(self._prompt)).strip()
                except KeyboardInterrupt:
                    await self.interrupt()
                    continue
                except EOFError:
                    return
                try:
                    await self._pass_on(line)
                except anthropic.APIStatusError as error:
                    self._renderer.note(f"not sent: {error.message}", "red")

    async def _pass_on(self, line: str) -> None:
        if self._asked:
            await self._answer(line)
        elif line:
            self._interrupts = 0
            await self._send_message(line)

    def _prompt(self) -> str:
        if self._asked:
            use = self._asked[0]
            return f"{safe(str(use.get('name')))}: y / n reason > "
        return "> "

    async def _answer(self, line: str) -> None:
        word, _, reason = line.partition(" ")
        if word.lower() not in ("y", "yes", "n", "no"):
            self._renderer.note("y, or n and a reason", "yellow")
            return
        use = self._asked.pop(0)
        answer: dict[str, Any] = {
            "type": "user.tool_confirmation",
            "tool_use_id": use["id"],
            "result": "allow",
        }
        if word.lower().startswith("n"):
            answer |= {"result": "deny", "deny_message": reason.strip() or "The user said no."}
        await self._send(answer)

    async def _send_message(self, text: str) -> None:
        sent = await self._send({"type": "user.message", "content": [{"type": "text", "text": text}]})
        self._unanswered |= sent

    async def _send(self, event: dict[str, Any]) -> set[str]:
        answer = await self._events.send(self._session_id, events=[event])  # type: ignore[list-item]
        return {item.id for item in answer.data or ()}

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        loop, sending = asyncio.get_running_loop(), set[asyncio.Future[None]]()

        def on_signal() -> None:
            sending.add(asyncio.ensure_future(self.interrupt()))

        loop.add_signal_handler(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            for each in sending:
                each.cancel()

    async def interrupt(self) -> None:
        """Ctrl-C: the first interrupts the agent, the next leaves it."""
        self._interrupts += 1
        if self._interrupts > 1:
            self._left.set()
            return
        self._asked.clear()
        self._renderer.note("interrupting; Ctrl-C again to leave", "yellow")
        await self._send({"type": "user.interrupt"})
