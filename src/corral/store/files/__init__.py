"""Files on the database: `rows` maps them, `blobs` counts who names which bytes, `session` is what a
session's own transactions do with its files; `table` and `unneeded` are the ports."""

from corral.store.files.table import FileRows
from corral.store.files.unneeded import UnneededBlobRows

__all__ = ["FileRows", "UnneededBlobRows"]
