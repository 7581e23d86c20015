"""A picture of a command at work: runs it in a terminal of its own and draws what it shows as SVG.

    python -m scripts.picture docs/images/demo.svg -- .venv/bin/corral demo

The picture in the README is made by this, from a real run. Temporary paths are shortened.
"""

import io
import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 120
LINES_MAX = 100
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhln]|\x1b\][^\x07]*\x07|\r")  # all but colours


def run(command: list[str]) -> str:
    """What the command writes to its terminal, colours and all. Raises SystemExit if it fails."""
    chunks: list[bytes] = []

    def read(fd: int) -> bytes:
        data = os.read(fd, 4096)
        chunks.append(data)
        return data

    os.environ |= {"COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color"}
    os.environ.pop("NO_COLOR", None)
    if status := pty.spawn(command, read):
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return b"".join(chunks).decode(errors="replace")


def draw(output: str, *, title: str) -> str:
    """The SVG. A long run is cut in its middle, visibly."""
    text = Text.from_ansi(_CONTROL.sub("", output.replace("\r\n", "\n")).strip("\n"))
    lines = text.split("\n", allow_blank=True)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    half = LINES_MAX // 2
    for number, line in enumerate(lines):
        if len(lines) > LINES_MAX and half <= number < len(lines) - half:
            if number == half:
                console.print(Text(f"  ... {len(lines) - 2 * half} lines ...", style="dim"))
            continue
        console.print(line, soft_wrap=False)
    svg = console.export_svg(title=title)
    return re.sub(r"@font-face {.*?}\s*", "", svg, flags=re.DOTALL)  # they are fetched from elsewhere


def main() -> None:
    target, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        raise SystemExit(__doc__)
    shown = " ".join([Path(command[0]).name, *command[1:]])
    svg = draw(run(command), title=shown)
    svg = re.sub(r"/tmp/corral-(demo-)?[a-z0-9_]{8}", "/tmp/corral-demo", svg)  # noqa: S108
    Path(target).write_text(svg)


if __name__ == "__main__":
    main()
