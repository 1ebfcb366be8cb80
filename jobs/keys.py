"""`taggants keys`, as a file for `ray job submit -- python jobs/keys.py`; --help explains it."""

import sys

from taggants.cli import main

if __name__ == "__main__":
    sys.exit(main(["keys", *sys.argv[1:]]))
