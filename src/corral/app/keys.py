"""The API keys a server starts with: the stored ones, and the command line's key of this start."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from secrets import token_urlsafe

from corral.catalog.records import ApiKey, ApiKeyStore
from corral.config import Secret
from corral.kernel.clock import Clock
from corral.kernel.ids import API_KEY, CORRAL_KEY_PREFIX, Ids


class KeysOfThisStart:
    """`ApiKeyStore` that also knows `local_key`, which is never stored: it ends with the supervisor."""

    def __init__(self, store: ApiKeyStore, *, local_key: Secret | None, clock: Clock) -> None:
        self._store = store
        self._local = local_key and ApiKey(
            api_key_id="apikey_local",
            name="command line of this machine",
            sha256=sha256(local_key.reveal().encode()).digest(),
            hint=local_key.reveal()[-4:],
            created_at=clock.now(),
        )

    async def add(self, key: ApiKey) -> None:
        await self._store.add(key)

    async def find(self, sha256: bytes) -> ApiKey | None:
        if self._local is not None and self._local.sha256 == sha256:
            return self._local
        return await self._store.find(sha256)

    async def all(self) -> Sequence[ApiKey]:
        return await self._store.all()

    async def revoke(self, api_key_id: str, *, now: datetime) -> None:
        await self._store.revoke(api_key_id, now=now)


async def bootstrap(store: ApiKeyStore, *, preset: Secret | None, ids: Ids, clock: Clock) -> str | None:
    """Make sure that a key exists. Returns the secret of a key made just now, to be shown once; a preset
    key is added if it is not known, and never shown."""
    if preset is None and await store.all():
        return None
    secret = preset.reveal() if preset else CORRAL_KEY_PREFIX + token_urlsafe(32)
    await store.add(
        ApiKey(
            api_key_id=ids.mint(API_KEY),
            name="CORRAL_API_KEY" if preset else "first key",
            sha256=sha256(secret.encode()).digest(),
            hint=secret[-4:],
            created_at=clock.now(),
        )
    )
    return None if preset else secret
