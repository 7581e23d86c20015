"""Sealing with a public key: HPKE (RFC 9180), X25519, HKDF-SHA256, ChaCha20-Poly1305, mode base.

The bytes are a format number, the encapsulated key and the ciphertext. Opening is in `ring`.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from corral.kernel.ids import VAULT_KEY, derived

__all__ = ["FORMAT", "SUITE", "key_id_of", "seal"]

FORMAT: Final = b"\x01"
SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def key_id_of(public_key: bytes) -> str:
    """`vkey_...`, a function of the key: one id cannot mean two keys."""
    return derived(VAULT_KEY, public_key.hex())


def seal(secret: bytes, *, public_key: bytes, place: bytes) -> bytes:
    """Sealed for the holder of the private key, and for this place alone. Never twice the same bytes.

    public_key: 32 bytes. Raises ValueError: it is none.
    """
    return FORMAT + SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(public_key), info=place)
