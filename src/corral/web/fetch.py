"""One page, fetched and read by a program that is alone in a throw-away sandbox.

Rules of this file:
- Every URL, the first one and where it redirects to, is parsed and judged here by the tool's lists; the
  program inside only gets what to ask for. What it then asks for is judged by them again in the tunnel; and
  by the environment's networking, the operator's hosts and as an address in the egress process.
- Whatever it hands back is hostile, too: bounded, parsed, and taken for text.
- Cancelling a fetch ends the program and all of its connections.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from corral.catalog.web.rules import WebRules
from corral.catalog.web.urls import BadUrl, WebUrl, web_url
from corral.confine.confinement import Confinement, Places
from corral.confine.tunnel import Tunnel
from corral.confine.way import Trouble, Way
from corral.hands.providers.binary import own_python
from corral.hands.providers.process import BwrapProcess
from corral.hands.way_out import Egress
from corral.kernel import limits
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.ids import SessionId

__all__ = ["Fetcher", "Page", "WebFailed"]

_INSIDE: Final = "corral.web.inside"
_PROGRAM: Final = f"from {_INSIDE}.fetch import main; main()"
_LIBRARIES: Final = ("markdownify", "bs4", "soupsieve", "six", "typing_extensions", "pypdf")
_LIBRARIES_AT: Final = "/run/libraries"
_USER_AGENT: Final = "Mozilla/5.0 (compatible; Corral web_fetch)"
_CHARS_PER_TOKEN: Final = 4
_FAILURES: Final = (
    "url_not_accessible",
    "unsupported_content_type",
    "content_too_large",
)
_OF_TROUBLE: Final[Mapping[Trouble, str]] = {
    "refused": "url_not_allowed",
    "unreachable": "url_not_accessible",
    "silent": "url_not_accessible",
    "too_large": "content_too_large",
    "cut_off": "url_not_accessible",
    "shut": "unavailable",
}
_SHUT: Final = (
    "this server cannot fetch anything now: its egress process is away, or lets nothing out; try again"
)


class WebFailed(Exception):
    """A fetch or search that came to nothing. code: one of the tool's documented errors. The message is for
    the model."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """url: where it was found in the end. text: Markdown of HTML, otherwise as it is. is_cut: there is more
    of it."""

    url: str
    title: str
    media_type: str
    text: str
    is_cut: bool


class Fetcher:
    """Of one process. root: a directory of ours; made when needed. egress: through which pages are fetched;
    None on a node that has none: then nothing is. authorities: more of them (PEM) for TLS, beside the
    system's."""

    def __init__(
        self,
        root: Path,
        egress: Egress | None,
        *,
        authorities: Path | None = None,
        seconds: float = limits.WEB_FETCH_SECONDS,
    ) -> None:
        self._confinement = Confinement(root, modules=[_INSIDE], authorities=authorities, python=own_python)
        self._egress = egress
        self._seconds = seconds

    async def fetch(self, text: str, rules: WebRules, *, session_id: SessionId) -> Page:
        """The page at this URL, for a session. Raises WebFailed; SandboxUnavailable where none can be made,
        and then nothing was fetched."""
        url = _judged(text, rules)
        tunnel = Tunnel(
            Way.on("page", self._egress, session_id, networking=rules.networking),
            allows=lambda host, port: rules.lists_allow(host),
            bytes_max=limits.WEB_WIRE_BYTES_MAX,
            sent_bytes_max=limits.WEB_SENT_BYTES_MAX,
            silent_seconds=limits.WEB_STALL_SECONDS,
        )
        try:
            async with asyncio.timeout(self._seconds), tunnel.door() as door:
                return await self._read(url, rules, tunnel, door)
        except TimeoutError:
            raise WebFailed(
                "url_not_accessible", f"{url.text} took more than {self._seconds:g} s"
            ) from None

    async def aclose(self) -> None:
        """Repeat: safe."""
        await self._confinement.aclose()

    async def _read(self, url: WebUrl, rules: WebRules, tunnel: Tunnel, door: int) -> Page:
        libraries = _libraries()
        bounds = _bounds(rules, self._seconds)
        words = json.dumps({"door": door, "libraries": list(libraries), "bounds": bounds})
        places = Places(read_only=libraries)
        async with self._confinement.python(_PROGRAM, words, places=places, gives=(door,)) as process:
            for _ in range(limits.WEB_REDIRECTS_MAX + 1):
                said = await _asked(process, url)
                if said is None:
                    raise await self._ended(process, url)
                if "redirect" in said:
                    url = _judged(str(said["redirect"]), rules, base=url)
                    continue
                if "failed" in said:
                    raise _failed(said, url, tunnel)
                return _page(said, url)
        raise WebFailed(
            "url_not_accessible", f"{url.text} redirects more than {limits.WEB_REDIRECTS_MAX} times"
        )

    async def _ended(self, process: BwrapProcess, url: WebUrl) -> Exception:
        """Why the program stopped talking: it was never started, or it came to one of its bounds."""
        process.kill()
        await process.exit_code()
        unstarted: SandboxUnavailable | None = self._confinement.explain(process)
        return unstarted or WebFailed("content_too_large", f"{url.text} takes too much work to read")


