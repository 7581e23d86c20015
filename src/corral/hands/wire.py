"""What travels between a hands host and its clients: paths, bodies, errors. Version 1.

Both ends import this file and nothing of each other. A field may be added within a version; readers
ignore what they do not know, so roles one minor version apart work together.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Final, Literal, TypeVar, get_args

import orjson

from corral.catalog.mcp.servers import McpCall, McpServer, McpTools
from corral.catalog.web.rules import WebRules
from corral.hands.ports import Probe, WorkspaceMissing
from corral.hands.trees import Tree, TreeEntry
from corral.kernel.errors import (
    CallerError,
    Conflict,
    HandsUnavailable,
    InvalidRequest,
    LeaseLost,
    NotFound,
    RequestTooLarge,
    SandboxUnavailable,
    WorldError,
)
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.call import Mount, NeverStarted, Placement, Recipe, ToolCall
from corral.session.content import Json, ToolResult
from corral.session.mounts import MountsMissing

T = TypeVar("T")

PREFIX: Final = "/corral/hands/v1"
VERSION: Final = 1
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_.~/ -]+")
_ENCODED: Final = re.compile(rb"(?:%[0-9A-Fa-f]{2})+")
EPOCH_MAX: Final = 2**62 - 1  # the journal keeps 2**62 for deleted sessions


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveSandbox:
    """A sandbox that exists on a host now."""

    session_id: SessionId
    provider: str
    is_busy: bool
    idle_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldWorkspace:
    """A session's workspace that lies on a host now.

    placed_at: the placement it belongs to, 0 where nobody places. provider: of its sandbox, None if none
    lives. idle_seconds: since a call of it last began or ended. changes, kept: so many calls and imports
    changed it, and so many of them are in its newest checkpoint. disk_bytes: 0 unless asked for.
    has_outputs, has_memory: False if there is nothing to be looked at, and never was.
    """

    session_id: SessionId
    placed_at: int
    provider: str | None
    is_busy: bool
    idle_seconds: float
    changes: int
    kept: int
    disk_bytes: int = 0
    has_outputs: bool = True
    has_memory: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What a workspace begins with. nothing: it is the session's first one. checkpoint: the files of
    `taken_at` (RFC 3339), copied on `host_id`. lost: it had one that is gone."""

    what: Literal["nothing", "checkpoint", "lost"]
    taken_at: str = ""
    host_id: str = ""

    @classmethod
    def decode(cls, what: str, taken_at: str, host_id: str) -> "Restored":
        """Raises ValueError."""
        for known in get_args(cls.__annotations__["what"]):
            if known == what:
                return cls(what=known, taken_at=taken_at, host_id=host_id)
        raise ValueError(what)


