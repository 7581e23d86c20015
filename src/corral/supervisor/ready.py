"""What a user reads once everything serves: where it is, how to use it from here, what it lacks."""

import contextlib
import json
import os
import shlex
import sys
from pathlib import Path

from corral.config import Config, Secret, default_data_dir

__all__ = ["our_command", "ready_json", "ready_text"]


def our_command() -> str:
    """`corral` as it can be typed here: it may not be on the PATH, as in a clone with a .venv."""
    ours = Path(sys.prefix) / "bin" / "corral"
    candidates = [Path(directory) / "corral" for directory in os.get_exec_path()]
    meant = next((path for path in candidates if os.access(path, os.X_OK)), None)  # by the bare name
    if not ours.exists() or (meant and meant.samefile(ours)):
        return "corral"
    with contextlib.suppress(OSError, ValueError):  # our directory is gone, or is not above it
        here = ours.relative_to(Path.cwd())
        ours = here if len(here.parts) > 1 else ours  # a bare name would be looked for on the PATH
    return shlex.quote(str(ours))


def ready_text(config: Config, url: str, api_key: Secret | None) -> str:
    """`api_key`: the one made at this start, which is shown once."""
    corral = our_command()
    is_default = config.data_dir == default_data_dir(os.environ)
    option = "" if is_default else f" --data-dir {shlex.quote(str(config.data_dir))}"
    if "api" not in config.roles:
        return _without_api(config, url, f"{corral} status{option}")
    model = "" if config.anthropic_api_key else " --model local"
    lines = [
        f"Corral is ready on {url}",
        "",
        "  Point any Managed Agents client at it:",
        f"    export ANTHROPIC_BASE_URL={url}",
        f"    export ANTHROPIC_API_KEY={api_key.reveal() if api_key else 'corral_...'}",
        "  This key was made now and is shown once."
        if api_key
        else f"  Another key: {corral} keys create{option}",
        "",
        "  Or talk to an agent here:",
        f'    {corral} run "what is in this directory?" --workspace .{model}{option}',
        "",
        f"  Every endpoint, to read and to try in a browser: {url}/corral/v1/docs",
    ]
    if config.is_postgres and config.blob_url is None:
        lines += [
            "",
            f"  Files are kept on this machine alone, in {config.data_dir / 'blobs'}.",
            "  Before a second node starts, set CORRAL_BLOB_URL=s3://bucket/prefix on both,",
            "  or file:///directory that they share.",
        ]
    if not config.anthropic_api_key:
        lines += [
            "",
            "  There is no model key, so claude-* models do not answer. Start again after",
            "    export CORRAL_ANTHROPIC_API_KEY=...",
            f"  or use the model `local`: {corral} models install local",
        ]
    if config.sandbox == "landlock":
        lines += ["", "  Sandboxes of landlock have no network, whatever an environment asks for."]
    else:
        lines += [
            "",
            "  Sandboxes reach public hosts as far as their environment lets them. Which they did:",
            f"    {corral} audit list{option}",
        ]
    return "\n".join([*lines, ""])


def _without_api(config: Config, url: str, status: str) -> str:
    """What a node says that answers no client."""
    lines = [
        f"Corral is ready on {url}, as a node with the {_roles(config)}",
        "",
        "  This node has no API: clients, `corral run` and `corral keys` go to one that has.",
        "  Which nodes there are, and where:",
        f"    {status}",
    ]
    return "\n".join([*lines, ""])


def _roles(config: Config) -> str:
    return f"role{'' if len(config.roles) == 1 else 's'} {' and '.join(config.roles)}"


def ready_json(config: Config, url: str, api_key: Secret | None) -> str:
    facts = {"url": url, "roles": list(config.roles), "api_key": api_key.reveal() if api_key else None}
    return json.dumps({**facts, "pid": os.getpid()})
