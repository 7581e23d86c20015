"""Clones of a real git host: what a session gets, what is kept, and everything that can go wrong."""

import asyncio
import io
import os
import shutil
import socket
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.catalog.hosts import HostList
from corral.catalog.repositories import (
    Branch,
    Checkout,
    Commit,
    Repository,
    repository_url,
)
from corral.confine.confinement import Confinement, Places
from corral.egress.policy import OperatorHosts
from corral.hands.providers.process import BwrapProcess
from corral.hands.way_out import Egress
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId, WorkspaceId
from corral.repositories.failures import RepositoryFailed
from corral.repositories.mirrors import Bounds, Mirrors, Resolved
from corral.repositories.source import RepositorySource
from corral.session.call import Mount
from corral.session.mounts import Attached, MountFailed
from corral.testing.git_host import GitHost, git
from tests.gateway import Gateway

SESSION = SessionId("sesn_1")
GET, POST = "GET /ada/engine/info/refs", "POST /ada/engine/git-upload-pack"
LOOK = [GET, POST]  # is there anything new?
BIG = os.urandom(300_000)  # cannot be packed


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    with GitHost.start(tmp_path_factory.mktemp("host")) as running:
        yield running


@pytest.fixture(autouse=True)
def untouched(host: GitHost) -> None:
    """Every test has the host as it was."""
    for mischief in (host.status, host.cut_after, host.stalls, host.moved):
        mischief.clear()
    host.taken()


Open = Callable[..., Mirrors]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """The way out of the server; `opened` says what it is for."""
    names = {"localhost": ["127.0.0.1"]}
    async with Gateway.start(names=names, operator=OperatorHosts(errands={})) as gateway:
        yield gateway


@pytest.fixture
async def opened(tmp_path: Path, host: GitHost, gateway: Gateway) -> AsyncIterator[Open]:
    """Mirrors in one directory, as processes that share it have them. hosts: from now on, of all."""
    made: list[Mirrors] = []

    def open_mirrors(*, hosts: HostList | None = None, **bounds: float) -> Mirrors:
        hosts = hosts or HostList(private=[host.where])
        gateway.open("repository", hosts)
        mirrors = Mirrors(
            tmp_path / "repositories",
            hosts=hosts,
            egress=Egress(gateway.data_dir),
            authorities=host.authority,
            bounds=Bounds(**bounds),  # type: ignore[arg-type]
        )
        made.append(mirrors)
        return mirrors

    yield open_mirrors
    for mirrors in made:
        await mirrors.aclose()


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    return tmp_path / "repositories"


def at(host: GitHost, name: str, checkout: Checkout = None) -> Repository:
    return Repository(url=repository_url(host.url(name)), checkout=checkout)


async def unpacked(mirrors: Mirrors, repository: Repository, resolved: Resolved, into: Path) -> Path:
    """The copy that a session gets, as a directory of ours."""
    chunks = [chunk async for chunk in mirrors.archive(repository, resolved)]
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        assert {(member.uid, member.gid) for member in archive} == {(1000, 1000)}
        # git works in no directory of somebody else's.
        ours = {"uid": os.geteuid(), "gid": os.getegid(), "uname": "", "gname": "", "deep": False}
        archive.extractall(into, filter=lambda member, _: member.replace(**ours))
    return into


async def refused(mirrors: Mirrors, repository: Repository) -> RepositoryFailed:
    with pytest.raises(RepositoryFailed) as failed:
        await mirrors.fetch(repository, session_id=SESSION)
    return failed.value


# -- what a session gets ---------------------------------------------------------------------------------


async def test_a_clone_is_what_git_clone_would_make(host: GitHost, opened: Open, tmp_path: Path) -> None:
    host.push("ada/engine", {"README.md": "old", "bin/run.sh": "#!/bin/sh\n"})
    tip = host.push(
        "ada/engine",
        {"README.md": "new", "ünï codé": "x"},
        links={"escape": "/etc/passwd", "up": "../../../..", "inner": "README.md"},
    )
    other = host.push("ada/engine", {"README.md": "other"}, branch="feature/x")
    mirrors, repository = opened(), at(host, "ada/engine")
    resolved = await mirrors.fetch(repository, session_id=SESSION)
    assert resolved == Resolved(branch="main", commit=tip)
    tree = await unpacked(mirrors, repository, resolved, tmp_path / "tree")
    assert (tree / "README.md").read_text() == "new"
    assert (tree / "bin/run.sh").stat().st_mode & 0o777 == 0o755
    assert (tree / "escape").readlink() == Path("/etc/passwd")
    assert git("status", "--porcelain", "--branch", at=tree) == "## main...origin/main"
    assert git("log", "--format=%H", at=tree).splitlines()[0] == tip
    assert git("rev-list", "--count", "HEAD", at=tree) == "2"
    assert git("rev-parse", "origin/feature/x", at=tree) == other
    assert git("remote", "get-url", "origin", at=tree) == host.url("ada/engine")
    git("fsck", "--strict", at=tree)
    # Nothing in it says where it was made, or does anything by itself.
    assert not (tree / ".git/hooks").exists()
    config = (tree / ".git/config").read_text()
    assert "mirror" not in config and "scratch" not in config and "proxy" not in config


