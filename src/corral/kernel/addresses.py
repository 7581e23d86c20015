"""Which addresses belong to the public internet: what a request that somebody else chose may reach."""

import ipaddress
from typing import Final

__all__ = ["answers_machines_only", "is_public", "stands_for"]

# Beyond what `is_global` knows: relays that stand for other addresses (6to4, NAT64, Teredo), what is
# not given out to anybody (everything but 2000::/3), and what answers only a cloud's own machines, with
# their secrets: Oracle's 192.0.0.192 (older Pythons call most of that range global), Azure's wire server.
_V4_REFUSED: Final = tuple(
    ipaddress.ip_network(each) for each in ("192.88.99.0/24", "192.0.0.0/24", "168.63.129.16/32")
)
# Where clouds keep what is for their own machines, credentials among it. Beside link-local ones: AWS and
# Google by IPv6, Azure, Alibaba, Oracle.
_MACHINES_ONLY: Final = tuple(
    ipaddress.ip_network(each)
    for each in (
        "169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "fd20:ce::254",
        "168.63.129.16", "100.100.100.200", "192.0.0.192",
    )
)  # fmt: skip
_IPV4_BITS: Final = 0xFFFFFFFF
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL: Final = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")
_TRANSLATED: Final = ipaddress.ip_network("::ffff:0:0:0/96")
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


def stands_for(address: str) -> list[str]:
    """The address itself, by its own name, and each IPv4 address that a packet to it may end at: mapped and
    compatible ones (RFC 4291), translated ones (RFC 2765), by NAT64 (RFC 6052, 8215: wherever such a prefix
    may end), 6to4, Teredo.
    Empty for what is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return []
    if isinstance(parsed, ipaddress.IPv4Address):
        return [str(parsed)]
    number = int(parsed)
    inner: list[int] = []
    if parsed.ipv4_mapped is not None or any(parsed in each for each in (_NAT64, _COMPATIBLE, _TRANSLATED)):
        inner.append(number)
    elif parsed in _NAT64_LOCAL:
        low = number & ((1 << 64) - 1)
        high = number >> 64
        inner += [
            number,
            (high & 0xFFFF) << 16 | low >> 40 & 0xFFFF,
            (high & 0xFF) << 24 | low >> 32 & 0xFFFFFF,
            low >> 24,
        ]
    elif parsed.sixtofour is not None:
        inner.append(int(parsed.sixtofour))
    elif parsed.teredo is not None:
        inner += [int(each) for each in parsed.teredo]
    return [str(parsed), *(str(ipaddress.IPv4Address(each & _IPV4_BITS)) for each in inner)]


def answers_machines_only(address: str) -> bool:
    """Whether a metadata service, or another service of a cloud for its own machines, may be there."""
    found = [ipaddress.ip_address(each) for each in stands_for(address)]
    return any(each in network for each in found for network in _MACHINES_ONLY)
