"""A system.message needs a model that takes one in mid-conversation. Source: API docs, events."""

import anthropic
import pytest


def test_a_model_without_system_messages_refuses_one_with_the_documented_code(
    client: anthropic.Anthropic, environment_id: str
) -> None:
    agent = client.beta.agents.create(name="Older", model="claude-sonnet-4-5")
    session = client.beta.sessions.create(agent=agent.id, environment_id=environment_id)
    system = {"type": "system.message", "content": [{"type": "text", "text": "Be brief."}]}
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.sessions.events.send(session.id, events=[system])
    code = refused.value.body["error"]["details"]["error_code"]
    assert code == "model_does_not_support_mid_conversation_system"
    assert list(client.beta.sessions.events.list(session.id)) == []
