"""What a client can read of every session at the end, while the servers still run."""

import asyncio
import io
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anthropic
import httpx2

from corral.chaos import plan
from corral.chaos.packed import Packed

__all__ = ["READ_SECONDS", "Reading", "read_all"]

READ_SECONDS: Final = 60.0  # for one answer
OUTPUTS_SECONDS: Final = 30.0  # for what was put out last to become a file
_AT_A_TIME: Final = 8


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One session, as the API shows it.

    listed: its events, oldest first.
    ran:    tokens that calls left in its workspace; None if it has none.
    outputs: its files, (name, content).
    """

    listed: Packed
    usage: dict[str, object]
    ran: Sequence[str] | None
    outputs: Sequence[tuple[str, str]]


async def read_all(url: str, *, api_key: str, session_ids: Sequence[str]) -> Mapping[str, Reading]:
    """Each session's, by its id. Raises what the API refuses: what is not read is not judged."""
    gate = asyncio.Semaphore(_AT_A_TIME)
    found: dict[str, Reading] = {}
    headers = {"x-api-key": api_key}
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key=api_key, max_retries=3, timeout=READ_SECONDS) as api,
        httpx2.AsyncClient(base_url=url, headers=headers, timeout=READ_SECONDS) as http,
    ):

        async def read(session_id: str) -> None:
            async with gate:
                found[session_id] = await _read(api, http, session_id)

        await asyncio.gather(*(read(session_id) for session_id in session_ids))
    return found


async def _read(api: anthropic.AsyncAnthropic, http: httpx2.AsyncClient, session_id: str) -> Reading:
    listed = Packed()
    page = ""
    while True:
        query = {"limit": "1000", "order": "asc", **({"page": page} if page else {})}
        answer = (
            (await http.get(f"/v1/sessions/{session_id}/events", params=query)).raise_for_status().json()
        )
        for event in answer["data"]:
            listed.append(event)
        page = answer.get("next_page") or ""
        if not page:
            break
    session = await api.beta.sessions.retrieve(session_id)
    until = time.monotonic() + READ_SECONDS
    while (response := await http.get(f"/corral/v1/sessions/{session_id}/workspace")).is_server_error:
        if time.monotonic() > until:
            response.raise_for_status()  # what is not read is not judged
        await asyncio.sleep(0.5)
    ran: list[str] | None = None
    if response.status_code == 200:
        ran = []
        with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
            for member in archive:
                if Path(member.name).name == plan.RAN and (file := archive.extractfile(member)):
                    ran = file.read().decode().split()
    assert session.usage is not None
    outputs = await _outputs(api, session_id, awaited=_put_out(listed))
    return Reading(listed=listed, usage=session.usage.model_dump(), ran=ran, outputs=outputs)


def _put_out(events: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of the outputs of calls that say that they are done."""
    uses: dict[str, str] = {}
    names = set()
    for event in events:
        if event["type"] == "agent.tool_use" and event["name"] == "bash":
            _, made, rest = event["input"]["command"].partition(f">{plan.OUTPUTS}/")
            if made:
                uses[event["id"]] = rest.partition(";")[0]
        elif event["type"] == "agent.tool_result" and not event["is_error"]:
            names.add(uses.get(event["tool_use_id"], ""))
    return names - {""}


async def _outputs(
    api: anthropic.AsyncAnthropic, session_id: str, *, awaited: set[str]
) -> list[tuple[str, str]]:
    """Once those that are awaited are there, or have had their time."""
    until = time.monotonic() + OUTPUTS_SECONDS
    while True:
        files = [file async for file in api.beta.files.list(scope_id=session_id, limit=1000)]
        if awaited <= {file.filename for file in files} or time.monotonic() > until:
            break
        await asyncio.sleep(0.5)
    contents = [await (await api.beta.files.download(file.id)).read() for file in files]
    return [(file.filename, content.decode()) for file, content in zip(files, contents, strict=True)]
