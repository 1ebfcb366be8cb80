"""`taggants train`, as a file for `ray job submit -- python jobs/train.py`; --help explains it."""

import sys

from taggants.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
