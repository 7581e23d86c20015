"""What the egress process does with the vault's private keys when its node's server asks. Only public keys
and sealed bytes go either way; a secret that is sealed anew is in plain here and nowhere else.

    POST .../vault/keys     {}                                      {"keys": [key]}, oldest first
    POST .../vault/newer    {"current": id or null}                 {"key": key}, made if there is none
    POST .../vault/reseal   {"to": id, "secrets": [{"key_id", "place", "sealed"}]}
                                                                    {"sealed": [bytes, or null: cannot]}
    POST .../vault/forget   {"key_ids": [id]}                       {"forgotten": [id]}

A key is {"id", "public_key"}; bytes are base64. A failure is {"error": what to mend}.
"""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from corral.kernel.errors import InvalidRequest, VaultUnavailable
from corral.vault.ring import CannotOpen, KeyRing

__all__ = ["VaultDesk"]


class VaultDesk:
    def __init__(self, ring: KeyRing, turn: asyncio.Lock) -> None:
        """turn: whoever uses the ring holds it."""
        self._ring = ring
        self._turn = turn
        self._does = {
            "keys": self._keys,
            "newer": self._newer,
            "reseal": self._reseal,
            "forget": self._forget,
        }

    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """Status line and body of the answer."""
        does = self._does.get(what)
        if does is None:
            return "404 Not Found", {"error": "no such path"}
        try:
            asked = json.loads(body or b"{}")
            async with self._turn:
                return "200 OK", await asyncio.to_thread(does, asked)  # it may wait for a disk or a command
        except (InvalidRequest, VaultUnavailable) as error:
            return "409 Conflict", {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return "400 Bad Request", {"error": f"not a request of ours ({type(error).__name__})"}

    def _keys(self, asked: Mapping[str, Any]) -> dict[str, object]:
        return {"keys": [_key(key_id, public_key) for key_id, public_key in self._ring.public()]}

    def _newer(self, asked: Mapping[str, Any]) -> dict[str, object]:
        return {"key": _key(*self._ring.newer_than(asked["current"], now=datetime.now(UTC)))}

    def _forget(self, asked: Mapping[str, Any]) -> dict[str, object]:
        return {"forgotten": list(self._ring.forget([str(key_id) for key_id in asked["key_ids"]]))}

    def _reseal(self, asked: Mapping[str, Any]) -> dict[str, object]:
        return {"sealed": [self._sealed_anew(str(asked["to"]), secret) for secret in asked["secrets"]]}

    def _sealed_anew(self, to: str, secret: Mapping[str, str]) -> str | None:
        try:
            anew = self._ring.seal_anew(
                b64decode(secret["sealed"]),
                key_id=secret["key_id"],
                to=to,
                place=b64decode(secret["place"]),
            )
        except CannotOpen:
            return None
        return b64encode(anew).decode()


def _key(key_id: str, public_key: bytes) -> dict[str, str]:
    return {"id": key_id, "public_key": b64encode(public_key).decode()}
