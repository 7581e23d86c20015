"""Web tools as the brain sees them: who is offered them, what a call may reach, what it counts for."""

from dataclasses import replace
from decimal import Decimal

import pytest

from corral.brain.context import WEB_NOTE, build
from corral.brain.policy import offered
from corral.brain.web import rules_of
from corral.catalog.toolset import resolve_tools
from corral.catalog.web.rules import WebRules
from tests.unit.brain.scene import MODELS, Scene, agent


def snapshot(*configs):
    toolset = {"type": "agent_toolset_20260401", "configs": list(configs)}
    return {**agent(), "tools": resolve_tools([toolset], [], has_search=True)}


def names(agent_snapshot, **options):
    return [tool["name"] for tool in offered(agent_snapshot, **options)]


def test_a_search_is_offered_where_there_is_an_engine_to_ask() -> None:
    default = snapshot()
    six = ["bash", "read", "write", "edit", "glob", "grep"]
    assert names(default) == [*six, "web_fetch"]
    assert names(default, has_search=True) == [*six, "web_fetch", "web_search"]
    off = snapshot({"name": "web_fetch", "enabled": False}, {"name": "web_search", "enabled": False})
    assert names(off, has_search=True) == six


def test_the_model_is_told_that_the_web_is_not_in_the_sandbox() -> None:
    def told(*configs: dict[str, object]) -> bool:
        scene = Scene(snapshot(*configs))
        scene.say("go")
        scene.step()
        scene.asked()
        thread = scene.state.threads[scene.record.primary_thread_id]
        request = build(scene.record.session_id, thread, MODELS.resolve(thread.model))
        return WEB_NOTE in [block["text"] for block in request.system]

    assert told()
    assert not told({"name": "web_fetch", "enabled": False})
    assert not told({"name": "bash", "enabled": False})


def use(name: str, **fields: object) -> dict[str, object]:
    return {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": fields}


def calling(scene: Scene, name: str, **fields: object):
    """The pending call of a model that asks for this tool."""
    scene.say("go")
    scene.step()
    scene.asked()
    scene.step(scene.reply(use(name, **fields)))
    scene.decide()
    (call,) = scene.state.threads[scene.record.primary_thread_id].calls.values()
    return call


def test_the_rules_of_a_call_are_its_agents_and_its_environments() -> None:
    scene = Scene(
        snapshot({"name": "web_fetch", "allowed_domains": ["example.com"], "max_content_tokens": 9})
    )
    call = calling(scene, "web_fetch", url="https://example.com/")
    assert rules_of(scene.state, call) == WebRules(allowed_domains=("example.com",), max_content_tokens=9)
    scene.state.environment = {
        "type": "cloud",
        "networking": {"type": "limited", "allowed_hosts": ["docs.example.com"]},
    }
    limited = rules_of(scene.state, call)
    assert limited is not None
    assert limited.allowed_hosts == ("docs.example.com",)
    assert rules_of(scene.state, replace(call, name="bash")) is None


def test_a_tool_that_was_taken_away_reaches_nothing() -> None:
    scene = Scene(snapshot())
    call = calling(scene, "web_fetch", url="https://example.com/")
    primary = scene.state.threads[scene.record.primary_thread_id]
    primary.agent = snapshot({"name": "web_fetch", "enabled": False})
    rules = rules_of(scene.state, call)
    assert rules is not None
    assert not rules.allows("example.com")


def change_domains(scene: Scene, *domains: str) -> None:
    """As if the list had been saved when its entries were good."""
    primary = scene.state.threads[scene.record.primary_thread_id]
    primary.agent["tools"][0]["configs"][0]["allowed_domains"] = list(domains)


def test_settings_that_became_invalid_end_the_turn_before_anything_runs() -> None:
    scene = Scene(snapshot({"name": "web_fetch", "allowed_domains": ["example.co.uk"]}))
    change_domains(scene, "co.uk")
    scene.say("go")
    scene.step()
    scene.asked()
    said = scene.step(scene.reply(use("web_fetch", url="https://a.co.uk/"), use("bash", command="true")))
    assert not scene.decide()
    assert said.count("agent.tool_result") == 2 and scene.last("agent.tool_result").is_error
    error = scene.last("session.error").error
    assert (error["type"], error["retry_status"]) == ("unknown_error", {"type": "exhausted"})
    assert error["message"].startswith(
        "The settings of web_fetch are no longer valid: agent.tools.0.configs.0.allowed_domains.0: 'co.uk'"
    )
    assert scene.last("session.status_idle").stop_reason == {"type": "retries_exhausted"}
    change_domains(scene, "example.co.uk")
    assert calling(scene, "web_fetch", url="https://example.co.uk/").placement == scene.placement
    assert scene.in_flight, "it runs"


def test_other_tools_run_though_settings_of_the_web_became_invalid() -> None:
    scene = Scene(snapshot({"name": "web_fetch", "allowed_domains": ["example.com"]}))
    change_domains(scene, "com")
    assert calling(scene, "bash", command="true").placement == scene.placement
    assert scene.in_flight


def test_a_search_that_answered_counts_and_costs() -> None:
    scene = Scene(snapshot())
    calling(scene, "web_search", query="ada")
    before = scene.state.threads[scene.record.primary_thread_id].tokens
    scene.step(scene.ran("found"))
    after = scene.state.threads[scene.record.primary_thread_id].tokens
    assert after.wire()["server_tool_use"] == {"web_search_requests": 1, "web_fetch_requests": 0}
    assert after.cost_microcents - before.cost_microcents == Decimal(1_000_000)  # 10 USD for 1,000
    assert scene.rebuilt().threads[scene.record.primary_thread_id].tokens == after


@pytest.mark.parametrize(("name", "is_error"), [("web_fetch", False), ("web_search", True)])
def test_fetches_and_failed_searches_are_free(name: str, is_error: bool) -> None:
    scene = Scene(snapshot())
    calling(scene, name, url="https://example.com/", query="ada")
    before = scene.state.threads[scene.record.primary_thread_id].tokens
    scene.step(scene.ran("page", is_error=is_error))
    after = scene.state.threads[scene.record.primary_thread_id].tokens
    assert after.wire()["server_tool_use"] == {"web_search_requests": 0, "web_fetch_requests": 0}
    assert after.cost_microcents == before.cost_microcents


def test_a_web_tool_of_a_self_hosted_session_goes_to_a_host_of_ours() -> None:
    scene = Scene(snapshot(), environment="self_hosted")
    call = calling(scene, "web_fetch", url="https://example.com/")
    assert (call.is_remote, call.placement) == (False, scene.placement)
    assert scene.in_flight, "it runs, and waits for no worker"
