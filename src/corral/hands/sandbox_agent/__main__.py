"""Entry points: no argument serves tool calls; `import` unpacks an archive."""

import sys

if sys.argv[1:2] == ["import"]:
    from .archive import main as unpack

    unpack(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:6])
else:
    from .loop import main as serve

    serve()
