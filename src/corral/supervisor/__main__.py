"""`python -m corral.supervisor [--json]`: the settings come as one line of JSON on standard input.

`corral serve` becomes this process (exec), so that it carries neither the command line's imports nor the
environment in which a model key may lie.
"""

import json
import os
import sys

from corral.config import Config, Secret
from corral.kernel.errors import CallerError, CorralError
from corral.kernel.limits import CHILD_SILENT_SECONDS
from corral.process import harden, raise_open_files
from corral.supervisor.child import Command, our_program
from corral.supervisor.datadir import lock_data_dir
from corral.supervisor.listen import listen
from corral.supervisor.ready import ready_json, ready_text
from corral.supervisor.supervise import CannotServe, Supervisor
from corral.supervisor.takeover import take_over
from corral.supervisor.users import Users


def main(command: Command = our_program, *, silent_seconds: float = CHILD_SILENT_SECONDS) -> int:
    harden()
    raise_open_files()
    config = Config.from_json(json.loads(sys.stdin.readline()))
    is_json = "--json" in sys.argv[1:]

    def show(url: str, api_key: Secret | None) -> None:
        print(ready_json(config, url, api_key) if is_json else ready_text(config, url, api_key), flush=True)

    try:
        users = Users.of(config)
        users.refuse_unreachable(config)
        # If there is a lock we wait for its holder, who has the port as well. A directory that cannot be
        # looked into makes Path.exists raise; what is wrong with it is said where it is made.
        if not os.path.exists(config.data_dir / "lock"):  # noqa: PTH110
            listen(config).close()  # a refused start makes no data directory
        take_over(config.data_dir, users)
        users.step_down()
        with lock_data_dir(config.data_dir) as lock_fd:
            Supervisor(
                config,
                lock_fd=lock_fd,
                users=users,
                command=command,
                on_ready=show,
                silent_seconds=silent_seconds,
            ).run()
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


if __name__ == "__main__":
    sys.exit(main())
