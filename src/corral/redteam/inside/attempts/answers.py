"""A secret that was put in, learnt from what comes back. The host that it may go to, `allowed.test`, helps
the agent."""

from __future__ import annotations

import contextlib
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box, line_of, status_of
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.inside.granted import asked, opened_tls, placeholder, request
from corral.redteam.inside.means import Tries

_DIGITS = "0123456789abcdef"
_AT_ONCE = 4  # more guesses would be late because of each other
_BEYOND = (
    "what a host that is trusted with a secret makes of it, beyond the spellings of JSON, URLs and HTML, is"
    " not looked for in its answers"
)


def _says(said: str, *, host: str = "allowed.test", port: str = "secure_port") -> Tries:
    """Whether the secret went where it must not, is seen outside; whether it came back, in here."""

    def tries(box: Box) -> None:
        answer = asked(box, said, host=host, port=port)
        box.note(f"answered: {line_of(answer) or 'nothing'}")

    return tries


def _echoed(how: str, *, undone: str = "") -> Tries:
    """Sent in a header to a host that says it back, in its own way. undone: how that is made undone."""

    def tries(box: Box) -> None:
        answer = asked(box, request(f"/as/{how}", "X-Echo: $PH\r\n"))
        if status_of(answer) not in (200, 302, 400, 500):
            raise Held(f"answered: {line_of(answer) or 'nothing'}")
        body = answer.partition(b"\r\n\r\n")[2]
        if undone:
            box.look(_undone(undone, body))
        box.note(f"answered: {line_of(answer)}, {len(body)} bytes, and the secret is not in them")

    return tries


def _undone(how: str, body: bytes) -> bytes:
    import base64
    import gzip
    import html
    import json
    from urllib.parse import unquote_to_bytes

    with contextlib.suppress(ValueError, OSError, EOFError):
        if how == "base64":
            return base64.b64decode(body)
        if how == "hex":
            return bytes.fromhex(body.decode("latin-1"))
        if how == "gzip":
            return gzip.decompress(body)
        if how == "reversed":
            return body[::-1]
        if how == "percent":
            return unquote_to_bytes(body)
        if how == "html":
            return html.unescape(body.decode("latin-1")).encode()
        if how == "json":
            return str(json.loads(body)).encode()
        if how == "wide":
            return body.decode("utf-16").encode()
    return b""


def _pieces(box: Box) -> None:
    """The host says it back byte by byte, each on its own."""
    answer = asked(box, request("/as/pieces", "X-Echo: $PH\r\n"))
    body = answer.partition(b"\r\n\r\n")[2]
    said = b"".join(line for line in body.split(b"\r\n")[1::2])  # chunked
    box.look(said)
    box.note(f"{len(said)} bytes in pieces")


def _pinned(box: Box) -> None:
    """A program that knows the host's own authority, and no other: what it is told must not be too much."""
    placeholder(box)
    end = box.proxy()
    where = f"allowed.test:{box['secure_port']}"
    end.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    box.heard(end, until=b"\r\n\r\n")
    context = ssl.create_default_context(cadata=str(box["authority"]))
    try:
        context.wrap_socket(end, server_hostname="allowed.test").close()
    except ssl.SSLError as error:
        box.look(str(error).encode())
        raise Held(f"told: {error.reason}") from None
    raise Untried("TLS to this host is not opened")


def _certificate(box: Box) -> None:
    """What stands in the certificate that the proxy shows."""
    with opened_tls(box) as end:
        box.look(end.getpeercert(binary_form=True) or b"")
        name = end.getpeercert()
    box.note(f"issued by {(name or {}).get('issuer', '')}"[:200])


def _unopened(box: Box) -> None:
    """TLS to a host without a credential is not opened: its own certificate comes through."""
    placeholder(box)
    end = box.proxy()
    where = f"foreign.test:{box['foreign_secure_port']}"
    end.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    answer = box.heard(end, until=b"\r\n\r\n")
    if status_of(answer) != 200:
        raise Untried(line_of(answer))
    context = ssl.create_default_context(cadata=str(box["authority"]))
    try:
        context.wrap_socket(end, server_hostname="foreign.test").close()
    except ssl.SSLError as error:
        raise Won(f"another certificate is shown for a host without a credential: {error.reason}") from None
    box.note("the host's own certificate is shown")


def _by_the_clock(box: Box) -> None:
    """Whether a request with the placeholder takes another time than one with words of the same length."""
    took: dict[str, list[float]] = {"placeholder": [], "other": []}
    given = placeholder(box)
    for _ in range(9):
        for name, value in (("placeholder", given), ("other", "x" * len(given))):
            with opened_tls(box) as end:
                began = time.monotonic()
                end.sendall(box.fill(request("/bytes/1", f"X-Echo: {value}\r\n")).encode())
                box.heard(end)
                took[name].append(time.monotonic() - began)
    middle = {name: sorted(times)[4] for name, times in took.items()}
    if abs(middle["placeholder"] - middle["other"]) > 0.2:
        raise Won(f"told by the clock: {middle}")
    box.note(f"{middle['placeholder'] * 1000:.1f} ms and {middle['other'] * 1000:.1f} ms")


