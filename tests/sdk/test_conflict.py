"""A 409 that stays one is said once: the SDK, which repeats every 409 by itself, is told not to."""

import anthropic
import httpx2
import pytest


def test_a_permanent_conflict_is_not_repeated(client: anthropic.Anthropic, agent_id: str) -> None:
    answers: list[httpx2.Response] = []
    client._client.event_hooks["response"].append(answers.append)
    with pytest.raises(anthropic.ConflictError):
        client.beta.agents.update(agent_id, version=99, name="Other")
    assert [answer.status_code for answer in answers] == [409]
