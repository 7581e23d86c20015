"""What a model calls the tool of an MCP server: `mcp__<server>__<tool>`.

Names of servers are any text, names of tools what their server likes; a model's provider takes 128 letters,
digits, `_` and `-`. What does not fit is changed, and then carries a hash of the whole name, so that no two
tools of one server, and no two servers, are called the same. A server cannot take another one's names: its
part of the name is made of the agent's word for it alone.
"""

import re
from hashlib import sha256
from typing import Final

__all__ = ["is_mcp_name", "model_name", "server_prefix"]

_PREFIX: Final = "mcp__"
_SERVER_CHARS, _TOOL_CHARS = 46, 75  # with the prefix and what is between them 128
_HASH_CHARS: Final = 8
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_-]")


def is_mcp_name(name: str) -> bool:
    """Whether a model that says this means a tool of an MCP server: no other tool may be called so."""
    return name.startswith(_PREFIX)


def server_prefix(server: str) -> str:
    """What the names of all its tools begin with."""
    is_ambiguous = "__" in server or server.startswith("_") or server.endswith("_")
    return f"{_PREFIX}{_fitted(server, _SERVER_CHARS, is_ambiguous=is_ambiguous)}__"


def model_name(server: str, tool: str) -> str:
    return server_prefix(server) + _fitted(tool, _TOOL_CHARS)


def _fitted(name: str, chars_max: int, *, is_ambiguous: bool = False) -> str:
    if not is_ambiguous and 0 < len(name) <= chars_max and not _ILLEGAL.search(name):
        return name
    # "_+" keeps what is legal readable, and never two in a row, which is what stands between the parts.
    legal = re.sub("_+", "_", _ILLEGAL.sub("_", name)).strip("_")[: chars_max - _HASH_CHARS - 1]
    return f"{legal}-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:_HASH_CHARS]}"
