"""One worker: the official SDK's own EnvironmentWorker, unmodified, in a process of its own."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import anthropic
from anthropic.lib.environments import EnvironmentWorker


async def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    async with anthropic.AsyncAnthropic(
        base_url=os.environ["ANTHROPIC_BASE_URL"], api_key="not-one", _strict_response_validation=True
    ) as client:
        worker = EnvironmentWorker(client, max_idle=float(os.environ["MAX_IDLE"]), **_of_environment())
        if os.environ.get("ITEM_ON_STDIN"):  # one item, claimed by another process
            (Path(os.environ["WORKDIR"]) / "ready").touch()
            item = json.loads(await asyncio.to_thread(sys.stdin.readline))
            await worker.handle_item(**item)
        else:
            await worker.run()


def _of_environment() -> dict[str, str]:
    given = {
        "environment_id": os.environ.get("ANTHROPIC_ENVIRONMENT_ID"),
        "environment_key": os.environ.get("ANTHROPIC_ENVIRONMENT_KEY"),
        "workdir": os.environ["WORKDIR"],
    }
    return {name: value for name, value in given.items() if value is not None}


if __name__ == "__main__":
    asyncio.run(main())
