"""Environments: defaults, merges, and what a session can run in. Source: API docs, environments."""

from datetime import UTC, datetime

import pytest

from corral.catalog.environments import check_session_environment, new_environment, updated_environment
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import EnvironmentId

NOW, LATER = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)
NO_PACKAGES = {"type": "packages", "apt": [], "cargo": [], "gem": [], "go": [], "npm": [], "pip": []}


def environment(**given):
    return new_environment({"name": "e", **given}, environment_id=EnvironmentId("env_1"), now=NOW)


def cloud(**config):
    return {"type": "cloud", **config}


def limited(**members):
    return {"type": "limited", **members}


def update(current, **given):
    return updated_environment(current, given, now=LATER)


def test_defaults() -> None:
    made = environment()
    assert made["config"] == cloud(networking={"type": "unrestricted"}, packages=NO_PACKAGES)
    assert (made["description"], made["scope"], made["metadata"]) == (None, "organization", {})
    assert environment(config=None)["config"] == made["config"]


def test_config_members_merge() -> None:
    first = environment(
        config=cloud(
            networking=limited(allowed_hosts=["a.example"], allow_package_managers=True),
            packages={"pip": ["pandas==2.2"], "apt": ["jq"]},
        )
    )
    second = update(first, config=cloud(networking=limited(allow_mcp_servers=True)))
    assert second["config"]["networking"] == {
        "type": "limited",
        "allowed_hosts": ["a.example"],
        "allow_mcp_servers": True,
        "allow_package_managers": True,
    }
    assert second["config"]["packages"]["pip"] == ["pandas==2.2"]
    third = update(second, config=cloud(packages={"pip": None}))
    assert third["config"]["packages"] == {**NO_PACKAGES, "apt": ["jq"]}
    opened = update(third, config=cloud(networking={"type": "unrestricted"}))
    assert opened["config"]["networking"] == {"type": "unrestricted"}
    closed = update(update(first, config=cloud(packages=None)), config=cloud(networking=None))
    assert closed["config"] == environment()["config"]


def test_a_self_hosted_environment_has_no_more_to_it() -> None:
    made = environment(config={"type": "self_hosted"})
    assert made["config"] == {"type": "self_hosted"}
    assert update(made, config={"type": "self_hosted"}) is made
    check_session_environment(made)
    with pytest.raises(InvalidRequest) as refused:
        update(made, config={"type": "cloud"})
    assert refused.value.error_code == "invalid_config_type_change"


def test_text_and_metadata_rules() -> None:
    first = environment(description="d", metadata={"a": "1", "b": "2"})
    assert update(first, description="")["description"] == ""
    assert update(first, description=None)["description"] is None
    assert update(first, metadata={"a": "", "b": None})["metadata"] == {}
    assert update(first, name=None) is first
    assert update(first) is first
    assert update(first, name="f")["updated_at"] == "2026-11-21T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scope": "account"}, "scope"),
        (
            {"config": cloud(networking=limited(), packages={"pip": ["x"]})},
            "config.networking.allow_package_managers",
        ),
        ({"config": cloud(networking=limited(allowed_hosts=["https://a.example"]))}, "allowed_hosts.0"),
        ({"config": cloud(networking=limited(allowed_hosts=["ok.example", "a.example:80"]))}, "hosts.1"),
        ({"config": cloud(networking=limited(allowed_hosts=["a.example/x"]))}, "allowed_hosts.0"),
        ({"config": cloud(networking=limited(allowed_hosts=["*.*.example"]))}, "allowed_hosts.0"),
    ],
)
def test_refusals(given, message) -> None:
    with pytest.raises(InvalidRequest, match=message):
        environment(**given)


def test_update_refusals() -> None:
    with pytest.raises(InvalidRequest) as refused:
        update(environment(), config={"type": "self_hosted"})
    assert refused.value.error_code == "invalid_config_type_change"
    with pytest.raises(InvalidRequest) as refused:
        update({**environment(), "archived_at": "2026-11-20T00:00:00.000000Z"}, name="x")
    assert refused.value.error_code == "environment_archived"


def test_what_a_session_can_run_in() -> None:
    check_session_environment(environment())
    for ways in (
        {},
        {"allowed_hosts": ["a.example"]},
        {"allow_package_managers": True},
        {"allow_mcp_servers": True},
    ):
        check_session_environment(environment(config=cloud(networking=limited(**ways))))
    check_session_environment(environment(config=cloud(packages={"apt": ["x"], "pip": ["y"]})))
    registries = limited(allow_package_managers=True)
    check_session_environment(environment(config=cloud(networking=registries, packages={"pip": ["x"]})))
    with pytest.raises(InvalidRequest, match="archived"):
        check_session_environment({**environment(), "archived_at": "x"})
