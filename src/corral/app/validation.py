"""`catalog.tokens.CredentialValidation`, by the egress process of this node: it alone opens secrets."""

import json
from pathlib import Path

from corral.app.credentials import as_json
from corral.catalog.records import Wire
from corral.catalog.tokens import TokenStore, Where
from corral.daemon import asked
from corral.kernel.errors import VaultUnavailable
from corral.kernel.limits import VALIDATION_SECONDS

__all__ = ["Validation"]


class Validation:
    def __init__(self, data_dir: Path, store: TokenStore) -> None:
        self._data_dir = data_dir
        self._store = store

    async def validate(self, where: Where) -> Wire:
        body = json.dumps({"credential": as_json(await self._store.sealed(where))}).encode()
        try:
            status, answer = await asked(
                self._data_dir, "egress", "validation/validate", body, seconds=VALIDATION_SECONDS
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise VaultUnavailable(
                f"The egress process of this node, which alone opens secrets, does not answer"
                f" ({type(error).__name__}). Nothing was changed that is not stored."
            ) from None
        if status != 200:
            raise VaultUnavailable(str(answer.get("error", f"the egress process answered {status}")))
        return answer
