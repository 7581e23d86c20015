"""Bodies that the API takes, and what every answer to something worse must be."""

import time
from typing import Any

import httpx2

from tests.stage import MODEL

# Of the processor, for one request, at both ends of it. What it takes by the clock says more of what else
# the machine does.
SECONDS_MAX = 5.0


def begin(request: httpx2.Request) -> None:
    """For `check`: what each request begins with."""
    request.extensions["began"] = time.process_time()


def check(answer: httpx2.Response, what: object, *, statuses: range | set[int] = range(400, 500)) -> None:
    """One of these answers, soon, to a request of the client of these tests; what is refused is refused in
    the envelope."""
    assert answer.status_code in statuses, (what, answer.status_code, answer.text[:500])
    assert time.process_time() - answer.request.extensions["began"] < SECONDS_MAX, what
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"], what


def taken(http: httpx2.Client) -> dict[str, Any]:
    """By path, a body that is taken, with a text in every place that has one."""

    def made(path: str, body: Any) -> str:
        answer = http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    metadata = {"key": "value"}
    tool = {
        "type": "custom",
        "name": "lookup",
        "description": "Looks up.",
        "input_schema": {
            "type": "object",
            "properties": {"word": {"type": "string", "description": "Which."}},
            "required": ["word"],
        },
    }
    agent = {
        "name": "Ada",
        "model": MODEL,
        "description": "Helps.",
        "system": "Be kind.",
        "tools": [{"type": "agent_toolset_20260401", "configs": [{"name": "bash"}]}, tool],
        "metadata": metadata,
    }
    environment = {"name": "e", "description": "d", "metadata": metadata}
    agent_id, environment_id = made("/v1/agents", agent), made("/v1/environments", environment)
    blocks = [
        {"type": "text", "text": "hello"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {
            "type": "document",
            "title": "t",
            "context": "c",
            "source": {"type": "text", "media_type": "text/plain", "data": "d"},
        },
    ]
    message = {"type": "user.message", "content": blocks}
    session = {
        "agent": agent_id,
        "environment_id": environment_id,
        "title": "t",
        "metadata": metadata,
        "initial_events": [message],
    }
    session_id = made("/v1/sessions", session)
    store = {"name": "Notes", "description": "d", "metadata": metadata}
    store_id = made("/v1/memory_stores", store)
    vault = {"display_name": "v", "metadata": metadata}
    vault_id = made("/v1/vaults", vault)
    credential = {
        "display_name": "c",
        "metadata": metadata,
        "auth": {
            "type": "environment_variable",
            "secret_name": "TOKEN",
            "secret_value": "secret",
            "networking": {"type": "limited", "allowed_hosts": ["example.com"]},
        },
    }
    return {
        "/v1/agents": agent,
        f"/v1/agents/{agent_id}": {"name": "Ada", "system": "x", "metadata": metadata},
        "/v1/environments": environment,
        f"/v1/environments/{environment_id}": {"name": "e", "metadata": metadata},
        "/v1/sessions": session,
        f"/v1/sessions/{session_id}": {"title": "t", "metadata": metadata},
        f"/v1/sessions/{session_id}/events": {"events": [message]},
        f"/v1/sessions/{session_id}/resources": {
            "type": "file",
            "file_id": "file_x",
            "mount_path": "/mnt/session/uploads/x",
        },
        "/v1/memory_stores": store,
        f"/v1/memory_stores/{store_id}": {"name": "n", "metadata": metadata},
        f"/v1/memory_stores/{store_id}/memories": {"path": "/a.md", "content": "text"},
        "/v1/vaults": vault,
        f"/v1/vaults/{vault_id}/credentials": credential,
        "/v1/messages/count_tokens": {
            "model": MODEL,
            "messages": [{"role": "user", "content": "hello"}],
        },
        "/corral/v1/keys": {"name": "k"},
        "/corral/v1/workspaces": {"name": "w"},
    }
