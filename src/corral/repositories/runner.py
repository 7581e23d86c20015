"""What runs beside git inside a throw-away sandbox, on whatever Python is there, which may be an older one:
standard library only, and of ours nothing but the door.

One argument, JSON: {"do": "fetch" | "pack" | "skills", "bounds": {...}, ...}. Places: /mirror, /fresh (a
directory for a new mirror), /scratch. Answers:

fetch   one line of JSON: {"default": branch or null, "commit": sha or null, "branch": name or null}, or
        {"failed": "fetch" | "checkout" | "mirror" | "refs", "stderr": git's last words}
pack    the working tree with its .git as a tar; exit code 3 if it is too large
skills  one line of JSON: [{"name", "path", "text"}, ...]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from corral.confine.door import let_in

CONFIG = """
[advice]
	detachedHead = false
[checkout]
	workers = 1
[core]
	attributesFile = /dev/null
	bigFileThreshold = 32m
	excludesFile = /dev/null
	fsmonitor = false
	hooksPath = /dev/null
	logAllRefUpdates = false
	packedGitLimit = 512m
	packedGitWindowSize = 64m
[credential]
	helper =
[fetch]
	fsckObjects = true
	parallel = 1
	recurseSubmodules = false
	unpackLimit = 1
	writeCommitGraph = false
; what old and honest repositories have, and what harms nobody
[fetch "fsck"]
	badTimezone = ignore
	missingSpaceBeforeDate = ignore
	zeroPaddedFilemode = ignore
[gc]
	autoDetach = false
[http]
	followRedirects = initial
	lowSpeedLimit = {stall_bytes}
	lowSpeedTime = {stall_seconds}
	proxy = {proxy}
	sslCAInfo = {authorities}
	sslVerify = true
[index]
	threads = 1
[init]
	defaultBranch = main
	templateDir =
[pack]
	threads = 1
[protocol]
	allow = never
[protocol "{protocol}"]
	allow = always
[submodule]
	recurse = false
[transfer]
	fsckObjects = true
