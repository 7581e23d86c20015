"""Rules of credentials that no wire test needs a server for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from corral.catalog.credentials import (
    check_session_vaults,
    first_of_each_use,
    placeholder_of,
    server_key,
    unreachable_hosts,
    updated_credential,
    variables_of,
    without_secrets,
)
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import SessionId

VAULT = {"id": "vlt_1", "type": "vault", "archived_at": None}


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://A.Example", "https://a.example"),
        ("https://a.example/", "https://a.example"),
        ("HTTPS://a.example:443/x/", "https://a.example/x"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443/X", "http://a.example:443/X"),
        ("https://a.example/x?q=1", "https://a.example/x?q=1"),
        ("https://[::1]:8443/", "https://[::1]:8443"),
    ],
)
def test_urls_of_the_same_server_are_equal(url: str, key: str) -> None:
    assert server_key(url) == key


@pytest.mark.parametrize("url", ["", "a.example", "ftp://a", "https://", "https://a:x", "https://a:99999"])
def test_what_is_no_url_of_a_server(url: str) -> None:
    with pytest.raises(ValueError):
        server_key(url)


def test_every_secret_is_taken_out() -> None:
    auth = {
        "type": "mcp_oauth",
        "access_token": "1",
        "token": None,
        "refresh": {
            "refresh_token": "2",
            "scope": None,
            "token_endpoint_auth": {"type": "client_secret_post", "client_secret": "3"},
        },
    }
    shown, secrets = without_secrets(auth)
    assert shown == {
        "type": "mcp_oauth",
        "refresh": {"scope": None, "token_endpoint_auth": {"type": "client_secret_post"}},
    }
    assert secrets == {"access_token": "1", "refresh_token": "2", "client_secret": "3"}


def test_an_archived_vault_is_not_accepted() -> None:
    cloud, archived = {"type": "cloud"}, {**VAULT, "archived_at": "2026-01-01T00:00:00Z"}
    check_session_vaults([(VAULT, []), (VAULT, [])], cloud)
    with pytest.raises(InvalidRequest, match=r"vault_ids\.1: .*archived"):
        check_session_vaults([(VAULT, []), (archived, [])], cloud)


def test_workers_get_no_variables() -> None:
    server = {"id": "vcrd_1", "auth": {"type": "static_bearer", "mcp_server_url": "https://mcp.example"}}
    check_session_vaults([(VAULT, [server, variable("vcrd_2", "A")])], {"type": "cloud"})
    check_session_vaults([(VAULT, [server])], {"type": "self_hosted"})
    with pytest.raises(InvalidRequest, match=r"vcrd_2 .*self-hosted"):
        check_session_vaults([(VAULT, [server, variable("vcrd_2", "A")])], {"type": "self_hosted"})


def variable(credential_id: str, name: str, *hosts: str) -> dict[str, Any]:
    networking = {"type": "limited", "allowed_hosts": list(hosts)} if hosts else {"type": "unrestricted"}
    auth = {"type": "environment_variable", "secret_name": name, "networking": networking}
    return {"id": credential_id, "auth": auth}


def test_the_first_vault_that_has_one_wins() -> None:
    server = {"type": "static_bearer", "mcp_server_url": "https://mcp.example/x"}
    same = {"type": "mcp_oauth", "mcp_server_url": "https://MCP.example:443/x/"}
    given = [
        variable("vcrd_1", "A"),
        {"id": "vcrd_2", "auth": server},
        variable("vcrd_3", "B"),
        variable("vcrd_4", "A"),
        {"id": "vcrd_5", "auth": same},
    ]
    used = first_of_each_use(given)
    assert [each["id"] for each in used] == ["vcrd_1", "vcrd_2", "vcrd_3"]
    assert set(variables_of(used, SessionId("sesn_1"))) == {"A", "B"}


def test_placeholders() -> None:
    """Of fixed length, one for each session and name, and the same wherever it is asked for."""
    made = {placeholder_of(SessionId(f"sesn_{n}"), name) for n in range(3) for name in ("A", "B")}
    assert len(made) == 6 and {len(each) for each in made} == {len("corral_ph_") + 32}
    assert all(each.startswith("corral_ph_") for each in made)
    assert placeholder_of(SessionId("sesn_1"), "A") in made


@pytest.mark.parametrize(
    ("hosts", "networking", "unreachable"),
    [
        (["a.test"], {"type": "unrestricted"}, []),
        (["a.test"], {"type": "limited"}, ["a.test"]),
        (["A.test", "b.test"], {"type": "limited", "allowed_hosts": ["a.test"]}, ["b.test"]),
        (["x.a.test", "a.test"], {"type": "limited", "allowed_hosts": ["*.a.test"]}, ["a.test"]),
        (["*.a.test"], {"type": "limited", "allowed_hosts": ["x.a.test", "a.test"]}, ["*.a.test"]),
        (["*.b.a.test", "*.a.test"], {"type": "limited", "allowed_hosts": ["*.A.test"]}, []),
        (["*.ba.test"], {"type": "limited", "allowed_hosts": ["*.a.test"]}, ["*.ba.test"]),
        (["a.test"], {"type": "limited", "allow_package_managers": True}, []),  # nobody knows here
        ([], {"type": "limited"}, []),
    ],
)
def test_hosts_that_an_environment_does_not_allow(
    hosts: list[str], networking: dict[str, Any], unreachable: list[str]
) -> None:
    assert unreachable_hosts(variable("vcrd_1", "A", *hosts), networking) == unreachable


def test_hosts_of_mcp_servers_are_allowed_where_that_is_said() -> None:
    credential = variable("vcrd_1", "A", "a.example", "*.a.example")
    for allows in (True, False):
        networking = {"type": "limited", "allowed_hosts": [], "allow_mcp_servers": allows}
        found = unreachable_hosts(credential, networking, mcp_endpoints=[("a.example", 8443)])
        assert found == (["*.a.example"] if allows else ["a.example", "*.a.example"])


def test_a_later_change_has_a_later_time_whatever_the_clock_says() -> None:
    """Copies are told apart by it, and nodes have clocks of their own."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    current = {"archived_at": None, "metadata": {}, "updated_at": rfc3339(now)}
    after = updated_credential(current, {}, ["token"], now=now - timedelta(hours=1))
    assert after["updated_at"] == "2026-01-01T00:00:00.000001Z"
    later = now + timedelta(hours=1)
    assert updated_credential(current, {}, ["token"], now=later)["updated_at"] == rfc3339(later)
