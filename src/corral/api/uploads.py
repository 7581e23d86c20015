"""Uploads: from the form of a request to stored bytes, and an effect that names them."""

from dataclasses import dataclass
from hashlib import sha256

import orjson
from starlette.requests import Request

from corral.api.idempotency import Digest
from corral.api.multipart import Multipart
from corral.catalog.files import Files, Received
from corral.kernel.errors import InvalidRequest, Overloaded
from corral.kernel.ids import WorkspaceId
from corral.kernel.limits import FILE_SECONDS_MAX, FILE_SECONDS_MIN, UPLOADS_AT_ONCE_MAX
from corral.kernel.shares import Shares

__all__ = ["Upload", "Uploading"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What was sent: bytes that nobody names yet, and the rest of the form."""

    received: Received
    filename: str | None
    content_type: str | None
    expires_in_seconds: int | None

    @property
    def digest(self) -> Digest:
        """Of what the form says: its boundary differs whenever it is sent."""
        said = [self.filename, self.content_type, self.expires_in_seconds, self.received.sha256]
        return Digest(sha256(orjson.dumps(said)).digest())


class Uploading:
    """The uploads of this process, of which no workspace takes all places."""

    def __init__(self, files: Files, *, at_once_max: int = UPLOADS_AT_ONCE_MAX) -> None:
        self._files = files
        self._places = Shares(at_once_max)

    async def read(self, request: Request, workspace_id: WorkspaceId) -> Upload:
        """Store the one file of the form. Whoever gets it must name or discard what was received.

        Raises InvalidRequest, RequestTooLarge, Overloaded, BlobUnavailable, StoreUnavailable; then nothing
        is left of it.
        """
        with self._places.now(workspace_id) as has_place:
            if not has_place:
                raise Overloaded("This server is taking as many uploads as it can. Try again.")
            form = Multipart(request)
            try:
                return await self._read(form)
            finally:
                await form.aclose()

    async def _read(self, form: Multipart) -> Upload:
        received: Received | None = None
        filename = content_type = None
        expires: int | None = None
        try:
            while (part := await form.next()) is not None:
                if part.name == "file" and received is None:
                    filename, content_type = part.filename, part.content_type
                    received = await self._files.receive(form.chunks())
                elif part.name == "expires_in_seconds" and expires is None:
                    expires = _seconds(await form.text())
                else:
                    is_twice = part.name in ("file", "expires_in_seconds")
                    problem = "given twice" if is_twice else "Extra inputs are not permitted"
                    raise InvalidRequest(f"{part.name[:100]}: {problem}")
            if received is None:
                raise InvalidRequest("file: Field required")
        except BaseException:
            if received is not None:
                await self._files.discard(received)
            raise
        return Upload(
            received=received,
            filename=filename,
            content_type=content_type,
            expires_in_seconds=expires,
        )


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise InvalidRequest("expires_in_seconds: must be a whole number")
    if not FILE_SECONDS_MIN <= int(text) <= FILE_SECONDS_MAX:
        raise InvalidRequest(f"expires_in_seconds: must be from {FILE_SECONDS_MIN} to {FILE_SECONDS_MAX}")
    return int(text)
