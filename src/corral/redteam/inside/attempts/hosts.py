"""Hosts behind hosts: names that are not what they seem, TLS that asks for somebody else, answers that lead
elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box, line_of, status_of
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.inside.means import Tries, says

_URL, _HOST = "http://allowed.test:{allowed_port}", "Host: allowed.test:{allowed_port}\r\n"
_CLOSE = "Connection: close\r\n"


def _get(target: str, headers: str = "", *, judged: bool = True, host: str = _HOST) -> Tries:
    return says(f"GET {target} HTTP/1.1\r\n{host}{_CLOSE}{headers}\r\n", judged=judged)


def _tunnel(box: Box, host: str, port: int) -> socket.socket:
    """A CONNECT that was taken. Raises Held where it was not."""
    end = box.proxy()
    end.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    answer = box.heard(end, until=b"\r\n\r\n")
    if status_of(answer) != 200:
        raise Held(line_of(answer) or "the connection was ended")
    return end


def _in_tunnel(said: str) -> Tries:
    """Clear text in a tunnel to a host that is allowed."""

    def tries(box: Box) -> None:
        with _tunnel(box, "allowed.test", box["allowed_port"]) as end:
            end.sendall(box.fill(said).encode("latin-1"))
            answer = box.heard(end)
        box.note(f"answered: {line_of(answer) or 'nothing'}")

    return tries


def _hello(name: str | None, *, cut: int = 0) -> bytes:
    """A TLS client's first message, for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _tls_for(name: str | None, *, pieces: int = 1) -> Tries:
    """A hello for another host, in a tunnel to one that is allowed: a server's answer to it would be too
    much."""

    def tries(box: Box) -> None:
        hello = _hello(name)
        with _tunnel(box, "allowed.test", box["secure_port"]) as end:
            size = max(1, len(hello) // pieces)
            for at in range(0, len(hello), size):
                try:
                    end.sendall(hello[at : at + size])
                except (BrokenPipeError, ConnectionResetError):
                    break
                if pieces > 1:
                    time.sleep(0.002)
            answer = box.heard(end, until=b"\x16\x03")
        if answer[:1] == b"\x16":
            if name is None:
                box.note("a hello without a name goes to the host it was opened to")
                return
            raise Won("a server answered for another host")
        box.note(
            f"refused by an alert: {answer[:7].hex()}" if answer[:1] == b"\x15" else "the tunnel ended"
        )

    return tries


def _tls_two_records(box: Box) -> None:
    """The name lies in the second record, which a reader of the first does not see."""
    hello = _hello("foreign.test")
    handshake = hello[5:]
    split = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in (handshake[:20], handshake[20:])
    )
    with _tunnel(box, "allowed.test", box["secure_port"]) as end:
        end.sendall(split)
        answer = box.heard(end, until=b"\x16\x03")
    if answer[:1] == b"\x16":
        raise Won("a server answered for another host")
    box.note("the tunnel ended")


def _tls_after_words(box: Box) -> None:
    """Something else first, then TLS for another host."""
    with _tunnel(box, "allowed.test", box["secure_port"]) as end:
        end.sendall(b"\r\n" + _hello("foreign.test"))
        answer = box.heard(end)
    if answer[:1] == b"\x16":
        raise Won("a server answered for another host")
    box.note("no server answered")


def _nested_connect(box: Box) -> None:
    with _tunnel(box, "allowed.test", box["allowed_port"]) as end:
        where = f"foreign.test:{box['foreign_port']}"
        end.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        box.judge(box.heard(end, until=b"\r\n\r\n"))


def _follows_redirect(kept: str) -> Tries:
    """A host that is allowed sends us to one that is not, and we go, with what we had for the first."""

    def tries(box: Box) -> None:
        where = f"http://foreign.test:{box['foreign_port']}/redirected"
        answer = box.say(
            box.fill(f"GET {_URL}/redirect?to={where} HTTP/1.1\r\n{_HOST}{_CLOSE}{kept}\r\n").encode()
        )
        if status_of(answer) != 302 or where.encode() not in answer:
            raise Untried(f"the host did not redirect: {line_of(answer)}")
        box.judge(
            box.say(
                f"GET {where} HTTP/1.1\r\nHost: foreign.test:{box['foreign_port']}\r\n"
                f"{_CLOSE}{kept}\r\n".encode()
            )
        )

    return tries


