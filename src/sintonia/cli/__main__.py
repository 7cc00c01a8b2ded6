"""``python -m sintonia.cli``: the same as ``sintonia``."""

import sys

from sintonia.cli import main

if __name__ == "__main__":
    sys.exit(main())
