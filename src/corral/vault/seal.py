"""Sealing with a public key: HPKE (RFC 9180), X25519, HKDF-SHA256, ChaCha20-Poly1305, mode base.

The bytes are a format number, the encapsulated key and the ciphertext. Opening is in `ring`.
"""

from functools import cache
from typing import TYPE_CHECKING, Final

from corral.kernel.ids import VAULT_KEY, derived

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

__all__ = ["FORMAT", "key_id_of", "seal", "suite"]

FORMAT: Final = b"\x01"


@cache
def suite() -> "Suite":
    """Imported by the first secret: seven megabytes in every server that keeps none."""
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def key_id_of(public_key: bytes) -> str:
    """`vkey_...`, a function of the key: one id cannot mean two keys."""
    return derived(VAULT_KEY, public_key.hex())


def seal(secret: bytes, *, public_key: bytes, place: bytes) -> bytes:
    """Sealed for the holder of the private key, and for this place alone. Never twice the same bytes.

    public_key: 32 bytes. Raises ValueError: it is none.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return FORMAT + suite().encrypt(secret, X25519PublicKey.from_public_bytes(public_key), info=place)
