"""What is put into the requests of a sandbox to one host, and taken out of the answers again.

    Variable    a placeholder that the sandbox knows is replaced by a secret, in headers, in bodies, or both
    Addition    a header is put to some requests, of which the sandbox knows nothing

Never in a URL; other hosts see the placeholder as it is. A secret that stands in an answer is replaced by
what the sandbox knows instead: a host that says back what it was sent tells it nothing. That goes for the
secret as it is and as JSON, URLs and HTML spell it; what a host makes of a secret beyond that, whoever
trusts the host with it has to know. Source: API docs, vaults; docs/DIVERGENCES.md "Placeholders".
"""

import html
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, quote_plus

from corral.catalog.credentials import placeholder_of
from corral.egress.credentials import CredentialsUnavailable, CredentialUnusable, SessionCredentials
from corral.egress.headers import RawHeaders
from corral.egress.repositories import interfaces_of
from corral.egress.swap import Swap
from corral.egress.target import Target
from corral.kernel.hosts import matches
from corral.kernel.ids import CredentialId
from corral.kernel.limits import (
    EGRESS_HOST_SECRETS_CHARS_MAX,
    EGRESS_HOSTS_DERIVED_MAX,
    EGRESS_PUT_IN_BYTES_MAX,
    MASKED_SECRET_BYTES_MIN,
)

__all__ = [
    "Addition",
    "Substitution",
    "Variable",
    "additions_of",
    "check_put_in",
    "mask_of",
    "substitution_of",
    "variables_of",
]

_INSTEAD: Final = "*" * 8

_NOT_CHANGED: Final = frozenset(
    (b"host", b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"expect")
)
_MARKUP: Final = re.compile(r"[<>&]")
_MARKUP_OR_QUOTE: Final = re.compile(r"[<>&'+]")
_ESCAPE: Final = re.compile(r"%[0-9A-F]{2}")
_CONTROL: Final = frozenset(range(32)) - {9} | {127}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """placeholder: what the sandbox has for the secret."""

    credential_id: CredentialId
    placeholder: str
    secret: str = field(repr=False)
    in_header: bool
    in_body: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """is_for: which requests get the header, by their path and query, as they are sent. It takes the place
    of one of the same name. secrets: what must not come back. linked: how a `Link` of the answer is told
    to the sandbox. credential_id: for the audit."""

    is_for: Callable[[bytes], bool]
    name: bytes
    value: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    linked: Callable[[bytes], bytes] | None = None
    credential_id: CredentialId | None = None


def variables_of(credentials: SessionCredentials, host: str) -> list[Variable]:
    """Of those that are for this host, which is canonical. One without a secret that can be used is left
    out: its placeholder stays what it is."""
    found = []
    for credential in credentials.variables():
        networking, where = credential.auth["networking"], credential.auth["injection_location"]
        if networking["type"] != "unrestricted" and not any(
            matches(pattern, host) for pattern in networking["allowed_hosts"]
        ):
            continue
        try:
            secret = credential.secret("secret_value")
        except CredentialUnusable:
            continue
        found.append(
            Variable(
                credential_id=credential.credential_id,
                placeholder=placeholder_of(credentials.session_id, credential.auth["secret_name"]),
                secret=secret,
                in_header=where["header"],
                in_body=where["body"],
            )
        )
    return found


