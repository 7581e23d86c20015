"""GitHub's REST interface from a sandbox: which calls get the token of a repository, and which do not. A
fake GitHub over real TLS, at several names."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from corral.catalog.repositories import repository_url
from corral.egress import wishes
from corral.egress.policy import OperatorHosts
from corral.egress.repositories import interfaces_of
from corral.egress.target import Target
from corral.session.call import Mount
from corral.testing.certificates import certificates
from corral.testing.web_server import WebServer
from tests.gateway import UNRESTRICTED, Gateway, answered_through_tls, limited

TOKEN = "ghp_canary0123456789"
NAMES = ("github.com", "uploads.github.com", "api.github.com", "git.test", "other.test")
ADDRESSES = {name: ["127.0.0.1"] for name in NAMES}
PRIVATE = Mount(
    mount_id="sesrsc_0", kind="repository", path="/workspace/engine", digest="", mode="copy", has_token=True
)


class GitHub(WebServer):
    """Says back what it is sent, and where more of it is. requests: path and Authorization of each."""

    def __init__(self, directory: Path) -> None:
        self.authority, *certificate = certificates(directory, *NAMES)
        super().__init__(_Handler, certificate=(certificate[0], certificate[1]))
        self.requests: list[tuple[str, str | None]] = []

    def url(self, host: str, path: str) -> str:
        return f"https://{host}:{self.port}/{path}"


class _Handler(BaseHTTPRequestHandler):
    server: GitHub
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `requests`."""

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Authorization"]))
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Echo", self.headers["Authorization"] or "")
        next_page = self.server.url(self.headers["Host"].partition(":")[0], "repositories/12/pulls?page=2")
        self.send_header("Link", f'<{next_page}>; rel="next"')
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHub]:
    github = GitHub(tmp_path)
    with github.running():
        yield github


@asynccontextmanager
async def reached(github: GitHub, *repositories: str, is_open: bool = False) -> AsyncIterator[Gateway]:
    """is_open: these hosts are open to every sandbox whose environment allows them."""
    entries = tuple(f"{name}:{github.port}" for name in NAMES)
    operator = OperatorHosts(internal=entries) if is_open else OperatorHosts(repositories=entries)
    async with Gateway.start(names=ADDRESSES, operator=operator, trusted=github.authority) as gateway:
        for repository in repositories:
            await gateway.gives_token("sesn_1", repository, TOKEN)
        yield gateway


@dataclass
class Sandbox:
    """answered: the headers of the last answer."""

    gateway: Gateway
    github: GitHub
    networking: Mapping[str, object] = field(default_factory=lambda: UNRESTRICTED)
    session_id: str = "sesn_1"
    port: int = 0
    answered: Mapping[str, str] = field(default_factory=dict)

    async def ask(self, host: str, path: str, **headers: str) -> str:
        """What a program gets; `sent` is what the host got for it."""
        self.github.requests.clear()
        if not self.port:
            self.port = self.gateway.door(self.networking, session_id=self.session_id, mounts=[PRIVATE])
        authority = await self.gateway.authority(self.session_id)
        _, self.answered, said = await answered_through_tls(
            self.port, host, self.github.port, path, authority=authority, headers=headers
        )
        return said.decode()

    def sent(self) -> str | None:
        [(_, authorization)] = self.github.requests
        return authorization


BELOW = (
    *("", "?per_page=1", "/pulls?state=open&head=ada%3Atopic", "/contents/a%20b/..c.py?ref=a/../b"),
    *("/contents/%C3%A4%E0%A4%85%F0%9F%90%B4.md",),
    *("/compare/main...feature%2Fx", "/issues/1/labels/%5Bbot%5D", "/git/ref/heads/feature/x"),
)
ELSEWHERE = (
    *("/graphql", "/user", "/repositories/1296269/pulls", "/", "/repos", "/repos/ada", "/repos/ada/"),
    *("/repos/ada/other", "/repos/ada/engine2", "/repos/ada/engine.git", "/repos/eve/engine/pulls"),
    *("/repos/ada/engine/", "/repos/ada/engine//other", "//repos/ada/engine", "/repos//ada/engine"),
    *("/repos/ada/engine/../other", "/repos/ada/engine/pulls/../../other", "/repos/ada/engine/."),
    *("/repos/ada/engine/%2e%2e/other", "/repos/ada/engine/.%2E/other", "/repos/ada/engine/%252e%252e/x"),
    *("/repos/ada/engine/a%2f..%2f..%2fother", "/repos/ada/engine%2f..%2fother", "/repos/ada%2fengine"),
    *("/repos/ada/engine/..%2fother", "/repos/ada/engine/..;/other", "/repos/ada/engine/..%3b/other"),
    *("/repos/ada/engine;/../other", "/repos/ada/engine/..%5cother", "/repos/ada/engine/x%00/../../y"),
    *("/repos/%61da/engine", "/x/../repos/ada/engine", "/repos/ada/engine/..?x", "/repos/ada/engine%2e"),
    *("/repos/ada/engine/%c0%ae%c0%ae/other", "/repos/ada/engine/%E0%80%ae%e0%80%AE%e0%80%af/other"),
    *("/repos/ada/engine/%f8%80%80%80%ae%FC%80%80%80%80%ae/other", "/repos/ada/engine/%ff/other"),
    *("/repos/ada/engine/..%f0%80%80%af/other", "/repos/ada/engine/..%c1%9cother"),
)


@pytest.mark.parametrize("networking", [UNRESTRICTED, limited()])
async def test_calls_of_rest_about_a_repository_get_its_token(
    github: GitHub, networking: Mapping[str, object]
) -> None:
    """No client needs one of its own, and what one sends instead does not get there."""
    async with reached(github, github.url("github.com", "ada/engine.git")) as gateway:
        sandbox = Sandbox(gateway, github, networking)
        for host in ("api.github.com", "uploads.github.com"):
            for repository in ("/repos/ada/engine", "/repos/Ada/ENGINE"):
                for below in BELOW if repository.islower() else BELOW[:1]:
                    await sandbox.ask(host, repository + below, Authorization="token of the sandbox")
                    assert sandbox.sent() == f"Bearer {TOKEN}", (host, repository, below)
        entries = await gateway.ended()
        assert {each["credential_id"] for each in entries if each["method"] == "GET"} == {"sesrsc_0"}
        assert TOKEN not in json.dumps(entries)


async def test_what_it_says_back_is_masked_and_next_pages_get_the_token_too(github: GitHub) -> None:
    async with reached(github, github.url("github.com", "Ada/engine")) as gateway:
        sandbox = Sandbox(gateway, github)
        said = await sandbox.ask("api.github.com", "/repos/ada/engine/pulls")
        assert "Bearer ********" in said and TOKEN not in said
        assert sandbox.answered["X-Echo"] == "Bearer ********"
        page = github.url("api.github.com", "repos/Ada/engine/pulls?page=2")
        assert sandbox.answered["Link"] == f'<{page}>; rel="next"'
        await sandbox.ask("api.github.com", "/repos/Ada/engine/pulls?page=2")
        assert sandbox.sent() == f"Bearer {TOKEN}"


@pytest.mark.parametrize("is_open", [False, True])
async def test_other_calls_of_rest_get_no_token(github: GitHub, is_open: bool) -> None:
    """Where the host is not open they do not get there; where it is, they go as they are."""
    url = github.url("github.com", "ada/engine")
    async with reached(github, url, is_open=is_open) as gateway:
        sandbox = Sandbox(gateway, github)
        for path in ELSEWHERE:
            said = await sandbox.ask("api.github.com", path, Authorization="token of the sandbox")
            if is_open:
                assert sandbox.sent() == "token of the sandbox", path
            else:
                assert "nothing else" in said and github.requests == [], path
        await sandbox.ask("api.github.com", "/repos/ada/engine", Authorization="token of the sandbox")
        assert sandbox.sent() == f"Bearer {TOKEN}"


