"""Lists of domains: what an entry may be, and which hosts and paths it covers.

An entry covers its host and all subdomains of it; `www.` is a subdomain like any other. An entry of
`web_search` may go on with a path, which covers that path and what lies below it. Upper and lower case are
the same, and one trailing slash is nothing. Source: API docs, tools "Web tool restrictions".
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from publicsuffixlist import PublicSuffixList

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import WEB_DOMAIN_CHARS_MAX, WEB_DOMAINS_MAX

__all__ = ["covers", "is_address", "load_suffixes", "resolve_domains", "split_domain"]

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST_CHARS_MAX: Final = 253  # of a name in the DNS
_PATH_REFUSED: Final = re.compile(r"[\s?#$,|^!\\]")
_INSIDE: Final = ("localhost", "local", "internal", "localdomain", "invalid")
"""Endings of names that lead to this machine, into its network, or nowhere."""


def resolve_domains(given: Mapping[str, Any], at: str, *, has_paths: bool) -> dict[str, list[str] | None]:
    """`allowed_domains` and `blocked_domains` of a tool, as given; None where there is no restriction.

    at: where they stand, such as `tools.0.configs.1`. has_paths: entries may have one (`web_search`).
    Raises InvalidRequest naming list and index.
    """
    allowed, blocked = given.get("allowed_domains"), given.get("blocked_domains")
    if allowed is not None and blocked is not None:
        raise InvalidRequest(
            f"{at}.blocked_domains: Only one of allowed_domains or blocked_domains may be set"
        )
    return {
        "allowed_domains": _checked(allowed, f"{at}.allowed_domains", has_paths=has_paths),
        "blocked_domains": _checked(blocked, f"{at}.blocked_domains", has_paths=has_paths),
    }


def split_domain(entry: str) -> tuple[str, str]:
    """Host and path of a valid entry, in the form in which they are compared: ("docs.example.com", "/a/b").
    The path is "" if there is none."""
    host, slash, path = entry.removesuffix("/").partition("/")
    return host.lower(), (slash + path).lower()


def covers(entry: str, host: str, path: str = "") -> bool:
    """Whether a valid entry covers this host and path. host: lower case, without a trailing dot."""
    domain, below = split_domain(entry)
    if host != domain and not host.endswith("." + domain):
        return False
    seen = path.lower()
    return not below or seen == below or seen.startswith(below + "/")


def is_address(host: str) -> bool:
    """Whether resolvers take this for an IP address, in whatever notation: its last label is a number
    (`127.0.0.1`, `2130706433`, `0x7f.1`, `0177.0.0.1`), or it has a colon."""
    last = host.lower().removesuffix(".").rpartition(".")[2]
    return ":" in host or _NUMBER.fullmatch(last) is not None


def is_inside(host: str) -> bool:
    """Whether the name by itself says that it is none of the internet."""
    return host.rpartition(".")[2] in _INSIDE


def _checked(entries: Sequence[str] | None, at: str, *, has_paths: bool) -> list[str] | None:
    if entries is None:
        return None
    if not entries:
        raise InvalidRequest(f"{at}: Empty list of domains is ambiguous; leave it out instead")
    if len(entries) > WEB_DOMAINS_MAX:
        raise InvalidRequest(f"{at}: {len(entries)} domains; at most {WEB_DOMAINS_MAX}")
    seen: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(entries):
        here = f"{at}.{number}"
        if wrong := _wrong(entry, has_paths=has_paths):
            raise InvalidRequest(f"{here}: {entry[:WEB_DOMAIN_CHARS_MAX]!r} {wrong}")
        key = split_domain(entry)
        if key in seen:
            raise InvalidRequest(f"{here}: {entry!r} is the same as entry {seen[key]}")
        seen[key] = number
    return list(entries)


def _wrong(entry: str, *, has_paths: bool) -> str | None:
    """What is wrong with an entry, if anything is."""
    if not 1 <= len(entry) <= WEB_DOMAIN_CHARS_MAX:
        return f"must have 1 to {WEB_DOMAIN_CHARS_MAX} characters"
    if not entry.isascii():
        return "must be plain ASCII; write an international name in its xn-- form"
    if "://" in entry:
        return "must be a bare host name, without a scheme"
    if re.search(r"\s", entry):
        return "must not contain white space"
    host, path = split_domain(entry)
    if path and not has_paths:
        return "must be a bare host name, without a path"
    if path and _PATH_REFUSED.search(path):
        return "has a path with a character that is not allowed there: none of ? # $ , | ^ !"
    return _wrong_host(host)


def _wrong_host(host: str) -> str | None:
    if "@" in host:
        return "must be a bare host name, without credentials"
    if "*" in host:
        return "must not contain a wildcard; subdomains are covered already"
    if is_address(host) or host.startswith("["):
        is_port = host.count(":") == 1 and "." in host.partition(":")[0]
        return (
            "must be a bare host name, without a port" if is_port else "must be a name, not an IP address"
        )
    labels = host.split(".")
    if len(host) > _HOST_CHARS_MAX or not all(map(_LABEL.fullmatch, labels)):
        return "is not a host name"
    if is_inside(host):
        return "is a name of this machine or its network, which the web tools never reach"
    if len(labels) == 1:
        return "must have at least two labels, as example.com"
    if _suffixes().publicsuffix(host) == host:
        return "is a registry suffix, under which anybody may register; name a domain below it"
    return None


async def load_suffixes() -> None:
    """Read the list of registries beside the event loop: it takes a tenth of a second, once."""
    await asyncio.to_thread(_suffixes)


@cache
def _suffixes() -> PublicSuffixList:
    """Of registries; not those that companies declared for their customers, such as github.io."""
    return PublicSuffixList(only_icann=True)
