"""`taggants craft`, as a file for `ray job submit -- python jobs/craft.py`; --help explains it."""

import sys

from taggants.cli import main

if __name__ == "__main__":
    sys.exit(main(["craft", *sys.argv[1:]]))
