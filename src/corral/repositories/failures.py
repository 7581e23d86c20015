"""What went wrong with a repository, in the words of the API. Source: API docs, events "session.error"."""

import re
from typing import Final, Literal

from corral.catalog.repositories import Branch, Repository
from corral.confine.tunnel import Tunnel
from corral.confine.way import Trouble
from corral.kernel.errors import WorldError
from corral.kernel.limits import REPOSITORY_REF_DEPTH_MAX
from corral.session.content import Json

__all__ = ["TOO_LARGE", "RepositoryFailed", "fetch_failed", "tree_too_large"]

Kind = Literal["authentication", "forbidden", "not_found", "checkout", "clone"]

# git's own words under LC_ALL=C, which its own tests hold still; the first that is found decides.
_WORDS: Final[tuple[tuple[re.Pattern[str], Kind], ...]] = (
    (re.compile(r"could not read (Username|Password)|Authentication failed|error: 401"), "authentication"),
    (re.compile(r"error: 403|error: 451"), "forbidden"),
    (re.compile(r"repository '.*' not found|error: 404|error: 410"), "not_found"),
)
_MESSAGES: Final[dict[Kind, str]] = {
    "authentication": "The repository host asks for credentials: it is private, or there is none. A private"
    " one needs an authorization_token.",
    "forbidden": "The repository host refused access to the repository.",
    "not_found": "The repository host has no such repository.",
    "clone": "The repository could not be cloned.",
}

_NOT_TAKEN: Final = (
    "The repository host does not take the authorization_token: it has expired, or is not for this"
    " repository. Update the resource with another one."
)

TOO_LARGE: Final = "The repository is larger than this server clones."
_SETTINGS: Final = (
    "see CORRAL_REPOSITORY_HOSTS, CORRAL_REPOSITORY_PRIVATE_HOSTS and CORRAL_EGRESS_DENIED_HOSTS"
)
_OF_THE_WAY: Final[dict[Trouble | None, str]] = {
    "refused": "This server does not go where the repository host {host} leads; its operator can see why.",
    "unreachable": "The repository host {host} cannot be reached.",
    "silent": "The repository host {host} does not answer.",
    "too_large": TOO_LARGE,
    "shut": "The server cannot clone repositories now: its egress process is away, or lets nothing out.",
}


class RepositoryFailed(WorldError):
    """`kind`: which repository_*_error it is. `detail` is for the log: what git and the network said.
    blames_mirror: it may be our copy that is broken, and nothing else."""

    def __init__(self, kind: Kind, message: str, *, detail: str = "", blames_mirror: bool = False) -> None:
        super().__init__(message, detail=detail or None)
        self.kind = kind
        self.blames_mirror = blames_mirror

    def wire(self, url: str) -> dict[str, Json]:
        """As the `error` of a session.error, without its retry_status."""
        return {
            "type": f"repository_{self.kind}_error",
            "message": f"{self.message} The session goes on without it, and tries again when it next runs.",
            "repository_url": url,
        }


def fetch_failed(repository: Repository, step: str, stderr: str, tunnel: Tunnel) -> RepositoryFailed:
    """step: as the runner says: fetch, checkout, mirror or refs."""
    if step == "checkout":
        checkout = repository.checkout
        what = f"branch {checkout.name!r}" if isinstance(checkout, Branch) else f"commit {checkout.sha}"  # type: ignore[union-attr]
        return RepositoryFailed("checkout", f"The repository has no {what}.", detail=stderr)
    if step == "refs":  # our copy has them now
        return RepositoryFailed(
            "clone",
            "The repository has too many branches and tags, or one with more than"
            f" {REPOSITORY_REF_DEPTH_MAX} parts in its name.",
            blames_mirror=True,
        )
    settings = f" ({_SETTINGS})" if tunnel.trouble == "refused" else ""
    detail = f"{tunnel.trouble}: {tunnel.detail}{settings}; {stderr}" if tunnel.trouble else stderr
    if (message := _OF_THE_WAY.get(tunnel.trouble)) is not None:
        return RepositoryFailed("clone", message.format(host=repr(repository.url.host)), detail=detail)
    for pattern, kind in _WORDS:
        if pattern.search(stderr):
            is_refused = kind == "authentication" and repository.holder is not None
            return RepositoryFailed(kind, _NOT_TAKEN if is_refused else _MESSAGES[kind], detail=detail)
    is_ours = step == "mirror" or tunnel.trouble is None
    return RepositoryFailed("clone", _MESSAGES["clone"], detail=detail, blames_mirror=is_ours)


def tree_too_large() -> RepositoryFailed:
    return RepositoryFailed(
        "clone", "The repository at that checkout has more files, or larger ones, than a sandbox takes."
    )
