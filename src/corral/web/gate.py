"""Where one fetch may lead: the hosts that its rules allow, the ports of the web, public addresses."""

from collections.abc import Sequence
from typing import Final

from corral.catalog.hosts import HostList
from corral.catalog.web.domains import is_inside
from corral.catalog.web.rules import WebRules

__all__ = ["Gate"]

_PORTS: Final = (80, 443, 8080, 8443)
"""Where web servers listen. Others are open to those hosts alone that an operator named."""


class Gate:
    """`confine.tunnel.Hosts` of one fetch. private: hosts at any port that the operator opened, which
    may be at addresses that are not public; the rules of the call bind them, too."""

    def __init__(self, rules: WebRules, *, private: Sequence[str] = ()) -> None:
        self._rules = rules
        self._private = HostList(private=private)

    def allows(self, host: str, port: int) -> bool:
        if ":" in host or not self._rules.allows(
            host
        ):  # no page worth reading has an IPv6 address for name
            return False
        return self.may_be_private(host, port) or (port in _PORTS and not is_inside(host))

    def may_be_private(self, host: str, port: int) -> bool:
        return self._private.may_be_private(host, port)
