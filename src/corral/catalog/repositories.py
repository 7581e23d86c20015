"""Git repositories as resources of a session: pure rules for their URL, checkout and place.

Source: API docs, sessions "Resources"; docs/DIVERGENCES.md "Repositories".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import orjson

from corral.catalog.hosts import HTTPS_PORT, HostList
from corral.catalog.records import Wire
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import ResourceId, SessionId, WorkspaceId
from corral.kernel.limits import (
    HOST_NAME_CHARS_MAX,
    REPOSITORY_BRANCH_CHARS_MAX,
    REPOSITORY_MOUNT_PATH_CHARS_MAX,
    REPOSITORY_URL_CHARS_MAX,
)

__all__ = [
    "RESOURCE_TYPE",
    "Branch",
    "Checkout",
    "Commit",
    "Holder",
    "Repository",
    "RepositorySkill",
    "RepositoryUrl",
    "SealedToken",
    "TokenPlace",
    "check_branch",
    "check_commit",
    "repository_mount_path",
    "repository_resource",
    "repository_url",
]

WORKSPACE: Final = "/workspace"

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"({_LABEL}\.)*{_LABEL}", re.I)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~+@-]+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# git check-ref-format: no control characters, space, ~ ^ : ? * [ \, no "..", "@{" or "//".
_NOT_IN_BRANCH: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_PATH_SEGMENT: Final = re.compile(r"[^/\x00-\x1f\x7f]+")


RESOURCE_TYPE: Final = "github_repository"


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryUrl:
    """text: as it was given. canonical: equal for equal repositories."""

    text: str
    host: str
    port: int
    name: str
    canonical: str


@dataclass(frozen=True, slots=True)
class Branch:
    name: str


@dataclass(frozen=True, slots=True)
class Commit:
    """sha: full, lower-case hex."""

    sha: str


Checkout: TypeAlias = Branch | Commit | None
"""None: the branch that the repository calls its default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The session that has a repository's token."""

    workspace_id: WorkspaceId
    session_id: SessionId


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """What to clone, and what of it to check out. holder: None for one that anybody may clone."""

    url: RepositoryUrl
    checkout: Checkout = None
    holder: Holder | None = None

    @property
    def copy_name(self) -> str:
        """Names our copy of it: what was fetched with a token is for one workspace alone."""
        canonical = self.url.canonical
        return canonical if self.holder is None else f"{self.holder.workspace_id} {canonical}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositorySkill:
    """`.claude/skills/<name>/SKILL.md` of a repository. path: within the repository. text: as it is there,
    which anybody may have written."""

    name: str
    path: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPlace:
    """Where a repository's token belongs. It is sealed together with this, and opens nowhere else: so
    whoever can write rows of the database cannot have it sent to another repository."""

    workspace_id: WorkspaceId
    resource_id: ResourceId
    url: str

    @property
    def credential_id(self) -> str:
        return self.resource_id

    @property
    def name(self) -> str:
        return "authorization_token"

    def encode(self) -> bytes:
        return orjson.dumps(["corral repository 1", self.workspace_id, self.resource_id, self.url])


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedToken:
    """A repository's `authorization_token`, which opens with the private part of the key `key_id` alone."""

    place: TokenPlace
    key_id: str
    sealed: bytes


def repository_resource(
    given: Mapping[str, Any], *, resource_id: str, hosts: HostList, where: str = "", now: datetime
) -> Wire:
    """The resource as the wire shows it. given: what the client set. where: what stands before fields in
    messages.

    A token is never part of it. Raises InvalidRequest naming the field.
    """
    url = repository_url(given["url"], field=f"{where}url")
    _require_host(hosts, url, field=f"{where}url")
    checkout = given.get("checkout")
    if checkout is not None and checkout["type"] == "branch":
        check_branch(checkout["name"], field=f"{where}checkout.name")
    elif checkout is not None:
        check_commit(checkout["sha"], field=f"{where}checkout.sha")
    mount_path = repository_mount_path(given.get("mount_path"), url, field=f"{where}mount_path")
    return {
        "id": resource_id,
        "type": RESOURCE_TYPE,
        "url": url.text,
        "checkout": checkout,
        "mount_path": mount_path,
        "created_at": rfc3339(now),
        "updated_at": rfc3339(now),
    }


