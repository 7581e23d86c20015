"""Names of hosts, and patterns that stand for several of them: pure text, nothing is resolved here."""

import ipaddress
import re
from functools import lru_cache
from typing import Final, TypeAlias

from corral.kernel.limits import HOST_ENTRIES_KEPT, HOST_NAME_CHARS_MAX

__all__ = ["Network", "canonical_host", "entry_of", "fits", "matches"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_ENTRY: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?)\]"
    r"|(?P<host>\*|[0-9]{1,3}(?:\.[0-9]{1,3}){3}/[0-9]{1,2}|(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


def canonical_host(text: str) -> str | None:
    """One spelling for each host: lower case, without the dot at the end, IPv6 without brackets and in its
    shortest form. None for what names no host.

    What looks like an IPv4 address in another notation (0x7f.1, 2130706433) stays a name: whatever it
    resolves to is judged as an address.
    """
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1])) if "%" not in text else None
        except ValueError:
            return None
    name = text.removesuffix(".").lower()
    if not text.isascii() or len(name) > HOST_NAME_CHARS_MAX or not _NAME.fullmatch(name):
        return None
    return name


def matches(pattern: str, host: str) -> bool:
    """Whether a pattern names a host, which is canonical. `*.example.com` is every host below, and not
    example.com itself; anything else is that host alone."""
    pattern = pattern.lower().removesuffix(".")
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) >= len(pattern)
    return host == pattern


def fits(entry: str, host: str, port: int, *, port_unless_named: int | None) -> bool:
    """Whether an operator's entry (see `entry_of`) is this host, or has this address, at this port.

    port_unless_named: of an entry that names none; None for any port.
    """
    pattern, number = entry_of(entry)
    wanted = port_unless_named if number is None else number
    return wanted in (None, port) and (pattern == "*" or _has(pattern, host) or matches(str(pattern), host))


@lru_cache(maxsize=HOST_ENTRIES_KEPT)
def entry_of(text: str) -> tuple[str | Network, int | None]:
    """Pattern and port of `host`, `*.domain`, `*`, an address or a network (10.0.0.0/8, [2001:db8::/32],
    [::1]), each with or without `:port`. Raises ValueError."""
    parts = _ENTRY.fullmatch(text)
    if parts is None:
        raise ValueError("not a host, host:port, *.domain, address, network or *")
    number = None if parts["port"] is None else int(parts["port"])
    if number is not None and not 0 < number < 2**16:
        raise ValueError("not a port")
    if parts["v6"] is not None:
        return ipaddress.IPv6Network(parts["v6"]), number
    if "/" in parts["host"]:
        return ipaddress.IPv4Network(parts["host"]), number
    return parts["host"].lower(), number


def _has(pattern: str | Network, host: str) -> bool:
    if isinstance(pattern, str):
        return False
    try:
        return ipaddress.ip_address(host.partition("%")[0]) in pattern
    except ValueError:
        return False
