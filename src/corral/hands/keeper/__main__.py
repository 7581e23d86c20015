"""Entry point."""

import sys

from .keep import main

sys.exit(main(int(sys.argv[1])))
