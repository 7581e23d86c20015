"""Events as a person reads them in a terminal. Shared by run, demo and sessions tail.

What agents, models and tools say is hostile: `safe` removes everything that could steer a terminal, and no
text of theirs is ever taken as markup. Without a terminal, or with NO_COLOR, the same lines come plain.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from corral.kernel.limits import CLI_OUTPUT_LINE_CHARS_MAX, CLI_OUTPUT_LINES_MAX

__all__ = ["Renderer", "cost", "diff_text", "essence", "print_table", "safe"]

Event = Mapping[str, Any]


def safe(text: str) -> str:
    """The text without control characters, escape sequences and direction overrides; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else "    " if c == "\t" else "" for c in text)


def shortened(text: str) -> list[str]:
    """The first and last lines of an output, each of bounded length."""
    lines = [
        line if len(line) <= CLI_OUTPUT_LINE_CHARS_MAX else line[:CLI_OUTPUT_LINE_CHARS_MAX] + " …"
        for line in safe(text).rstrip().splitlines()
    ]
    if len(lines) <= CLI_OUTPUT_LINES_MAX:
        return lines
    half = CLI_OUTPUT_LINES_MAX // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} more lines …", *lines[-half:]]


def essence(tool_use: Event) -> str:
    """What a tool call is about: its command, pattern or file, else its whole input."""
    given = tool_use.get("input") or {}
    main = {"bash": "command", "glob": "pattern", "grep": "pattern"}.get(
        str(tool_use.get("name")), "file_path"
    )
    return str(given.get(main) or json.dumps(given))


def cost(list_cost: Mapping[str, Any] | None) -> str:
    """`$0.0312` from the wire's cents; "no list price" when there is none."""
    if not list_cost or list_cost.get("amount") is None:
        return "no list price"
    return f"${float(list_cost['amount']) / 100:.4f}".rstrip("0").rstrip(".")


