"""The request that is built from a conversation."""

from corral.brain.context import ENVIRONMENT_NOTE, build
from corral.session import events as ev
from corral.testing.messages_rules import broken_rule
from tests.unit.brain.scene import CUSTOM, MODELS, Scene, agent, text


def test_what_the_system_says_before_the_user_is_part_of_the_system_prompt() -> None:
    scene = Scene()
    scene.send(ev.SystemMessage, content=[text("Be brief.")])
    scene.step()
    scene.say("hello")
    scene.step()
    thread = scene.state.primary
    request = build(scene.state.session_id, thread, MODELS.resolve(thread.model))
    assert request.system[-1]["text"] == "Be brief."
    assert [message["role"] for message in request.messages] == ["user"]
    body = {"model": request.model, "max_tokens": 1, "system": request.system, "messages": request.messages}
    assert broken_rule(body) is None


def test_agents_with_tools_of_the_sandbox_are_told_where_they_are() -> None:
    plain, bare = agent(), {**agent(), "tools": [CUSTOM]}
    for snapshot, is_self_hosted, is_told in (
        (plain, False, True),
        (plain, True, False),
        (bare, False, False),
    ):
        scene = Scene(snapshot)
        scene.say("hello")
        scene.step()
        thread = scene.state.primary
        info = MODELS.resolve(thread.model)
        request = build(scene.state.session_id, thread, info, is_self_hosted=is_self_hosted)
        assert (ENVIRONMENT_NOTE in str(request.system)) == is_told
