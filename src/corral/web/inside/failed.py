"""What ends a fetch."""

from __future__ import annotations


class Failed(Exception):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
