"""Clones of private repositories: a real git, a real host that asks for tokens, and a real egress process
between them, which alone has those."""

import io
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from corral.catalog.hosts import HostList
from corral.catalog.repositories import Branch, Checkout, Holder, Repository, repository_url
from corral.egress.policy import OperatorHosts
from corral.hands.way_out import Egress
from corral.kernel.ids import SessionId, WorkspaceId
from corral.repositories.failures import RepositoryFailed
from corral.repositories.mirrors import Mirrors, Resolved
from corral.testing.git_host import GitHost, basic
from tests.gateway import Gateway

TOKEN, OTHER = "ghp_canary_of_one", "ghp_canary_of_two"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    with GitHost.start(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture
async def gateway(host: GitHost) -> AsyncIterator[Gateway]:
    host.taken()
    host.authorizations.clear()
    hosts = HostList(private=[host.where])
    operator = OperatorHosts(repositories=(host.where,), errands={"repository": hosts})
    names = {"localhost": ["127.0.0.1"]}
    async with Gateway.start(names=names, operator=operator, trusted=host.authority) as gateway:
        yield gateway


@pytest.fixture
async def mirrors(gateway: Gateway, host: GitHost, tmp_path: Path) -> AsyncIterator[Mirrors]:
    """They know nothing of the host's authority: it is the egress process that checks it."""
    mirrors = Mirrors(
        tmp_path / "repositories",
        hosts=HostList(private=[host.where]),
        egress=Egress(gateway.data_dir),
    )
    yield mirrors
    await mirrors.aclose()


def held(
    host: GitHost,
    name: str,
    session: str = "sesn_1",
    *,
    workspace: str = "wrkspc_1",
    checkout: Checkout = None,
) -> Repository:
    holder = Holder(workspace_id=WorkspaceId(workspace), session_id=SessionId(session))
    return Repository(url=repository_url(host.url(name)), checkout=checkout, holder=holder)


async def fetched(mirrors: Mirrors, repository: Repository) -> Resolved:
    session_id = SessionId("sesn_public") if repository.holder is None else repository.holder.session_id
    return await mirrors.fetch(repository, session_id=session_id)


async def refused(mirrors: Mirrors, repository: Repository) -> RepositoryFailed:
    with pytest.raises(RepositoryFailed) as failed:
        await fetched(mirrors, repository)
    for token in (TOKEN, OTHER):
        assert token not in f"{failed.value} {failed.value.detail} {failed.value.wire('')}"
    return failed.value


async def copied(mirrors: Mirrors, repository: Repository, resolved: Resolved) -> dict[str, bytes]:
    """The files of the copy that a session gets."""
    chunks = [chunk async for chunk in mirrors.archive(repository, resolved)]
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        return {
            member.name: file.read()
            for member in archive
            if (file := archive.extractfile(member)) is not None
        }


async def test_a_private_repository_is_cloned_and_fetched(
    gateway: Gateway, host: GitHost, mirrors: Mirrors, tmp_path: Path
) -> None:
    commit = host.push("ada/private", {"README.md": "one"})
    host.tokens["ada/private"] = TOKEN
    await gateway.gives_token("sesn_1", host.url("ada/private"), TOKEN)
    repository = held(host, "ada/private")
    resolved = await fetched(mirrors, repository)
    assert resolved == Resolved(branch="main", commit=commit)
    files = await copied(mirrors, repository, resolved)
    assert files["./README.md"] == b"one"
    assert f"url = {host.url('ada/private')}\n".encode() in files["./.git/config"]
    commit = host.push("ada/private", {"README.md": "two"})
    assert (await fetched(mirrors, repository)).commit == commit
    assert {header for _, header in host.authorizations} == {basic(TOKEN)}
    # Nothing of it is in what sessions get, nor in what is kept.
    kept = [path.read_bytes() for path in (tmp_path / "repositories").rglob("*") if path.is_file()]
    for secret in (TOKEN.encode(), basic(TOKEN).split()[1].encode()):
        assert not any(secret in content for content in [*kept, *files.values()])


async def test_a_copy_is_for_whoever_has_a_token_that_works(
    gateway: Gateway, host: GitHost, mirrors: Mirrors, tmp_path: Path
) -> None:
    host.push("ada/shared", {"n": "1"})
    host.tokens["ada/shared"] = TOKEN
    await gateway.gives_token("sesn_1", host.url("ada/shared"), TOKEN)
    await gateway.gives_token("sesn_2", host.url("ada/shared"), OTHER)
    await gateway.gives_token("sesn_3", host.url("ada/shared"), TOKEN)
    await fetched(mirrors, held(host, "ada/shared"))
    host.taken()
    # Another session of the workspace, with a token that does not work: none, and it says so.
    failed = await refused(mirrors, held(host, "ada/shared", "sesn_2"))
    assert failed.kind == "authentication" and "authorization_token" in failed.message
    # One with a token that works is asked for it, and then gets what is new.
    host.taken()
    await fetched(mirrors, held(host, "ada/shared", "sesn_3"))
    assert host.taken() == ["GET /ada/shared/info/refs", "POST /ada/shared/git-upload-pack"]
    # Another workspace has a copy of its own.
    await gateway.gives_token("sesn_4", host.url("ada/shared"), TOKEN)
    await fetched(mirrors, held(host, "ada/shared", "sesn_4", workspace="wrkspc_2"))
    assert len(host.taken()) == 3
    assert len(list((tmp_path / "repositories" / "mirrors").iterdir())) == 2
    # One that says nothing of a token is anybody.
    failed = await refused(mirrors, Repository(url=repository_url(host.url("ada/shared"))))
    assert failed.kind == "clone"  # for its lack of the host's authority


async def test_a_token_that_was_rotated_is_used_at_once(
    gateway: Gateway, host: GitHost, mirrors: Mirrors
) -> None:
    host.push("ada/rotated", {"n": "1"})
    host.tokens["ada/rotated"] = OTHER
    await gateway.gives_token("sesn_1", host.url("ada/rotated"), TOKEN)
    repository = held(host, "ada/rotated")
    assert (await refused(mirrors, repository)).kind == "authentication"
    await gateway.gives_token("sesn_1", host.url("ada/rotated"), OTHER)
    await fetched(mirrors, repository)


async def test_what_the_host_says(gateway: Gateway, host: GitHost, mirrors: Mirrors) -> None:
    for name, status, kind in (
        ("closed", 403, "forbidden"),
        ("missing", 404, "not_found"),
        ("down", 500, "clone"),
    ):
        host.push(f"bob/{name}", {"n": "1"})
        host.tokens[f"bob/{name}"] = TOKEN
        host.status[f"bob/{name}"] = status
        await gateway.gives_token("sesn_1", host.url(f"bob/{name}"), TOKEN)
        assert (await refused(mirrors, held(host, f"bob/{name}"))).kind == kind
    host.push("bob/branch", {"n": "1"})
    await gateway.gives_token("sesn_1", host.url("bob/branch"), TOKEN)
    failed = await refused(mirrors, held(host, "bob/branch", checkout=Branch("soon")))
    assert failed.kind == "checkout"
    # Where it moved to, its token does not go along.
    host.push("bob/old", {"n": "1"})
    host.push("bob/new", {"n": "1"})
    host.moved["bob/old"] = "/bob/new"
    host.tokens["bob/new"] = TOKEN
    await gateway.gives_token("sesn_1", host.url("bob/old"), TOKEN)
    host.authorizations.clear()
    assert (await refused(mirrors, held(host, "bob/old"))).kind == "forbidden"
    assert {name for name, _ in host.authorizations} == {"bob/old"}


async def test_without_an_egress_process(
    gateway: Gateway, host: GitHost, mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.push("ada/alone", {"n": "1"})
    await gateway.gives_token("sesn_1", host.url("ada/alone"), TOKEN)
    none = Mirrors(tmp_path / "none", hosts=HostList(private=[host.where]), egress=None)
    failed = await refused(none, held(host, "ada/alone"))
    assert failed.kind == "clone" and "this node has no egress process" in str(failed.detail)
    await none.aclose()
    await gateway.end()
    with monkeypatch.context() as patch:
        patch.setattr("corral.hands.way_out.HANDS_CONNECT_SECONDS", 0.5)
        failed = await refused(mirrors, held(host, "ada/alone"))
    assert "cannot use the repository's token" in failed.message
    await gateway.serve()
    await fetched(mirrors, held(host, "ada/alone"))
