"""From a suspect's answers on the key images to the ranks of the key labels. Doubt counts against the owner."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.errors import InputError


def key_ranks(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Rank of each key label among the suspect's scores: the number of classes whose score is at least the label's.

    Ties count against the owner, as does a row with a NaN, which gets the worst rank C.

    Args:
        scores: real [num_keys, num_classes], larger is likelier; any scale, for ranks ignore it.
        labels: int [num_keys] in 0..num_classes-1.

    Returns:
        int64 [num_keys] in 1..num_classes; 1 is the best.

    Raises:
        InputError: a shape, type or label is wrong.
    """
    table = _check_scores(scores)
    num_keys, num_classes = table.shape
    checked = _check_labels(labels, num_keys, num_classes)
    own = np.take_along_axis(table, checked[:, None], axis=1)  # [num_keys, 1]
    ranks = np.count_nonzero(table >= own, axis=1)
    unusable = np.isnan(table).any(axis=1)
    return np.where(unusable, np.int64(num_classes), ranks.astype(np.int64))


def key_ranks_from_top(top_labels: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Rank of each key label in the suspect's list of best labels: its position from 1, or the worst rank C if absent.

    Args:
        top_labels: int [num_keys, m] in 0..num_classes-1, best first, no label twice in a row; 1 <= m <= num_classes.
        labels: int [num_keys] in 0..num_classes-1.
        num_classes: number of classes C that the key labels were drawn from.

    Returns:
        int64 [num_keys] in 1..num_classes.

    Raises:
        InputError: a shape, type or label is wrong, or a row names a label twice.
    """
    table = np.asarray(top_labels)
    if table.ndim != 2 or table.shape[0] < 1 or not 1 <= table.shape[1] <= num_classes or table.dtype.kind not in "iu":
        raise InputError(
            f"top_labels has shape {table.shape} and type {table.dtype} but must be integers [num_keys, m] with at "
            f"least 1 key and m in 1..{num_classes}."
        )
    _check_range("top_labels", table, num_classes)
    ordered = np.sort(table, axis=1)
    twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if twice.size:
        raise InputError(f"top_labels names a label twice in row {twice[0]}: give each label at most once per key.")
    checked = _check_labels(labels, table.shape[0], num_classes)
    found = table == checked[:, None]
    ranks = np.where(found.any(axis=1), found.argmax(axis=1) + 1, num_classes)
    return ranks.astype(np.int64)


def class_ranks(scores: ArrayLike) -> NDArray[np.int64]:
    """Rank of every class in every row of scores, as `key_ranks` gives it for one class.

    scores: real [num_rows, num_classes], larger is likelier.

    Returns:
        int64 [num_rows, num_classes] in 1..num_classes.

    Raises:
        InputError: a shape or type is wrong.
    """
    table = _check_scores(scores)
    ranks = np.empty(table.shape, dtype=np.int64)
    for row, own in zip(ranks, table, strict=True):
        row[:] = table.shape[1] - np.searchsorted(np.sort(own), own, side="left")
    ranks[np.isnan(table).any(axis=1)] = table.shape[1]
    return ranks


def _check_scores(scores: ArrayLike) -> NDArray[Any]:
    table = np.asarray(scores)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2 or table.dtype.kind not in "fiu":
        raise InputError(
            f"scores has shape {table.shape} and type {table.dtype} but must be real numbers [num_keys, num_classes] "
            "with at least 1 key and 2 classes."
        )
    return table


def _check_labels(labels: ArrayLike, num_keys: int, num_classes: int) -> NDArray[np.int64]:
    checked = np.asarray(labels)
    if checked.shape != (num_keys,) or checked.dtype.kind not in "iu":
        raise InputError(
            f"labels has shape {checked.shape} and type {checked.dtype} but must be integers of shape ({num_keys},), "
            "one a key."
        )
    _check_range("labels", checked, num_classes)
    return checked.astype(np.int64)


def _check_range(name: str, values: NDArray[Any], num_classes: int) -> None:
    # The labels of the keys are secret, so the text names the range but not the value.
    if values.min() < 0 or values.max() >= num_classes:
        raise InputError(f"{name} holds a value outside 0..{num_classes - 1}: use the dataset's class numbers.")
