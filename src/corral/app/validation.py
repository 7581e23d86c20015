"""`catalog.tokens.CredentialValidation`: the egress process alone opens secrets, so it is asked; by its own
node at once, by others through the store."""

import asyncio
import contextlib
import json
import logging
from pathlib import Path

from corral.app.credentials import as_json
from corral.app.ground import Ground
from corral.app.part import Part
from corral.catalog.records import Wire
from corral.catalog.tokens import CredentialValidation, TokenStore, ValidationQueue, Where
from corral.daemon import asked
from corral.kernel.errors import NotFound, StoreUnavailable, VaultUnavailable
from corral.kernel.ids import Ids
from corral.kernel.limits import VALIDATION_ANSWER_SECONDS, VALIDATION_SECONDS, VAULT_LOOK_SECONDS
from corral.store.tokens import Tokens
from corral.store.validations import Validations

__all__ = ["QueuedValidation", "Validation", "ValidationDuty", "validation_of", "validation_part"]

log = logging.getLogger(__name__)
_VALIDATION = "validation"


class Validation:
    """By the egress process of this node."""

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
                "The egress process of this node, which alone opens secrets, does not answer"
                f" ({type(error).__name__}). Try again."
            ) from None
        if status != 200:
            raise VaultUnavailable(str(answer.get("error", f"the egress process answered {status}")))
        return answer


class QueuedValidation:
    """By whichever node with the role `egress` takes it."""

    def __init__(self, queue: ValidationQueue) -> None:
        self._queue = queue
        self._ids = Ids()

    async def validate(self, where: Where) -> Wire:
        validation_id = self._ids.mint(_VALIDATION)
        await self._queue.ask(validation_id, where)
        try:
            async with asyncio.timeout(VALIDATION_SECONDS):
                while (answer := await self._queue.answer(validation_id)) is None:  # noqa: ASYNC110  (no hint travels)
                    await asyncio.sleep(VALIDATION_ANSWER_SECONDS)
        except TimeoutError:
            raise VaultUnavailable(
                "No node with the role egress, which alone opens secrets, has answered. Try again."
            ) from None
        finally:
            await self._queue.forget(validation_id)
        return answer


class ValidationDuty:
    """Of a node with the role `egress`: takes what others ask for."""

    def __init__(self, queue: ValidationQueue, validation: CredentialValidation) -> None:
        self._queue = queue
        self._validation = validation

    async def run(self) -> None:
        """Until cancelled. What cannot be answered here, another node takes later."""
        while True:
            try:
                while await self.work():
                    pass
            except (StoreUnavailable, VaultUnavailable) as error:
                log.warning("a validation waits for another node: %s", error)
            await asyncio.sleep(VAULT_LOOK_SECONDS)

    async def work(self) -> bool:
        """One of them; whether there was one. Raises StoreUnavailable, VaultUnavailable."""
        taken = await self._queue.take(seconds=VALIDATION_SECONDS)
        if taken is None:
            return False
        validation_id, where = taken
        with contextlib.suppress(NotFound):  # deleted meanwhile, and the question with it
            await self._queue.tell(validation_id, await self._validation.validate(where))
        return True


def validation_of(ground: Ground) -> CredentialValidation:
    config = ground.config
    if "egress" in config.roles:
        return Validation(config.data_dir, Tokens(ground.database))
    return QueuedValidation(Validations(ground.database))


def validation_part(ground: Ground) -> Part:
    """Of a node that others may ask."""
    validation = Validation(ground.config.data_dir, Tokens(ground.database))
    return Part(later=[ValidationDuty(Validations(ground.database), validation).run])
