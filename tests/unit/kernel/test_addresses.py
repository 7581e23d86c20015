"""Which addresses a request that somebody else chose may reach."""

import pytest

from corral.kernel.addresses import is_public


@pytest.mark.parametrize(
    "address",
    ["140.82.121.4", "8.8.8.8", "2606:50c0:8000::153", "2a00:1450:4001:82a::200e", "::ffff:8.8.8.8"],
)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.2.1", "198.18.0.1", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "192.88.99.1", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "2001:db8::1",
        "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "", "localhost", "1.2.3", "127.1",
    ],
)  # fmt: skip
def test_not_public(address: str) -> None:
    assert not is_public(address)
