"""Runs a program where Ray and boto3 cannot be imported, as on a machine that has neither.

python benchmarks/without_ray.py benchmarks/gpu.py --toy
python benchmarks/without_ray.py -m taggants.cli demo
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

BLOCKED = ("ray", "boto3", "botocore")


class Blocker(MetaPathFinder):
    """Asked before all other finders."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname.partition(".")[0] in BLOCKED:
            raise ImportError(f"{fullname} is blocked from import")
        return None


def main() -> None:
    sys.meta_path.insert(0, Blocker())
    sys.path[0] = ""  # the folder that it runs in, not the one of this file
    if sys.argv[1] == "-m":
        del sys.argv[:2]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        del sys.argv[0]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
