"""`corral certs`: the authority of a cluster and the certificates by which its nodes know each other.

DIR/ca.pem, ca.key           made once; the key stays with whoever adds nodes (mode 0600)
DIR/NAME.pem, NAME.key       of one node; goes to that node, with ca.pem
"""

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from corral.cli.outcome import Exit, Problem
from corral.kernel.limits import AUTHORITY_DAYS, CERTIFICATE_DAYS

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["make_certs"]

_CLOCKS_APART = timedelta(minutes=5)  # of machines: a certificate is valid from a little before it was made


def make_certs(directory: Path, hosts: Sequence[str]) -> list[Path]:
    """Make what is missing; a node's certificate is made anew each time. Returns the files written.

    hosts: of the node, as others reach it: names or addresses; the first one names the files.
    Raises Problem.
    """
    try:
        from cryptography import x509
    except ImportError as error:
        raise Problem("certificates need the extra `cluster`: pip install 'corral[cluster]'") from error

    if not hosts:
        raise Problem("--host is needed: how other nodes reach this one, a name or an address")
    names = [_name(host) for host in hosts]
    file_name = hosts[0].replace(":", "-")
    if file_name == "ca" or "/" in file_name or file_name.startswith("."):
        raise Problem(f"{hosts[0]!r} cannot name a file", exit=Exit.USAGE)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made: list[Path] = []
        authority_files = (directory / "ca.pem", directory / "ca.key")
        if not all(path.exists() for path in authority_files):
            if any(path.exists() for path in authority_files):
                raise Problem(f"{directory} has only one of ca.pem and ca.key; both belong together")
            made += _write(authority_files, *_authority())
        authority, authority_key = _read(*authority_files)
        node_files = (directory / f"{file_name}.pem", directory / f"{file_name}.key")
        certificate, key = _node(authority, authority_key, x509.SubjectAlternativeName(names), hosts[0])
        return made + _write(node_files, certificate, key)
    except OSError as error:
        raise Problem(f"{directory}: {error.strerror or error}") from error


def _name(host: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode())
    except (UnicodeError, ValueError) as error:
        raise Problem(f"--host {host!r} is neither a name nor an address", exit=Exit.USAGE) from error


def _authority() -> "tuple[x509.Certificate, ec.EllipticCurvePrivateKey]":
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("Corral cluster authority")
    certificate = (
        _begun(subject, key, AUTHORITY_DAYS)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _node(
    authority: "x509.Certificate",
    authority_key: "ec.EllipticCurvePrivateKey",
    names: "x509.SubjectAlternativeName",
    title: str,
) -> "tuple[x509.Certificate, ec.EllipticCurvePrivateKey]":
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    both_ways = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _begun(_subject(title[:64]), key, CERTIFICATE_DAYS)
        .issuer_name(authority.subject)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both_ways), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    return certificate, key


def _begun(subject: "x509.Name", key: "ec.EllipticCurvePrivateKey", days: int) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_APART)
        .not_valid_after(now + timedelta(days=days))
    )


def _subject(title: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])


def _usage(*, signs_certificates: bool) -> "x509.KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    files: tuple[Path, Path], certificate: "x509.Certificate", key: "ec.EllipticCurvePrivateKey"
) -> list[Path]:
    """The key first: a certificate without its key would look as if the pair were there."""
    from cryptography.hazmat.primitives import serialization

    encoded_key = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for path, data, mode in (
        (files[1], encoded_key, 0o600),
        (files[0], certificate.public_bytes(serialization.Encoding.PEM), 0o644),
    ):
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        draft.rename(path)
    return list(files)


def _read(certificate_file: Path, key_file: Path) -> "tuple[x509.Certificate, ec.EllipticCurvePrivateKey]":
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise Problem(f"{certificate_file} or {key_file} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Problem(f"{key_file} is not a key that `corral certs` made")
    return certificate, key