async def test_a_branch_and_a_commit(host: GitHost, opened: Open, tmp_path: Path) -> None:
    first = host.push("ada/checkouts", {"n": "1"})
    host.push("ada/checkouts", {"n": "2"})
    host.push("ada/checkouts", {"n": "3"}, branch="feature/x")
    mirrors = opened()
    branch = at(host, "ada/checkouts", Branch("feature/x"))
    tree = await unpacked(
        mirrors, branch, await mirrors.fetch(branch, session_id=SESSION), tmp_path / "branch"
    )
    assert (tree / "n").read_text() == "3"
    assert git("status", "--branch", "--porcelain", at=tree) == "## feature/x...origin/feature/x"
    commit = at(host, "ada/checkouts", Commit(first))
    tree = await unpacked(
        mirrors, commit, await mirrors.fetch(commit, session_id=SESSION), tmp_path / "commit"
    )
    assert (tree / "n").read_text() == "1"
    assert git("status", "--branch", "--porcelain", at=tree) == "## HEAD (no branch)"


async def test_a_commit_of_no_branch_is_asked_for_by_name(
    host: GitHost, opened: Open, tmp_path: Path
) -> None:
    host.push("ada/pulls", {"n": "1"})
    pulled = host.push("ada/pulls", {"n": "pulled"}, branch="gone")
    git("update-ref", "refs/pull/1/head", pulled, at=host.bare("ada/pulls"))
    git("update-ref", "-d", "refs/heads/gone", at=host.bare("ada/pulls"))
    mirrors, repository = opened(), at(host, "ada/pulls", Commit(pulled))
    tree = await unpacked(
        mirrors, repository, await mirrors.fetch(repository, session_id=SESSION), tmp_path / "tree"
    )
    assert (tree / "n").read_text() == "pulled"


async def test_an_empty_repository(host: GitHost, opened: Open, tmp_path: Path) -> None:
    host.bare("ada/empty")
    mirrors, repository = opened(), at(host, "ada/empty")
    for _ in range(2):  # cloned, then fetched
        resolved = await mirrors.fetch(repository, session_id=SESSION)
        assert resolved.commit is None
    tree = await unpacked(mirrors, repository, resolved, tmp_path / "tree")
    assert [path.name for path in tree.iterdir()] == [".git"]
    assert await mirrors.skills(repository, resolved) == ()
    tip = host.push("ada/empty", {"n": "1"})
    assert await mirrors.fetch(repository, session_id=SESSION) == Resolved(branch="main", commit=tip)


async def test_nothing_in_a_repository_runs(host: GitHost, opened: Open, tmp_path: Path) -> None:
    """Filters (LFS is one), hooks and submodules are the repository's wishes; none is granted."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    host.push(
        "ada/wishes",
        {
            ".gitattributes": "* filter=lfs diff=lfs\n*.txt filter=evil text eol=crlf\n",
            ".gitmodules": '[submodule "x"]\npath = x\nurl = https://localhost/x\nupdate = !touch y\n',
            "large.bin": pointer,
            "a.txt": "a\n",
        },
    )
    mirrors, repository = opened(), at(host, "ada/wishes")
    host.taken()
    failed = await refused(mirrors, repository)  # fsck knows such a .gitmodules
    assert failed.kind == "clone" and "gitmodules" in str(failed)
    host.push("ada/wishes2", {".gitattributes": "* filter=lfs\n", "large.bin": pointer})
    repository = at(host, "ada/wishes2")
    tree = await unpacked(
        mirrors, repository, await mirrors.fetch(repository, session_id=SESSION), tmp_path / "tree"
    )
    assert (tree / "large.bin").read_text() == pointer


async def test_an_old_repository(host: GitHost, opened: Open, tmp_path: Path) -> None:
    """What git wrote, or let pass, years ago and would not any more."""
    bare = host.bare("ada/old")
    blob = git("hash-object", "-w", "--stdin", at=bare, given="x")
    padded = b"0100644 n\0" + bytes.fromhex(blob)
    (tmp_path / "tree").write_bytes(padded)
    write = ["hash-object", "-w", "--literally", "-t"]
    tree = git(*write, "tree", str(tmp_path / "tree"), at=bare)
    written = f"tree {tree}\nauthor A <a@b> 1 +051800\ncommitter A <a@b>1 +0000\n\nOld.\n"
    commit = git(*write, "commit", "--stdin", at=bare, given=written)
    git("update-ref", "refs/heads/main", commit, at=bare)
    mirrors, repository = opened(), at(host, "ada/old")
    tree_at = await unpacked(
        mirrors, repository, await mirrors.fetch(repository, session_id=SESSION), tmp_path / "old"
    )
    assert (tree_at / "n").read_text() == "x"


async def test_skills_of_a_repository(host: GitHost, opened: Open) -> None:
    host.push(
        "ada/skilled",
        {
            ".claude/skills/pdf/SKILL.md": "---\nname: pdf\n---\nRead PDFs.\n",
            ".claude/skills/a b/SKILL.md": "# a b\n",
            ".claude/skills/deep/er/SKILL.md": "too deep",
            ".claude/skills/SKILL.md": "too shallow",
            ".claude/skills/large/SKILL.md": "x" * 100_000,
            ".claude/skills/lower/skill.md": "another name",
            "skills/no/SKILL.md": "elsewhere",
            "secret": "planted",
        },
        links={".claude/skills/link/SKILL.md": "../../../secret", ".claude/skills/folder": "pdf"},
    )
    mirrors, repository = opened(), at(host, "ada/skilled")
    found = await mirrors.skills(repository, await mirrors.fetch(repository, session_id=SESSION))
    assert [(skill.name, skill.path, skill.text) for skill in found] == [
        ("a b", ".claude/skills/a b/SKILL.md", "# a b\n"),
        ("pdf", ".claude/skills/pdf/SKILL.md", "---\nname: pdf\n---\nRead PDFs.\n"),
    ]


async def test_lists_of_skills_are_made_a_few_at_a_time(
    host: GitHost, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a sandbox with a git, and a session may have many repositories of one URL."""
    host.push("ada/listed", {".claude/skills/a/SKILL.md": "x"})
    mirrors, repository = opened(at_once=1), at(host, "ada/listed")
    resolved = await mirrors.fetch(repository, session_id=SESSION)
    running, most, start = 0, 0, Confinement.python

    @asynccontextmanager
    async def counted(self: Confinement, *words: Any, **options: Any) -> AsyncIterator[BwrapProcess]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            async with start(self, *words, **options) as process:
                yield process
        finally:
            running -= 1

    monkeypatch.setattr(Confinement, "python", counted)
    listed = await asyncio.gather(*(mirrors.skills(repository, resolved) for _ in range(3)))
    assert [len(found) for found in listed] == [1, 1, 1]
    assert most == 1


