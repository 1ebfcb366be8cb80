"""`taggants harm`, as a file for `ray job submit -- python jobs/harm.py`; --help explains it."""

import sys

from taggants.cli import main

if __name__ == "__main__":
    sys.exit(main(["harm", *sys.argv[1:]]))
