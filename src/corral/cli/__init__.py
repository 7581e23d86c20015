"""The command line: `corral serve | run | demo | doctor | status | sessions | keys | models`.

It talks to a server through the public HTTP API only, as any other client would (the demo's verification
and the doctor also boot a sandbox of their own). What a user got wrong is one line on standard error, never
a traceback.

Exit codes: 0 done; 1 it ran and failed; 2 wrong usage or setting; 3 no server, or it refused the key;
4 the agent waits for an answer that nobody can give here; 5 detached, the agent goes on; 130 interrupted.

Everything heavy is imported when a command needs it: `corral --help` answers at once.
"""

from corral.cli.main import main

__all__ = ["main"]