async def test_git_is_alone(host: GitHost, tmp_path: Path) -> None:
    """What a git that was taken over would find."""
    confinement = Confinement(tmp_path / "data", authorities=host.authority)
    own, given = tmp_path / "given", tmp_path / "read"
    confinement.make_writable(own)
    given.mkdir()
    program = f"""
import os, socket
def tried(what):
    try:
        return repr(what())
    except OSError as error:
        return type(error).__name__
print(tried(lambda: socket.create_connection(("127.0.0.1", {host.port}), 2)))
print(tried(lambda: socket.create_connection(("8.8.8.8", 53), 2)))
print([name for _, name in socket.if_nameindex()])
print(sorted(os.environ))
print(os.path.exists({str(tmp_path)!r}), os.path.exists("/etc/shadow"), os.path.exists("/root"))
print(*(tried(lambda: open(folder + "/x", "w")) for folder in ("/read", "", "/usr")))
print(os.getuid(), tried(lambda: open("/own/x", "w").write("x")))
print(sorted(each for each in os.listdir("/proc") if each.isdigit()))
"""
    places = Places(read_only={"/read": given}, writable={"/own": own})
    async with confinement.python(program, places=places) as process:
        said = (await process.reader.read()).decode().splitlines()
    await confinement.aclose()
    assert said == [
        "ConnectionRefusedError",
        "OSError",
        "['lo']",
        "['HOME', 'LC_ALL', 'PATH', 'PWD']",
        "False False False",
        "OSError OSError OSError",
        "1000 1",
        "['1']",
    ]
    assert (own / "x").read_text() == "x"


# -- what is kept -----------------------------------------------------------------------


async def test_a_second_session_costs_one_look(host: GitHost, opened: Open) -> None:
    first = host.push("ada/engine", {"n": "1"})
    host.taken()
    mirrors, repository = opened(), at(host, "ada/engine")
    await mirrors.fetch(repository, session_id=SESSION)
    assert host.taken() == [*LOOK, POST]
    assert (await mirrors.fetch(repository, session_id=SESSION)).commit == first
    assert host.taken() == LOOK
    # Another process on the same directory, and another spelling of the same URL.
    other = opened()
    spelling = host.url("ada/engine").replace("localhost", "LOCALHOST") + "/"
    spelt = Repository(url=repository_url(spelling))
    assert (await other.fetch(spelt, session_id=SESSION)).commit == first
    assert host.taken() == LOOK
    second = host.push("ada/engine", {"n": "2"})
    assert (await other.fetch(repository, session_id=SESSION)).commit == second
    assert host.taken() == [*LOOK, POST]
    async with aclosing(mirrors.archive(repository, Resolved(branch="main", commit=first))) as archive:
        async for _ in archive:  # made of the copy alone
            pass
    assert host.taken() == []


