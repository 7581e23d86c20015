"""What every server process asks of its store and its disk."""

import asyncio
import shutil
from pathlib import Path

from corral.api.dependencies import Check
from corral.app.ground import Ground
from corral.app.part import Part
from corral.kernel.limits import BUS_ROUND_TRIP_SECONDS, DISK_FREE_BYTES_MIN, NODE_LOST_SECONDS
from corral.orchestrator.node import NodeDuty

__all__ = ["disk_free_bytes", "store_part"]


def store_part(ground: Ground, node: NodeDuty) -> Part:
    database, data_dir, shared_bus = ground.database, ground.config.data_dir, ground.shared_bus

    async def look_at_store() -> Check:
        """A write and a read. Where nodes share the database the write is the beat, every second; where
        this one is alone an empty transaction is enough, which costs the disk nothing."""
        if ground.config.is_postgres and node.silent_seconds > NODE_LOST_SECONDS:
            return Check(
                status="failed", reason=f"nothing could be written for {node.silent_seconds:.0f} s"
            )
        await database.write(lambda connection: None)
        await database.read(lambda connection: None)
        return Check(status="ok")

    async def look_at_bus() -> Check:
        """A warning only: without hints everything takes longer, and nothing else."""
        assert shared_bus
        try:
            async with asyncio.timeout(BUS_ROUND_TRIP_SECONDS):
                await shared_bus.round_trip()
        except TimeoutError:
            return Check(
                status="warning",
                reason=f"a notification did not come back within {BUS_ROUND_TRIP_SECONDS:g} s; sessions and"
                " streams wait for the next look at the database",
            )
        return Check(status="ok")

    async def look_at_disk() -> Check:
        return _free(data_dir)

    return Part(
        looks={
            "store": look_at_store,
            "disk": look_at_disk,
            **({"bus": look_at_bus} if shared_bus else {}),
        },
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
        return Check(status="failed", reason=f"only {free >> 20} MiB are free in the data directory")
    return Check(status="ok")
