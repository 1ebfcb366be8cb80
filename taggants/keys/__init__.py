"""Secret keys: images and labels from a secret, their private file, their public registration."""

from taggants.keys.key_file import create_key_file, load_key_set
from taggants.keys.key_set import KeySet, KeySpec, derive_keys
from taggants.keys.registration import Registration

__all__ = ["KeySet", "KeySpec", "Registration", "create_key_file", "derive_keys", "load_key_set"]
