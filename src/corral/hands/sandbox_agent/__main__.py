"""Entry points: no argument serves tool calls; `import` unpacks an archive; `registries` says where package
managers fetch from."""

import sys

if sys.argv[1:2] == ["import"]:
    from .archive import main as unpack

    unpack(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:6])
elif sys.argv[1:2] == ["registries"]:
    from .registries import main as name_registries

    name_registries()
else:
    from .loop import main as serve

    serve()
