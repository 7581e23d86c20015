"""Readiness: a check that cannot be made is a failed check, and the others go on."""

import asyncio
import shutil
from pathlib import Path

from corral.api.dependencies import Check
from corral.app.readiness import Readiness


async def fine() -> Check:
    return Check(status="ok")


async def broken() -> Check:
    return Check(status="failed", reason="broken")


async def test_a_data_directory_that_is_gone_is_reported(tmp_path: Path) -> None:
    async def disk() -> Check:
        return Check(status="ok", reason=str(shutil.disk_usage(tmp_path / "gone").free))

    readiness = Readiness({"disk": disk, "fine": fine})
    await readiness.check()
    results = readiness.results()
    assert results["fine"].status == "ok"
    assert results["disk"].status == "failed" and "No such file" in (results["disk"].reason or "")


async def test_a_start_waits_for_this_node_and_not_for_others() -> None:
    readiness = Readiness({"fine": fine}, {"others": broken})
    await readiness.check()
    async with asyncio.timeout(1):
        await readiness.until_ready(patience_seconds=60)
    assert not readiness.is_ready

    waiting = Readiness({"own": broken}, {"others": fine})
    await waiting.check()
    ready = asyncio.create_task(waiting.until_ready(patience_seconds=60))
    await asyncio.sleep(0)
    assert not ready.done()
    ready.cancel()