"""
ENVIRONMENT = {
    "GIT_ASKPASS": "/bin/false",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/tmp/gitconfig",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
BRANCHES, TAGS = "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"
HEAD = "refs/corral/head"
AUTHORITIES = "/run/corral/authorities.pem"
MIRROR, FRESH, SCRATCH = "/mirror/repository.git", "/fresh/repository.git", "/scratch/tree"
TOO_LARGE = 3
TAR_BLOCK = 512


class Failed(Exception):
    def __init__(self, step: str, stderr: str = "") -> None:
        super().__init__(step)
        self.step, self.stderr = step, stderr


def main() -> None:
    asked = json.loads(sys.argv[1])
    bounds = asked["bounds"]
    for limit, value in (
        (resource.RLIMIT_AS, bounds["memory_bytes"]),
        (resource.RLIMIT_FSIZE, bounds["file_bytes"]),
        (resource.RLIMIT_CPU, bounds["cpu_seconds"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    os.environ.update(ENVIRONMENT)
    if asked["do"] == "fetch":
        authorities = AUTHORITIES
        if asked.get("authority"):  # whoever puts the token on is who we speak to
            authorities = "/tmp/authority.pem"
            with open(authorities, "w") as file:
                file.write(asked["authority"])
        proxy = f"http://127.0.0.1:{let_in(asked['door'])}"
        configure(bounds, protocol="https", proxy=proxy, authorities=authorities)
        try:
            answer = fetch(asked, bounds)
        except Failed as error:
            answer = {"failed": error.step, "stderr": error.stderr}
        except FileNotFoundError:
            answer = {"failed": "fetch", "stderr": "git is not installed on this machine"}
        print(json.dumps(answer))
    elif asked["do"] == "pack":
        configure(bounds, protocol="file", proxy="")
        pack(asked, bounds)
    else:
        configure(bounds, protocol="none", proxy="")
        print(json.dumps(skills(asked, bounds)))


def configure(bounds: dict[str, Any], *, protocol: str, proxy: str, authorities: str = AUTHORITIES) -> None:
    text = CONFIG.format(
        protocol=protocol,
        proxy=proxy,
        authorities=authorities,
        stall_bytes=bounds["stall_bytes"],
        stall_seconds=bounds["stall_seconds"],
    )
    with open("/tmp/gitconfig", "w") as file:
        file.write(text)


def git(*arguments: str, at: str | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = ["git", *(["-C", at] if at else []), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False, **options)


def said(done: subprocess.CompletedProcess[bytes], bounds: dict[str, Any]) -> str:
    return done.stderr[-bounds["stderr_bytes"] :].decode("utf-8", "replace").strip()


def asked_for(mirror: str, *arguments: str) -> str | None:
    """What git prints, stripped; None if it fails."""
    done = git(*arguments, at=mirror, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


# -- fetch --------------------------------------------------------------------------------------------


def fetch(asked: dict[str, Any], bounds: dict[str, Any]) -> dict[str, Any]:
    url = asked["url"]
    if asked["is_new"]:
        mirror = FRESH
        done = git("clone", "--bare", "--quiet", "--", url, mirror, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise Failed("fetch", said(done, bounds))
    else:
        mirror = MIRROR
        if asked_for(mirror, "rev-parse", "--git-dir") is None:
            raise Failed("mirror")
        forget_locks(mirror)
        update = ["fetch", "--quiet", "--prune", "--no-write-fetch-head", "--", url, BRANCHES, TAGS]
        done = git(*update, "+HEAD:" + HEAD, at=mirror, stderr=subprocess.PIPE)
        if done.returncode != 0 and b"couldn't find remote ref HEAD" in done.stderr:
            done = git(*update, at=mirror, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise Failed("fetch", said(done, bounds))
        follow_default(mirror)
    require_few_refs(mirror, bounds)
    return checked_out(mirror, asked, bounds)


def require_few_refs(mirror: str, bounds: dict[str, Any]) -> None:
    """Branches and tags, and parts of their names: each is a file or a directory of the mirror."""
    listing = subprocess.Popen(
        ["git", "-C", mirror, "for-each-ref", "--format=%(refname)"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with listing:
        for number, name in enumerate(listing.stdout or (), start=1):
            if number > bounds["refs"] or name.count(b"/") > bounds["ref_depth"]:
                listing.kill()
                raise Failed("refs")


def forget_locks(mirror: str) -> None:
    """Of a git that was killed. Whoever is here has the mirror to itself."""
    for folder, _, files in walk(mirror):
        for name in files:
            if name.endswith(".lock") or (name.startswith("tmp_") and "/objects" in folder):
                os.unlink(f"{folder}/{name}")


def walk(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, which recurses in Pythons before 3.12: a deep tree ends it."""
    todo = [top]
    while todo:
        folder = todo.pop()
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
        except OSError:
            continue
        todo += [f"{folder}/{name}" for name in folders]
        yield folder, folders, files