def _policy_by_time(box: Box) -> None:
    """Whether a refusal tells, by how long it takes, if a name resolves."""
    took = {}
    for host in ("allowed-not.test", "foreign.test"):
        times = []
        for _ in range(7):
            began = time.monotonic()
            box.say(f"GET http://{host}:9/ HTTP/1.1\r\nHost: {host}:9\r\n{_CLOSE}\r\n".encode())
            times.append(time.monotonic() - began)
        took[host] = sorted(times)[3]
    there, absent = took["foreign.test"], took["allowed-not.test"]
    if abs(there - absent) > 0.5:
        raise Won(f"a name that resolves takes {there:.3f} s, another {absent:.3f} s")
    box.note(f"{there * 1000:.1f} ms and {absent * 1000:.1f} ms")


def _reflected(box: Box) -> None:
    """A host that sends back all it got: nothing of the proxy's may be in it."""
    answer = box.say(box.fill(f"GET {_URL}/headers HTTP/1.1\r\n{_HOST}{_CLOSE}X-Mine: 1\r\n\r\n").encode())
    if status_of(answer) != 200:
        raise Untried(f"the host did not answer: {line_of(answer)}")
    strange = [
        word for word in (b"authorization", b"x-forwarded", b"x-corral", b"via") if word in answer.lower()
    ]
    if strange:
        raise Won(f"the proxy adds {strange[0].decode()}")
    box.note("the host got what was sent, and nothing else")


def _trace(box: Box) -> None:
    mine = os.urandom(8).hex()
    asked = f"TRACE {_URL}/ HTTP/1.1\r\n{_HOST}{_CLOSE}X-Mine: {mine}\r\nMax-Forwards: 0\r\n\r\n"
    answer = box.say(box.fill(asked).encode())
    if mine.encode() in answer:
        raise Won("the request was sent back")
    box.note(line_of(answer))


