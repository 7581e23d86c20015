"""Hosts that an operator lets programs reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["HTTPS_PORT", "HostList"]

HTTPS_PORT: Final = 443


@dataclass(frozen=True, kw_only=True, slots=True)
class HostList:
    """`host`, `host:port`, `*.example.com`, or `*` for all; without a port, that of HTTPS.

    private: hosts that are allowed too, and may be at a private or loopback address.
    """

    public: Sequence[str] = ()
    private: Sequence[str] = ()

    def allows(self, host: str, port: int) -> bool:
        return self.may_be_private(host, port) or any(_fits(entry, host, port) for entry in self.public)

    def may_be_private(self, host: str, port: int) -> bool:
        return any(_fits(entry, host, port) for entry in self.private)


def _fits(entry: str, host: str, port: int) -> bool:
    pattern, _, number = entry.lower().partition(":")
    if (int(number) if number else HTTPS_PORT) != port:
        return False
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern
