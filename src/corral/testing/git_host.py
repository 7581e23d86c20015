"""A git host that tests start: git's own `http-backend` behind HTTPS on this machine.

    with GitHost.start(directory) as host:
        host.push("ada/engine", {"README.md": "..."})
        host.url("ada/engine")

`host.requests` is what came, in order.
"""

import os
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from corral.testing.certificates import certificates
from corral.testing.web_server import WebServer

__all__ = ["GitHost", "basic", "git"]

_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{
        f"GIT_{who}_{what}": "ada@example.com"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    },
}


def git(*arguments: str, at: Path, given: str = "") -> str:
    """Run git as a developer would, with no configuration of this machine."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=at,
        env=_ENVIRONMENT,
        input=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def basic(token: str) -> str:
    """The header that a git with this token sends."""
    return "Basic " + b64encode(f"x-access-token:{token}".encode()).decode()


@dataclass(kw_only=True)
class GitHost:
    """A repository may misbehave, by its name:

    status: answered instead of it. cut_after: so many bytes of a pack, then the connection ends. stalls:
    some bytes of a pack, then silence until the end. moved: where it went. tokens: without which it is not
    there for anybody; `authorizations` is what was sent to whom, and `echoes` is answered with what was
    sent, whatever is asked for.
    """

    root: Path
    authority: Path
    name: str
    port: int = 0
    requests: list[str] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    stalls: set[str] = field(default_factory=set)
    moved: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    authorizations: list[tuple[str, str]] = field(default_factory=list)
    echoes: set[str] = field(default_factory=set)
    closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def start(
        cls, directory: Path, *, address: str | None = None, name: str | None = None
    ) -> "Iterator[GitHost]":
        """address: what it is called by, too, instead of localhost, which no sandbox asks a proxy for; or
        name, which somebody else makes resolve."""
        root = directory / "repositories"
        root.mkdir(parents=True)
        called = name or address or "localhost"
        authority, chain, key = certificates(directory, called)
        host = cls(root=root, authority=authority, name=called)
        server = _Server(_Handler, certificate=(chain, key), address=address or "127.0.0.1")
        server.host, host.port = host, server.port
        with server.running():
            try:
                yield host
            finally:
                host.closing.set()

    @property
    def where(self) -> str:
        """As an entry of the setting repository_private_hosts."""
        return f"{self.name}:{self.port}"

    def url(self, name: str) -> str:
        return f"https://{self.where}/{name}"

    def bare(self, name: str) -> Path:
        path = self.root / name
        if not path.exists():
            path.mkdir(parents=True)
            git("init", "--quiet", "--bare", "--initial-branch=main", at=path)
            git("config", "uploadpack.allowAnySHA1InWant", "true", at=path)
            git("config", "http.receivepack", "true", at=path)
        return path

    def push(
        self,
        name: str,
        files: Mapping[str, str | bytes],
        *,
        branch: str = "main",
        links: Mapping[str, str] | None = None,
    ) -> str:
        """Commit these files on top of a branch, which is made if it is new; returns the commit."""
        bare = self.bare(name)
        work = self.root.parent / "work" / name / branch
        if not work.exists():
            work.parent.mkdir(parents=True, exist_ok=True)
            git("clone", "--quiet", str(bare), str(work), at=self.root)
            git("checkout", "--quiet", "-B", branch, at=work)
        for path, content in files.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(content.encode() if isinstance(content, str) else content)
            if path.endswith(".sh"):
                (work / path).chmod(0o755)
        for path, target in (links or {}).items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).symlink_to(target)
        git("add", "--all", at=work)
        git("commit", "--quiet", "--allow-empty", "--message", "Change", at=work)
        git("push", "--quiet", str(bare), f"HEAD:refs/heads/{branch}", at=work)
        return git("rev-parse", "HEAD", at=work)

    def taken(self) -> list[str]:
        """The requests since the last time."""
        taken, self.requests = self.requests, []
        return taken


class _Server(WebServer):
    host: GitHost


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `requests`."""

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self._serve(body)

    def _serve(self, body: bytes) -> None:
        host, parts = self.server.host, urlsplit(self.path)
        host.requests.append(f"{self.command} {parts.path}")
        name = parts.path.lstrip("/")
        for ask in ("/info/refs", "/git-upload-pack", "/git-receive-pack"):
            name = name.removesuffix(ask)
        authorization = self.headers.get("authorization")
        if authorization is not None:
            host.authorizations.append((name, authorization))
        token = host.tokens.get(name)
        if name in host.echoes:
            self._answer(200, {"x-echo": authorization or ""}, str(self.headers).encode())
        elif token is not None and authorization != basic(token):
            self._answer(401, {"www-authenticate": 'Basic realm="git"'})
        elif name in host.moved:
            self._answer(301, {"location": host.moved[name] + self.path[1 + len(name) :]})
        elif name in host.status:
            status = host.status[name]
            self._answer(status, {"www-authenticate": 'Basic realm="git"'} if status == 401 else {})
        elif not (host.root / name).is_dir():
            self._answer(404, {})
        else:
            self._backend(name, parts.path, parts.query, body)

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def _backend(self, name: str, path: str, query: str, body: bytes) -> None:
        host = self.server.host
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=True,
            env={
                **_ENVIRONMENT,
                "GIT_PROJECT_ROOT": str(host.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("content-type") or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding") or "",
                "GIT_PROTOCOL": self.headers.get("git-protocol") or "",
            },
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        is_pack = b"command=fetch" in body
        if is_pack and name in host.cut_after:
            self._begin(headers, content, host.cut_after[name])
            self.close_connection = True
        elif is_pack and name in host.stalls:
            self._begin(headers, content, 100)
            host.closing.wait(60)
            self.close_connection = True
        else:
            self._answer(status, headers, content)

    def _begin(self, headers: Mapping[str, str], content: bytes, count: int) -> None:
        self.send_response(200)
        for key, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content[:count])
        self.wfile.flush()