def decode_known(kind: type[T], body: dict[str, Json]) -> T:
    """A dataclass, as a host of another version may send it: what we do not know is left out."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    return kind(**{name: value for name, value in body.items() if name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeNews:
    """A tree as it is now, and what was made of it before (`note`, made by whoever reads it): its `version`
    is 0 if there is none."""

    tree: Tree
    note: dict[str, Json]
    version: int


def encode_path(path: str) -> str:
    """Names of files are bytes: what is no text travels, too, percent-encoded. As `urllib.parse` has it, in
    less time."""
    return _UNSAFE.sub(lambda run: b"%" + run[0].hex("%").upper().encode(), os.fsencode(path)).decode()


def decode_path(text: str) -> str:
    data = text.encode()
    return os.fsdecode(_ENCODED.sub(lambda run: bytes.fromhex(run[0].replace(b"%", b"").decode()), data))


def encode_tree(news: TreeNews) -> bytes:
    """Takes a while, as `decode_tree`: some megabytes, for which no loop waits."""
    entries = [
        (encode_path(entry.path), entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode)
        for entry in news.tree.entries
    ]
    return orjson.dumps(
        {
            "entries": entries,
            "is_whole": news.tree.is_whole,
            "note": news.note,
            "version": news.version,
        }
    )


def decode_tree(data: bytes) -> TreeNews:
    body = orjson.loads(data)
    entries = [
        TreeEntry(path=decode_path(path), size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, inode=inode)
        for path, size, mtime_ns, ctime_ns, inode, *_ in body["entries"]
    ]
    return TreeNews(
        tree=Tree(entries=entries, is_whole=body["is_whole"]), note=body["note"], version=body["version"]
    )


def encode_probe(probe: Probe) -> bytes:
    """What is for anybody: who asks shows it on pages that everybody can open. `detail`: its name from a
    time when there was one text."""
    return orjson.dumps({"is_available": probe.is_available, "detail": probe.summary})


def decode_probe(data: bytes) -> Probe:
    body = orjson.loads(data)
    return Probe(is_available=body["is_available"], summary=body["detail"])


def encode_call(
    call: ToolCall, *, epoch: int, placed_at: int | None = None, forbids: bool = False
) -> bytes:
    return orjson.dumps({"epoch": epoch, "call": call, "placed_at": placed_at, "forbids": forbids})


def decode_call(body: dict[str, Json]) -> tuple[ToolCall, int]:
    """Raises what the shape is wrong with: KeyError, TypeError."""
    call = body["call"]
    return ToolCall(
        session_id=decode_session_id(call),
        thread_id=ThreadId(_text(call["thread_id"])),
        call_id=EventId(_text(call["call_id"])),
        name=_text(call["name"]),
        input=dict(call["input"]),
        recipe=decode_recipe(call["recipe"]),
        placement=decode_placement(call["placement"]),
        web=decode_web(call.get("web")),
        mcp=decode_mcp(call.get("mcp")),
    ), decode_epoch(body)


def decode_web(body: dict[str, Json] | None) -> WebRules | None:
    """None from brains that know no web tools. A rule that we do not know is one that we cannot keep:
    raises TypeError."""
    if body is None:
        return None
    allowed, hosts = body["allowed_domains"], body["allowed_hosts"]
    return WebRules(
        **{
            **body,
            "allowed_domains": None if allowed is None else tuple(map(_text, allowed)),
            "blocked_domains": tuple(map(_text, body["blocked_domains"])),
            "allowed_hosts": None if hosts is None else tuple(map(_text, hosts)),
        }
    )


def decode_mcp(body: dict[str, Json] | None) -> McpCall | None:
    """Raises KeyError, TypeError."""
    if body is None:
        return None
    return McpCall(server=decode_server(body["server"]), tool=_text(body["tool"]))


def decode_server(body: dict[str, Json]) -> McpServer:
    """A limit that we do not know is one that we cannot keep: raises KeyError, TypeError."""
    hosts = body["allowed_hosts"]
    return McpServer(
        **{
            **body,
            "name": _text(body["name"]),
            "url": _text(body["url"]),
            "allowed_hosts": None if hosts is None else tuple(map(_text, hosts)),
        }
    )


def decode_servers(body: dict[str, Json]) -> list[McpServer]:
    """Raises KeyError, TypeError."""
    return [decode_server(each) for each in body["servers"]]


def encode_listings(listings: Sequence[McpTools], servers: Sequence[McpServer]) -> bytes:
    """In the order of the servers that were asked for; null for one that has no listing."""
    found = {each.server: {"tools": each.tools, "error": each.error} for each in listings}
    return orjson.dumps({"data": [found.get(server) for server in servers]})


def decode_listings(data: bytes, servers: Sequence[McpServer]) -> list[McpTools]:
    """Of these servers, in their order, those that have one. Raises KeyError, TypeError, ValueError."""
    return [
        McpTools(server=server, tools=tuple(each["tools"]), error=each["error"])
        for server, each in zip(servers, orjson.loads(data)["data"], strict=True)
        if each is not None
    ]


def decode_session_id(body: dict[str, Json]) -> SessionId:
    return SessionId(_text(body["session_id"]))


def decode_placed_at(body: dict[str, Json]) -> int | None:
    """None from clients that place nothing."""
    placed_at = body.get("placed_at")
    if placed_at is not None and (not isinstance(placed_at, int) or not 0 < placed_at <= EPOCH_MAX):
        raise TypeError("placed_at")
    return placed_at


def decode_epoch(body: dict[str, Json]) -> int:
    epoch = body["epoch"]
    if not isinstance(epoch, int) or not 0 <= epoch <= EPOCH_MAX:
        raise TypeError("epoch")
    return epoch


def decode_call_ids(body: dict[str, Json]) -> list[EventId]:
    return [EventId(_text(call_id)) for call_id in body["call_ids"]]


def decode_recipe(body: dict[str, Json]) -> Recipe:
    return Recipe(
        environment=dict(body["environment"]),
        mounts=tuple(decode_mount(mount) for mount in body.get("mounts", ())),
        variables={_text(name): _text(value) for name, value in dict(body.get("variables", {})).items()},
        mcp_endpoints=tuple((_text(host), int(port)) for host, port in body.get("mcp_endpoints", ())),
    )


def decode_mount(body: dict[str, Json]) -> Mount:
    """Raises KeyError, TypeError."""
    for each in fields(Mount):
        if each.default is MISSING:
            _text(body[each.name])
    return decode_known(Mount, {**body, "has_token": body.get("has_token") is True})


def decode_placement(body: dict[str, Json]) -> Placement:
    return Placement(host_id=_text(body["host_id"]), journal_id=_text(body["journal_id"]))


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def encode_result(result: ToolResult) -> bytes:
    """Also the form in which the journal keeps a result."""
    fields: dict[str, Json] = {"content": list(result.content), "is_error": result.is_error}
    if result.trouble is not None:
        fields["trouble"] = result.trouble
    return orjson.dumps(fields)


def decode_result(data: bytes) -> ToolResult:
    body = orjson.loads(data)
    return ToolResult(
        content=tuple(body["content"]), is_error=body["is_error"], trouble=body.get("trouble")
    )


_ERRORS: Final[dict[str, tuple[type[Exception], int]]] = {
    "never_started": (NeverStarted, 404),
    "lease_lost": (LeaseLost, 409),
    "invalid_request": (InvalidRequest, 400),
    "not_found": (NotFound, 404),
    "conflict": (Conflict, 409),
    "workspace_missing": (WorkspaceMissing, 409),
    "mounts_missing": (MountsMissing, 409),
    "request_too_large": (RequestTooLarge, 413),
    "sandbox_unavailable": (SandboxUnavailable, 503),
    "hands_unavailable": (HandsUnavailable, 503),
}


_WORDS: Final[dict[str, str]] = {
    "never_started": "the call has never started here",
    "lease_lost": "a newer epoch owns the session, or it has ended",
}


def encode_error(error: Exception, *, reference: str = "") -> tuple[int, bytes]:
    """(HTTP status, body). Only what we wrote for anybody to read crosses: the `message` of an error of
    ours. Its detail stays here, and of any other exception all but its class: paths, arguments and what
    else a text may hold are for the log, where `reference` finds them.

    A kind the other end cannot know is sent as hands_unavailable.
    """
    known = (type_ for type_, (class_, _) in _ERRORS.items() if isinstance(error, class_))
    type_ = next(known, "hands_unavailable")
    status = _ERRORS[type_][1]
    fields: dict[str, Json] = {"type": type_, "message": "the hands host failed; see its log"}
    if isinstance(error, (CallerError, WorldError)):
        fields["message"] = error.message
    elif type_ in _WORDS:
        fields["message"] = _WORDS[type_]
    else:
        fields["class"] = type(error).__name__
    if isinstance(error, WorldError):
        fields |= {"retryable": error.retryable, "written": error.written}
    if isinstance(error, MountsMissing):
        fields["missing"] = list(error.missing)
    if reference:
        fields["reference"] = reference
    return status, orjson.dumps({"error": fields})


def decode_error(data: bytes) -> Exception:
    """Inverse of `encode_error`; anything unreadable is HandsUnavailable. What the host's log knows more is
    named in `detail`."""
    try:
        fields = orjson.loads(data)["error"]
        class_, _ = _ERRORS.get(fields["type"], (HandsUnavailable, 503))
        if class_ is MountsMissing:
            return MountsMissing([_text(mount_id) for mount_id in fields["missing"]])
        if issubclass(class_, WorldError):
            return class_(
                fields["message"],
                retryable=fields.get("retryable", True),
                written=fields.get("written", False),
                detail=_where_to_look(fields),
            )
        return class_(fields["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return HandsUnavailable("the hands host sent an answer that cannot be read")


def _where_to_look(fields: dict[str, Json]) -> str | None:
    if "reference" not in fields:
        return None
    what = f"{fields['class']}, " if "class" in fields else ""
    return f"{what}see {fields['reference']} in the log of the hands host"
