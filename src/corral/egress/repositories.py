"""Which requests are about one repository, so that its token is put on: what git asks of its host, and what
programs ask of GitHub's REST interface.

    git              <url>[.git]/info/refs, /git-upload-pack, /git-receive-pack, and what git-lfs asks
    github.com       https://api.github.com/repos/<owner>/<name>[/...], and the same of uploads.github.com
    GitHub's server  https://<host>/api/v3/repos/<owner>/<name>[/...], and the same below /api/uploads

A path is matched whole and as it is sent; what a server might read as another one, decoding it once or
twice, matches nothing. GraphQL names repositories in its body: it gets no token.
Source: gitprotocol-http(5); the API of git-lfs; GitHub REST docs; DIVERGENCES.md "Private repositories".
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import urlsplit

from corral.catalog.hosts import HTTPS_PORT
from corral.catalog.repositories import RepositoryUrl
from corral.egress.target import Target

__all__ = ["Interface", "interfaces_of"]

_GITHUB: Final = "github.com"
_GIT: Final = (
    rb"(\.git)?/(info/refs(\?service=git-(upload|receive)-pack)?|git-(upload|receive)-pack"
    rb"|info/lfs/(objects/batch|locks(/verify|/[A-Za-z0-9-]+/unlock)?(\?[^#]*)?))"
)
_SLASH: Final = rb"(/|%2f)"  # names of branches have one, encoded or not
# No dot segments, and nothing encoded that is more than a letter: . / ; \ % or a control character; nor one
# of these in more bytes than UTF-8 has for it, which not everybody who decodes refuses; nor a byte that
# only older UTF-8 had.
_SEGMENT: Final = (
    rb"(?!\.{1,2}(" + _SLASH + rb"|\?|\Z))([a-z0-9._~!$&'()*+,=:@-]|%(?!2[5ef]|3b|5c|7f|[01]|c[01]"
    rb"|e0%[89]|f0%8|f[89a-f])[0-9a-f]{2})+"
)
_BELOW: Final = rb"(/" + _SEGMENT + rb"(" + _SLASH + _SEGMENT + rb")*)?(\?[\x21-\x22\x24-\x7e]*)?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """One by which a host lets programs at a repository. paths: with their queries. scheme: how the token
    is sent there. by_number: how URLs of it begin that name no repository. by_name: those that do."""

    target: Target
    paths: "re.Pattern[bytes]"
    scheme: Literal["Basic", "Bearer"]
    by_number: "re.Pattern[bytes] | None" = None
    by_name: bytes = b""

    def is_for(self, path: bytes) -> bool:
        """Whether a request for this path and query, as they are sent, is about the repository."""
        return self.paths.fullmatch(path) is not None

    def linked(self, link: bytes) -> bytes:
        """A `Link` in an answer about the repository, so that whoever follows it gets the token, too:
        GitHub's next pages are at /repositories/<number>/..., which could be anybody's."""
        return link if self.by_number is None else self.by_number.sub(lambda _: self.by_name, link)


@lru_cache(maxsize=1024)  # asked for each request; a pattern takes a millisecond
def interfaces_of(url: RepositoryUrl) -> tuple[Interface, ...]:
    """That of git, and those that GitHub has, if the URL could be one of GitHub."""
    path = urlsplit(url.canonical).path.removesuffix(".git")
    at_host = Target(url.host, url.port)
    git = Interface(target=at_host, paths=re.compile(re.escape(path.encode()) + _GIT), scheme="Basic")
    if path.count("/") != 2:
        return (git,)  # GitHub has owners and names, and no groups
    if url.host == _GITHUB:
        roots = [(Target(f"{name}.{_GITHUB}", url.port), "") for name in ("api", "uploads")]
    else:
        roots = [(at_host, "/api/v3"), (at_host, "/api/uploads")]
    return git, *(_rest(target, root, path) for target, root in roots)


def _rest(target: Target, root: str, path: str) -> Interface:
    """Whatever the letters: GitHub tells no names apart by them."""
    at = f"{root}/repos{path}".encode()
    where = b"<https://" + target.authority(default_port=HTTPS_PORT)
    return Interface(
        target=target,
        paths=re.compile(re.escape(at) + _BELOW, re.IGNORECASE),
        scheme="Bearer",
        by_number=re.compile(re.escape(where + root.encode()) + rb"/repositories/[0-9]+(?=[/?>])"),
        by_name=where + at,
    )
