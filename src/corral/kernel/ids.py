"""Identifiers: opaque, prefixed, roughly ordered by the time they were minted.

`sevt_01Kb3...`: the prefix names the kind, the rest is 48 bits of milliseconds and 80 random bits in
base58. Order by time keeps b-tree inserts local; nothing may rely on it (ids are opaque on the wire).
Source: Managed Agents API "ID prefixes".
"""

import os
import time
from collections.abc import Callable
from hashlib import sha256
from typing import NewType

AgentId = NewType("AgentId", str)
EnvironmentId = NewType("EnvironmentId", str)
SessionId = NewType("SessionId", str)
ThreadId = NewType("ThreadId", str)
EventId = NewType("EventId", str)
ApiKeyId = NewType("ApiKeyId", str)
WorkspaceId = NewType("WorkspaceId", str)
MemoryStoreId = NewType("MemoryStoreId", str)
MemoryId = NewType("MemoryId", str)
MemoryVersionId = NewType("MemoryVersionId", str)
VaultId = NewType("VaultId", str)
CredentialId = NewType("CredentialId", str)
FileId = NewType("FileId", str)
ResourceId = NewType("ResourceId", str)
SkillId = NewType("SkillId", str)
SkillVersionId = NewType("SkillVersionId", str)
WorkId = NewType("WorkId", str)
EnvironmentKeyId = NewType("EnvironmentKeyId", str)

AGENT, ENVIRONMENT, SESSION, THREAD, EVENT = "agent", "env", "sesn", "sthr", "sevt"
REQUEST, API_KEY, WORKSPACE = "req", "apikey", "wrkspc"
MEMORY_STORE, MEMORY, MEMORY_VERSION = "memstore", "mem", "memver"
VAULT, CREDENTIAL, VAULT_KEY = "vlt", "vcrd", "vkey"
FILE, RESOURCE = "file", "sesrsc"
SKILL, SKILL_VERSION = "skill", "skillver"
WORK, ENVIRONMENT_KEY = "work", "envkey"
AUDIT_ENTRY = "audit"
DEFAULT_WORKSPACE = WorkspaceId("wrkspc_default")
CORRAL_KEY_PREFIX = "corral_"  # begins every API key that Corral makes: recognisable, never sent to a model
ENVIRONMENT_KEY_PREFIX = "sk-ant-oat01-corral-"  # as hosted ones begin, and still ours
SESSIONS_TOKEN_PREFIX = "corral-work-"  # noqa: S105  # of the token in a work item's secret

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = 22  # 58**22 > 2**128


_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def _base58(number: int) -> str:
    pairs = []
    for _ in range(_DIGITS // 2):
        number, pair = divmod(number, 58 * 58)
        pairs.append(_PAIRS[pair])
    pairs.reverse()
    return "".join(pairs)


class Ids:
    """Mints ids; the clock and the randomness are passed in so that tests can repeat a run."""

    def __init__(
        self,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._now_ms = now_ms
        self._random_bytes = random_bytes

    def mint(self, prefix: str) -> str:
        """A new id such as `sesn_01...`: prefix, `_`, `01`, 22 base58 digits."""
        number = (self._now_ms() & ((1 << 48) - 1)) << 80 | int.from_bytes(self._random_bytes(10))
        return f"{prefix}_01{_base58(number)}"

    def event(self) -> EventId:
        return EventId(self.mint(EVENT))


def derived(prefix: str, *parts: str) -> str:
    """An id that is a function of its parts: the same synthetic event minted twice is one event."""
    digest = sha256("\0".join(parts).encode()).digest()[:16]
    return f"{prefix}_01{_base58(int.from_bytes(digest))}"
