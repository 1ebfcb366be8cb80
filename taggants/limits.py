"""How large what people pass on may be: checked from headers, before memory or time is taken for it."""

from __future__ import annotations

from taggants.errors import InputError

MOST_PIXELS = 89_478_485
"""Of one image, as Pillow's own bound: 16k x 5.5k. Its RGB pixels take 270 MB."""
MOST_CLASSES = 1_000_000
"""Far beyond the 21,841 of ImageNet-21k: tables by label stay small."""
MOST_CANVAS_BYTES = 4 * 2**30
"""Of a signing set, whose images share a canvas as high as the highest and as wide as the widest."""
MOST_MEMBER_BYTES = 2**30
"""Of an image in a tar."""
MOST_TEXT_BYTES = 2**20
"""Of a label or an extended header in a tar."""
MOST_ANSWER_VALUES = 2**26
"""Of a file of recorded answers, 8 bytes each: 3,000 answers with scores of 21,841 classes. Reading them takes up to 2.4 GiB."""
MOST_WEIGHTS_BYTES = 32 * 2**30
"""Of a file of weights: of 8 billion parameters in float32. It is read into memory."""


def check_pixels(height: int, width: int, what: str = "the image") -> None:
    """Raises:
    InputError: an image of that size would take too much memory.
    """
    if height * width > MOST_PIXELS:
        raise InputError(f"{what} is {height} x {width} px; give images of up to {MOST_PIXELS} pixels.")


def check_label(label: int, place: str) -> None:
    """Raises:
    InputError: the label is negative or beyond `MOST_CLASSES`.
    """
    if not 0 <= label < MOST_CLASSES:
        raise InputError(f"{place} has the label {label!r:.40}; labels are integers from 0 to {MOST_CLASSES - 1}.")
