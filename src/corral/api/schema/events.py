"""Request shapes of client-sent events. What a session accepts when is in `session/inbox.py`."""

import binascii
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from corral.api.schema.strict import OMITTED, Strict
from corral.kernel.limits import EVENTS_PER_SEND_MAX, SYSTEM_MESSAGE_ITEMS_MAX


def _not_blank(text: str) -> str:
    """A model provider refuses a blank text, and with it every later request of the session."""
    if not text or text.isspace():
        raise ValueError("must contain something other than white space")
    return text


def _base64(data: str) -> str:
    """Its size is bounded by the request's."""
    try:
        decoded = binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:  # binascii.Error is one
        raise ValueError(f"is not base64: {error}") from None
    if not decoded:
        raise ValueError("must not be empty")
    return data


Text = Annotated[str, AfterValidator(_not_blank)]
Base64 = Annotated[str, AfterValidator(_base64)]
MediaType = Annotated[str, StringConstraints(pattern=r"^image/(png|jpeg|gif|webp)$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]


class TextBlock(Strict):
    type: Literal["text"]
    text: Text


class Base64Image(Strict):
    type: Literal["base64"]
    media_type: MediaType
    data: Base64


class UrlSource(Strict):
    type: Literal["url"]
    url: Url


class FileSource(Strict):
    type: Literal["file"]
    file_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ImageBlock(Strict):
    type: Literal["image"]
    source: Annotated[Base64Image | UrlSource | FileSource, Field(discriminator="type")]


class Base64Document(Strict):
    type: Literal["base64"]
    media_type: Literal["application/pdf"]
    data: Base64


class PlainTextDocument(Strict):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: Text


class DocumentBlock(Strict):
    type: Literal["document"]
    source: Annotated[
        Base64Document | PlainTextDocument | UrlSource | FileSource, Field(discriminator="type")
    ]
    title: str | None = None
    context: str | None = None


class Citations(Strict):
    enabled: bool


class SearchResultText(Strict):
    type: Literal["text"]
    text: Text


class SearchResultBlock(Strict):
    type: Literal["search_result"]
    source: str
    title: str
    content: Annotated[list[SearchResultText], Field(min_length=1)]
    citations: Citations


MessageBlock = Annotated[TextBlock | ImageBlock | DocumentBlock, Field(discriminator="type")]
ResultBlock = Annotated[
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock, Field(discriminator="type")
]


class UserMessage(Strict):
    type: Literal["user.message"]
    content: Annotated[list[MessageBlock], Field(min_length=1)]


class UserInterrupt(Strict):
    type: Literal["user.interrupt"]
    session_thread_id: str | None = None


class UserToolConfirmation(Strict):
    type: Literal["user.tool_confirmation"]
    tool_use_id: str
    result: Literal["allow", "deny"]
    deny_message: str | None = None


class UserCustomToolResult(Strict):
    type: Literal["user.custom_tool_result"]
    custom_tool_use_id: str
    content: list[ResultBlock] = OMITTED
    is_error: bool | None = None


class UserToolResult(Strict):
    type: Literal["user.tool_result"]
    tool_use_id: str
    content: list[ResultBlock] = OMITTED
    is_error: bool | None = None


class UserDefineOutcome(Strict):
    type: Literal["user.define_outcome"]
    description: str
    rubric: dict[str, Any]
    max_iterations: int | None = None


class SystemTextBlock(Strict):
    type: Literal["text"]
    text: Text


class SystemMessage(Strict):
    type: Literal["system.message"]
    content: Annotated[list[SystemTextBlock], Field(min_length=1, max_length=SYSTEM_MESSAGE_ITEMS_MAX)]


Input = Annotated[
    UserMessage
    | UserInterrupt
    | UserToolConfirmation
    | UserCustomToolResult
    | UserToolResult
    | UserDefineOutcome
    | SystemMessage,
    Field(discriminator="type"),
]


class EventsSend(Strict):
    events: Annotated[list[Input], Field(min_length=1, max_length=EVENTS_PER_SEND_MAX)]


InitialEvent = Annotated[UserMessage | UserDefineOutcome, Field(discriminator="type")]
InitialEvents = Annotated[list[InitialEvent], Field(max_length=EVENTS_PER_SEND_MAX)]
