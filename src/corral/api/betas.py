"""`anthropic-beta`: which versions of the API a request asks for. Source: API docs, errors-limits."""

from starlette.requests import Request

from corral.kernel.errors import InvalidRequest

__all__ = ["AGENT_MEMORY", "MANAGED_AGENTS", "SKILLS", "betas_of", "refuse_both"]

MANAGED_AGENTS = "managed-agents-2026-04-01"
AGENT_MEMORY = "agent-memory-2026-07-22"
SKILLS = "skills-2025-10-02"


def betas_of(request: Request) -> frozenset[str]:
    """The values, of all such headers."""
    lines = request.headers.getlist("anthropic-beta")
    return frozenset(value.strip() for line in lines for value in line.split(",") if value.strip())


def refuse_both(request: Request, one: str, other: str) -> None:
    """Of routes that take either. Raises InvalidRequest."""
    if {one, other} <= betas_of(request):
        raise InvalidRequest(f"anthropic-beta: {one} and {other} exclude each other here; send one of them")
