"""python -m fastconv: the same as the console script."""

import sys

from fastconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
