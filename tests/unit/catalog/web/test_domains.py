"""Lists of domains. Source: API docs, tools "Web tool restrictions"."""

import threading
from typing import Any

import pytest

from corral.catalog.web import domains
from corral.catalog.web.domains import covers, is_address, load_suffixes, resolve_domains
from corral.kernel.errors import InvalidRequest


def allowed(*entries, has_paths=False):
    return resolve_domains({"allowed_domains": list(entries)}, "tools.0.configs.0", has_paths=has_paths)


@pytest.mark.parametrize(
    "entry",
    [
        "example.com",
        "docs.example.com",
        "EXAMPLE.com",
        "www.example.com",
        "example.com/",
        "example.co.uk",
        "xn--bcher-kva.example",
        "github.io",  # not a registry: a company's
        "my_host.example.com",
    ],
)
def test_hosts_are_kept_as_they_were_given(entry: str) -> None:
    assert allowed(entry) == {"allowed_domains": [entry], "blocked_domains": None}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("", "1 to 255 characters"),
        ("a" * 252 + ".com", "1 to 255 characters"),
        ("https://example.com", "scheme"),
        ("example.com:443", "port"),
        ("*.example.com", "wildcard"),
        ("user:pass@example.com", "credentials"),
        ("user@example.com", "credentials"),
        ("exam ple.com", "white space"),
        ("example.com\n", "white space"),
        ("bücher.example", "ASCII"),
        ("127.0.0.1", "IP address"),
        ("8.8.8.8", "IP address"),
        ("2130706433", "IP address"),
        ("0x7f000001", "IP address"),
        ("0x7f.1", "IP address"),
        ("0177.0.0.1", "IP address"),
        ("127.1", "IP address"),
        ("::1", "IP address"),
        ("[::1]", "IP address"),
        ("::ffff:127.0.0.1", "IP address"),
        ("example", "two labels"),
        ("com", "two labels"),
        ("co.uk", "registry suffix"),
        ("localhost", "this machine"),
        ("api.localhost", "this machine"),
        ("printer.local", "this machine"),
        ("metadata.google.internal", "this machine"),
        ("host.localdomain", "this machine"),
        ("nothing.invalid", "this machine"),
        ("example.com/docs", "without a path"),
        ("example..com", "not a host name"),
        (".example.com", "not a host name"),
        ("example.com.", "not a host name"),
        ("-a.example.com", "not a host name"),
        (f"{'a' * 64}.example.com", "not a host name"),
    ],
)
def test_what_is_no_plain_host_is_refused_with_its_place(entry: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"configs\.0\.allowed_domains\.1: .*{message}"):
        allowed("example.org", entry)


@pytest.mark.parametrize("entry", ["example.com/docs", "example.com/docs/v2/", "example.com/a~b%20c"])
def test_a_search_may_name_paths(entry: str) -> None:
    assert allowed(entry, has_paths=True)["allowed_domains"] == [entry]


@pytest.mark.parametrize("mark", [" ", "?", "#", "$", ",", "|", "^", "!"])
def test_paths_have_no_special_characters(mark: str) -> None:
    with pytest.raises(InvalidRequest, match=r"allowed_domains\.0"):
        allowed(f"example.com/a{mark}b", has_paths=True)


def test_an_empty_list_is_ambiguous() -> None:
    with pytest.raises(InvalidRequest, match="allowed_domains: Empty list of domains is ambiguous"):
        allowed()


def test_one_of_the_two_lists() -> None:
    both = {"allowed_domains": ["example.com"], "blocked_domains": ["example.org"]}
    with pytest.raises(InvalidRequest, match="Only one of allowed_domains or blocked_domains may be set"):
        resolve_domains(both, "x", has_paths=False)
    one = {"allowed_domains": None, "blocked_domains": ["example.org"]}
    assert resolve_domains(one, "x", has_paths=False) == one


def test_as_many_entries_as_allowed() -> None:
    allowed(*(f"host{number}.example.com" for number in range(64)))
    with pytest.raises(InvalidRequest, match="allowed_domains: 65 domains; at most 64"):
        allowed(*(f"host{number}.example.com" for number in range(65)))


@pytest.mark.parametrize("twin", ["example.com", "EXAMPLE.com", "example.com/"])
def test_duplicates_are_refused(twin: str) -> None:
    with pytest.raises(InvalidRequest, match=r"allowed_domains\.2: .*same as entry 0"):
        allowed("example.com", "www.example.com", twin)


@pytest.mark.parametrize(
    ("entry", "host", "path", "is_covered"),
    [
        ("example.com", "example.com", "/", True),
        ("example.com", "docs.example.com", "/", True),
        ("Example.com/", "a.b.example.com", "/", True),
        ("example.com", "notexample.com", "/", False),
        ("example.com", "example.com.evil.org", "/", False),
        ("www.example.com", "example.com", "/", False),
        ("example.com/docs", "example.com", "/docs", True),
        ("example.com/docs", "example.com", "/docs/a", True),
        ("example.com/docs/", "www.example.com", "/DOCS/a", True),
        ("example.com/docs", "example.com", "/docsy", False),
        ("example.com/docs", "example.com", "/", False),
    ],
)
def test_an_entry_covers_its_host_and_subdomains(
    entry: str, host: str, path: str, is_covered: bool
) -> None:
    assert covers(entry, host, path) is is_covered


def test_addresses_are_known_in_every_notation() -> None:
    assert all(
        map(is_address, ("1.2.3.4", "0x7f.1", "017700000001", "2130706433", "::1", "1.2.3.4.", "0x"))
    )
    assert not any(map(is_address, ("example.com", "1.example", "0x7f.com", "a1", "1e3.com")))


async def test_the_list_of_registries_is_read_once_and_not_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    make = domains.PublicSuffixList

    def noted(**options: Any) -> Any:
        threads.append(threading.current_thread())
        return make(**options)

    monkeypatch.setattr(domains, "PublicSuffixList", noted)
    domains._suffixes.cache_clear()
    await load_suffixes()
    assert allowed("example.co.uk")
    assert len(threads) == 1 and threads[0] is not threading.main_thread()
