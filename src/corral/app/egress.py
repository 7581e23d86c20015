"""The role `egress` in the server process: the proxy itself is a process of its own."""

import asyncio
import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.api.dependencies import Check
from corral.app.part import Part
from corral.supervisor.adopt import request

__all__ = ["egress_part"]


def egress_part(data_dir: Path) -> Part:
    counts: Mapping[str, int] = {}  # as of the last look

    async def look() -> Check:
        nonlocal counts
        try:
            health: dict[str, Any] = json.loads(
                await asyncio.to_thread(request, data_dir, "egress", "health")
            )
        except (OSError, http.client.HTTPException, ValueError) as error:
            counts = {}
            return Check(
                status="failed", reason=f"the egress process does not answer ({type(error).__name__})"
            )
        counts = health.get("counts", {})  # one that was started earlier tells none
        return Check(status="ok")

    def gauges() -> Mapping[str, float]:
        return {f"egress_{name}": value for name, value in counts.items()}

    return Part(looks={"egress": look}, gauges=gauges)
