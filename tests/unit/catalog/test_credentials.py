"""Rules of credentials that no wire test needs a server for."""

from typing import Any

import pytest

from corral.catalog.credentials import check_session_vaults, server_key, without_secrets
from corral.kernel.errors import InvalidRequest

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


def test_a_server_credential_is_accepted_and_an_archived_vault_is_not() -> None:
    auth: dict[str, Any] = {"type": "static_bearer", "mcp_server_url": "https://mcp.example/x"}
    vaults: Any = [(VAULT, [{"id": "vcrd_1", "auth": auth}])]
    check_session_vaults(vaults)
    with pytest.raises(InvalidRequest, match=r"vault_ids\.0: .*archived"):
        check_session_vaults([({**VAULT, "archived_at": "2026-01-01T00:00:00Z"}, [])])
