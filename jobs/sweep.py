"""`taggants sweep`, as a file for `ray job submit -- python jobs/sweep.py`; --help explains it."""

import sys

from taggants.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
