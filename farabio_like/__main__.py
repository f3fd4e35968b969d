"""``python -m farabio_like`` is the command ``farabio-like``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
