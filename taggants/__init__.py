"""Data Taggants at scale: sign an image dataset so that models trained on it can be recognised from outside.

    run = taggants.sign(dataset, root="runs", keys="secrets")
    certificate = taggants.verify(run, predict)
    signed = run.dataset()

What `__all__` names is the public interface, each with its documentation; everything else may change with any version.
Importing the package loads none of what the names need: they are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taggants.api import sign as sign
    from taggants.api import verify as verify
    from taggants.detection import Certificate as Certificate
    from taggants.detection import Registration as Registration
    from taggants.errors import InputError as InputError
    from taggants.run import Run as Run
    from taggants.suspects import Suspect as Suspect

__version__ = "0.1.0"

_HOMES = {
    "Certificate": "taggants.detection",
    "InputError": "taggants.errors",
    "Registration": "taggants.detection",
    "Run": "taggants.run",
    "Suspect": "taggants.suspects",
    "sign": "taggants.api",
    "verify": "taggants.api",
}

__all__ = ["Certificate", "InputError", "Registration", "Run", "Suspect", "__version__", "sign", "verify"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'taggants' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
