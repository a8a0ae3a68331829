"""python -m fastconv: the same as the console script."""

from fastconv.cli import console

if __name__ == "__main__":
    console()
