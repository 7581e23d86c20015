"""Files, as every part of a server process has them."""

from corral.app.ground import Ground
from corral.catalog.blobs import BlobStore
from corral.catalog.files import Files
from corral.store.files import FileRows

__all__ = ["files_of"]


def files_of(ground: Ground, blobs: BlobStore) -> Files:
    table = FileRows(ground.database, bytes_max=ground.config.files_bytes_max)
    return Files(table, blobs, ids=ground.ids, clock=ground.clock)
