"""The egress process of a stage: `corral.egress`, which finds the stage's names at this machine, and no
others. `python -m corral.redteam.gate DATA_DIR SETTINGS.json`

    {"names": {name: [address]}, "internal": [entry], "servers": [entry], "repositories": [entry],
     "asked": path of a file, "trusted": [path of a file]}

asked: each name that was looked up, a line each. trusted: authorities (PEM) for certificates of hosts.
"""

import asyncio
import json
import logging
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from corral.egress.policy import OperatorHosts
from corral.egress.process import serve_egress
from corral.process import harden, raise_open_files

_NUMBERS: Final = re.compile(r"[0-9a-fx.:]+")  # what is an address in whatever notation


async def main(data_dir: Path, settings: Path) -> None:
    said = json.loads(settings.read_text())
    names: dict[str, list[str]] = said["names"]

    async def resolve(host: str, port: int) -> Sequence[str]:
        with Path(said["asked"]).open("a") as asked:
            asked.write(f"{host}\n")
        if host in names:
            return names[host]
        if not _NUMBERS.fullmatch(host) and host != "localhost":
            raise OSError("no such name")
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    await serve_egress(
        data_dir=data_dir,
        operator=OperatorHosts(
            internal=tuple(said["internal"]),
            servers=tuple(said["servers"]),
            repositories=tuple(said["repositories"]),
        ),
        resolve=resolve,
        trusted=[Path(path) for path in said["trusted"]],
        on_ready=lambda: print("ready", flush=True),
    )


if __name__ == "__main__":
    harden()
    raise_open_files()
    logging.basicConfig(level="INFO", stream=sys.stderr)
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
