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
    ]
    if not config.anthropic_api_key:
        lines += [
            "",
            "  There is no model key, so claude-* models do not answer. Start again after",
            "    export CORRAL_ANTHROPIC_API_KEY=...",
            f"  or use the model `local`: {corral} models install local",
        ]
    return "\n".join([*lines, "", "  Sandboxes have no network yet, whatever an environment asks for.", ""])


def ready_json(url: str, api_key: Secret | None) -> str:
    return json.dumps({"url": url, "api_key": api_key.reveal() if api_key else None, "pid": os.getpid()})
