"""Frames and tool results, as the host reads them."""

from __future__ import annotations

import json
import os
import re
import struct
from typing import Any

HEADER = struct.Struct(">I")
_SURROGATES = re.compile("[\ud800-\udfff]")  # file names that are not UTF-8; JSON cannot carry them


class ToolFailed(Exception):
    """The tool's own failure; the message is the result the model reads."""


class Limits:
    """The host's named bounds (`kernel/limits.py`), as the start message carries them."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.output_chars: int = values["output_chars"]
        self.preview_chars: int = values["preview_chars"]
        self.bash_output_bytes: int = values["bash_output_bytes"]
        self.spill_bytes: int = values["spill_bytes"]
        self.tool_seconds: float = values["tool_seconds"]
        self.read_bytes: int = values["read_bytes"]
        self.image_base64_bytes: int = values["image_base64_bytes"]
        self.pdf_bytes: int = values["pdf_bytes"]
        self.grep_output_bytes: int = values["grep_output_bytes"]
        self.grep_line_bytes: int = values["grep_line_bytes"]
        self.grep_cpu_seconds: float = values["grep_cpu_seconds"]
        self.glob_results: int = values["glob_results"]
        self.walk_entries: int = values["walk_entries"]
        self.frame_bytes: int = values["frame_bytes"]
        self.processes: int = values["processes"]
        self.memory_bytes: int = values["memory_bytes"]
        self.file_bytes: int = values["file_bytes"]
        self.open_files: int = values["open_files"]

    def preview(self, head: str, tail: str, path: str) -> str:
        chars = {"output_chars": self.output_chars, "preview_chars": self.preview_chars}
        return preview(head, tail, path, **chars)


class Place:
    """Where the tools work: the working directory, what else they may reach, where big outputs go."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.workdir: str = message["workdir"]
        self.roots: list[str] = message["roots"]
        self.spill: str = message["spill"]
        self.moved: dict[str, str] = message["moved"]  # where a documented directory is not where it should
        self.env: dict[str, str] = message["env"]
        self.interrupted: str = message["interrupted"]  # what a cancelled call is answered with
        self.way_out: dict[str, Any] | None = message.get("way_out")  # of `loop._let_out`
        self.rights: dict[str, Any] | None = message.get("rights")  # of `rights.give_up`
        self.limits = Limits(message["limits"])

    def real(self, path: str) -> str:
        """An absolute path, which may begin with a directory that is elsewhere here."""
        for documented, here in self.moved.items():
            if path == documented or path.startswith(documented + "/"):
                return here + path[len(documented) :]
        return path


def pack(message: dict[str, Any]) -> bytes:
    body = json.dumps(message, ensure_ascii=False).encode("utf-8")
    return HEADER.pack(len(body)) + body


def text_result(call_id: str, text: str, *, is_error: bool) -> dict[str, Any]:
    """An empty output is sent as `(no output)`. Source: API docs, tools, the SDK's session runner."""
    text = _SURROGATES.sub("\ufffd", text) or "(no output)"
    return block_result(call_id, [{"type": "text", "text": text}], is_error=is_error)


def block_result(call_id: str, content: list[dict[str, Any]], *, is_error: bool) -> dict[str, Any]:
    return {"op": "result", "id": call_id, "content": content, "is_error": is_error}


def spill_path(place: Place, call_id: str) -> str:
    return os.path.join(place.spill, call_id + ".txt")


def preview(head: str, tail: str, path: str, *, output_chars: int, preview_chars: int) -> str:
    """What the model reads of an output that went to a file. Source: API docs, tools, our wording."""
    return (
        f"[output of more than {output_chars} characters; all of it is in {path}]\n"
        f"{head[:preview_chars]}\n[...]\n{tail[-preview_chars:]}"
    )


def bounded_result(place: Place, call_id: str, text: str, *, is_error: bool) -> dict[str, Any]:
    """A text result; above the limit it goes to a file and the result is a preview with its path."""
    if len(text) > place.limits.output_chars:
        path = spill_path(place, call_id)
        try:
            with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as spill:
                spill.write(text)
        except (OSError, UnicodeEncodeError) as e:  # a full disk must not eat the result
            path = f"no file ({e})"
        text = place.limits.preview(text, text, path)
    return text_result(call_id, text, is_error=is_error)
