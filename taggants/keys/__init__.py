"""Secret keys: images and labels from a secret, and their private file."""

from taggants.keys.choice import Choice, farthest_points
from taggants.keys.commitment import KeysCommitment
from taggants.keys.key_file import commit_to_keys, create_key_file, draw_labels, load_key_set, load_secret
from taggants.keys.key_set import KeySet, KeySpec, derive_keys, key_leaf
from taggants.keys.numbering import registration_number
from taggants.keys.randomness import Randomness

__all__ = [
    "Choice",
    "KeySet",
    "KeySpec",
    "KeysCommitment",
    "Randomness",
    "commit_to_keys",
    "create_key_file",
    "derive_keys",
    "draw_labels",
    "farthest_points",
    "key_leaf",
    "load_key_set",
    "load_secret",
    "registration_number",
]
