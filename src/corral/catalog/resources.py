"""Resources of sessions: pure rules of where things are mounted. Source: API docs, sessions "Resources"."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from corral.catalog.records import Wire
from corral.catalog.repositories import RESOURCE_TYPE
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import FileId, ResourceId
from corral.kernel.limits import (
    MOUNT_PATH_BYTES_MAX,
    MOUNT_PATH_PART_BYTES_MAX,
    REPOSITORIES_PER_SESSION_MAX,
    SESSION_RESOURCES_MAX,
)

__all__ = ["UPLOADS", "check_self_hosted", "check_together", "file_resource", "upload_path"]

UPLOADS: Final = "/mnt/session/uploads"
"""Where a session sees its files, read-only."""


def upload_path(asked: str | None, *, file_id: FileId, where: str) -> str:
    """The absolute path of a file: below UPLOADS, whatever is asked for. where: the field, for messages.

    Raises InvalidRequest: it leads elsewhere, or is no path of a file.
    """
    if asked is None:
        return f"{UPLOADS}/{file_id}"
    relative = asked.removeprefix(f"{UPLOADS}/").removeprefix("/")
    parts = relative.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidRequest(f"{where}: must not have an empty part, '.' or '..'")
    if any(not char.isprintable() for char in relative):
        raise InvalidRequest(f"{where}: must not have characters that do not print")
    path = f"{UPLOADS}/{relative}"
    is_long = len(path.encode()) > MOUNT_PATH_BYTES_MAX
    if is_long or any(len(part.encode()) > MOUNT_PATH_PART_BYTES_MAX for part in parts):
        raise InvalidRequest(
            f"{where}: must come to at most {MOUNT_PATH_BYTES_MAX} bytes below {UPLOADS}, each part of it"
            f" to {MOUNT_PATH_PART_BYTES_MAX}"
        )
    return path


def check_self_hosted(environment: Wire, types: Sequence[str], *, where: Sequence[str]) -> None:
    """What a session in an environment of this config can have mounted: workers mount memory stores, and
    nothing else. Raises InvalidRequest."""
    if environment["type"] != "self_hosted":
        return
    for kind, place in zip(types, where, strict=True):
        if kind != "memory_store":
            raise InvalidRequest(
                f"{place}type: {kind!r} resources are not supported with self-hosted environments; put a"
                " reference into the session's metadata, which the worker reads"
            )


def file_resource(resource_id: ResourceId, *, file_id: FileId, mount_path: str, now: datetime) -> Wire:
    """file_id: of the session's own copy."""
    return {
        "id": resource_id,
        "type": "file",
        "file_id": file_id,
        "mount_path": mount_path,
        "created_at": rfc3339(now),
        "updated_at": rfc3339(now),
    }


def check_together(bodies: Sequence[Wire], *, where: Sequence[str]) -> None:
    """Whether a session can have all of these. where: what stands before
    the fields of each in messages.

    Raises InvalidRequest: too many files or repositories; two in one place, or one where another needs a
    directory.
    """
    if sum(body["type"] == "file" for body in bodies) > SESSION_RESOURCES_MAX:
        raise InvalidRequest(f"resources: a session has at most {SESSION_RESOURCES_MAX} files")
    if sum(body["type"] == RESOURCE_TYPE for body in bodies) > REPOSITORIES_PER_SESSION_MAX:
        raise InvalidRequest(
            f"resources: a session has at most {REPOSITORIES_PER_SESSION_MAX} repositories"
        )
    paths: dict[str, int] = {}
    for number, body in enumerate(bodies):
        path = body.get("mount_path")
        if path is not None and paths.setdefault(path, number) != number:
            raise _in_the_way(path, path, where[number])
    for path, number in paths.items():
        above = path.rpartition("/")[0]
        while above:
            if above in paths:
                raise _in_the_way(path, above, where[max(number, paths[above])])
            above = above.rpartition("/")[0]


def _in_the_way(path: str, other: str, where: str) -> InvalidRequest:
    problem = "is mounted already" if path == other else f"is below {other!r}, which is mounted already"
    return InvalidRequest(f"{where}mount_path: {path!r} {problem}")
