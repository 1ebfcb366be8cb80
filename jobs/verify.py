"""`taggants verify`, as a file for `ray job submit -- python jobs/verify.py`; --help explains it."""

import sys

from taggants.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
