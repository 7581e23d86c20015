"""What an operator decides about the edge, and the headers that say which API a request is for.

Lenient (the default) takes any `anthropic-version` and any `anthropic-beta`; strict wants what the hosted
service wants: a route that is behind a beta is a 404 without it, and a beta or version nobody knows a 400.
Source: API docs, errors-limits; docs/DIVERGENCES.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from corral.api.betas import AGENT_MEMORY, MANAGED_AGENTS
from corral.kernel.errors import InvalidRequest, NotFound

__all__ = ["Edge", "check_strictly"]

VERSIONS = frozenset({"2023-06-01", "2026-10-21"})
BETAS = frozenset(
    {
        MANAGED_AGENTS,
        AGENT_MEMORY,
        "dreaming-2026-04-21",
        "mcp-tunnels-2026-06-22",
        "user-profiles-2026-03-24",
        "user-profiles-2026-08-18",
        "user-profiles-2026-09-04",
        "skills-2025-10-02",
        "files-api-2025-04-14",
        "webhooks-2026-10-07",
    }
)
_GATED: Mapping[str, frozenset[str]] = {
    "agents": frozenset({MANAGED_AGENTS}),
    "environments": frozenset({MANAGED_AGENTS}),
    "sessions": frozenset({MANAGED_AGENTS}),
    "vaults": frozenset({MANAGED_AGENTS}),
    "memory_stores": frozenset({MANAGED_AGENTS, AGENT_MEMORY}),
}
"""First word behind /v1/: any one of these betas opens it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """strict_headers:          judge versions and betas as the hosted service does.
    writes_per_minute,
    reads_per_minute:           of one credential, on this node; 0: no limit.
    cors_origins:               pages that may use this server from a browser; "*": all. Empty: none.
    """

    strict_headers: bool = False
    writes_per_minute: int = 0
    reads_per_minute: int = 0
    cors_origins: frozenset[str] = frozenset()


def check_strictly(path: str, *, version: bytes | None, betas: bytes | None) -> None:
    """`version` and `betas`: the headers, of all lines together. Of paths under /v1 only.

    Raises InvalidRequest, NotFound.
    """
    if not path.startswith("/v1/"):
        return
    if version is None:
        raise InvalidRequest("anthropic-version: header is required")
    if (named := version.decode("latin-1").strip()) not in VERSIONS:
        raise InvalidRequest(f"anthropic-version: {named!r} is not a valid version")
    asked = {value.strip() for value in (betas or b"").decode("latin-1").split(",") if value.strip()}
    if unknown := sorted(asked - BETAS):
        raise InvalidRequest(f"anthropic-beta: Unexpected value(s) {', '.join(map(repr, unknown))}")
    needed = _GATED.get(path.split("/", 3)[2])
    if needed is not None and not needed & asked:
        raise NotFound(f"Not found: {path}")
