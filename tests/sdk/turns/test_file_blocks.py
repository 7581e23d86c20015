"""Files in messages, from the client's `file_id` to what the model is sent."""

from base64 import b64encode
from typing import Any

import pytest

from corral.testing.messages_reply import Reply
from tests.served import text
from tests.stage import Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_model_sees_what_is_in_a_file(stage: Stage) -> None:
    files = stage.client.beta.files
    picture = await files.upload(file=("a.png", b"\x89PNG", "image/png"))
    report = await files.upload(file=("report.txt", b"All is well.", "text/plain"))
    session = await stage.session()
    said = text("Look.")
    said["content"] += [
        {"type": "image", "source": {"type": "file", "file_id": picture.id}},
        {"type": "document", "source": {"type": "file", "file_id": report.id}, "title": "Report"},
    ]

    async def turn(event: Any) -> list[Any]:
        """What the model is sent, from the first message on."""
        stage.play(Reply.text("Seen."))
        async with stage.watch(session.id) as tail:
            await stage.send(session.id, event)
            await tail.idle()
        return list(stage.requests[-1].json["messages"][0]["content"])

    _, image, document = await turn(said)
    assert image["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": b64encode(b"\x89PNG").decode(),
    }
    assert document["source"] == {"type": "text", "media_type": "text/plain", "data": "All is well."}
    assert document["title"] == "Report"
    assert [each["type"] for each in await turn(text("And now?"))] == ["text", "image", "document"]
    stored = [event for event in await stage.history(session.id) if event.type == "user.message"]
    assert stored[0].content[2].source.file_id == report.id, "the log names the file"
