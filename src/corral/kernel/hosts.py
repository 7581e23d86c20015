"""Names of hosts, and patterns that stand for several of them: pure text, nothing is resolved here."""

import ipaddress
import re
from typing import Final

from corral.kernel.limits import HOST_NAME_CHARS_MAX

__all__ = ["canonical_host", "fits", "matches"]

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
    """Whether an operator's entry (`host`, `host:port`, `*.domain`, `*`) is this host at this port.

    port_unless_named: of an entry that names none; None for any port.
    """
    pattern, _, number = entry.partition(":")
    wanted = int(number) if number else port_unless_named
    return wanted in (None, port) and (pattern == "*" or matches(pattern, host))