async def test_sessions_that_start_together_share_a_fetch(host: GitHost, opened: Open) -> None:
    tip = host.push("ada/engine", {"n": "together"})
    mirrors, repository = opened(), at(host, "ada/engine")
    host.taken()
    found = await asyncio.gather(*(mirrors.fetch(repository, session_id=SESSION) for _ in range(10)))
    assert {each.commit for each in found} == {tip}
    assert len(host.taken()) <= 5  # one that was on its way when they asked, and the next


async def test_a_branch_that_was_rewritten_or_renamed_is_followed(host: GitHost, opened: Open) -> None:
    host.push("ada/moving", {"n": "1"})
    gone = host.push("ada/moving", {"n": "2"}, branch="topic")
    mirrors = opened()
    await mirrors.fetch(at(host, "ada/moving", Branch("topic")), session_id=SESSION)
    bare = host.bare("ada/moving")
    git("update-ref", "refs/heads/topic", "main", at=bare)
    assert (await mirrors.fetch(at(host, "ada/moving", Branch("topic")), session_id=SESSION)).commit != gone
    git("branch", "--move", "main", "trunk", at=bare)
    git("branch", "--delete", "--force", "topic", at=bare)
    assert (await mirrors.fetch(at(host, "ada/moving"), session_id=SESSION)).branch == "trunk"
    assert (await refused(mirrors, at(host, "ada/moving", Branch("main")))).kind == "checkout"


async def test_the_longest_unused_copies_go(host: GitHost, opened: Open, repositories: Path) -> None:
    for name in ("ada/a", "ada/b", "ada/c"):
        host.push(name, {"n": "1"})
    mirrors = opened(cache_count_max=2)
    for name in ("ada/a", "ada/b", "ada/a", "ada/c"):
        await mirrors.fetch(at(host, name), session_id=SESSION)
        await asyncio.sleep(0.01)  # what is compared are times of files, which tick in milliseconds
    assert len(list((repositories / "mirrors").iterdir())) == 2
    host.taken()
    await mirrors.fetch(at(host, "ada/a"), session_id=SESSION)
    assert len(host.taken()) == 2  # kept
    await opened(cache_seconds=0.0).fetch(at(host, "ada/b"), session_id=SESSION)
    assert len(list((repositories / "mirrors").iterdir())) == 1
    await opened(cache_bytes_max=1).fetch(at(host, "ada/c"), session_id=SESSION)
    assert len(list((repositories / "mirrors").iterdir())) == 1


async def test_a_copy_that_git_cannot_work_with_is_replaced(
    host: GitHost, opened: Open, repositories: Path, tmp_path: Path
) -> None:
    tip = host.push("ada/broken", {"n": "1"})
    mirrors, repository = opened(), at(host, "ada/broken")
    await mirrors.fetch(repository, session_id=SESSION)
    [mirror] = (repositories / "mirrors").glob("*/repository.git")
    (mirror / "HEAD").write_text("nonsense")
    assert (await refused(mirrors, repository)).kind == "clone"
    resolved = await mirrors.fetch(repository, session_id=SESSION)  # when it is tried again
    assert resolved.commit == tip
    await unpacked(mirrors, repository, resolved, tmp_path / "tree")
    # Some of it is missing, which only shows when it is read.
    for pack in (mirror / "objects/pack").glob("*.pack"):
        pack.write_bytes(b"")
    with pytest.raises(RepositoryFailed, match="could not be checked out"):
        await unpacked(mirrors, repository, resolved, tmp_path / "none")
    await unpacked(
        mirrors, repository, await mirrors.fetch(repository, session_id=SESSION), tmp_path / "again"
    )
    # What a killed process leaves: locks of git, a clone that was on its way, a working tree.
    (mirror / "refs/heads/main.lock").touch()
    (mirror / "packed-refs.lock").touch()
    (mirror.parent / "fresh-1").mkdir()
    (repositories / "scratch" / "999999999-1").mkdir()
    host.push("ada/broken", {"n": "2"})
    other = opened()
    resolved = await other.fetch(repository, session_id=SESSION)
    assert sorted(path.name for path in mirror.parent.iterdir()) == ["lock", "repository.git"]
    await unpacked(other, repository, resolved, tmp_path / "newer")
    assert list((repositories / "scratch").iterdir()) == []


async def test_who_waits_for_its_turn_loses_no_time_and_holds_up_nobody(
    host: GitHost, opened: Open, tmp_path: Path
) -> None:
    host.push("ada/engine", {"n": "there"})
    host.push("ada/slow", {"large": BIG})
    engine = at(host, "ada/engine")
    mirrors = opened(at_once=2, seconds=12, stall_seconds=60)
    resolved = await mirrors.fetch(engine, session_id=SESSION)
    host.stalls.add("ada/slow")
    slow = asyncio.create_task(refused(mirrors, at(host, "ada/slow")))
    await _until(lambda: any("slow/git-upload-pack" in request for request in host.requests))
    waits = asyncio.create_task(mirrors.fetch(engine, session_id=SESSION))
    await asyncio.sleep(0.1)
    await unpacked(mirrors, engine, resolved, tmp_path / "tree")  # the mirror is there all the same
    assert (
        await mirrors.fetch(engine, workspace_id=WorkspaceId("wrkspc_other"), session_id=SESSION)
    ).commit
    assert not slow.done() and not waits.done(), "half of this node is for others"
    assert "too slow" in (await slow).message
    assert (await waits).commit == resolved.commit


