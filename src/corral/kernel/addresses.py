"""Which addresses belong to the public internet: what a request that somebody else chose may reach."""

import ipaddress
from typing import Final

__all__ = ["is_public"]

# Beyond what `is_global` knows: relays that stand for other addresses (6to4, NAT64, Teredo), what is
# not given out to anybody (everything but 2000::/3), and what answers only a cloud's own machines, with
# their secrets: Oracle's 192.0.0.192 (older Pythons call most of that range global), Azure's wire server.
_V4_REFUSED: Final = tuple(
    ipaddress.ip_network(each) for each in ("192.88.99.0/24", "192.0.0.0/24", "168.63.129.16/32")
)
_V6_UNICAST: Final = ipaddress.ip_network("2000::/3")
_V6_REFUSED: Final = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/23"))


def is_public(address: str) -> bool:
    """False for what is no address, and for loopback, private, link-local (metadata services live there),
    shared, multicast and reserved ranges, and for what stands for an IPv4 address of these."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if parsed not in _V6_UNICAST or any(parsed in refused for refused in _V6_REFUSED):
            return False
    elif any(parsed in refused for refused in _V4_REFUSED):
        return False
    return parsed.is_global and not parsed.is_multicast
