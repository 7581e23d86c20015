"""`python -m corral.supervisor [--json]`: the settings come as one line of JSON on standard input.

`corral serve` becomes this process (exec), so that it carries neither the command line's imports nor the
environment in which a model key may lie.
"""

import json
import os
import sys

from corral.config import Config, Secret
from corral.kernel.errors import CallerError, CorralError
from corral.process import harden
from corral.supervisor.child import Command, our_program
from corral.supervisor.datadir import lock_data_dir
from corral.supervisor.supervise import CannotServe, Supervisor


def main(command: Command = our_program) -> int:
    harden()
    config = Config.from_json(json.loads(sys.stdin.readline()))
    show = _show_json if "--json" in sys.argv[1:] else _show
    try:
        with lock_data_dir(config.data_dir) as lock_fd:
            Supervisor(config, lock_fd=lock_fd, command=command, on_ready=show).run()
    except CallerError as error:
        print(f"corral serve: {error.message}", file=sys.stderr)
        return 2
    except CannotServe as error:
        print(f"corral serve: {error}", file=sys.stderr)
        return 1
    except CorralError as error:
        print(f"corral serve: {error}", file=sys.stderr)
        return 1
    return 0


def _show(url: str, api_key: Secret | None) -> None:
    key = api_key.reveal() if api_key else "<your key>"
    lines = [
        f"Corral is ready on {url}",
        "",
        "  Point any Managed Agents client at it:",
        f"    export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={key}",
        "  This key was made now and is shown once." if api_key else "  Another key: corral keys create",
        '  Or talk to an agent here: corral run "what is in this directory?" --workspace .',
        "  Sandboxes have no network yet, whatever an environment asks for.",
        "",
    ]
    print("\n".join(lines), flush=True)


def _show_json(url: str, api_key: Secret | None) -> None:
    ready = {"url": url, "api_key": api_key.reveal() if api_key else None, "pid": os.getpid()}
    print(json.dumps(ready), flush=True)


if __name__ == "__main__":
    sys.exit(main())