async def _until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not fact():  # noqa: ASYNC110  (requests come in a thread)
            await asyncio.sleep(0.02)


# -- as a mount -----------------------------------------------------------------------------------------


async def test_a_source_of_mounts(host: GitHost, opened: Open, repositories: Path) -> None:
    commit = host.push("ada/mounted", {".claude/skills/a/SKILL.md": "# a", "n": "1"})
    resource = {
        "id": "sesrsc_1",
        "type": "github_repository",
        "url": host.url("ada/mounted"),
        "checkout": {"type": "branch", "name": "main"},
        "mount_path": "/workspace/mounted",
    }
    attached = [{"type": "file", "id": "sesrsc_2"}, resource]

    async def resources(session_id: SessionId) -> list[dict[str, object]]:
        return attached

    async def workspace(session_id: SessionId) -> WorkspaceId:
        return DEFAULT_WORKSPACE

    source = RepositorySource(opened(), resources=resources, workspace=workspace)
    session_id = SessionId("sesn_1")
    [mount] = await source.mounts(Attached(session_id=session_id, resources=attached))
    assert (mount.mount_id, mount.kind, mount.path, mount.mode) == (
        *("sesrsc_1", "repository", "/workspace/mounted", "copy"),
    )
    moved = {**resource, "checkout": {"type": "commit", "sha": commit}}
    [other] = await source.mounts(Attached(session_id=session_id, resources=[moved]))
    assert other.digest != mount.digest
    host.taken()
    [skill] = await source.skills(session_id, resource)
    assert (skill.name, skill.path) == ("a", ".claude/skills/a/SKILL.md")
    newer = host.push("ada/mounted", {"n": "2"})
    assert await _head(source, session_id, mount) == commit  # what was scanned is what is copied
    assert len(host.taken()) == 3
    for folder in (repositories / "mirrors").iterdir():
        shutil.rmtree(folder)
    assert await _head(source, session_id, mount) == newer  # or what there is, if that is lost
    assert await _head(source, SessionId("sesn_2"), mount) == newer
    host.status["ada/mounted"] = 403
    with pytest.raises(MountFailed) as failed:
        await _head(source, SessionId("sesn_3"), mount)
    assert failed.value.error["type"] == "repository_forbidden_error"
    assert failed.value.error["repository_url"] == resource["url"]
    with pytest.raises(MountFailed) as failed:
        await source.skills(SessionId("sesn_3"), resource)
    attached.clear()
    with pytest.raises(MountFailed, match="not a resource"):
        await _head(source, session_id, mount)


async def _head(source: RepositorySource, session_id: SessionId, mount: Mount) -> str:
    """The commit that is checked out in what a mount brings."""
    chunks = [chunk async for chunk in source.open(session_id, mount)]
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        head = archive.extractfile("./.git/refs/heads/main")
        assert head is not None
        return head.read().decode().strip()


# -- what goes wrong --------------------------------------------------------------------


async def test_what_the_host_says(host: GitHost, opened: Open) -> None:
    host.push("ada/private", {"n": "1"})
    mirrors = opened()
    for name, status, kind in (
        ("ada/private", 401, "authentication"),
        ("ada/forbidden", 403, "forbidden"),
        ("ada/missing", 404, "not_found"),
        ("ada/down", 500, "clone"),
        ("ada/busy", 503, "clone"),
    ):
        host.status[name] = status
        failed = await refused(mirrors, at(host, name))
        assert failed.kind == kind, failed
        error = failed.wire(host.url(name))
        assert error["type"] == f"repository_{kind}_error" and error["repository_url"] == host.url(name)
        assert "fatal" not in failed.message and "/" not in failed.message  # git's words are for the log
    # It was private for a while: a copy of before is no way around that.
    host.status.clear()
    await mirrors.fetch(at(host, "ada/private"), session_id=SESSION)
    host.status["ada/private"] = 401
    assert (await refused(mirrors, at(host, "ada/private"))).kind == "authentication"
    host.status.clear()
    host.taken()
    await mirrors.fetch(at(host, "ada/private"), session_id=SESSION)
    assert len(host.taken()) == 2  # nor was the copy thrown away


