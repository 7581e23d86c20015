"""The role `egress` in the server process: the proxy itself is a process of its own."""

import asyncio
import http.client
from pathlib import Path

from corral.api.dependencies import Check
from corral.app.part import Part
from corral.supervisor.adopt import request

__all__ = ["egress_part"]


def egress_part(data_dir: Path) -> Part:
    async def look() -> Check:
        try:
            await asyncio.to_thread(request, data_dir, "egress", "health")
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Check(
                status="failed", reason=f"the egress process does not answer ({type(error).__name__})"
            )
        return Check(status="ok")

    return Part(looks={"egress": look})
