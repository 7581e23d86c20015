"""What goes wrong between us and an MCP server."""

from collections.abc import Mapping
from typing import Literal

from corral.catalog.mcp.servers import McpServer
from corral.kernel.limits import MCP_REASON_CHARS_MAX
from corral.session.content import Json

__all__ = ["ServerFailed", "Stage", "words"]

Stage = Literal["before", "refused", "unknown"]
"""Of the call that failed: it was not sent; the server refused it; it was sent, and no more is known."""


class ServerFailed(Exception):
    """A server that cannot be used now. The message is for the session's user and for the model."""

    def __init__(
        self, server: McpServer, reason: str, *, stage: Stage = "before", is_authentication: bool = False
    ) -> None:
        super().__init__(f"The MCP server {server.name!r} {reason}")
        self.server = server
        self.stage = stage
        self.is_authentication = is_authentication

    def error(self) -> Mapping[str, Json]:
        """Of a `session.error`, without `retry_status`."""
        kind = "authentication" if self.is_authentication else "connection"
        return {
            "type": f"mcp_{kind}_failed_error",
            "mcp_server_name": self.server.name,
            "message": words(str(self)),
        }


def words(text: str, *, chars_max: int = MCP_REASON_CHARS_MAX) -> str:
    """What somebody else wrote, for a message: bounded, and without what terminals obey."""
    shown = "".join(each if each.isprintable() else " " for each in text[: chars_max + 1])
    return shown if len(shown) <= chars_max else shown[:chars_max] + "..."
