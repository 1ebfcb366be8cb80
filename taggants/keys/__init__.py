"""Secret keys: images and labels from a secret, and their private file."""

from taggants.keys.key_file import create_key_file, load_key_set
from taggants.keys.key_set import KeySet, KeySpec, derive_keys, key_leaf
from taggants.keys.numbering import registration_number
from taggants.keys.randomness import Randomness

__all__ = [
    "KeySet",
    "KeySpec",
    "Randomness",
    "create_key_file",
    "derive_keys",
    "key_leaf",
    "load_key_set",
    "registration_number",
]
