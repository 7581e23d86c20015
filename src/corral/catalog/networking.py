"""Which hosts a sandbox may reach: an environment's `networking`, as a rule that can be asked.

Pure: names only. Addresses are judged where they are dialled (`corral.egress`).
Source: API docs, environments "Networking"; docs/reference/networking.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corral.kernel.hosts import matches

__all__ = ["NetworkPolicy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPolicy:
    """hosts: the patterns that are allowed (`example.com`, `*.example.com`); None: every host."""

    hosts: tuple[str, ...] | None

    @classmethod
    def of(
        cls,
        networking: Mapping[str, Any],
        *,
        package_hosts: Sequence[str] = (),
        mcp_hosts: Sequence[str] = (),
    ) -> "NetworkPolicy":
        """networking: as stored with the environment; of an unknown type, nothing is allowed.
        package_hosts, mcp_hosts: what `allow_package_managers` and `allow_mcp_servers` open."""
        if networking.get("type") == "unrestricted":
            return cls(hosts=None)
        if networking.get("type") != "limited":
            return cls(hosts=())
        opened = list(networking.get("allowed_hosts") or ())
        if networking.get("allow_package_managers") is True:
            opened += package_hosts
        if networking.get("allow_mcp_servers") is True:
            opened += mcp_hosts
        return cls(hosts=tuple(opened))

    def allows_all(self, pattern: str) -> bool:
        """Whether every host that a pattern means is allowed. pattern: in lower case."""
        if not pattern.startswith("*."):
            return self.allows(pattern)
        return self.hosts is None or any(
            each.startswith("*.") and pattern[1:].endswith(each.lower()[1:]) for each in self.hosts
        )

    def allows(self, host: str) -> bool:
        """host: canonical (`kernel.hosts`)."""
        return self.hosts is None or any(matches(pattern, host) for pattern in self.hosts)