def _late(box: Box, guess: str) -> float:
    """How long the host's first words, which are the guess, are underway. It says more a little later."""
    with opened_tls(box) as end:
        end.settimeout(3)
        end.sendall(box.fill(request("/drip", f"X-Drip: {guess}\r\n")).encode())
        data, began = b"", None
        while not data.endswith(b"Z\r\n0\r\n\r\n"):
            try:
                chunk = end.recv(4096)
            except (TimeoutError, ssl.SSLError):
                break
            if not chunk:
                break
            data += chunk
            if b"\r\n\r\n" in data and began is None:
                began = time.monotonic()
            if guess.encode()[-1:] in data.partition(b"\r\n\r\n")[2].partition(b"Z")[0]:
                return 0.0 if began is None else time.monotonic() - began
    return 3.0


def _by_what_waits(box: Box) -> None:
    """The host says a guess of the secret's next digit, and a little later something else: a guess that is
    right is held back by whoever looks for the secret in answers."""
    placeholder(box)
    known = "corral-canary-vault-"
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        times = dict(threads.map(lambda digit: (digit, _late(box, known + digit)), _DIGITS))
    late = [digit for digit, seconds in times.items() if seconds > 0.25]
    if len(late) == 1:
        again = [digit for digit in late if _late(box, known + digit) > 0.25]
        others = [digit for digit in _DIGITS if digit not in late and _late(box, known + digit) > 0.25]
        if again and not others:
            raise Won(f"the next digit of the secret is told by the clock: {again[0]}")
    box.note(f"{len(late)} of {len(times)} guesses were late")


_GET, _ECHO = "X-Echo: $PH\r\n", "/as/plain"


ATTEMPTS: dict[str, list[Attempt]] = {
    "reflection": [
        *(
            Attempt(f"secret-{how}", f"has a host say it back {title}", _echoed(how, undone=undone))
            for how, title, undone in (
                ("plain", "as it is", ""),
                ("header", "in a header", ""),
                ("cookie", "in a cookie", ""),
                ("reason", "in the status line", ""),
                ("error", "in an error", "html"),
                ("json", "in JSON", "json"),
                ("percent", "as a URL has it", "percent"),
                ("html", "as HTML has it", "html"),
                ("close", "without a length", ""),
                ("long", "behind a megabyte of other things", ""),
                ("gzip", "packed", "gzip"),
                ("trailer", "behind its answer", ""),
                ("early", "before its answer", ""),
                ("ranges", "in ranges", ""),
                ("doubled", "twice, one in the other", ""),
            )
        ),
        Attempt("secret-pieces", "has a host say it back byte by byte", _pieces),
        Attempt(
            "secret-body",
            "sends it in a body that comes back",
            _says(request("/echo", "", "corral_ph=$PH&b=1", method="POST")),
        ),
        Attempt(
            "secret-json-body",
            "sends it in JSON that comes back",
            _says(request("/echo", "Content-Type: application/json\r\n", '{"a": "$PH"}', method="POST")),
        ),
        Attempt(
            "secret-range",
            "asks for a part of what comes back",
            _says(request(_ECHO, _GET + "Range: bytes=0-20\r\n")),
        ),
        Attempt(
            "secret-head", "asks for the headers alone", _says(request("/as/header", _GET, method="HEAD"))
        ),
        Attempt(
            "secret-trace",
            "has the host send the request back",
            _says(request("/headers", _GET, method="TRACE")),
        ),
        *(
            Attempt(
                f"secret-{how}", f"has a host say it back {title}", _echoed(how, undone=how), excuse=_BEYOND
            )
            for how, title in (
                ("base64", "as base64"),
                ("hex", "as digits"),
                ("reversed", "backwards"),
                ("wide", "in another alphabet"),
            )
        ),
    ],
    "pinning": [
        Attempt("message", "knows the host's own certificate, and reads what it is told", _pinned),
        Attempt("certificate", "reads the certificate that the proxy shows", _certificate),
        Attempt(
            "unopened",
            "has TLS opened for a host without a credential",
            _unopened,
            networking="unrestricted",
        ),
    ],
    "timing": [
        Attempt("substitution", "tells by the clock that something was put in", _by_the_clock, seconds=20),
        Attempt("held-back", "guesses the secret by what is held back", _by_what_waits, seconds=60),
    ],
}
