"""Lists of hosts, as operators write them."""

import pytest

from corral.catalog.hosts import HostList


@pytest.mark.parametrize(
    ("entries", "host", "port", "allowed"),
    [
        (("github.com",), "github.com", 443, True),
        (("github.com",), "github.com", 8443, False),
        (("github.com",), "evil.com", 443, False),
        (("github.com",), "gist.github.com", 443, False),
        (("github.com",), "notgithub.com", 443, False),
        (("*.example.com",), "git.example.com", 443, True),
        (("*.example.com",), "example.com", 443, False),
        (("*.example.com:8443",), "git.example.com", 8443, True),
        (("*",), "anything.org", 443, True),
        (("*",), "anything.org", 22, False),
        ((), "github.com", 443, False),
    ],
)
def test_hosts(entries: tuple[str, ...], host: str, port: int, allowed: bool) -> None:
    assert HostList(public=entries).allows(host, port) == allowed
    assert not HostList(public=entries).may_be_private(host, port)
    private = HostList(private=entries)
    assert private.allows(host, port) == private.may_be_private(host, port) == allowed
