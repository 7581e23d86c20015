"""What a hands host tells the model of its sandboxes: that one stopped, and what became of the files."""

from typing import Final

__all__ = [
    "NEWS_FOUND",
    "NEWS_KEPT",
    "NEWS_LOST",
    "NEWS_MOVED",
    "NEWS_RESTORED",
    "OUTCOME_UNKNOWN",
    "SANDBOX_STOPPED",
]

OUTCOME_UNKNOWN: Final = (
    "The sandbox or its host stopped while this tool call was running. Its outcome is unknown: it may "
    "have done all, some or none of its work. Check before you repeat it."
)
SANDBOX_STOPPED: Final = (
    f"{OUTCOME_UNKNOWN} The next call gets a fresh sandbox: the files in /workspace are still there; "
    "running processes, shell state and files elsewhere are gone."
)
_GONE: Final = "Running processes, shell state and files elsewhere are gone."
NEWS_KEPT: Final = f"[This is a fresh sandbox. The files in /workspace are still there. {_GONE}]\n"
NEWS_RESTORED: Final = (
    "[This is a fresh sandbox on another machine. The files in /workspace were restored as they were at"
    f" {{taken_at}}; later changes are lost. {_GONE}]\n"
)
NEWS_LOST: Final = (
    "[This is a fresh sandbox on another machine. Nothing of the earlier one could be restored:"
    f" /workspace is empty. {_GONE}]\n"
)
NEWS_MOVED: Final = (
    "[On this machine directories are elsewhere for commands: {where}. The file tools understand both.]\n"
)
NEWS_FOUND: Final = (
    "[This is a fresh sandbox. The files in /workspace are as they were found on its machine: what was done"
    f" last may be missing. {_GONE}]\n"
)
"""What a fresh sandbox tells the model that had another one before. Source: docs/DIVERGENCES.md."""
