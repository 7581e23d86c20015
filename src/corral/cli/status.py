"""`corral status`: what runs here, every node, the work that waits, and whether all is well."""

import http.client
import json
from collections.abc import Mapping
from typing import Any

from corral.cli.connect import Api, Server, running_server
from corral.cli.outcome import Exit, Problem
from corral.cli.render import print_table, safe
from corral.config import Config
from corral.kernel.limits import SWEEP_STALE_SECONDS
from corral.process import Role
from corral.supervisor.adopt import request
from corral.supervisor.datadir import read_state

__all__ = ["collect", "status"]

_STATUS = "/corral/v1/status"
_NODE_HEADINGS = (
    *("node", "url", "roles", "state", "version", "heard", "sessions", "leases", "sandboxes"),
    "host",  # as `corral sandboxes list` has it
)


def collect(config: Config, *, url: str | None = None) -> dict[str, Any]:
    """What is known, from this machine and from a server:

        {"url", "data_dir", "is_well", "processes": [{"role", "pid", "health", "version", ...}], "ready",
         "nodes": [{"node_id", "roles", "version", "beat_age_seconds", ...}], "backlog": {...}}

    url: of any node; then nothing is said of this machine's processes. Without an answer from the server
    there are no nodes and no backlog. Raises Problem when nothing is served on the data directory.
    """
    if url is not None:
        return _judged(_asked(running_server(config, url=url)), data_dir=None, processes=[])
    state: Any = read_state(config.data_dir)
    if state is None:
        raise Problem(
            f"nothing is served on {config.data_dir}; start it with `corral serve`, or give --data-dir",
            exit=Exit.NO_SERVER,
        )
    answers = _asked(Server(url=state["url"], key=state["local_key"]))
    processes = [{"role": "supervisor", "pid": state["pid"], "version": state["version"], "health": "ok"}]
    for each in state["processes"]:
        facts, health = _process(config, each, answers.get("status"))
        processes.append(
            {**facts, **{k: each[k] for k in ("role", "pid", "version", "restarts")}, "health": health}
        )
    return _judged(answers, data_dir=str(config.data_dir), processes=processes)


def status(config: Config, *, url: str | None = None, as_json: bool) -> Exit:
    """FAILED when something is not well. Raises Problem."""
    found = collect(config, url=url)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    return Exit.DONE if found["is_well"] else Exit.FAILED


def _process(
    config: Config, each: Mapping[str, Any], server_status: Mapping[str, Any] | None
) -> tuple[dict[str, Any], str]:
    """What one process says of itself, and its health."""
    role: Role = each["role"]
    if role == "server":
        return ({"status": server_status}, "ok") if server_status else ({}, "no answer")
    if not each["is_up"]:
        return {}, "down"
    try:
        return json.loads(request(config.data_dir, role, "health")), "ok"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return {}, f"no answer ({type(error).__name__})"


def _asked(server: Server) -> dict[str, Any]:
    """`{"url", "ready", "status"}`; without "status" if it does not answer."""
    import httpx2

    api = Api(server)
    try:
        ready = httpx2.get(f"{server.url}/readyz", trust_env=False, verify=False).json()
        return {"url": server.url, "ready": dict(ready), "status": api.get(_STATUS)}
    except (httpx2.TransportError, ValueError, Problem) as error:
        failed = {"server": {"status": "failed", "reason": str(error)}}
        return {"url": server.url, "ready": {"status": "not_ready", "checks": failed}}
    finally:
        api.close()


def _judged(
    answers: Mapping[str, Any], *, data_dir: str | None, processes: list[dict[str, Any]]
) -> dict[str, Any]:
    said = answers.get("status") or {}
    backlog = said.get("backlog", {})
    is_well = (
        answers["ready"].get("status") == "ready"
        and all(each["health"] == "ok" for each in processes)
        and backlog.get("oldest_wait_seconds", 0) <= SWEEP_STALE_SECONDS
    )
    return {
        "url": answers["url"],
        "data_dir": data_dir,
        "is_well": is_well,
        "processes": processes,
        "ready": answers["ready"],
        "nodes": said.get("nodes", []),
        "backlog": backlog,
    }


def _show(found: Mapping[str, Any]) -> None:
    where = f"   data in {found['data_dir']}" if found["data_dir"] else ""
    print(f"{found['url']}{where}")
    if found["processes"]:
        rows = [
            (
                each["role"],
                each["pid"] or "-",
                each["health"],
                each["version"] or "-",
                each.get("restarts", ""),
            )
            for each in found["processes"]
        ]
        print_table(("role", "pid", "health", "version", "restarts"), rows)
    if found["nodes"]:
        print()
        print_table(_NODE_HEADINGS, [_row(each) for each in found["nodes"]])
        for node in found["nodes"]:
            if why := node.get("unreachable"):
                print(safe(f"from here no call reaches the host of {node['node_id']}: {why}"))
    if backlog := found["backlog"]:
        print()
        print(_sentence(backlog))
    for name, check in found["ready"].get("checks", {}).items():
        if check["status"] != "ok":
            print(safe(f"{name}: {check['status']}: {check['reason']}"))


def _row(node: Mapping[str, Any]) -> tuple[object, ...]:
    host = node.get("host")
    state = "lost" if node["is_lost"] else "draining" if node["is_draining"] else "live"
    return (
        safe(node["node_id"]),
        safe(node["url"]),
        ",".join(node["roles"]),
        state,
        node["version"],
        f"{node['beat_age_seconds']:.1f} s ago",
        node["sessions"] if "brain" in node["roles"] else "-",
        node["leases"],
        f"{host['sandboxes']}/{host['capacity']}" if host else "-",
        safe(host["host_id"]) if host else "-",
    )


def _sentence(backlog: Mapping[str, Any]) -> str:
    """The oldest of those that any brain may take: who is held back is meant to wait. Its time counts from
    when it needed a brain first, also while it had one that died."""
    needing, waiting, leases = backlog["needing"], backlog["waiting"], backlog["leases"]
    wait = f" (the oldest has needed one for {backlog['oldest_wait_seconds']:.1f} s)" if waiting else ""
    return (
        f"{_counted(needing, 'session')} {'needs' if needing == 1 else 'need'} a brain;"
        f" {waiting} {'waits' if waiting == 1 else 'wait'} for one{wait}, {backlog['held_back']} held back"
        f" after failures. {_counted(backlog['inbox'], 'input')} not taken. {_counted(leases, 'lease')},"
        f" {backlog['leases_ended']} past their time."
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
