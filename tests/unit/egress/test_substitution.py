"""What is put into requests, and searched for in answers: the rules, without a socket."""

import html
import json
import re
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from corral.egress.credentials import Credential, CredentialUnusable, SessionCredentials
from corral.egress.substitution import Addition, Substitution, Variable, variables_of
from corral.egress.treatment import Treatment
from corral.kernel.ids import DEFAULT_WORKSPACE, CredentialId, SessionId

HELD = "corral_ph_0123456789abcdef0123456789abcdef"
SECRET = 'a"b\\c/d +&=<é>!*~\n'


def variable(secret: str = "canary-secret", **where: Any) -> Variable:
    return Variable(
        credential_id=CredentialId("vcrd_1"),
        placeholder=HELD,
        secret=secret,
        **{"in_header": True, "in_body": True, **where},
    )


def credential(name: str, networking: dict[str, Any], secrets: dict[str, str] | None = None) -> Credential:
    auth = {
        "type": "environment_variable",
        "secret_name": name,
        "networking": networking,
        "injection_location": {"header": True, "body": False},
    }
    return Credential(
        workspace_id=DEFAULT_WORKSPACE,
        record={"id": f"vcrd_{name}", "vault_id": "vlt_1", "auth": auth, "updated_at": ""},
        secrets={"secret_value": f"secret of {name}"} if secrets is None else secrets,
    )


def test_whose_host_it_is() -> None:
    found = SessionCredentials(
        session_id=SessionId("sesn_1"),
        credentials=(
            credential("ALL", {"type": "unrestricted"}),
            credential("ONE", {"type": "limited", "allowed_hosts": ["API.example.com"]}),
            credential("BELOW", {"type": "limited", "allowed_hosts": ["*.example.com"]}),
            credential("CLOSED", {"type": "unrestricted"}, {}),
        ),
    )

    def names(host: str) -> list[str]:
        return [each.secret.removeprefix("secret of ") for each in variables_of(found, host)]

    assert names("api.example.com") == ["ALL", "ONE", "BELOW"]
    assert names("example.com") == names("example.com.evil.test") == names("xexample.com") == ["ALL"]
    assert {(each.in_header, each.in_body) for each in variables_of(found, "a.test")} == {(True, False)}
    assert "secret of" not in repr(found) + repr(variables_of(found, "a.test"))


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET)[1:-1].replace("/", "\\/"),
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        html.escape(SECRET),
        html.escape(SECRET).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
        json.dumps(SECRET)[1:-1].replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
        re.sub("%..", lambda found: found[0].lower(), quote_plus(SECRET)),
        SECRET.strip(),
        quote(SECRET, safe="!'()*"),  # encodeURIComponent
        quote_plus(SECRET, safe="*"),  # URLSearchParams
    ],
)
def test_every_spelling_is_masked(spelled: str) -> None:
    mask = Substitution(variables=[variable(SECRET)]).mask()
    said = mask.all(f"before {spelled}, after".encode()).decode()
    assert said.startswith(f"before {HELD}") and said.endswith(", after")


def test_a_way_that_is_open_for_something_else_carries_no_variable() -> None:
    narrow = Substitution(variables=[variable()]).without_variables()
    assert narrow.head([(b"X-Key", HELD.encode())], b"/") == ([(b"X-Key", HELD.encode())], [])
    assert narrow.body("application/json") is None
    assert narrow.mask().all(b"canary-secret") == HELD.encode()


def test_a_short_secret_is_not_searched_for() -> None:
    mask = Substitution(variables=[variable("1234")]).mask()
    assert mask.all(b"12345") == b"12345"


def test_headers_that_frame_a_request_stay() -> None:
    headers = [(b"Host", HELD.encode()), (b"Content-Length", HELD.encode()), (b"X", HELD.encode())]
    done, used = Substitution(variables=[variable()]).head(headers, b"/")
    assert done == [*headers[:2], (b"X", b"canary-secret")] and used == ["vcrd_1"]


@pytest.mark.parametrize("secret", ["a\r\nX: y", "a\x00b", "line\n"])
def test_no_header_is_made_by_a_secret(secret: str) -> None:
    with pytest.raises(CredentialUnusable) as failure:
        Substitution(variables=[variable(secret)]).head([(b"X", HELD.encode())], b"/")
    assert secret not in str(failure.value)


def test_additions_are_for_some_requests() -> None:
    addition = Addition(
        is_for=lambda path: path.startswith(b"/o/r.git/"),
        name=b"Authorization",
        value=b"Basic c2VjcmV0",
        secrets=("a-secret-of-git", "c2VjcmV0"),
    )
    substitution = Substitution(additions=[addition])
    theirs = [(b"authorization", b"theirs"), (b"X", b"y")]
    ours = [(b"X", b"y"), (b"Authorization", b"Basic c2VjcmV0")]
    assert substitution.head(theirs, b"/o/r.git/info/refs?service=x") == (ours, [])
    assert substitution.head(theirs, b"/o/other.git/info/refs") == (theirs, [])
    assert substitution.mask().all(b"a-secret-of-git, c2VjcmV0") == b"********, ********"
    assert "secret-of-git" not in repr(addition)


def test_what_is_not_asked_of_the_host() -> None:
    """So that an answer can be read here: see `treatment`."""
    headers = [(b"Accept-Encoding", b"br"), (b"Range", b"bytes=1-2"), (b"If-Range", b"x"), (b"X", b"y")]
    treated = Treatment(
        Substitution(variables=[variable()]), headers, method=b"GET", path=b"/", uses=lambda _: None
    )
    assert treated.headers == [(b"X", b"y"), (b"Accept-Encoding", b"identity")]


def test_a_packed_body_is_sent_as_it_is() -> None:
    headers = [(b"Content-Encoding", b"gzip"), (b"Content-Length", b"100")]
    treated = Treatment(
        Substitution(variables=[variable()]), headers, method=b"POST", path=b"/", uses=lambda _: None
    )
    assert treated.body_bytes_held == 0 and treated.fed(HELD.encode()) == HELD.encode()
    assert (b"Content-Length", b"100") in treated.streamed()
