"""The certificate authority of each sandbox whose TLS may be opened here. Its key stays here.

It is derived from a seed in a file of this process and the session's id, so the next process has the same
ones, and nothing of them is kept. A sandbox trusts the authority of its own session and no other's; what it
signs is presented to that sandbox alone.

    POST .../authority/certificate    {"session_id"}     {"certificate": PEM}, for the sandbox to trust
"""

import json
import os
import secrets
import ssl
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.daemon import made_once
from corral.kernel.ids import SessionId
from corral.kernel.limits import EGRESS_LEAVES_MAX

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["SEED_FILE", "Authorities", "AuthorityDesk"]

SEED_FILE: Final = "authority.seed"
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (FIPS 186-4)
_SCALAR_BYTES: Final = 48  # half as many again as the order has: no key is likelier than another
_AUTHORITY_DAYS: Final = 3650  # longer than any session
_LEAF_DAYS: Final = 2
_SKEW: Final = timedelta(days=1)  # of the clocks of this machine and a sandbox, which are one


class Authorities:
    """Of all sessions. seed: 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._leaf_key: ec.EllipticCurvePrivateKey | None = None
        self._leaves: OrderedDict[tuple[SessionId, str], tuple[datetime, ssl.SSLContext]] = OrderedDict()

    @classmethod
    def kept_in(cls, folder: Path) -> "Authorities":
        """Its seed is made once. Raises OSError."""
        return cls(bytes.fromhex(made_once(folder / SEED_FILE, lambda: secrets.token_hex(32))))

    def certificate(self, session_id: SessionId) -> bytes:
        """PEM, of the session's authority: not the same bytes each time, but of the same key and name."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        key = self._key(session_id)
        return _signed(
            _named(session_id),
            key,
            issuer=_named(session_id),
            by=key,
            days=_AUTHORITY_DAYS,
            extensions=[
                (x509.BasicConstraints(ca=True, path_length=0), True),
                (_usage(signs_certificates=True), True),
            ],
        ).public_bytes(Encoding.PEM)

    def server(self, session_id: SessionId, host: str) -> ssl.SSLContext:
        """To be that host towards the session's sandbox, in HTTP/1.1."""
        now, wanted = datetime.now(UTC), (session_id, host)
        if wanted in self._leaves and self._leaves[wanted][0] > now:
            self._leaves.move_to_end(wanted)
            return self._leaves[wanted][1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        self._load_leaf(context, session_id, host)
        self._leaves[wanted] = (now + timedelta(days=_LEAF_DAYS) / 2, context)
        while len(self._leaves) > EGRESS_LEAVES_MAX:
            self._leaves.popitem(last=False)
        return context

    def _load_leaf(self, context: ssl.SSLContext, session_id: SessionId, host: str) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if self._leaf_key is None:
            self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        leaf = _signed(
            host,
            self._leaf_key,
            issuer=_named(session_id),
            by=self._key(session_id),
            days=_LEAF_DAYS,
            extensions=[
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_usage(signs_certificates=False), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
                (x509.SubjectAlternativeName([_alternative(host)]), True),
            ],
        )
        pem = leaf.public_bytes(serialization.Encoding.PEM) + self._leaf_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file = os.memfd_create("leaf", os.MFD_CLOEXEC)  # ssl takes paths alone; this one is on no disk
        try:
            os.write(file, pem)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)

    def _key(self, session_id: SessionId) -> "ec.EllipticCurvePrivateKey":
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"corral authority 1\0" + session_id.encode()
        scalar = HKDF(SHA256(), _SCALAR_BYTES, salt=None, info=info).derive(self._seed)
        return ec.derive_private_key(int.from_bytes(scalar) % (_ORDER - 1) + 1, ec.SECP256R1())


class AuthorityDesk:
    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities

    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """Status line and body of the answer."""
        if what != "certificate":
            return "404 Not Found", {"error": "no such path"}
        try:
            session_id = SessionId(str(json.loads(body)["session_id"]))
        except (KeyError, TypeError, ValueError) as error:
            return "400 Bad Request", {"error": f"not a request of ours ({type(error).__name__})"}
        return "200 OK", {"certificate": self._authorities.certificate(session_id).decode()}


def _named(session_id: SessionId) -> str:
    return f"Corral {session_id}"[:64]  # as many characters as a common name may have


def _alternative(host: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> "x509.KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    name: str,
    key: "ec.EllipticCurvePrivateKey",
    *,
    issuer: str,
    by: "ec.EllipticCurvePrivateKey",
    days: int,
    extensions: "list[tuple[x509.ExtensionType, bool]]",
) -> "x509.Certificate":
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])

    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.sign(by, SHA256())
