"""Secret keys: images and labels from a secret, and their private file."""

from taggants.keys.key_file import create_key_file, load_key_set
from taggants.keys.key_set import KeySet, KeySpec, derive_keys

__all__ = ["KeySet", "KeySpec", "create_key_file", "derive_keys", "load_key_set"]
