"""What every server process asks of its store and its disk."""

import shutil
from pathlib import Path

from corral.api.dependencies import Check
from corral.app.ground import Ground
from corral.app.part import Part
from corral.kernel.limits import DISK_FREE_BYTES_MIN

__all__ = ["disk_free_bytes", "store_part"]


def store_part(ground: Ground) -> Part:
    database, data_dir = ground.database, ground.config.data_dir

    async def look_at_store() -> Check:
        await database.write(lambda connection: None)
        await database.read(lambda connection: None)
        return Check(status="ok")

    async def look_at_disk() -> Check:
        return _free(data_dir)

    return Part(
        looks={"store": look_at_store, "disk": look_at_disk},
        gauges=lambda: {"disk_free_bytes": disk_free_bytes(data_dir)},
    )


def disk_free_bytes(data_dir: Path) -> int:
    try:
        return shutil.disk_usage(data_dir).free
    except OSError:  # a disk that is gone has no room
        return 0


def _free(data_dir: Path) -> Check:
    free = shutil.disk_usage(data_dir).free
    if free < DISK_FREE_BYTES_MIN:
        return Check(status="failed", reason=f"only {free >> 20} MiB are free in {str(data_dir)!r}")
    return Check(status="ok")
