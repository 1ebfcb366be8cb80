"""`taggants export`, as a file for `ray job submit -- python jobs/export.py`; --help explains it."""

import sys

from taggants.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
