"""Runs the Python blocks of pages: {"page": [block, ...]} on stdin, {"page": [output, ...]} on stdout.

A process of its own, so that what a reader's program leaves behind is no concern of the tests. The blocks
of a page share one namespace, as they do for a reader; the SDK is imported once.
"""

import contextlib
import io
import json
import sys
import traceback


def outputs(page: str, blocks: list[str]) -> list[str]:
    """What each block prints; a block that fails prints its traceback and is the last."""
    namespace: dict[str, object] = {"__name__": page}
    printed: list[str] = []
    for number, block in enumerate(blocks, 1):
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(block, f"{page}, block {number}", "exec"), namespace)
        except Exception:
            printed.append(out.getvalue() + traceback.format_exc())
            break
        printed.append(out.getvalue())
    return printed


if __name__ == "__main__":
    pages = json.load(sys.stdin)
    json.dump({page: outputs(page, blocks) for page, blocks in pages.items()}, sys.stdout)