def follow_default(mirror: str) -> None:
    """Find out which branch is the default by now. What is fetched is a commit, not a name; a branch of
    that commit has it, most likely the same one as before."""
    commit = asked_for(mirror, "rev-parse", "--verify", "--quiet", HEAD)
    listed = asked_for(mirror, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads") or ""
    named = [line.split(" ", 1) for line in listed.splitlines()]
    names = [name for sha, name in named if sha == commit]
    now = asked_for(mirror, "symbolic-ref", "--quiet", "HEAD")
    for name in (now, "refs/heads/main", "refs/heads/master", *names):
        if name in names:
            git("symbolic-ref", "HEAD", name, at=mirror)
            return


def checked_out(mirror: str, asked: dict[str, Any], bounds: dict[str, Any]) -> dict[str, Any]:
    """What the asked checkout comes to."""
    default = asked_for(mirror, "symbolic-ref", "--quiet", "--short", "HEAD")
    branch, commit = asked["branch"], asked["commit"]
    if commit is not None:
        if not has_commit(mirror, commit):  # of no branch, maybe: hosts give those out by name
            wanted = f"+{commit}:refs/corral/commits/{commit}"
            done = git(
                *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", asked["url"], wanted),
                at=mirror,
                stderr=subprocess.PIPE,
            )
            if not has_commit(mirror, commit):
                raise Failed("checkout", said(done, bounds))
        return {"default": default, "branch": None, "commit": commit}
    name = branch or default
    sha = name and asked_for(mirror, "rev-parse", "--verify", "--quiet", f"refs/heads/{name}^{{commit}}")
    if sha:
        return {"default": default, "branch": name, "commit": sha}
    if branch is not None:
        raise Failed("checkout")
    # No default branch: nothing was ever pushed there, or its HEAD is a bare commit.
    sha = asked_for(mirror, "rev-parse", "--verify", "--quiet", HEAD + "^{commit}")
    sha = sha or asked_for(mirror, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    return {"default": default, "branch": None, "commit": sha or None}


def has_commit(mirror: str, sha: str) -> bool:
    return asked_for(mirror, "cat-file", "-t", sha) == "commit"


# -- pack ---------------------------------------------------------------------------------------------


def pack(asked: dict[str, Any], bounds: dict[str, Any]) -> None:
    branch, commit = asked["branch"], asked["commit"]
    if commit is not None:
        require_small(commit, bounds)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    clone = ["clone", "--quiet", "--no-hardlinks", "--no-checkout"]
    steps = [git(*clone, *(["--branch=" + branch] if branch else []), "--", MIRROR, SCRATCH, **quiet)]
    steps.append(git("config", "remote.origin.url", asked["url"], at=SCRATCH, **quiet))
    if branch is not None and commit is not None:  # the branch may have moved on in the mirror
        steps.append(git("checkout", "--quiet", "--force", "-B", branch, commit, at=SCRATCH, **quiet))
    elif commit is not None:
        steps.append(git("checkout", "--quiet", "--detach", commit, at=SCRATCH, **quiet))
    if any(step.returncode != 0 for step in steps):
        sys.exit(1)
    size = count = 0
    for folder, folders, files in walk(SCRATCH):
        for name in (*folders, *files):
            path = f"{folder}/{name}"
            size += TAR_BLOCK * (1 + -(-os.lstat(path).st_size // TAR_BLOCK) + 2 * (len(path) > 100))
        count += len(folders) + len(files)
    if size > bounds["tree_bytes"] or count > bounds["tree_files"]:
        sys.exit(TOO_LARGE)
    os.execvp(
        "tar",
        [
            *("tar", "-C", SCRATCH, "-cf", "-", "--format=gnu", "--numeric-owner"),
            *("--owner=1000", "--group=1000", "."),
        ],
    )


def require_small(commit: str, bounds: dict[str, Any]) -> None:
    """Count what a checkout would write before it does: a small pack can hold a tree that never ends."""
    listing = subprocess.Popen(
        ["git", "-C", MIRROR, "ls-tree", "-r", "-t", "-l", commit],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    files = size = 0
    for line in listing.stdout or ():
        facts, path = line.split(b"\t", 1)
        told = facts.split()[-1]
        files, size = files + 1, size + (int(told) if told.isdigit() else 0)
        if (
            files > bounds["tree_files"]
            or size > bounds["tree_bytes"]
            or path.count(b"/") > bounds["tree_depth"]
        ):
            listing.kill()
            sys.exit(TOO_LARGE)
    if listing.wait() != 0:
        sys.exit(1)


# -- skills -------------------------------------------------------------------------------------------


def skills(asked: dict[str, Any], bounds: dict[str, Any]) -> list[dict[str, str]]:
    """Regular files `.claude/skills/<name>/SKILL.md`, in order of their names: no links, no submodules."""
    top = ".claude/skills/"
    names = [path[len(top) :] for _, kind, path, _, _ in entries(asked["commit"], top) if kind == "tree"]
    wanted = [top + name + "/SKILL.md" for name in sorted(names)[: bounds["skills"]]]
    found = []
    for mode, kind, path, sha, size in entries(asked["commit"], *wanted) if wanted else []:
        if kind == "blob" and mode in ("100644", "100755") and size <= bounds["skill_bytes"]:
            blob = git("cat-file", "blob", sha, at=MIRROR, stdout=subprocess.PIPE)
            text = blob.stdout.decode("utf-8", "replace")
            found.append({"name": path.split("/")[2], "path": path, "text": text})
    return found


def entries(commit: str, *paths: str) -> Iterator[tuple[str, str, str, str, int]]:
    """(mode, kind, path, sha, size) of what a commit has there."""
    done = git(
        *("--literal-pathspecs", "ls-tree", "-z", "-l", commit, "--", *paths),
        at=MIRROR,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    for entry in done.stdout.decode("utf-8", "replace").split("\0"):
        if entry:
            facts, path = entry.split("\t", 1)
            mode, kind, sha, size = facts.split()
            yield mode, kind, path, sha, int(size) if size.isdigit() else 0
