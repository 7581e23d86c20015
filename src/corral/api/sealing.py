"""Secrets between a request and the store: in plain for as long as it takes to seal them."""

from collections.abc import Mapping

from pydantic import SecretStr
from starlette.requests import Request

from corral.api.dependencies import Dependencies
from corral.catalog.credentials import place_of
from corral.catalog.records import Wire
from corral.catalog.repositories import SealedToken, TokenPlace
from corral.catalog.vaults import SealedSecret, VaultKey
from corral.kernel.errors import VaultUnavailable
from corral.kernel.ids import WorkspaceId
from corral.vault.seal import seal

__all__ = ["seal_all", "seal_token", "taken_body", "wipe"]


async def taken_body(request: Request) -> bytearray:
    """The body, which only the caller holds afterwards: `wipe` it when it is parsed."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
    return raw


def wipe(raw: bytearray) -> None:
    """What Python lets us: our copy. What the parser made of it goes when nobody holds it any more."""
    raw[:] = bytes(len(raw))


async def seal_all(
    deps: Dependencies, credential: Wire, secrets: dict[str, SecretStr], *, workspace_id: WorkspaceId
) -> list[SealedSecret]:
    """The secrets of a credential, sealed with the current key; `secrets` is empty afterwards.

    Raises VaultUnavailable: no key has been made yet.
    """
    if not secrets:
        return []
    try:
        key = await _current_key(deps)
    except VaultUnavailable:
        secrets.clear()
        raise
    sealed = [
        SealedSecret(
            name=name,
            key_id=key.key_id,
            sealed=seal(
                secret.get_secret_value().encode(),
                public_key=key.public_key,
                place=place_of(credential, name, workspace_id=workspace_id).encode(),
            ),
        )
        for name, secret in _in_order(secrets)
    ]
    secrets.clear()
    return sealed


async def seal_token(deps: Dependencies, token: SecretStr, place: TokenPlace) -> SealedToken:
    """The token of a repository, sealed with the current key. Raises VaultUnavailable."""
    key = await _current_key(deps)
    plain = token.get_secret_value().encode()
    sealed = seal(plain, public_key=key.public_key, place=place.encode())
    return SealedToken(place=place, key_id=key.key_id, sealed=sealed)


async def _current_key(deps: Dependencies) -> VaultKey:
    """Raises VaultUnavailable."""
    key = await deps.vault_keys.current()
    if key is None:
        raise VaultUnavailable(
            "There is no key to seal secrets with yet: an egress node makes it when it starts. Nothing"
            " was written."
        )
    return key


def _in_order(secrets: Mapping[str, SecretStr]) -> list[tuple[str, SecretStr]]:
    return sorted(secrets.items())
