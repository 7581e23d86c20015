"""What one call of a web tool may reach: its lists of domains, and the hosts of a `limited` environment.

The two match differently: an entry of a tool covers subdomains, an entry of `allowed_hosts` is exact unless
it begins with `*.`, and then it is every subdomain but not the name itself. `unrestricted` and self-hosted
environments restrict nothing here. Source: API docs, tools; environments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from corral.catalog.networking import NetworkPolicy
from corral.catalog.records import Wire
from corral.catalog.web.domains import covers

__all__ = ["WebRules", "limited_to"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WebRules:
    """Of one call. It travels with it, so everything in it is plain.

    allowed_domains, allowed_hosts: None: no such restriction; empty: nothing is allowed.
    max_content_tokens: of the text of a page; None: the server's own bound alone.
    user_location: as stored, for searches.
    """

    allowed_domains: tuple[str, ...] | None = None
    blocked_domains: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] | None = None
    max_content_tokens: int | None = None
    user_location: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, tool: Wire, environment: Wire) -> Self:
        """tool: the stored config of the web tool. environment: the stored config of the environment."""
        allowed = tool.get("allowed_domains")
        return cls(
            allowed_domains=None if allowed is None else tuple(allowed),
            blocked_domains=tuple(tool.get("blocked_domains") or ()),
            allowed_hosts=limited_to(environment),
            max_content_tokens=tool.get("max_content_tokens"),
            user_location=dict(tool.get("user_location") or {}),
        )

    def allows(self, host: str, path: str = "") -> bool:
        """host: lower case, as of `WebUrl`. path: its path; it counts for entries of `web_search` only."""
        if not NetworkPolicy(hosts=self.allowed_hosts).allows(host):
            return False
        return self.lists_allow(host, path)

    @property
    def networking(self) -> Wire:
        """What of it is the environment's, as one stores it."""
        if self.allowed_hosts is None:
            return {"type": "unrestricted"}
        return {"type": "limited", "allowed_hosts": list(self.allowed_hosts)}

    def lists_allow(self, host: str, path: str = "") -> bool:
        """The tool's lists alone, of the host and path of `allows`."""
        if any(covers(entry, host, path) for entry in self.blocked_domains):
            return False
        return self.allowed_domains is None or any(
            covers(entry, host, path) for entry in self.allowed_domains
        )


def limited_to(environment: Wire) -> tuple[str, ...] | None:
    """The hosts that an environment (its stored config) is limited to; None if it is not."""
    networking = environment.get("networking") or {}
    if environment.get("type") != "cloud" or networking.get("type") != "limited":
        return None
    return tuple(networking.get("allowed_hosts") or ())
