"""`corral serve`: resolve the settings, then become the supervisor.

By exec, so that the supervisor carries neither our imports nor our environment; the settings follow in an
anonymous file on its standard input.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from typing import NoReturn

from corral.config import Config
from corral.process import end_with_parent
from corral.supervisor.child import child_environment

__all__ = ["serve"]


def serve(config: Config, *, as_json: bool, is_embedded: bool = False) -> NoReturn:
    """Does not return. `is_embedded`: stop when the process that started us ends, however it ends."""
    if is_embedded:
        end_with_parent(signal.SIGTERM)
        config = replace(config, user=None, egress_user=None)  # it is a part of the command, as we are
    settings = os.memfd_create("corral-settings")
    os.write(settings, json.dumps(config.to_json(), default=str).encode() + b"\n")
    os.lseek(settings, 0, os.SEEK_SET)
    os.dup2(settings, 0)
    arguments = [sys.executable, "-m", "corral.supervisor", *(["--json"] if as_json else [])]
    os.execve(sys.executable, arguments, child_environment(None, os.environ))  # noqa: S606  that is the point
