"""Readiness: a check that cannot be made is a failed check, and the others go on."""

import shutil
from pathlib import Path

from corral.api.dependencies import Check
from corral.app.readiness import Readiness


async def test_a_data_directory_that_is_gone_is_reported(tmp_path: Path) -> None:
    async def disk() -> Check:
        return Check(status="ok", reason=str(shutil.disk_usage(tmp_path / "gone").free))

    async def fine() -> Check:
        return Check(status="ok")

    readiness = Readiness({"disk": disk, "fine": fine})
    await readiness.check()
    results = readiness.results()
    assert results["fine"].status == "ok"
    assert results["disk"].status == "failed" and "No such file" in (results["disk"].reason or "")
