"""The images of a test as files without labels, for suspects that take files by hand."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from taggants.data.image_codec import encode_png
from taggants.data.source import read_for_models
from taggants.detection import Registration
from taggants.errors import InputError
from taggants.keys.query_order import query_order
from taggants.run import Run
from taggants.storage import Root
from taggants.storage.root import CLAIM_PATH
from taggants.storage.store import Attributes
from taggants.suspects.answers_table import IMAGE_COLUMN

TEMPLATE = "answers.csv"


def plain_covers(run: Run, registration: Registration) -> NDArray[np.uint8]:
    """Returns the registered covers without a key, uint8 [num_covers, channels, H, W]; num_covers is 0 without any."""
    channels, size = run.model_size
    question = registration.question
    if question is None or not question.cover_ids:
        return np.zeros((0, channels, size, size), dtype=np.uint8)
    return read_for_models(run.sources[1], list(question.cover_ids), run.config.data.image_size)


def query_batches(run: Run, registration: Registration) -> Iterator[NDArray[np.uint8]]:
    """Yields all images that a suspect is shown, in their order: the plain covers, if there are any, then key by key."""
    covers, question = plain_covers(run, registration), registration.question
    if len(covers):
        yield covers
    for key in run.keys.images:  # one at a time: memory
        yield key[None] if question is None else question.queries(key, covers)


def query_names(run: Run, registration: Registration) -> list[str]:
    """Returns the file name of each query in the order in which suspects are asked: the shuffle of `export_queries`."""
    question = registration.question
    num = len(run.keys.labels)
    if question is not None:
        num = len(question.cover_ids) + num * question.num_queries
    digits = max(4, len(str(num - 1)))
    names = [""] * num
    for place, query in enumerate(query_order(run.keys, num, registration.registration_sha256)):
        names[query] = f"query-{place:0{digits}d}.png"
    return names


def export_queries(run: Run, registration: Registration, destination: str) -> int:
    """Writes all images that a suspect is shown as PNG into a folder, and `answers.csv`, to be filled in and given to `verify`.

    The names are shuffled by the secret, no label is written, and only the owner may read the files (mode 0600, local only): they
    show the keys. A folder that holds the same already stays as it is.

    Args:
        destination: path or s3:// URI of a folder outside the run folder.

    Returns: the number of images.

    Raises:
        InputError: the folder holds other files, lies in the run folder, or the images of another run are being written there.
    """
    root = Root(destination)
    if f"{root.uri}/".startswith(f"{run.root.uri}/"):
        raise InputError(f"{root.uri} lies in the run folder, which is to stay private; give another folder")
    names = query_names(run, registration)
    others = set(root.list()) - {*names, TEMPLATE, CLAIM_PATH}
    if others:
        raise InputError(f"{root.uri} holds other files, such as {min(others)}; give an empty folder")
    num_labels = min(5, registration.num_classes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([IMAGE_COLUMN, *(f"label_{place}" for place in range(1, num_labels + 1))])
    writer.writerows([name] + [""] * num_labels for name in sorted(names))
    like = Attributes(modified_ns=time.time_ns())  # one for all: a resumed export would date the rest later
    covers = plain_covers(run, registration)
    with root.claimed(registration.registration_sha256):
        # By name: the order in which files were made shows in folders and archives, and would tell which are of one key.
        for name, query in sorted(zip(names, range(len(names)), strict=True)):
            _write(root, name, encode_png(_query(run, registration, covers, query)), like)
        if not root.exists(TEMPLATE):  # it may be filled in already
            _write(root, TEMPLATE, text.getvalue().encode(), like)
    return len(names)


def _query(run: Run, registration: Registration, covers: NDArray[np.uint8], query: int) -> NDArray[np.uint8]:
    """The image of a number in the order of `query_batches`, uint8 [channels, H, W]."""
    question = registration.question
    if question is None or query < len(covers):
        return np.asarray(run.keys.images[query] if question is None else covers[query])
    key, place = divmod(query - len(covers), question.num_queries)
    return question.query(place, run.keys.images[key], covers)


def _write(root: Root, path: str, data: bytes, like: Attributes) -> None:
    if not root.exists(path):
        with root.writing(path, private=True, like=like) as file:
            file.write(data)
    elif root.read_bytes(path) != data:
        raise InputError(f"{root.uri_of(path)} is of another run; give an empty folder")
