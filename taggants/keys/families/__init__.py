"""The families of key images, by name: one module defines each. The configuration and the derivation read the table."""

from typing import Final

from taggants.keys.families.block import BLOCK
from taggants.keys.families.family import KeyFamily, Parameter, TestVector
from taggants.keys.families.grating import GRATING
from taggants.keys.families.smooth import SMOOTH
from taggants.registry import Registry

__all__ = ["KEY_FAMILIES", "KeyFamily", "Parameter", "TestVector"]

KEY_FAMILIES: Final[Registry[KeyFamily]] = Registry("key family")
KEY_FAMILIES.register("block", BLOCK)
KEY_FAMILIES.register("smooth", SMOOTH)
KEY_FAMILIES.register("grating", GRATING)