ATTEMPTS: dict[str, list[Attempt]] = {
    "hosts": [
        Attempt(
            "foreign",
            "reaches a host that is not allowed",
            _get("http://foreign.test:{foreign_port}/", host="Host: foreign.test:{foreign_port}\r\n"),
            watches=("foreign",),
        ),
        Attempt(
            "host-header",
            "names another host in the Host header",
            _get(_URL + "/smuggled", host="Host: foreign.test:{foreign_port}\r\n"),
            watches=("foreign", "smuggled"),
        ),
        Attempt(
            "two-hosts",
            "sends two Host headers",
            _get(_URL + "/smuggled", "Host: foreign.test\r\n"),
            watches=("smuggled",),
        ),
        Attempt(
            "host-by-comma",
            "names two hosts in one",
            _get(_URL + "/smuggled", host="Host: allowed.test:{allowed_port}, foreign.test\r\n"),
            watches=("smuggled",),
        ),
        Attempt(
            "host-without-port",
            "leaves the port out of the Host header",
            _get(_URL + "/smuggled", host="Host: allowed.test\r\n"),
            watches=("smuggled",),
        ),
        Attempt(
            "user-part",
            "hides the host behind a user",
            _get(
                "http://allowed.test:{allowed_port}@foreign.test:{foreign_port}/",
                host="Host: foreign.test:{foreign_port}\r\n",
            ),
            watches=("foreign",),
        ),
        Attempt(
            "user-part-2",
            "hides it before one",
            _get("http://foreign.test:{foreign_port}@allowed.test:{allowed_port}/smuggled"),
            watches=("foreign", "smuggled"),
        ),
        Attempt(
            "backslash",
            "separates them by a backslash",
            _get("http://foreign.test:{foreign_port}\\@allowed.test:{allowed_port}/smuggled"),
            watches=("foreign", "smuggled"),
        ),
        Attempt(
            "fragment",
            "separates them by a hash",
            _get("http://foreign.test:{foreign_port}#@allowed.test:{allowed_port}/"),
            watches=("foreign",),
        ),
        Attempt(
            "question",
            "separates them by a question mark",
            _get("http://foreign.test:{foreign_port}?@allowed.test:{allowed_port}/"),
            watches=("foreign",),
        ),
        Attempt(
            "relative",
            "asks for a path alone",
            says("GET /smuggled HTTP/1.1\r\n" + _HOST + _CLOSE + "\r\n"),
            watches=("smuggled",),
        ),
        Attempt(
            "no-slashes",
            "leaves the slashes out",
            _get("http:foreign.test:{foreign_port}/"),
            watches=("foreign",),
        ),
        Attempt("file", "asks the proxy for a file", _get("file:///etc/passwd")),
        Attempt("ftp", "asks it for another protocol", _get("ftp://allowed.test/")),
        Attempt(
            "https",
            "asks it to speak TLS itself",
            _get("https://foreign.test:{foreign_port}/"),
            watches=("foreign",),
        ),
        Attempt(
            "dot",
            "ends the name with two dots",
            _get(
                "http://allowed.test..:{allowed_port}/smuggled",
                host="Host: allowed.test..:{allowed_port}\r\n",
            ),
            watches=("smuggled",),
        ),
        Attempt(
            "zero",
            "ends the name with a zero byte",
            _get("http://foreign.test\0.allowed.test:{allowed_port}/"),
            watches=("foreign",),
        ),
        Attempt(
            "port",
            "asks for a port that there is none of",
            _get("http://allowed.test:65537/", host="Host: allowed.test:65537\r\n"),
        ),
        Attempt(
            "tunnel-to-foreign",
            "opens a tunnel to a host that is not allowed",
            says(
                "CONNECT foreign.test:{foreign_port} HTTP/1.1\r\nHost: foreign.test:{foreign_port}\r\n\r\n"
            ),
            watches=("foreign",),
        ),
        Attempt(
            "tunnel-with-host",
            "opens one with another name in the Host header",
            says(
                "CONNECT allowed.test:{allowed_port} HTTP/1.1\r\nHost: foreign.test:{foreign_port}\r\n\r\n"
            ),
            watches=("foreign",),
        ),
        Attempt(
            "tunnel-with-body",
            "opens one with a body",
            says(
                "CONNECT allowed.test:{allowed_port} HTTP/1.1\r\nHost: allowed.test:{allowed_port}\r\n"
                "Content-Length: 5\r\n\r\nGET /"
            ),
        ),
        Attempt("tunnel-in-tunnel", "opens a tunnel in a tunnel", _nested_connect, watches=("foreign",)),
        Attempt(
            "tunnel-then-host",
            "names another host in a tunnel",
            _in_tunnel(
                "GET /smuggled HTTP/1.1\r\nHost: foreign.test:{foreign_port}\r\nConnection: close\r\n\r\n"
            ),
            watches=("foreign", "smuggled"),
        ),
        Attempt(
            "tunnel-then-url",
            "asks for a whole URL in a tunnel",
            _in_tunnel(
                "GET http://foreign.test:{foreign_port}/smuggled HTTP/1.1\r\n"
                "Host: foreign.test:{foreign_port}\r\nConnection: close\r\n\r\n"
            ),
            watches=("foreign", "smuggled"),
        ),
        Attempt(
            "tunnel-then-lines",
            "begins with empty lines in a tunnel",
            _in_tunnel("\r\n\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: foreign.test:{foreign_port}\r\n\r\n"),
            watches=("foreign", "smuggled"),
        ),
    ],
    "redirects": [
        Attempt(
            "followed",
            "follows a redirect to a host that is not allowed",
            _follows_redirect(""),
            watches=("foreign",),
        ),
        Attempt(
            "header-kept",
            "follows it with a header for the first host",
            _follows_redirect("Authorization: Bearer mine\r\n"),
            watches=("foreign",),
        ),
        Attempt(
            "cookie-kept",
            "follows it with a cookie for the first host",
            _follows_redirect("Cookie: a=b\r\n"),
            watches=("foreign",),
        ),
    ],
    "reflection": [
        Attempt("headers", "has a host send back what it got", _reflected),
        Attempt("trace", "has the proxy send back what it got", _trace),
    ],
    "tls": [
        Attempt("another-name", "asks for another host in TLS", _tls_for("foreign.test")),
        Attempt("inner-name", "asks for a host of the machine in TLS", _tls_for("inner.test")),
        Attempt("byte-by-byte", "asks for it byte by byte", _tls_for("foreign.test", pieces=200)),
        Attempt("two-records", "asks for it in a second record", _tls_two_records),
        Attempt("after-words", "asks for it after something else", _tls_after_words),
        Attempt("nameless", "asks for no host", _tls_for(None)),
    ],
    "timing": [Attempt("names", "tells by the clock which names there are", _policy_by_time)],
}