async def test_what_is_not_there(host: GitHost, opened: Open) -> None:
    host.push("ada/engine", {"n": "there"})
    mirrors = opened()
    failed = await refused(mirrors, at(host, "ada/engine", Branch("nope")))
    assert failed.kind == "checkout" and "'nope'" in failed.message
    failed = await refused(mirrors, at(host, "ada/engine", Commit("1" * 40)))
    assert failed.kind == "checkout" and "1" * 40 in failed.message
    tree = git("rev-parse", "main^{tree}", at=host.bare("ada/engine"))
    assert (await refused(mirrors, at(host, "ada/engine", Commit(tree)))).kind == "checkout"
    host.taken()
    await mirrors.fetch(at(host, "ada/engine"), session_id=SESSION)
    assert host.taken() == LOOK  # what was cloned meanwhile is kept


async def test_a_repository_that_is_too_large(host: GitHost, opened: Open, tmp_path: Path) -> None:
    host.push("ada/large", {"large": BIG})
    failed = await refused(opened(bytes_max=200_000), at(host, "ada/large"))
    assert failed.kind == "clone" and "larger" in failed.message
    # Little to send, much to write.
    host.push("ada/bomb", {f"{number}": "0" * 100_000 for number in range(20)})
    mirrors, repository = opened(tree_bytes_max=1_000_000), at(host, "ada/bomb")
    resolved = await mirrors.fetch(repository, session_id=SESSION)
    with pytest.raises(RepositoryFailed, match="more files, or larger"):
        await unpacked(mirrors, repository, resolved, tmp_path / "tree")
    with pytest.raises(RepositoryFailed, match="more files, or larger"):
        await unpacked(opened(tree_files_max=10), repository, resolved, tmp_path / "tree")
    assert list((tmp_path / "repositories" / "scratch").iterdir()) == []


async def test_a_disk_that_is_almost_full(host: GitHost, opened: Open, tmp_path: Path) -> None:
    """Our disk is the store's too: nothing is written that could not stay."""
    host.push("ada/large", {"large": BIG})
    repository, free = at(host, "ada/large"), shutil.disk_usage(tmp_path).free
    full = opened(disk_free_bytes_min=2 * free)
    failed = await refused(full, repository)
    assert failed.kind == "clone" and "disk space" in failed.message
    resolved = await opened().fetch(repository, session_id=SESSION)
    with pytest.raises(RepositoryFailed, match="disk space"):
        await unpacked(full, repository, resolved, tmp_path / "tree")


@pytest.mark.parametrize("leaf", ["file", "empty directory"])
async def test_a_tree_without_end_is_noticed_before_it_is_written(
    host: GitHost, opened: Open, tmp_path: Path, leaf: str
) -> None:
    """Ten directories that are all the same one, ten levels deep: a kilobyte, and 10^10 files, or none."""
    bare = host.bare(f"ada/git-bomb-{leaf[:4]}")
    name, kind = git("hash-object", "-w", "--stdin", at=bare, given="x"), "100644 blob"
    if leaf == "empty directory":
        name, kind = git("mktree", at=bare), "040000 tree"
    for _ in range(10):
        listing = "".join(f"{kind} {name}\t{number}\n" for number in range(10))
        name, kind = git("mktree", at=bare, given=listing), "040000 tree"
    commit = git("commit-tree", "-m", "bomb", name, at=bare)
    git("update-ref", "refs/heads/main", commit, at=bare)
    mirrors, repository = opened(), at(host, f"ada/git-bomb-{leaf[:4]}")
    resolved = await mirrors.fetch(repository, session_id=SESSION)
    with pytest.raises(RepositoryFailed, match="more files, or larger"):
        await unpacked(mirrors, repository, resolved, tmp_path / "tree")


async def test_names_and_trees_too_deep_are_refused_and_stop_nobody_else(
    host: GitHost, opened: Open, repositories: Path, tmp_path: Path
) -> None:
    """Each part of a branch's name is a directory in a mirror that fetches it."""
    tip = host.push("ada/deep", {"n": "1"})
    other = host.push("ada/other", {"n": "1"})
    mirrors = opened()
    await mirrors.fetch(at(host, "ada/deep"), session_id=SESSION)
    bare = host.bare("ada/deep")
    with (bare / "packed-refs").open("a") as packed:
        packed.write(f"{tip} refs/heads/{'a/' * 60}a\n")
    failed = await refused(mirrors, at(host, "ada/deep"))
    assert failed.kind == "clone" and "50 parts" in failed.message
    assert (await mirrors.fetch(at(host, "ada/other"), session_id=SESSION)).commit == other
    await refused(mirrors, at(host, "ada/deep"))  # the mirror that has them is given up
    (bare / "packed-refs").unlink()
    assert (await mirrors.fetch(at(host, "ada/deep"), session_id=SESSION)).commit == tip

    name, kind = git("hash-object", "-w", "--stdin", at=bare, given="x"), "100644 blob"
    for _ in range(205):
        name, kind = git("mktree", at=bare, given=f"{kind} {name}\td\n"), "040000 tree"
    git("update-ref", "refs/heads/main", git("commit-tree", "-m", "x", name, at=bare), at=bare)
    resolved = await mirrors.fetch(at(host, "ada/deep"), session_id=SESSION)
    with pytest.raises(RepositoryFailed, match="more files, or larger"):
        await unpacked(mirrors, at(host, "ada/deep"), resolved, tmp_path / "tree")
    assert list((repositories / "scratch").iterdir()) == []


