"""git, as the agent runs it."""

from __future__ import annotations

from corral.redteam.inside.box import Box
from corral.redteam.inside.means import output_of

QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/tmp"}


def git(box: Box, *words: str, where: str, **environment: str) -> tuple[int, bytes]:
    """Exit code and output, which is looked through. Raises Untried."""
    return output_of(box, "git", "-C", where, *words, environment={**QUIET, "HOME": where, **environment})
