"""The one way to files: bytes, JSON and Parquet under a root that is a local folder or an S3 prefix.

Nothing else in the project opens a file. What is written appears whole or not at all: readers see the old bytes or the
new ones. Credentials and endpoint come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...) where a root is
used, so that a pickled root holds nothing secret. While S3 does not answer, a call waits for about a minute, then raises an
OSError (a ConnectionError, but for the reading of an open file).
"""

from __future__ import annotations

from taggants.storage.encoding import damage_named, encode_json, encode_table
from taggants.storage.root import Root
from taggants.storage.store import Attributes

__all__ = ["Attributes", "Root", "damage_named", "encode_json", "encode_table"]
