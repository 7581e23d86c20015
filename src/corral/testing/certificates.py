"""Certificates for the servers that tests start on this machine."""

import datetime
import ipaddress
import secrets
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["certificates"]


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def certificates(directory: Path, *names: str) -> tuple[Path, Path, Path]:
    """PEM files in `directory`: an authority, and what it signed for these names or addresses, or for
    localhost: (authority, certificate, key)."""
    now = datetime.datetime.now(datetime.UTC)
    authority = f"Corral test authority {secrets.token_hex(4)}"  # who trusts several finds them by name

    def made(
        name: str,
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
        *,
        is_authority: bool,
    ) -> x509.Certificate:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(authority))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if not is_authority:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(each) for each in names or ("localhost",)]),
                critical=False,
            )
        return builder.sign(signer, hashes.SHA256())

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    paths = directory / "authority.pem", directory / "host.pem", directory / "host.key"
    pem = serialization.Encoding.PEM
    root = made(authority, root_key, root_key, is_authority=True)
    paths[0].write_bytes(root.public_bytes(pem))
    paths[1].write_bytes(made("localhost", key, root_key, is_authority=False).public_bytes(pem))
    paths[2].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths[2].chmod(stat.S_IRUSR | stat.S_IWUSR)
    return paths
