"""Which hosts a sandbox may reach: an environment's `networking`, as a rule that can be asked.

Pure: names only. Addresses are judged where they are dialled (`corral.egress`).
Source: API docs, environments "Networking"; docs/how-to/let-sandboxes-out.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corral.kernel.hosts import matches

__all__ = ["NetworkPolicy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPolicy:
    """hosts: the patterns that are allowed (`example.com`, `*.example.com`); None: every host.
    endpoints: canonical hosts that are allowed beside them, at one port each."""

    hosts: tuple[str, ...] | None
    endpoints: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def of(
        cls,
        networking: Mapping[str, Any],
        *,
        package_hosts: Sequence[str] = (),
        mcp_endpoints: Iterable[tuple[str, int]] = (),
    ) -> "NetworkPolicy":
        """networking: as stored with the environment; of an unknown type, nothing is allowed.
        package_hosts, mcp_endpoints: what `allow_package_managers` and `allow_mcp_servers` open."""
        if networking.get("type") == "unrestricted":
            return cls(hosts=None)
        if networking.get("type") != "limited":
            return cls(hosts=())
        opened = list(networking.get("allowed_hosts") or ())
        if networking.get("allow_package_managers") is True:
            opened += package_hosts
        endpoints = mcp_endpoints if networking.get("allow_mcp_servers") is True else ()
        return cls(hosts=tuple(opened), endpoints=frozenset(endpoints))

    def allows_all(self, pattern: str) -> bool:
        """Whether every host that a pattern means is allowed. pattern: in lower case."""
        if not pattern.startswith("*."):
            return self.allows(pattern)
        return self.hosts is None or any(
            each.startswith("*.") and pattern[1:].endswith(each.lower()[1:]) for each in self.hosts
        )

    def allows(self, host: str, port: int | None = None) -> bool:
        """host: canonical (`kernel.hosts`). port: None where any port of it will do."""
        if self.hosts is None or any(matches(pattern, host) for pattern in self.hosts):
            return True
        return any(host == name and port in (None, number) for name, number in self.endpoints)
