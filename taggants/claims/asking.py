"""Asking a suspect once more, by somebody who has the disclosed keys and the dataset of the covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taggants.data import open_source
from taggants.data.inspection import inspect_dataset
from taggants.data.source import read_for_models
from taggants.detection import Registration
from taggants.detection.question import balanced_covers
from taggants.errors import InputError
from taggants.storage import Root
from taggants.suspects import Answers, Owner, open_suspect
from taggants.suspects.one_by_one import rows_of_table, table_of_rows


def read_covers(uri: str, registration: Registration) -> tuple[NDArray[np.uint8], NDArray[np.int64], bool]:
    """Returns the registered covers, uint8 [num_covers, channels, H, W], their classes, int64 [num_covers], and whether they are
    the first images of each class, as `balanced_covers` takes them: else somebody chose them.

    uri: the dataset that they are rows of, a folder or one file, local or on S3.

    Raises:
        InputError: neither split of that dataset is the registered one.
    """
    question, shape = registration.question, registration.image_shape
    if question is None or shape is None or not question.cover_ids:
        raise InputError("the registration asks no covers; leave --covers out")
    found = inspect_dataset(uri)
    columns = {"image_column": found.image_column, "label_column": found.label_column}
    for split in dict.fromkeys(name for name in (found.test, found.train) if name is not None):
        source = open_source(found.layout, Root(found.root), split, channels=shape[0], **columns)
        if source.index().fingerprint == question.covers_fingerprint:
            rows = list(question.cover_ids)
            images = read_for_models(source, rows[:1], None)
            size = None if images.shape[1:] == shape else shape[1]
            by_rule = balanced_covers(source.labels(), len(rows), registration.num_classes) == question.cover_ids
            return read_for_models(source, rows, size), source.labels()[rows], by_rule
    raise InputError(f"{uri} is not the dataset of the registered covers: no split has their covers_fingerprint")


def ask(
    named: str, covers: NDArray[np.uint8] | None, registration: Registration, keys: NDArray[np.uint8]
) -> tuple[str | None, Answers]:
    """Returns the SHA-256 of what is known of a suspect, and its answers: to plain covers, then to the queries of each key.

    Args:
        named: the suspect, as `taggants verify` takes it.
        covers: as of `read_covers`; None where the registration asks none.
        keys: images, uint8 [n, channels, H, W].

    Raises:
        InputError: it cannot be opened, answers in no known form, or the registered covers are missing.
    """
    channels, height, width = keys.shape[1:]
    suspect = open_suspect(named, Owner(registration.num_classes, (channels, height, width), registration.class_names))
    question = registration.question
    if question is None:
        given = np.asarray(suspect.answers(keys))
        return suspect.sha256, Answers.of(given, len(keys), suspect.num_classes)
    if covers is None and question.cover_ids:
        raise InputError("the question lays keys over covers: give their dataset with --covers")
    plain = np.zeros((0, channels, height, width), dtype=np.uint8) if covers is None else covers
    parts = [np.asarray(suspect.answers(plain))] if len(plain) else []
    parts += [np.asarray(suspect.answers(question.queries(key, plain))) for key in keys]
    table = table_of_rows([row for part in parts for row in rows_of_table(part)])  # lists may have several lengths
    return suspect.sha256, Answers.of(table, len(table), suspect.num_classes)
