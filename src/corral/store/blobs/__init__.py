"""Where blobs are kept: a local directory, or any S3-compatible service.

`open_blobs(config)` takes `blob_url`: `file:///directory` or `s3://bucket/prefix`; without one blobs are in
`data_dir/blobs`, which suits one machine. Nodes on many machines need a place that all of them reach.
Both pass `corral.testing.contract_blobs`.
"""

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from corral.catalog.blobs import BlobStore
from corral.store.blobs.local import LocalBlobs

__all__ = ["BlobSettings", "LocalBlobs", "Sealed", "open_blobs"]


class Sealed(Protocol):
    """A secret that does not show itself."""

    def reveal(self) -> str: ...


class BlobSettings(Protocol):
    """The part of `config.Config` that says where blobs are."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def blob_url(self) -> str | None: ...
    @property
    def s3_endpoint(self) -> str | None: ...
    @property
    def s3_region(self) -> str | None: ...
    @property
    def s3_access_key_id(self) -> Sealed | None: ...
    @property
    def s3_secret_access_key(self) -> Sealed | None: ...


async def open_blobs(config: BlobSettings) -> BlobStore:
    """The blob store of these settings. Of a service nothing is asked yet; `probe` does that.

    Raises BlobUnavailable for a directory that cannot be used, and for S3 without the extra `cluster`.
    """
    parts = urlsplit(config.blob_url or "")
    if parts.scheme != "s3":
        directory = Path(unquote(parts.path)) if config.blob_url else config.data_dir / "blobs"
        return await LocalBlobs.open(directory)
    from corral.store.blobs.s3 import S3Blobs

    return S3Blobs(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint=config.s3_endpoint,
        region=config.s3_region,
        access_key_id=_revealed(config.s3_access_key_id),
        secret_access_key=_revealed(config.s3_secret_access_key),
    )


def _revealed(secret: Sealed | None) -> str | None:
    return None if secret is None else secret.reveal()
