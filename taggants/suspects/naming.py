"""Names of suspects: certificates are filed under them."""

from __future__ import annotations

from pathlib import PurePosixPath


def name_from(spoken: str, sha256: str | None) -> str:
    """Returns a name of letters, digits and -_. that begins as `spoken` does, and ends with the hash, which keeps models of
    equally named files apart."""
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in spoken).strip(".")
    short = readable[:100] or "suspect"
    return short if sha256 is None else f"{short}-{sha256[:8]}"


def name_of_file(uri: str) -> str:
    """Returns what a file is called without its suffix; its folder's name for a `model.*`, which tells nothing."""
    path = PurePosixPath(uri)
    return path.parent.name if path.stem in ("model", "pytorch_model") else path.stem
