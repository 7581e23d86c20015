"""The official SDK, imported by the first session that needs it: it takes most of a second and 40 MB.

Call `load` in a thread: nothing else in the process waits for it then.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mcp_types
    from mcp import Client, MCPError
    from pydantic import TypeAdapter

__all__ = ["Sdk", "load"]

_loaded: "Sdk | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sdk:
    """What we use of it. called: reads the result of a `tools/call`."""

    types: Any
    client: "type[Client]"
    error: "type[MCPError]"
    called: "TypeAdapter[mcp_types.CallToolResult | mcp_types.InputRequiredResult]"
    streamable_http_client: Any
    sse_client: Any


def load() -> Sdk:
    """Blocks for a second the first time. Repeat: safe."""
    global _loaded
    if _loaded is None:
        # It logs what servers send, exceptions and all: text of theirs that no terminal of ours should get.
        for name in ("mcp", "client"):
            logging.getLogger(name).disabled = True
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        import mcp_types
        from mcp import Client, MCPError
        from mcp.client.sse import sse_client
        from mcp.client.streamable_http import streamable_http_client
        from pydantic import TypeAdapter

        for name in list(logging.root.manager.loggerDict):
            if name.startswith("mcp."):
                logging.getLogger(name).disabled = True
        _loaded = Sdk(
            types=mcp_types,
            client=Client,
            error=MCPError,
            called=TypeAdapter(mcp_types.CallToolResult | mcp_types.InputRequiredResult),
            streamable_http_client=streamable_http_client,
            sse_client=sse_client,
        )
    return _loaded