def additions_of(credentials: SessionCredentials, target: Target) -> list[Addition]:
    """The tokens of the session's repositories there, on what is about them. One that does not open is left
    out."""
    found = []
    for repository in credentials.repositories:
        if repository.token is None:
            continue
        sent = {"Basic": repository.basic, "Bearer": repository.token}
        found += [
            Addition(
                is_for=interface.is_for,
                name=b"Authorization",
                value=f"{interface.scheme} {sent[interface.scheme]}".encode(),
                secrets=(repository.token, repository.basic),
                linked=interface.linked,
                credential_id=CredentialId(repository.resource_id),
            )
            for interface in interfaces_of(repository.url)
            if interface.target == target
        ]
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Substitution:
    """Of one session towards one host, as its credentials are now. Nothing in it: TLS to that host is none
    of our business. masked: what is masked, by what, once somebody has asked."""

    variables: Sequence[Variable] = ()
    additions: Sequence[Addition] = ()
    only_masked: Sequence[Variable] = ()
    masked: dict[bytes, bytes] = field(default_factory=dict, compare=False, repr=False)

    def without_variables(self) -> "Substitution":
        """None is put in; what they stand for is masked none the less: `masked` is the same."""
        return replace(self, variables=(), only_masked=self.variables)

    def __bool__(self) -> bool:
        return bool(self.variables or self.additions)

    def adds_to(self, path: bytes) -> bool:
        """Whether a request for this path, as sent, is one that something is put on."""
        return any(addition.is_for(path) for addition in self.additions)

    def head(self, headers: RawHeaders, path: bytes) -> tuple[RawHeaders, list[CredentialId]]:
        """The headers as the host gets them, and which credentials are in them.

        Raises CredentialUnusable: a secret that no header can have, or too much of them.
        """
        used: list[CredentialId] = []
        done: RawHeaders = []
        put_in = 0
        additions = {each.name.lower(): each for each in self.additions if each.is_for(path)}
        for name, value in headers:
            if name.lower() in additions:
                continue
            if name.lower() not in _NOT_CHANGED:
                for variable in self.variables:
                    placeholder = variable.placeholder.encode()
                    if variable.in_header and placeholder in value:
                        put_in += value.count(placeholder) * len(variable.secret)
                        check_put_in(put_in)
                        value = value.replace(placeholder, _in_header(variable))
                        used.append(variable.credential_id)
            done.append((name, value))
        for addition in additions.values():
            done.append((addition.name, addition.value))
            if addition.credential_id is not None:
                used.append(addition.credential_id)
        return done, list(dict.fromkeys(used))

    def body(self, content_type: str) -> Swap | None:
        """For the body of a request; None if there is nothing to put into one. What is put in is spelled as
        that type of content needs it, as a program would have that knew the secret."""
        spelled = _SPELLED.get(content_type.partition(";")[0].strip().lower(), str)
        table = {
            variable.placeholder.encode(): spelled(variable.secret).encode()
            for variable in self.variables
            if variable.in_body
        }
        return Swap(table) if table else None

    def in_body(self, found: Iterable[bytes]) -> list[CredentialId]:
        """Whose placeholders these are."""
        found = set(found)
        return [each.credential_id for each in self.variables if each.placeholder.encode() in found]

    def linked(self, headers: RawHeaders, path: bytes) -> RawHeaders:
        """The headers of an answer to a request for this path."""
        for addition in self.additions:
            if addition.linked is not None and addition.is_for(path):
                told = addition.linked
                headers = [
                    (name, told(value) if name.lower() == b"link" else value) for name, value in headers
                ]
        return headers

    def mask(self, *, is_steady: bool = False) -> Swap:
        """For what comes back. is_steady: as `Swap`; for what comes piece by piece."""
        return Swap(self._masked(), is_steady=is_steady)

    def spellings(self) -> Collection[bytes]:
        """Of all that must not come back."""
        return self._masked().keys()

    def _masked(self) -> dict[bytes, bytes]:
        if not self.masked:  # a long secret takes a millisecond for each look: not for each answer
            for variable in (*self.variables, *self.only_masked):
                self.masked.update(_masked(variable.secret, variable.placeholder))
            for addition in self.additions:
                for secret in addition.secrets:
                    self.masked.update(_masked(secret, _INSTEAD))
        return self.masked


def substitution_of(credentials: SessionCredentials, target: Target) -> Substitution:
    """What a session has for a host. Worked out once, for as long as the credentials are used.

    Raises CredentialsUnavailable: more than could be looked for in its answers.
    """
    known = credentials.derived.get(target)
    if isinstance(known, Substitution):
        return known
    found = Substitution(
        variables=variables_of(credentials, target.host), additions=additions_of(credentials, target)
    )
    size = sum(len(each.secret) for each in found.variables)
    if size > EGRESS_HOST_SECRETS_CHARS_MAX:
        raise CredentialsUnavailable(
            f"this session's credentials for {target.host} have {size} characters, more than"
            f" {EGRESS_HOST_SECRETS_CHARS_MAX}: limit the networking of each to the hosts that it is for"
        )
    if len(credentials.derived) >= EGRESS_HOSTS_DERIVED_MAX:
        credentials.derived.clear()
    credentials.derived[target] = found
    return found


def check_put_in(size: int) -> None:
    """Raises CredentialUnusable: so many bytes of secrets are not put into one request."""
    if size > EGRESS_PUT_IN_BYTES_MAX:
        raise CredentialUnusable(
            f"placeholders stand in this request so often that over {EGRESS_PUT_IN_BYTES_MAX >> 20} MiB"
            " would be put in"
        )


def mask_of(*secrets: str, instead: str = _INSTEAD) -> Swap:
    """For what comes back of a request that these were put into."""
    table: dict[bytes, bytes] = {}
    for secret in secrets:
        table |= _masked(secret, instead)
    return Swap(table)


def _in_header(variable: Variable) -> bytes:
    secret = variable.secret.encode()
    if not _CONTROL.isdisjoint(secret):
        raise CredentialUnusable(
            f"credential {variable.credential_id} has a line end or another character that no header can"
            " have"
        )
    return secret


def _as_json(secret: str) -> str:
    return json.dumps(secret)[1:-1]


_SPELLED: Final[dict[str, Callable[[str], str]]] = {
    "application/json": _as_json,
    "application/x-www-form-urlencoded": quote_plus,
}


def _masked(secret: str, instead: str) -> dict[bytes, bytes]:
    """A secret so short that it stands in any text is none that could be kept."""
    if len(secret.encode()) < MASKED_SECRET_BYTES_MIN:
        return {}
    spelled = {
        secret,
        secret.strip(),  # as headers lose it
        _as_json(secret),
        _as_json(secret).replace("/", "\\/"),
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        quote(secret, safe="!'()*"),  # as JavaScript has it
        quote_plus(secret, safe="*"),  # and its forms, and Java
        quote_plus(secret, safe="*").replace("~", "%7E"),
        html.escape(secret),
        html.escape(secret, quote=False),
        html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),  # as Go has it
        _MARKUP.sub(lambda found: f"\\u{ord(found[0]):04x}", _as_json(secret)),  # Go's JSON, in HTML too
        _MARKUP_OR_QUOTE.sub(lambda found: f"\\u{ord(found[0]):04X}", _as_json(secret)),  # .NET's
    }
    spelled |= {_ESCAPE.sub(lambda found: found[0].lower(), each) for each in spelled}  # .NET's URLs
    return {each.encode(): instead.encode() for each in spelled if each}
