"""`python -m taggants`, the same as the command `taggants`."""

import sys

from taggants.cli import main

if __name__ == "__main__":
    sys.exit(main())