def repository_url(text: str, *, field: str = "url") -> RepositoryUrl:
    """Raises InvalidRequest. Nothing that could carry a secret passes: no user, password or query."""
    if len(text) > REPOSITORY_URL_CHARS_MAX:
        raise InvalidRequest(f"{field}: has more than {REPOSITORY_URL_CHARS_MAX} characters")
    if not text.isascii() or not text.isprintable() or " " in text:  # urlsplit drops line ends
        raise InvalidRequest(f"{field}: has characters that no URL has")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidRequest(f"{field}: is not the URL of a repository") from None
    if parts.scheme != "https":
        raise InvalidRequest(f"{field}: must be an HTTPS URL such as https://github.com/owner/repository")
    if "@" in parts.netloc:  # not repeated: it may be a password
        raise InvalidRequest(
            f"{field}: must not carry a user name or password; give a token as authorization_token"
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise InvalidRequest(f"{field}: must end with the path of the repository, without '?' and '#'")
    host = (parts.hostname or "").lower()
    if not _HOST.fullmatch(host) or len(host) > HOST_NAME_CHARS_MAX or port == 0:
        raise InvalidRequest(f"{field}: names no host")
    segments = parts.path.removesuffix("/").split("/")[1:]
    is_plain = all(_SEGMENT.fullmatch(each) and each not in (".", "..") for each in segments)
    name = segments[-1].removesuffix(".git") if segments else ""
    if not is_plain or name in ("", ".", "..", ".git"):
        raise InvalidRequest(
            f"{field}: names no repository; it looks like https://github.com/owner/repository"
        )
    number = port or HTTPS_PORT
    where = host if number == HTTPS_PORT else f"{host}:{number}"
    return RepositoryUrl(
        text=text, host=host, port=number, name=name, canonical=f"https://{where}/{'/'.join(segments)}"
    )


def check_branch(name: str, *, field: str = "checkout.name") -> None:
    """Raises InvalidRequest for what git takes for no branch. Source: git-check-ref-format(1)."""
    parts = name.split("/")
    is_fine = (
        0 < len(name) <= REPOSITORY_BRANCH_CHARS_MAX
        and not name.startswith("-")
        and not name.endswith((".", "/"))
        and name not in ("@", "HEAD")
        and not _NOT_IN_BRANCH.search(name)
        and all(part and not part.startswith(".") and not part.endswith(".lock") for part in parts)
    )
    if not is_fine:
        raise InvalidRequest(f"{field}: {name[:REPOSITORY_BRANCH_CHARS_MAX]!r} is not the name of a branch")


def check_commit(sha: str, *, field: str = "checkout.sha") -> None:
    """Raises InvalidRequest."""
    if not _COMMIT.fullmatch(sha):
        raise InvalidRequest(f"{field}: {sha[:80]!r} is not a full commit SHA (40 lower-case hex digits)")


def repository_mount_path(asked: str | None, url: RepositoryUrl, *, field: str = "mount_path") -> str:
    """Where the repository lies in the sandbox: below /workspace. Raises InvalidRequest."""
    if asked is None:
        return f"{WORKSPACE}/{url.name}"
    segments = asked.removesuffix("/").split("/")[1:]
    is_plain = all(_PATH_SEGMENT.fullmatch(each) and each not in (".", "..") for each in segments)
    if not asked.startswith(f"{WORKSPACE}/") or len(segments) < 2 or not is_plain:
        raise InvalidRequest(f"{field}: {asked[:200]!r} is not a directory below {WORKSPACE}")
    if len(asked) > REPOSITORY_MOUNT_PATH_CHARS_MAX:
        raise InvalidRequest(f"{field}: has more than {REPOSITORY_MOUNT_PATH_CHARS_MAX} characters")
    if ".git" in (each.lower() for each in segments):  # it would lie in another repository's insides
        raise InvalidRequest(f"{field}: must not lead through a directory '.git'")
    return "/" + "/".join(segments)


def _require_host(hosts: HostList, url: RepositoryUrl, *, field: str) -> None:
    """Raises InvalidRequest for a host that the operator does not allow."""
    if not hosts.allows(url.host, url.port):
        where = url.host if url.port == HTTPS_PORT else f"{url.host}:{url.port}"
        raise InvalidRequest(
            f"{field}: repositories of {where!r} may not be cloned here; the operator of this server"
            " allows hosts with CORRAL_REPOSITORY_HOSTS"
        )