async def test_a_repository_of_too_many_branches(host: GitHost, opened: Open) -> None:
    tip = host.push("ada/branches", {"n": "1"})
    repository = at(host, "ada/branches")
    mirrors = opened(refs_max=50, mirror_entries_max=40)
    await mirrors.fetch(repository, session_id=SESSION)
    branch = "create refs/heads/b{0} {1}\n"
    more = [branch.format(number, tip) for number in range(60)]
    git("update-ref", "--stdin", at=host.bare("ada/branches"), given="".join(more[:40]))
    assert "is larger" in (await refused(mirrors, repository)).message  # each is a file of our copy
    assert (await mirrors.fetch(repository, session_id=SESSION)).commit == tip  # but not of a new one
    git("update-ref", "--stdin", at=host.bare("ada/branches"), given="".join(more[40:]))
    failed = await refused(opened(refs_max=50), repository)
    assert failed.kind == "clone" and "too many branches" in failed.message


async def test_a_mirror_that_has_outgrown_its_repository_is_cloned_anew(
    host: GitHost, opened: Open, repositories: Path
) -> None:
    tip = host.push("ada/grown", {"n": "1"})
    mirrors, repository = opened(bytes_max=200_000), at(host, "ada/grown")
    await mirrors.fetch(repository, session_id=SESSION)
    (mirror,) = repositories.glob("mirrors/*/repository.git")
    (mirror / "left-behind").write_bytes(BIG)
    await mirrors.fetch(repository, session_id=SESSION)
    assert (mirror / "left-behind").exists()
    (mirror / "more-of-it").write_bytes(BIG)
    assert (await mirrors.fetch(repository, session_id=SESSION)).commit == tip
    assert not (mirror / "left-behind").exists()


async def test_a_mirror_that_is_a_link_is_none(
    host: GitHost, opened: Open, repositories: Path, tmp_path: Path
) -> None:
    """Gits in sandboxes write there; what they leave is never followed out of its place."""
    tip = host.push("ada/linked", {"n": "1"})
    mirrors, repository = opened(), at(host, "ada/linked")
    resolved = await mirrors.fetch(repository, session_id=SESSION)
    (mirror,) = repositories.glob("mirrors/*/repository.git")
    elsewhere = mirror.rename(tmp_path / "elsewhere")
    mirror.symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.rglob("*"))
    with pytest.raises(RepositoryFailed, match="is gone"):
        await mirrors.skills(repository, resolved)
    assert (await mirrors.fetch(repository, session_id=SESSION)).commit == tip
    assert mirror.is_dir() and not mirror.is_symlink()
    assert sorted(path.name for path in elsewhere.rglob("*")) == before


async def test_a_host_that_dies_in_the_middle(host: GitHost, opened: Open) -> None:
    host.push("ada/cut", {"large": BIG})
    host.cut_after["ada/cut"] = 100_000
    mirrors, repository = opened(), at(host, "ada/cut")
    assert (await refused(mirrors, repository)).kind == "clone"
    host.cut_after.clear()
    tip = (await mirrors.fetch(repository, session_id=SESSION)).commit
    # And while news are fetched: what was there stays, and is not cloned again.
    host.push("ada/cut", {"large": BIG[::-1]})
    host.cut_after["ada/cut"] = 100_000
    assert (await refused(mirrors, repository)).kind == "clone"
    host.cut_after.clear()
    host.taken()
    assert (await mirrors.fetch(repository, session_id=SESSION)).commit != tip
    assert len(host.taken()) == 3


async def test_a_host_that_is_slow(host: GitHost, opened: Open) -> None:
    host.push("ada/slow", {"large": BIG})
    host.stalls.add("ada/slow")
    failed = await refused(opened(seconds=3.0), at(host, "ada/slow"))
    assert failed.kind == "clone" and "slow" in failed.message
    failed = await refused(opened(stall_seconds=1), at(host, "ada/slow"))
    assert failed.kind == "clone"
    # One that takes the connection and says nothing, not even in TLS.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://localhost:{silent.getsockname()[1]}/a/b"
        mirrors = opened(hosts=HostList(private=[url.split("/")[2]]), stall_seconds=1, seconds=60)
        failed = await refused(mirrors, Repository(url=repository_url(url)))
        assert failed.kind == "clone" and "does not answer" in failed.message


