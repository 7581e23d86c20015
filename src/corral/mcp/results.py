"""From what a tool of an MCP server returns to blocks that a model reads.

Text stays text, images of kinds that models see stay images, documents that came along are documents.
Structured content is one more text, unless the server wrote it as one itself, as it should. What models
cannot be shown (audio, other files, links) is named, so that nothing vanishes without a word.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from corral.kernel.limits import (
    MCP_BLOCKS_MAX,
    READ_IMAGE_BASE64_BYTES_MAX,
    READ_PDF_BYTES_MAX,
    TOOL_OUTPUT_CHARS_MAX,
)
from corral.mcp.failed import words
from corral.session.content import Block, ToolResult, text_block

__all__ = ["tool_result"]

_IMAGES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def tool_result(called: Any) -> ToolResult:
    """called: the SDK's `CallToolResult`."""
    blocks = list(_blocks(called.content[:MCP_BLOCKS_MAX]))
    if len(called.content) > MCP_BLOCKS_MAX:
        blocks.append(text_block(f"[{len(called.content) - MCP_BLOCKS_MAX} more parts are not shown]"))
    structured = called.structured_content
    if structured is not None and not _is_written(structured, called.content):
        blocks.append(text_block(_clean(_json(structured))))
    content = tuple(_joined(blocks)) or (text_block("(no output)"),)
    return ToolResult(content=content, is_error=bool(called.is_error))


def _is_written(structured: Any, parts: Sequence[Any]) -> bool:
    """Whether a server sent its structured content as ordinary parts, too: as JSON text; or, where all of
    it is a `result` (in which the official SDKs wrap what is no object), that, and a list one by one.
    Source: MCP, server features, tools "Structured Content"."""
    if _is_among(structured, parts[:MCP_BLOCKS_MAX]):
        return True
    if not isinstance(structured, dict) or structured.keys() != {"result"}:
        return False
    result = structured["result"]
    if isinstance(result, list) and len(result) == len(parts) > 0:
        return all(_is_among(item, [part]) for item, part in zip(result, parts, strict=True))
    return _is_among(result, parts[:MCP_BLOCKS_MAX])


def _is_among(value: Any, parts: Sequence[Any]) -> bool:
    """Whether one of the parts is this value: the same text, the same JSON (members in any order, but 1 is
    neither 1.0 nor true) as text, or the part itself as JSON."""
    wanted = _json(value, sort_keys=True)
    for part in parts:
        if part.type == "text" and (part.text == value or _canonical(part.text, like=wanted) == wanted):
            return True
        if isinstance(value, dict) and value.get("type") == part.type:
            part_fields = part.model_dump(mode="json", by_alias=True, exclude_none=True)
            if _without_nulls(value) == part_fields:
                return True
    return False


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _canonical(text: str, *, like: str) -> str | None:
    """None for what is no JSON, or begins unlike that one."""
    if not text.lstrip().startswith(like[0]):
        return None  # most text is prose, and is not read for it
    try:
        return _json(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _json(value: Any, *, sort_keys: bool = False) -> str:
    """By the library that writes integers of any size, as servers do."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)


def _blocks(parts: list[Any]) -> Iterator[Block]:
    for part in parts:
        match part.type:
            case "text":
                if text := _clean(part.text):
                    yield text_block(text)
            case "image":
                yield _image(part.data, part.mime_type)
            case "audio":
                yield text_block(_named("audio", part.mime_type, part.data))
            case "resource":
                yield _resource(part.resource)
            case "resource_link":
                said = f": {words(part.description)}" if part.description else ""
                yield text_block(f"[link to {words(str(part.uri))} ({words(part.name)}){said}]")
            case other:
                yield text_block(f"[a part of type {words(str(other))}, which cannot be shown]")


def _image(data: str, media_type: str) -> Block:
    if media_type not in _IMAGES or not _is_base64(data, READ_IMAGE_BASE64_BYTES_MAX):
        return text_block(_named("an image", media_type, data))
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _resource(resource: Any) -> Block:
    title = words(str(resource.uri))
    if hasattr(resource, "text"):
        source = {"type": "text", "media_type": "text/plain", "data": _clean(resource.text) or "(empty)"}
        return {"type": "document", "source": source, "title": title}
    media_type, data = resource.mime_type or "", resource.blob
    if media_type in _IMAGES:
        return _image(data, media_type)
    if media_type == "application/pdf" and _is_base64(data, READ_PDF_BYTES_MAX * 4 // 3):
        source = {"type": "base64", "media_type": media_type, "data": data}
        return {"type": "document", "source": source, "title": title}
    return text_block(f"{title}: {_named('a file', media_type, data)}")


def _named(what: str, media_type: str, data: str) -> str:
    size = len(data) * 3 // 4
    return f"[{what} of type {words(media_type) or 'unknown'}, {size} bytes, which cannot be shown]"


def _is_base64(data: str, length_max: int) -> bool:
    return 0 < len(data) <= length_max and len(data) % 4 == 0 and _BASE64.fullmatch(data) is not None


def _clean(text: str) -> str:
    """Without what terminals obey, and what is no text."""
    return _ESCAPES.sub("", text).encode("utf-8", "replace").decode()


def _joined(blocks: list[Block]) -> list[Block]:
    """Texts that are too long together are one, so that one file holds all of it (`hands.spill`)."""
    texts = [text for block in blocks if (text := _text(block))]
    if sum(map(len, texts)) <= TOOL_OUTPUT_CHARS_MAX:
        return blocks
    return [text_block("\n".join(texts)), *(block for block in blocks if not _text(block))]


def _text(block: Block) -> str:
    if block["type"] == "document":
        return str(block["source"]["data"]) if block["source"]["type"] == "text" else ""
    return str(block["text"]) if block["type"] == "text" else ""