def _judged(text: str, rules: WebRules, *, base: WebUrl | None = None) -> WebUrl:
    """Raises WebFailed."""
    where = "" if base is None else f"{base.text} redirects to a URL that cannot be fetched: "
    try:
        url = web_url(text)
    except BadUrl as wrong:
        code = wrong.code if base is None else "url_not_accessible"
        raise WebFailed(code, f"{where}{wrong}") from None
    if not rules.lists_allow(url.host):
        raise WebFailed("url_not_allowed", f"{where}{url.host} may not be fetched from here")
    return url


async def _asked(process: BwrapProcess, url: WebUrl) -> dict[str, Any] | None:
    """What the program says to this URL; None if it ended, or says what it should not."""
    parts = urlsplit(url.text)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    ask = {"url": url.text, "scheme": url.scheme, "host": url.host, "port": url.port, "target": target}
    try:
        process.writer.write(json.dumps(ask).encode() + b"\n")
        await process.writer.drain()
    except (BrokenPipeError, ConnectionResetError):
        return None
    said = bytearray()
    while not said.endswith(b"\n"):
        chunk = await process.reader.read(256 * 1024)
        if not chunk or len(said) + len(chunk) > limits.WEB_ANSWER_BYTES_MAX:
            return None
        said += chunk
    try:
        answer = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _failed(said: Mapping[str, Any], url: WebUrl, tunnel: Tunnel) -> WebFailed:
    """The program only sees a connection that fails; the tunnel knows why."""
    detail = _text(said.get("detail"))
    code = said["failed"] if said["failed"] in _FAILURES else "url_not_accessible"
    if code == "url_not_accessible" and tunnel.trouble not in (None, "cut_off"):
        assert tunnel.trouble is not None
        code = _OF_TROUBLE[tunnel.trouble]
        if tunnel.trouble in ("refused", "unreachable"):
            detail = tunnel.detail
        elif tunnel.trouble == "shut":
            detail = _SHUT
    shown = "".join(each if each.isprintable() else " " for each in detail)[:300]
    return WebFailed(code, f"{url.text}: {shown}")


def _page(said: Mapping[str, Any], url: WebUrl) -> Page:
    """Its words, whatever else it says."""
    return Page(
        url=url.text,
        title=_text(said.get("title"))[:300],
        media_type=_text(said.get("type"))[:100],
        text=_text(said.get("text"))[: limits.WEB_TEXT_CHARS_MAX],
        is_cut=bool(said.get("is_cut")),
    )


def _text(value: object) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _bounds(rules: WebRules, seconds: float) -> dict[str, Any]:
    most = limits.WEB_TEXT_CHARS_MAX
    return {
        "memory_bytes": limits.WEB_MEMORY_BYTES,
        "cpu_seconds": int(seconds) + 1,
        "stall_seconds": limits.WEB_STALL_SECONDS,
        "body_bytes": limits.WEB_BODY_BYTES_MAX,
        "html_chars": limits.WEB_HTML_CHARS_MAX,
        "depth": limits.WEB_HTML_DEPTH_MAX,
        "text_chars": min(most, (rules.max_content_tokens or most) * _CHARS_PER_TOKEN),
        "pdf_chars": most,  # the setting is not for binary content
        "pdf_pages": limits.WEB_PDF_PAGES_MAX,
        "url_chars": limits.WEB_URL_CHARS_MAX,
        "user_agent": _USER_AGENT,
    }


@cache
def _libraries() -> Mapping[str, Path]:
    """The directories that the libraries lie in, by where the program inside finds them. There are public
    packages in them, and nothing else."""
    folders: dict[Path, None] = {}
    for name in _LIBRARIES:
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None, f"{name} is not installed"
        origin = Path(spec.origin).resolve()
        folders[origin.parent.parent if origin.name == "__init__.py" else origin.parent] = None
    return {f"{_LIBRARIES_AT}/{number}": folder for number, folder in enumerate(folders)}
