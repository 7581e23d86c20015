"""Rules for repositories as resources."""

from datetime import UTC, datetime
from typing import Any

import pytest

from corral.catalog.hosts import HostList
from corral.catalog.repositories import (
    check_branch,
    check_commit,
    repository_mount_path,
    repository_resource,
    repository_url,
)
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest

NOW = datetime(2026, 11, 20, tzinfo=UTC)
GITHUB = HostList(public=("github.com",))
SHA = "0123456789abcdef0123456789abcdef01234567"


def resource(hosts: HostList = GITHUB, **given: Any) -> Any:
    return repository_resource(
        {"type": "github_repository", "url": "https://github.com/ada/engine", **given},
        resource_id="sesrsc_1",
        hosts=hosts,
        now=NOW,
    )


def test_a_resource_as_the_wire_shows_it() -> None:
    shown = resource(checkout={"type": "branch", "name": "feature/x"}, authorization_token=None)
    assert shown == {
        "id": "sesrsc_1",
        "type": "github_repository",
        "url": "https://github.com/ada/engine",
        "checkout": {"type": "branch", "name": "feature/x"},
        "mount_path": "/workspace/engine",
        "created_at": rfc3339(NOW),
        "updated_at": rfc3339(NOW),
    }
    assert resource(mount_path="/workspace/src/it")["mount_path"] == "/workspace/src/it"
    assert resource()["checkout"] is None


def test_a_token_is_no_part_of_it() -> None:
    assert resource(authorization_token="ghp_planted") == resource()


@pytest.mark.parametrize(
    ("text", "name", "canonical"),
    [
        ("https://github.com/ada/engine", "engine", "https://github.com/ada/engine"),
        ("https://GitHub.com:443/ada/engine/", "engine", "https://github.com/ada/engine"),
        ("https://git.example.com:8443/a/b/c.git", "c", "https://git.example.com:8443/a/b/c.git"),
        ("https://git.sr.ht/~ada/my.repo-x", "my.repo-x", "https://git.sr.ht/~ada/my.repo-x"),
    ],
)
def test_urls(text: str, name: str, canonical: str) -> None:
    url = repository_url(text)
    assert (url.text, url.name, url.canonical) == (text, name, canonical)


@pytest.mark.parametrize(
    "text",
    [
        "http://github.com/ada/engine", "ssh://git@github.com/ada/engine", "git@github.com:ada/engine.git",
        "file:///etc/passwd", "ext::sh -c id", "https://", "https://github.com", "https://github.com/",
        "https://github.com//engine", "https://github.com/ada/..", "https://github.com/ada/.git",
        "https://github.com/ada/%2e%2e", "https://github.com/ada/engine?x=1", "https://github.com/a/b#c",
        "https://github.com/a/b?", "https://github.com:0/a/b", "https://github.com:99999/a/b",
        "https://[::1]/a/b", "https://-x/a/b", "https://github.com/a b/c", "https://github.com/a/\u0442",
        "https://exa\nmple.com/a/b", "https://github.com/" + "a/" * 600 + "b", "--upload-pack=touch",
    ],
)  # fmt: skip
def test_refused_urls(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^url: "):
        repository_url(text)


def test_credentials_in_a_url_are_refused_and_never_repeated() -> None:
    for text in ("https://ada:planted@github.com/a/b", "https://planted@github.com/a/b"):
        with pytest.raises(InvalidRequest, match="user name or password") as refused:
            repository_url(text)
        assert "planted" not in str(refused.value)


def test_a_host_that_is_not_allowed() -> None:
    with pytest.raises(InvalidRequest, match=r"^url: .*'gitlab.com'.*CORRAL_REPOSITORY_HOSTS"):
        resource(url="https://gitlab.com/ada/engine")


@pytest.mark.parametrize(
    "name", ["main", "feature/x", "v1.0", "a@b", "release-2026_11", "ünïcode", "x" * 255]
)
def test_branches(name: str) -> None:
    check_branch(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "-x", "--upload=x", "a..b", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "/a", "a/",
        "a//b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "a@{1}", "@", "HEAD", "a\nb", "a\x7f", "x" * 256,
    ],
)  # fmt: skip
def test_refused_branches(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^checkout\.name: "):
        check_branch(name)


def test_commits() -> None:
    check_commit(SHA)
    check_commit("a" * 64)
    for sha in ("", "main", SHA[:7], SHA.upper(), SHA + "0", f"{SHA}\n", "-" + SHA[1:]):
        with pytest.raises(InvalidRequest, match=r"^checkout\.sha: "):
            check_commit(sha)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "engine",
        "/",
        "/workspace",
        "/workspace/",
        "/workspace//x",
        "/workspace/..",
        "/workspace/../etc",
        "/workspace/a/../../etc",
        "/workspace/./x",
        "/workspacex/y",
        "/etc/x",
        "/mnt/session/uploads/x",
        "/workspace/a\nb",
        "/workspace/a/.git/hooks",
        "/workspace/.GIT",
        "/workspace/" + "x" * 600,
    ],
)
def test_refused_mount_paths(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^mount_path: "):
        repository_mount_path(path, repository_url("https://github.com/ada/engine"))


def test_default_mount_path_is_named_after_the_repository() -> None:
    url = repository_url("https://git.example.com/a/Engine.git")
    assert repository_mount_path(None, url) == "/workspace/Engine"
    assert repository_mount_path("/workspace/x/", url) == "/workspace/x"