def diff_text(lines: list[str]) -> Text:
    """A unified diff in colours."""
    text = Text()
    for line in lines:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        text.append(safe(line) + "\n", style="bold" if line[:3] in ("+++", "---") else style)
    return text


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns. Nothing is cut to the width of a terminal: ids are there to be copied."""
    cells = [[safe(str(cell)).replace("\n", " ") for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@dataclass
class _Preview:
    """A message that is still being written: its text so far, and how many of its lines are printed."""

    text: str = ""
    index: int = 0
    lines: int = 0


class Renderer:
    """Prints each event once, whatever stream or list it came from."""

    def __init__(self, console: Console, *, as_json: bool = False) -> None:
        self._console = console
        self.as_json = as_json
        self._seen: set[tuple[str, bool]] = set()
        self._previewed: dict[str, _Preview] = {}

    def show(self, event: Event) -> None:
        """Print the event; an input is shown when it is queued, not again when it is taken. Of previews
        every finished line is printed at once, and the final event adds what is missing."""
        if event.get("type") in ("event_start", "event_delta"):
            self._show_preview(event)
            return
        key = (str(event.get("id")), self.as_json and event.get("processed_at") is None)
        if key in self._seen:
            return
        self._seen.add(key)
        if self.as_json:
            print(json.dumps(event), flush=True)
            return
        show = getattr(self, "_on_" + str(event.get("type", "")).replace(".", "_"), None)
        if show:
            show(event)

    def note(self, text: str, style: str = "dim") -> None:
        if not self.as_json:
            self._console.print(Text(safe(text), style=style), soft_wrap=True)  # ids are there to be copied

    # -- one method per event type that is worth a line ------------------------------------------------
    def _on_user_message(self, event: Event) -> None:
        self._block("you", "bold cyan", _text(event.get("content")))

    def _on_user_interrupt(self, event: Event) -> None:
        self._line("stop", "bold yellow", "interrupted by you")

    def _on_user_tool_confirmation(self, event: Event) -> None:
        reason = f": {event['deny_message']}" if event.get("deny_message") else ""
        said = "allowed" if event.get("result") == "allow" else f"denied{reason}"
        self._line("you", "bold cyan", said)

    def _on_agent_thinking(self, event: Event) -> None:
        if not self._previewed.pop(str(event.get("id")), None):
            self._line("think", "magenta", "…")

    def _on_agent_message(self, event: Event) -> None:
        preview = self._previewed.pop(str(event.get("id")), None)
        if preview is None or not preview.lines:
            self._block("agent", "bold green", _text(event.get("content")))
        else:
            self._more("agent", _text(event.get("content")).rstrip().splitlines(), preview)

    def _on_audit_entry(self, entry: Event) -> None:
        """Of the audit, among events."""
        why = entry.get("reason") or entry.get("failed")
        used = f", with {entry['credential_id']}" if entry.get("credential_id") else ""
        said = f"{entry['method']} {entry['host']}:{entry['port']} {entry['decision']}{used}"
        self._line("net", "blue", f"{said}: {why}" if why else said)

    def _on_span_model_request_end(self, event: Event) -> None:
        self._previewed.clear()  # what it announced and did not finish was interrupted, or failed

    def _show_preview(self, event: Event) -> None:
        if event["type"] == "event_start":
            start = event.get("event") or {}
            self._previewed[str(start.get("id"))] = _Preview()
            if start.get("type") == "agent.thinking":
                self._line("think", "magenta", "…")
            return
        preview = self._previewed.get(str(event.get("event_id")))
        delta = event.get("delta") or {}
        if preview is not None:
            index = int(delta.get("index") or 0)
            preview.text += "\n" * (index - preview.index) + str(
                (delta.get("content") or {}).get("text", "")
            )
            preview.index = index
            self._more("agent", preview.text.split("\n")[:-1], preview)

    def _more(self, label: str, lines: list[str], preview: "_Preview") -> None:
        """Print the lines that were not printed yet."""
        for line in lines[preview.lines :]:
            if preview.lines == 0:
                self._line(label, "bold green", line)
            else:
                self._console.print(Text(f"        {safe(line)}"), soft_wrap=True)
            preview.lines += 1

    def _on_agent_tool_use(self, event: Event) -> None:
        given = event.get("input") or {}
        name = str(event.get("name"))
        text = essence(event)
        if name == "edit":
            text += f"\n- {given.get('old_string', '')}\n+ {given.get('new_string', '')}"
        if name == "write":
            text += f"\n{given.get('content', '')}"
        self._block(name, "bold blue", text)

    _on_agent_custom_tool_use = _on_agent_mcp_tool_use = _on_agent_tool_use

    def _on_agent_tool_result(self, event: Event) -> None:
        style = "red" if event.get("is_error") else "dim"
        for line in shortened(_text(event.get("content")) or "(no output)"):
            self._console.print(Text(f"        {line}", style=style), soft_wrap=True)

    _on_agent_mcp_tool_result = _on_user_custom_tool_result = _on_agent_tool_result
    _on_user_tool_result = _on_agent_tool_result

    def _on_agent_thread_context_compacted(self, event: Event) -> None:
        self._line("status", "dim", "earlier context was summarised")

    def _on_session_status_running(self, event: Event) -> None:
        self._line("status", "dim", "running")

    def _on_session_status_rescheduled(self, event: Event) -> None:
        self._line("status", "yellow", "trying again soon")

    def _on_session_status_terminated(self, event: Event) -> None:
        self._line("status", "bold red", "terminated")

    def _on_session_status_idle(self, event: Event) -> None:
        reason = str((event.get("stop_reason") or {}).get("type", ""))
        style = "dim" if reason == "end_turn" else "yellow"
        self._line("status", style, f"idle ({reason.replace('_', ' ')})")

    def _on_session_usage(self, event: Event) -> None:
        usage = event.get("usage") or {}
        read = usage.get("cache_read_input_tokens") or 0
        tokens = f"{(usage.get('input_tokens') or 0) + read:,} tokens in ({read:,} cached)"
        tokens += f", {usage.get('output_tokens') or 0:,} out"
        self._line("usage", "dim", f"{tokens}, {cost(usage.get('list_cost'))}")

    def _on_session_error(self, event: Event) -> None:
        error = event.get("error") or {}
        self._line("error", "bold red", f"{error.get('type', '')}: {error.get('message', '')}")

    def _on_session_deleted(self, event: Event) -> None:
        self._line("status", "bold red", "deleted")

    # -- layout ---------------------------------------------------------------------------------------
    def _line(self, label: str, style: str, text: str) -> None:
        self._console.print(
            Text(f"{safe(label):>6}  ", style=style) + Text(safe(text), style=""), soft_wrap=True
        )

    def _block(self, label: str, style: str, text: str) -> None:
        first, *rest = shortened(text) or [""]
        self._line(label, style, first)
        for line in rest:
            self._console.print(Text(f"        {line}"), soft_wrap=True)


def _text(content: Any) -> str:
    """The readable part of content blocks; other blocks by their type."""
    if isinstance(content, str):
        return content
    return "\n".join(str(b.get("text", f"[{b.get('type')}]")) for b in content or ())
