"""`corral vault`: the keys that seal secrets."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corral.cli.connect import Api
from corral.cli.outcome import Exit, Problem
from corral.cli.render import print_table
from corral.kernel.limits import VAULT_LOOK_SECONDS

__all__ = ["make_key", "rotate_key", "status"]


def status(api: Api, *, as_json: bool) -> None:
    found = api.get("/corral/v1/vault/keys")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [(key["id"], key["state"], str(key["secrets"]), key["created_at"][:19]) for key in found["keys"]]
    print_table(("key", "state", "secrets", "since (UTC)"), rows)
    if found["is_rotating"]:
        print("a rotation is going on")


def rotate_key(api: Api, *, wait_seconds: float) -> Exit:
    """FAILED if it has not ended by then; it goes on all the same."""
    before = {key["id"] for key in api.get("/corral/v1/vault/keys")["keys"]}
    found = api.post("/corral/v1/vault/rotate_key")
    deadline = time.monotonic() + wait_seconds
    while found["is_rotating"]:
        if time.monotonic() > deadline:
            print(
                f"not done yet: {_left(found, before)}. It goes on; see `corral vault status` and /readyz"
            )
            return Exit.FAILED
        time.sleep(VAULT_LOOK_SECONDS / 4)
        found = api.get("/corral/v1/vault/keys")
    [key] = found["keys"]
    print(f"{key['id']} seals everything now ({key['secrets']} secrets); the old key is forgotten")
    return Exit.DONE


def _left(found: dict[str, Any], before: set[str]) -> str:
    if {key["id"] for key in found["keys"]} == before and len(before) == 1:
        return "no egress node has made a key"
    secrets = sum(key["secrets"] for key in found["keys"] if key["state"] == "old")
    return f"{secrets} secrets are still sealed with an old key"


def make_key(path: Path) -> None:
    """Append a key to the file, made with mode 0600; prints its id."""
    from corral.vault.ring import new_key_line

    line = new_key_line(datetime.now(UTC))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(fd)
    except OSError as error:
        raise Problem(f"{str(path)!r} cannot be written: {error.strerror}") from error
    print(line.split()[0].decode())
