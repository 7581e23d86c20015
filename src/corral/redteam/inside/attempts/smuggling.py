"""The proxy told two things at once: requests hidden in others. `allowed.test` is a host that the session
may reach; what it got is looked at outside."""

from __future__ import annotations

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.ends import Won
from corral.redteam.inside.means import Tries, says

_URL, _HOST = "http://allowed.test:{allowed_port}", "Host: allowed.test:{allowed_port}\r\n"
_HIDDEN = "GET /smuggled HTTP/1.1\r\nHost: foreign.test:{foreign_port}\r\n\r\n"
_CLOSE = "Connection: close\r\n"


def _post(headers: str, body: str, *, target: str = "/echo", judged: bool = False) -> Tries:
    return says(f"POST {_URL}{target} HTTP/1.1\r\n{_HOST}{headers}\r\n{body}", judged=judged)


def _get(target: str, headers: str = "", *, judged: bool = True, host: str = _HOST) -> Tries:
    return says(f"GET {target} HTTP/1.1\r\n{host}{_CLOSE}{headers}\r\n", judged=judged)


def _then(*requests: str) -> Tries:
    """One request after another on a connection. The last one is the hidden one."""
    return says("".join(requests), judged=False)


_ALLOWED = f"GET {_URL}/bytes/1 HTTP/1.1\r\n{_HOST}\r\n"
_FOREIGN = (
    "GET http://foreign.test:{foreign_port}/smuggled HTTP/1.1\r\nHost: foreign.test:{foreign_port}\r\n\r\n"
)


def _poisons(box: Box) -> None:
    """An answer of one request that would be taken for another's."""
    with box.proxy() as end:
        two = box.fill(f"GET {_URL}/two-answers HTTP/1.1\r\n{_HOST}\r\n{_ALLOWED}").encode()
        end.sendall(two)
        answer = box.heard(end)
    if b"poisoned" in answer:
        raise Won("the second answer of a host was taken for another request's")
    box.note(f"{answer.count(b'HTTP/1.1 ')} answers, each its own")


ATTEMPTS: dict[str, list[Attempt]] = {
    "smuggling": [
        Attempt(
            "length-and-chunks",
            "gives a body two lengths",
            _post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "chunks-and-length",
            "gives it two lengths, the other way round",
            _post("Transfer-Encoding: chunked\r\nContent-Length: 300\r\n", "0\r\n\r\n" + _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "two-lengths",
            "says two lengths of a body",
            _post("Content-Length: 0\r\nContent-Length: 90\r\n", _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "list-of-lengths",
            "says them in one header",
            _post("Content-Length: 0, 90\r\n", _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "negative-length",
            "says a length below zero",
            _post("Content-Length: -1\r\n", _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "plus-length",
            "says a length with a sign",
            _post("Content-Length: +0\r\n", _HIDDEN),
            watches=("smuggled",),
        ),
        *(
            Attempt(
                f"coding-{name}",
                f"spells the transfer coding {coding!r}",
                _post(f"Transfer-Encoding: {coding}\r\nContent-Length: 5\r\n", "0\r\n\r\n" + _HIDDEN),
                watches=("smuggled",),
            )
            for name, coding in (
                ("tab", "\tchunked"),
                ("twice", "chunked, chunked"),
                ("unknown", "xchunked"),
                ("identity", "chunked, identity"),
                ("shouted", "CHUNKED"),
                ("quoted", '"chunked"'),
            )
        ),
        Attempt(
            "space-before-colon",
            "puts a space before the colon",
            _post("Transfer-Encoding : chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n" + _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "folded",
            "folds a header over two lines",
            _post(
                "X-Folded: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n" + _HIDDEN
            ),
            watches=("smuggled",),
        ),
        Attempt(
            "bare-line-feeds",
            "ends lines with a line feed alone",
            says(f"GET {_URL}/bytes/1 HTTP/1.1\n{_HOST}\n".replace("\r\n", "\n") + _FOREIGN, judged=False),
            watches=("smuggled", "foreign"),
        ),
        Attempt(
            "bare-return",
            "puts a carriage return into a header",
            _post("X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n" + _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "zero-byte",
            "puts a zero byte into a header",
            _post("X-A: b\0c\r\nContent-Length: 0\r\n", _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "chunk-extension",
            "hides a line in the extension of a chunk",
            _post("Transfer-Encoding: chunked\r\n", "0;a=b\nGET /smuggled HTTP/1.1\r\n\r\n"),
            watches=("smuggled",),
        ),
        Attempt(
            "chunk-size",
            "says a size of a chunk that overflows",
            _post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff0\r\n" + _HIDDEN),
            watches=("smuggled",),
        ),
        Attempt(
            "trailers",
            "hides headers behind a body",
            _post(
                "Transfer-Encoding: chunked\r\n",
                "0\r\nContent-Length: 5\r\nHost: foreign.test\r\n\r\n" + _HIDDEN,
            ),
            watches=("smuggled",),
        ),
        Attempt(
            "body-of-a-get",
            "hides a request in the body of one that has none",
            says(
                f"GET {_URL}/bytes/1 HTTP/1.1\r\n{_HOST}Content-Length: 0\r\n\r\n" + _FOREIGN, judged=False
            ),
            watches=("foreign",),
        ),
        Attempt(
            "pipelined",
            "sends one to another host behind one that is allowed",
            _then(_ALLOWED, _FOREIGN),
            watches=("foreign",),
        ),
        Attempt(
            "space-in-target",
            "puts a second request line into the target",
            says(f"GET {_URL}/a HTTP/1.1 GET /smuggled HTTP/1.1\r\n{_HOST}{_CLOSE}\r\n"),
            watches=("smuggled",),
        ),
        Attempt(
            "head-without-end",
            "sends headers without end",
            says("GET " + _URL + "/ HTTP/1.1\r\n" + _HOST, *["X-A: " + "b" * 8000 + "\r\n"] * 20),
        ),
        Attempt(
            "many-headers",
            "sends more headers than anybody",
            says(
                "GET " + _URL + "/ HTTP/1.1\r\n" + _HOST,
                *["".join(f"X-{n}-{m}: b\r\n" for m in range(500)) for n in range(20)],
                "\r\n",
            ),
        ),
        Attempt(
            "old-version",
            "speaks HTTP/0.9",
            says("GET http://foreign.test:{foreign_port}/smuggled\r\n\r\n"),
            watches=("foreign",),
        ),
        Attempt(
            "newer-version",
            "says that it speaks HTTP/2",
            says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ),
        Attempt(
            "upgrade-h2c",
            "switches to HTTP/2 in clear text",
            _get(_URL + "/socket", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", judged=False),
            watches=("foreign",),
        ),
        Attempt("answers", "takes the second answer of a host for its own", _poisons),
    ],
}
