"""Secrets of credentials, sealed as the API seals them before it keeps them."""

from corral.catalog.credentials import place_of
from corral.catalog.records import Wire
from corral.catalog.vaults import SealedSecret, VaultKey
from corral.testing.contract_vaults import HERE
from corral.vault.seal import seal


def sealed_secrets_of(record: Wire, *, key: VaultKey, **secrets: str) -> list[SealedSecret]:
    """secrets: by name, in plain text. Only for this credential's place do they open again."""
    return [
        SealedSecret(
            name=name,
            key_id=key.key_id,
            sealed=seal(
                plain.encode(),
                public_key=key.public_key,
                place=place_of(record, name, workspace_id=HERE).encode(),
            ),
        )
        for name, plain in secrets.items()
    ]
