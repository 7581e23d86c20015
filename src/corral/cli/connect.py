"""Which server a command talks to, with which key, and how.

URL: --url, else the server on --data-dir, else ANTHROPIC_BASE_URL (what clients of Corral set), else the
server that runs on the data directory of the settings, else their http://HOST:PORT. Key: ANTHROPIC_API_KEY
if it is one of ours, else CORRAL_API_KEY, else the local key that a running supervisor keeps in its data
directory. A model key is never sent to a Corral server.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.cli.outcome import WRONG_KEY, Exit, Problem
from corral.config import Config
from corral.kernel.ids import CORRAL_KEY_PREFIX
from corral.kernel.limits import CLI_CONNECT_SECONDS, CLI_REPLY_SECONDS
from corral.supervisor.datadir import read_state

if TYPE_CHECKING:
    import httpx2

__all__ = ["Api", "Server", "find_server", "running_server", "server_or_embedded"]

_HOSTED = "api.anthropic.com"
_LOG_CHARS = 2000  # of a server that did not start: the end of a traceback


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """`data_dir`: where its log is, if it runs on this machine."""

    url: str
    key: str
    data_dir: Path | None = None
    is_embedded: bool = False


def find_server(
    config: Config, *, url: str | None, is_here: bool = False, environ: Mapping[str, str] = os.environ
) -> Server:
    """The server to ask; nobody has tried yet whether it answers. Raises Problem if `url` is none.

    is_here: the user named the data directory, so a client's environment says nothing about its server.
    """
    if url and not url.startswith(("http://", "https://")):
        raise Problem(f"--url {url!r} is not a URL; write http://127.0.0.1:8420", exit=Exit.USAGE)
    if is_here and not url:
        environ = {}
    state = read_state(config.data_dir) or {}
    base_url = environ.get("ANTHROPIC_BASE_URL", "")
    if _HOSTED in base_url:
        base_url = ""
    local_url = str(state["url"]) if state else ""
    chosen = url or base_url or local_url or f"http://{config.host}:{config.port}"
    keys = [environ.get("ANTHROPIC_API_KEY", ""), config.api_key.reveal() if config.api_key else ""]
    if chosen == local_url:
        keys.append(str(state["local_key"]))
    ours = [key for key in keys if key and (key.startswith(CORRAL_KEY_PREFIX) or key == keys[1])]
    return Server(
        url=chosen.rstrip("/"),
        key=ours[0] if ours else "",
        data_dir=config.data_dir if chosen == local_url else None,
    )


def running_server(config: Config, *, url: str | None, is_here: bool = False) -> Server:
    """A server that answers and accepts our key. Raises Problem saying what to do otherwise."""
    server = find_server(config, url=url, is_here=is_here)
    if is_here and not url and server.data_dir is None:
        raise Problem(
            f"nothing is served on {config.data_dir}; start it with `corral serve --data-dir ...`",
            exit=Exit.NO_SERVER,
        )
    if not _answers(server):
        raise Problem(
            f"no Corral server answers at {server.url}; start one with `corral serve`, or give --url",
            exit=Exit.NO_SERVER,
        )
    if not server.key:
        raise Problem(
            f"no API key for {server.url}: export ANTHROPIC_API_KEY=corral_...", exit=Exit.NO_SERVER
        )
    return server


@contextlib.contextmanager
def server_or_embedded(
    config: Config,
    *,
    url: str | None,
    say: "Say",
    is_here: bool = False,
    own_data_dir: Path | None = None,
    before_start: Callable[[], None] = lambda: None,
    sandbox: str | None = None,
) -> Iterator[Server]:
    """A running server, or one that lives as long as the command; `say` tells the user which.

    own_data_dir: never a running one; this directory is for the command alone.
    before_start: raises Problem if it is no use to start one. sandbox: the setting of one that is started.
    """
    if own_data_dir is None:
        server = find_server(config, url=url, is_here=is_here)
        if _answers(server) and not (is_here and not url and server.data_dir is None):
            yield running_server(config, url=url, is_here=is_here)
            return
        if url or (os.environ.get("ANTHROPIC_BASE_URL") and not is_here):
            running_server(config, url=url)  # it was named, so it is missed
    before_start()
    data_dir = own_data_dir or config.data_dir
    say(f"starting a server for this command (data in {data_dir})")
    with _embedded(data_dir, sandbox) as ready:
        state = read_state(data_dir) or {}
        yield Server(
            url=str(ready["url"]), key=str(state.get("local_key", "")), data_dir=data_dir, is_embedded=True
        )


class Say:
    """One line for the user, beside the output proper."""

    def __call__(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _embedded(data_dir: Path, sandbox: str | None) -> Iterator[dict[str, Any]]:
    log_path = data_dir / "embedded.log"
    data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "corral.cli",
                "serve",
                "--json",
                "--embedded",
                "--port=0",
                f"--data-dir={data_dir}",
                *([f"--sandbox={sandbox}"] if sandbox else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the command, not for its server
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            process.wait()
            log_text = log_path.read_text()
            said = [text for text in log_text.splitlines() if text.startswith("corral")]
            raise Problem(
                said[-1] if said else f"the server did not start; it said:\n{log_text[-_LOG_CHARS:]}"
            )
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


class Api:
    """Requests outside the official SDK: our own endpoints, and plain reads that need no heavy import."""

    def __init__(self, server: Server) -> None:
        import httpx2

        self.server = server
        self._http = httpx2.Client(
            base_url=server.url,
            headers={"x-api-key": server.key},
            timeout=httpx2.Timeout(CLI_REPLY_SECONDS, connect=CLI_CONNECT_SECONDS),
            trust_env=False,  # a proxy is not on the way to a server of our own
        )

    def get(self, path: str, **params: object) -> dict[str, Any]:
        return self._json("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        return self._json("POST", path, json=body)

    def put(self, path: str, content: bytes) -> dict[str, Any]:
        return self._json("PUT", path, content=content)

    def get_bytes(self, path: str) -> bytes:
        return self.request("GET", path).content

    def pages(self, path: str, *, most: int, **params: object) -> Iterator[dict[str, Any]]:
        """Items of a list, page by page, at most so many."""
        page: str | None = None
        while most > 0:
            body = self.get(path, limit=min(most, 100), page=page, **params)
            yield from body["data"][:most]
            most -= len(body["data"])
            page = body.get("next_page")
            if not page:
                return

    @contextlib.contextmanager
    def stream(self, path: str, *, cursor: str | None = None) -> Iterator[Iterator[tuple[str, str]]]:
        """An event stream as (cursor, data) pairs; with a cursor, what came after it."""
        import httpx2

        headers = {"Last-Event-ID": cursor} if cursor else {}
        timeout = httpx2.Timeout(CLI_REPLY_SECONDS, connect=CLI_CONNECT_SECONDS)
        with (
            self._reachable(),
            self._http.stream("GET", path, headers=headers, timeout=timeout) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise _refused(response)
            yield _sse(response.iter_lines())

    def request(self, method: str, path: str, **options: Any) -> "httpx2.Response":
        """Raises Problem for whatever is not a success."""
        with self._reachable():
            response = self._http.request(method, path, **options)
        if response.is_success:
            return response
        raise _refused(response)

    def close(self) -> None:
        self._http.close()

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return dict(self.request(method, path, **options).json())

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except httpx2.TransportError as error:
            raise Problem(
                f"the server at {self.server.url} went away ({type(error).__name__}); see `corral status`",
                exit=Exit.NO_SERVER,
            ) from error


def _refused(response: "httpx2.Response") -> Problem:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {response.status_code}"
    if response.status_code == 401:
        message += WRONG_KEY
    return Problem(message, exit=Exit.NO_SERVER if response.status_code in (401, 403) else Exit.FAILED)


def _sse(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    cursor, data = "", ""
    for line in lines:
        field, _, value = line.partition(":")
        if field == "id":
            cursor = value.strip()
        elif field == "data":
            data += value.strip()
        elif not line and data:
            yield cursor, data
            data = ""


def _answers(server: Server) -> bool:
    import httpx2

    try:
        return httpx2.get(f"{server.url}/healthz", timeout=CLI_CONNECT_SECONDS, trust_env=False).is_success
    except (httpx2.TransportError, httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        return False
