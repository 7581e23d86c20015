"""Which request is being answered: for the log lines that are written meanwhile."""

from contextvars import ContextVar
from typing import Final

__all__ = ["request_id"]

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""Set by the gate of the API; empty where nothing is being answered. Tasks of a request keep it."""
