"""The command `taggants`. Nothing here imports a heavy library before the command line is parsed, so that help comes at once."""

from taggants.cli.main import main

__all__ = ["main"]