async def test_interfaces_of_hosts_are_told_apart(github: GitHub) -> None:
    """Of GitHub's server the interface is at the host of its repositories; github.com has none there, nor
    a host whose repositories lie in groups."""
    async with reached(
        github,
        github.url("git.test", "ada/engine"),
        github.url("github.com", "eve/tool"),
        github.url("other.test", "group/of/project"),
        is_open=True,
    ) as gateway:
        sandbox = Sandbox(gateway, github)
        for root in ("/api/v3", "/api/uploads"):
            await sandbox.ask("git.test", f"{root}/repos/Ada/engine/releases")
            assert sandbox.sent() == f"Bearer {TOKEN}"
        for host, path in (
            *(("git.test", "/repos/ada/engine"), ("git.test", "/api/v3/repos/eve/tool")),
            *(("git.test", "/api/v3/graphql"), ("git.test", "/api/v3/repos/ada/engine/../x")),
            *(("api.github.com", "/repos/ada/engine"), ("github.com", "/api/v3/repos/eve/tool")),
            *(("github.com", "/repos/eve/tool"), ("api.github.com", "/api/v3/repos/eve/tool")),
            *(("other.test", "/api/v3/repos/group/of/project"), ("other.test", "/api/v3/repos/of/project")),
        ):
            await sandbox.ask(host, path)
            assert sandbox.sent() is None, (host, path)


async def test_another_session_gets_nothing_of_rest(github: GitHub) -> None:
    async with reached(github, github.url("github.com", "ada/engine")) as gateway:
        await gateway.gives_token("sesn_2", github.url("github.com", "eve/tool"), "ghp_of_another")
        said = await Sandbox(gateway, github, session_id="sesn_2").ask(
            "api.github.com", "/repos/ada/engine"
        )
        assert "nothing else" in said and github.requests == []


async def test_a_rotated_token_is_the_one_of_rest(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    url = github.url("github.com", "ada/engine")
    async with reached(github, url) as gateway:
        sandbox = Sandbox(gateway, github)
        await sandbox.ask("api.github.com", "/repos/ada/engine")
        assert sandbox.sent() == f"Bearer {TOKEN}"
        await gateway.gives_token("sesn_1", url, "ghp_rotated")
        monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 0.0)
        await sandbox.ask("api.github.com", "/repos/ada/engine")
        assert sandbox.sent() == "Bearer ghp_rotated"


async def test_the_token_takes_the_place_of_a_variable(github: GitHub) -> None:
    """Of a variable that would be put into the same header; which the audit does not call used, then."""
    async with reached(github, github.url("github.com", "ada/engine"), is_open=True) as gateway:
        held = await gateway.gives(
            "sesn_1", "GITHUB_TOKEN", "ghp_variable", networking=limited("api.github.com")
        )
        sandbox = Sandbox(gateway, github)
        await sandbox.ask("api.github.com", "/repos/ada/engine", Authorization=f"Bearer {held}")
        assert sandbox.sent() == f"Bearer {TOKEN}"
        await sandbox.ask("api.github.com", "/user", Authorization=f"Bearer {held}")
        assert sandbox.sent() == "Bearer ghp_variable"
        used = [each["credential_id"] for each in await gateway.ended() if each["method"] == "GET"]
        assert used == ["sesrsc_0", "vcrd_GITHUB_TOKEN"]


def test_links_to_what_is_not_the_repository_stay() -> None:
    url = repository_url("https://github.com:8443/Ada/engine")
    rest = next(each for each in interfaces_of(url) if each.target == Target("api.github.com", 8443))
    at = "https://api.github.com:8443"
    given = (
        f'<{at}/repositories/12/pulls?page=2>; rel="next", <{at}/repositories/12/pulls?page=9>; rel="last"'
    )
    assert rest.linked(given.encode()).decode() == given.replace("/repositories/12/", "/repos/Ada/engine/")
    for other in (
        f"<{at}/user/repos?page=2>",
        "<https://evil.test/repositories/12/pulls>",
        f"<{at}/repositories/x>",
        f"<{at}/repositories/12x/y>",
    ):
        assert rest.linked(other.encode()).decode() == other
