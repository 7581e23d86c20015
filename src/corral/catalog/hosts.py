"""Hosts that an operator lets programs reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from corral.kernel.hosts import fits

__all__ = ["HTTPS_PORT", "Errand", "HostList"]

HTTPS_PORT: Final = 443
Errand = Literal["page", "repository", "packages"]
"""What this server fetches itself for a session."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostList:
    """`host`, `host:port`, `*.example.com`, or `*` for all; without a port, that of HTTPS.

    private: hosts that are allowed too, and may be at a private or loopback address.
    """

    public: Sequence[str] = ()
    private: Sequence[str] = ()

    def allows(self, host: str, port: int) -> bool:
        return self.may_be_private(host, port) or any(
            fits(entry, host, port, port_unless_named=HTTPS_PORT) for entry in self.public
        )

    def may_be_private(self, host: str, port: int) -> bool:
        return any(fits(entry, host, port, port_unless_named=HTTPS_PORT) for entry in self.private)
