"""Results that come from no sandbox and are too long for the model: all of it goes to a file in the
session's workspace, and the model gets a preview with its path, as for what runs in a sandbox.

The file is written in a sandbox, as everything in a workspace. A session that has its sandbox elsewhere
gets as much as the model may be sent.
Source: API docs, tools, "Any tool or MCP output above 100,000 characters"; `sandbox_agent.wire`.
"""

from dataclasses import replace
from typing import Final

from corral.hands.journal import Journal
from corral.hands.sandbox_agent.wire import preview
from corral.hands.workspace import Workspaces
from corral.kernel.errors import CallerError, WorldError
from corral.kernel.limits import TOOL_OUTPUT_CHARS_MAX, TOOL_PREVIEW_CHARS
from corral.session.call import ToolCall
from corral.session.content import Block, ToolResult

__all__ = ["Spill"]

_CUT: Final = "\n[...]\n[the output goes on; these are its first {count} characters]"


class Spill:
    """Of one host."""

    def __init__(self, workspaces: Workspaces, journal: Journal) -> None:
        self._workspaces = workspaces
        self._journal = journal

    async def shortened(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """The result as the model may have it. A file that cannot be written harms nothing else.

        The call is still on its way, so its workspace stays where it is meanwhile, unless it is taken away
        from the session, which interrupts the call.
        """
        blocks = [
            await self._block(call, block, name=f"{call.call_id}{f'-{number}' if number else ''}.txt")
            for number, block in enumerate(result.content)
        ]
        return replace(result, content=tuple(blocks))

    async def _block(self, call: ToolCall, block: Block, *, name: str) -> Block:
        source = block.get("source") or {}
        is_document = block["type"] == "document" and source["type"] == "text"
        text = source["data"] if is_document else block.get("text", "")
        if len(text) <= TOOL_OUTPUT_CHARS_MAX:
            return block
        if call.recipe.environment.get("type") == "self_hosted":
            shown = text[:TOOL_OUTPUT_CHARS_MAX] + _CUT.format(count=TOOL_OUTPUT_CHARS_MAX)
        else:
            path = await self._kept(call, name, text)
            shown = preview(
                text, text, path, output_chars=TOOL_OUTPUT_CHARS_MAX, preview_chars=TOOL_PREVIEW_CHARS
            )
        return {**block, "source": {**source, "data": shown}} if is_document else {**block, "text": shown}

    async def _kept(self, call: ToolCall, name: str, text: str) -> str:
        """The path of the file; else why there is none."""
        try:
            await self._journal.held.require_not_evicted(call.session_id)
            path = await self._workspaces.put_output(call.session_id, name, text.encode("utf-8", "replace"))
            await self._journal.held.changed(call.session_id)
        except (WorldError, CallerError) as error:
            return f"no file ({error.message})"
        return path
