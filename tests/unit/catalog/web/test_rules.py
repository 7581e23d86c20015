"""What one call may reach. Source: API docs, tools; environments."""

import pytest

from corral.catalog.toolset import check_web_networking, resolve_tools
from corral.catalog.web.rules import WebRules
from corral.kernel.errors import InvalidRequest

UNRESTRICTED = {"type": "cloud", "networking": {"type": "unrestricted"}}


def limited(*hosts):
    return {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": list(hosts)}}


def tools(**config):
    toolset = {"type": "agent_toolset_20260401", "configs": [{"name": "web_fetch", **config}]}
    return resolve_tools([toolset], [])


def test_without_settings_everything_is_allowed() -> None:
    for environment in (UNRESTRICTED, {"type": "self_hosted"}):
        assert WebRules.of(tools()[0]["configs"][0], environment).allows("example.com", "/")


def test_lists_and_hosts_must_both_allow() -> None:
    rules = WebRules.of({"allowed_domains": ["example.com"]}, limited("*.example.com", "other.org"))
    assert rules.allows("docs.example.com")
    assert not rules.allows("example.com")  # `*.` is no apex
    assert not rules.allows("other.org")
    assert not WebRules.of({}, limited()).allows("example.com")


def test_an_exact_host_covers_no_subdomain() -> None:
    rules = WebRules.of({}, limited("Example.com"))
    assert rules.allows("example.com")
    assert not rules.allows("docs.example.com")


def test_blocked_domains_cover_subdomains() -> None:
    rules = WebRules.of({"blocked_domains": ["ads.example.com"]}, UNRESTRICTED)
    assert rules.allows("example.com")
    assert not rules.allows("a.ads.example.com")


def test_a_domain_outside_of_the_allowed_hosts_is_refused_with_its_place() -> None:
    with pytest.raises(
        InvalidRequest, match=r"agent\.tools\.0\.configs\.0\.allowed_domains\.1: 'b\.example'"
    ):
        check_web_networking(tools(allowed_domains=["a.example", "b.example"]), limited("a.example"))


def test_what_is_disabled_or_inside_passes() -> None:
    check_web_networking(tools(allowed_domains=["docs.a.example"]), limited("*.a.example"))
    check_web_networking(tools(allowed_domains=["b.example"], enabled=False), limited("a.example"))
    check_web_networking(tools(allowed_domains=["b.example"]), UNRESTRICTED)
    check_web_networking(tools(allowed_domains=["b.example"]), {"type": "self_hosted"})
    check_web_networking(tools(blocked_domains=["b.example"]), limited("a.example"))
    check_web_networking([], limited("a.example"))