async def test_where_we_do_not_go(host: GitHost, opened: Open, gateway: Gateway) -> None:
    host.push("ada/engine", {"n": "1"})
    host.taken()
    public = HostList(public=[host.where])
    failed = await refused(opened(hosts=public), at(host, "ada/engine"))
    assert failed.kind == "clone" and "not public" in str(failed)
    assert "127.0.0.1" not in failed.message
    failed = await refused(opened(hosts=HostList(public=["github.com"])), at(host, "ada/engine"))
    assert "clones no repositories of 'localhost'" in failed.message
    assert host.taken() == []
    # Redirects are followed, to where we go; not elsewhere, nor to other protocols.
    mirrors = opened()
    host.moved["ada/renamed"] = host.url("ada/engine")
    assert (await mirrors.fetch(at(host, "ada/renamed"), session_id=SESSION)).branch == "main"
    host.moved["ada/lured"] = "https://169.254.169.254/ada/engine"
    failed = await refused(mirrors, at(host, "ada/lured"))
    assert failed.kind == "clone" and "has not opened it" in str(failed)
    denied = [entry["host"] for entry in await gateway.entries() if entry["decision"] == "denied"]
    assert denied == ["localhost", "169.254.169.254"]
    host.moved["ada/lured"] = host.url("ada/engine").replace("https:", "http:")
    assert (await refused(mirrors, at(host, "ada/lured"))).kind == "clone"
    host.moved["ada/lured"] = "file:///etc"
    assert (await refused(mirrors, at(host, "ada/lured"))).kind == "clone"


async def test_a_host_that_is_not_there_or_not_itself(
    host: GitHost, opened: Open, gateway: Gateway, tmp_path: Path
) -> None:
    hosts = HostList(private=["localhost:1", "nowhere.invalid", host.where])
    for url in ("https://localhost:1/a/b", "https://nowhere.invalid/a/b"):
        failed = await refused(opened(hosts=hosts), Repository(url=repository_url(url)))
        assert failed.kind == "clone" and "cannot be reached" in failed.message
    host.push("ada/engine", {"n": "1"})
    # One that knows nothing of the host's authority.
    stranger = Mirrors(tmp_path / "stranger", hosts=hosts, egress=Egress(gateway.data_dir))
    failed = await refused(stranger, at(host, "ada/engine"))
    await stranger.aclose()
    assert failed.kind == "clone" and "certificate" in str(failed)


async def test_every_fetch_is_in_the_audit_of_the_session_that_caused_it(
    host: GitHost, opened: Open, gateway: Gateway
) -> None:
    host.push("ada/engine", {"n": "1"})
    mirrors, repository = opened(), at(host, "ada/engine")
    for session in ("sesn_1", "sesn_2"):
        await mirrors.fetch(repository, session_id=SessionId(session))
    entries = await gateway.ended()
    assert [entry["session_id"] for entry in entries] == ["sesn_1", "sesn_2"]
    for entry in entries:
        assert (entry["host"], entry["port"]) == ("localhost", host.port)
        assert (entry["method"], entry["decision"]) == ("CONNECT", "allowed")
        assert entry["received_bytes"] > 0


async def test_what_the_operator_denies_is_not_cloned(host: GitHost, opened: Open, tmp_path: Path) -> None:
    host.push("ada/engine", {"n": "1"})
    host.taken()
    hosts = HostList(private=[host.where])
    operator = OperatorHosts(denied=("localhost",), errands={"repository": hosts})
    async with Gateway.start(names={"localhost": ["127.0.0.1"]}, operator=operator) as gateway:
        mirrors = Mirrors(tmp_path / "denied", hosts=hosts, egress=Egress(gateway.data_dir))
        failed = await refused(mirrors, at(host, "ada/engine"))
        await mirrors.aclose()
        assert failed.kind == "clone" and "does not go" in failed.message
        assert "the operator of this server denies it" in str(failed.detail)
        (entry,) = await gateway.entries()
    assert (entry["session_id"], entry["host"], entry["decision"]) == (SESSION, "localhost", "denied")
    assert host.taken() == []


async def test_an_egress_process_that_is_away_is_waited_for(
    host: GitHost, opened: Open, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.push("ada/engine", {"n": "1"})
    mirrors, repository = opened(), at(host, "ada/engine")
    await gateway.end()
    waiting = asyncio.ensure_future(mirrors.fetch(repository, session_id=SESSION))
    await gateway.serve()
    assert (await waiting).branch == "main"
    await gateway.end()
    monkeypatch.setattr("corral.confine.way.EGRESS_AWAY_SECONDS", 0.3)
    failed = await refused(mirrors, repository)
    assert failed.kind == "clone" and "egress process is away" in failed.message
    await gateway.serve()


async def test_a_killed_fetch_leaves_nothing_behind(
    host: GitHost, opened: Open, repositories: Path
) -> None:
    host.push("ada/slow", {"large": BIG})
    host.stalls.add("ada/slow")
    mirrors, repository = opened(), at(host, "ada/slow")
    fetching = asyncio.create_task(mirrors.fetch(repository, session_id=SESSION))
    async with asyncio.timeout(60):
        while len(host.requests) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert sorted(path.name for path in (repositories / "mirrors").glob("*/*")) == ["lock"]
    host.stalls.clear()
    assert (await mirrors.fetch(repository, session_id=SESSION)).branch == "main"
