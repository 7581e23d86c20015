"""`corral status`: what runs here, and whether it is well."""

import http.client
import json
from typing import Any

from corral.cli.connect import Api, Server
from corral.cli.outcome import Exit, Problem
from corral.cli.render import print_table, safe
from corral.config import Config
from corral.process import Role
from corral.supervisor.adopt import request
from corral.supervisor.datadir import read_state

__all__ = ["collect", "status"]


def collect(config: Config) -> dict[str, Any]:
    """`{"url", "data_dir", "is_well", "processes": [{"role", "pid", "health", "version", ...}], "ready"}`.

    Raises Problem when nothing is served on the data directory.
    """
    state: Any = read_state(config.data_dir)
    if state is None:
        raise Problem(
            f"nothing is served on {config.data_dir}; start it with `corral serve`, or give --data-dir",
            exit=Exit.NO_SERVER,
        )
    processes = [{"role": "supervisor", "pid": state["pid"], "version": state["version"], "health": "ok"}]
    for each in state["processes"]:
        role: Role = each["role"]
        health, facts = ("ok" if each["is_up"] else "down"), {}
        if role != "server" and each["is_up"]:
            try:
                facts = json.loads(request(config.data_dir, role, "health"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                health = f"no answer ({type(error).__name__})"
        processes.append(
            {**facts, **{k: each[k] for k in ("role", "pid", "version", "restarts")}, "health": health}
        )
    ready = _ask(Server(url=state["url"], key=state["local_key"]), processes)
    is_well = ready.get("status") == "ready" and all(each["health"] == "ok" for each in processes)
    return {
        "url": state["url"],
        "data_dir": str(config.data_dir),
        "is_well": is_well,
        "processes": processes,
        "ready": ready,
    }


def status(config: Config, *, as_json: bool) -> Exit:
    """FAILED when something is not well. Raises Problem."""
    found = collect(config)
    if as_json:
        print(json.dumps(found, indent=2))
        return Exit.DONE if found["is_well"] else Exit.FAILED
    print(f"{found['url']}   data in {found['data_dir']}")
    rows = [
        (each["role"], each["pid"] or "-", each["health"], each["version"] or "-", each.get("restarts", ""))
        for each in found["processes"]
    ]
    print_table(("role", "pid", "health", "version", "restarts"), rows)
    for name, check in found["ready"].get("checks", {}).items():
        if check["status"] != "ok":
            print(safe(f"{name}: {check['status']}: {check['reason']}"))
    return Exit.DONE if found["is_well"] else Exit.FAILED


def _ask(server: Server, processes: list[dict[str, Any]]) -> dict[str, Any]:
    """What /readyz says; a server that does not answer is not well."""
    import httpx2

    api = Api(server)
    try:
        answer = httpx2.get(f"{server.url}/readyz", trust_env=False, verify=False)
        for each in processes:
            if each["role"] == "server":
                each["status"] = api.get("/corral/v1/status")
        return dict(answer.json())
    except (httpx2.TransportError, ValueError, Problem) as error:
        for each in processes:
            if each["role"] == "server":
                each["health"] = "no answer"
        return {"status": "not_ready", "checks": {"server": {"status": "failed", "reason": str(error)}}}
    finally:
        api.close()
