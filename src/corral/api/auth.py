"""Who calls: an API key, sent as `x-api-key` or `Authorization: Bearer`, looked up by its SHA-256."""

from hashlib import sha256

from corral.catalog.records import ApiKey, ApiKeyStore
from corral.kernel.clock import Clock
from corral.kernel.errors import AuthenticationFailed
from corral.kernel.limits import API_KEY_CACHE_SECONDS, API_KEYS_CACHED_MAX


def presented(x_api_key: bytes | None, authorization: bytes | None) -> bytes | None:
    """The key that a request comes with, by its headers."""
    if x_api_key is not None or authorization is None:
        return x_api_key
    scheme, _, rest = authorization.partition(b" ")
    return rest.strip() if scheme.lower() == b"bearer" else None


class Authenticator:
    """Finds keys by hash and believes a find for API_KEY_CACHE_SECONDS: a key revoked on another node
    works here for that long at most. Unknown keys are never cached."""

    def __init__(self, store: ApiKeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._cache: dict[bytes, tuple[float, ApiKey]] = {}

    async def authenticate(self, *, x_api_key: bytes | None, authorization: bytes | None) -> ApiKey:
        """The caller's key. Raises AuthenticationFailed, StoreUnavailable."""
        secret = presented(x_api_key, authorization)
        if not secret:
            raise AuthenticationFailed("Send an API key as x-api-key or as Authorization: Bearer")
        digest = sha256(secret).digest()
        now = self._clock.monotonic()
        cached = self._cache.get(digest)
        if cached is not None and cached[0] > now:
            return cached[1]
        key = await self._store.find(digest)
        if key is None:
            self._cache.pop(digest, None)
            raise AuthenticationFailed("invalid x-api-key")
        if len(self._cache) >= API_KEYS_CACHED_MAX:
            self._cache.clear()
        self._cache[digest] = (now + API_KEY_CACHE_SECONDS, key)
        return key

    def forget(self) -> None:
        """Ask the store again from now on: a key was revoked here."""
        self._cache.clear()
