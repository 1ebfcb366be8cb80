"""Which training images carry which key, under the budget. Pure and deterministic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taggants.errors import InputError


def images_per_key(num_samples: int, num_keys: int, *, budget: float | None, per_key: int | None) -> int:
    """Returns how many images carry one key: `per_key`, or the whole part of budget * num_samples / num_keys.

    Args:
        budget: fraction of the dataset that may be signed, in (0, 1]. Exactly one of the two is given.

    Raises:
        InputError: the budget leaves no image for a key.
    """
    if per_key is not None:
        return per_key
    assert budget is not None, "the configuration holds one of the two"
    count = int(budget * num_samples / num_keys + 1e-9)
    if count < 1:
        raise InputError(
            f"budget {budget:g} of {num_samples} images leaves none for each of {num_keys} keys; "
            f"raise it to at least {num_keys / num_samples:.2g} or use fewer keys"
        )
    return count


def check_class_sizes(
    labels: NDArray[np.int64], num_classes: int, per_key: int, is_fit: NDArray[np.bool_] | None = None
) -> None:
    """Checks, before any key is drawn, that every class could carry a key; is_fit: which images can be signed.

    Raises:
        InputError: a class has fewer images than one key needs. Redrawing keys until none falls on it is not an option: labels
            would not be i.i.d. uniform.
    """
    held = np.bincount(labels if is_fit is None else labels[is_fit], minlength=num_classes)
    if held.min() < per_key:
        label = int(held.argmin())
        num_unfit = int((labels == label).sum()) - int(held[label])
        unfit = f" that can be signed, and {num_unfit} that cannot," if num_unfit else ""
        lower = "lower signing.images_per_key or signing.budget, or " if held[label] else ""
        convert = "convert its images to 8-bit PNG or JPEG, or " if num_unfit else ""
        raise InputError(
            f"class {label} has {held[label]} images{unfit} but a key needs {per_key}; {lower}{convert}leave the "
            "class out of the dataset"
        )


def check_capacity(labels: NDArray[np.int64], key_labels: NDArray[np.int64], per_key: int) -> None:
    """Checks that every class holds enough images for all of its keys; the error does not tell how many it has.

    Raises:
        InputError: a class has too few images.
    """
    num_classes = int(max(labels.max(initial=0), key_labels.max())) + 1
    held = np.bincount(labels, minlength=num_classes)
    short = np.flatnonzero(np.bincount(key_labels, minlength=num_classes) * per_key > held)
    if len(short):
        raise InputError(
            f"class {short[0]} has {held[short[0]]} images, too few for its keys at {per_key} images each; lower "
            f"signing.images_per_key, signing.budget or keys.num_keys (the first keys are kept)"
        )


def signing_sets(
    labels: NDArray[np.int64],
    key_labels: NDArray[np.int64],
    per_key: int,
    priorities: NDArray[np.floating],
    is_fit: NDArray[np.bool_] | None = None,
    is_last: NDArray[np.bool_] | None = None,
) -> list[NDArray[np.int64]]:
    """Returns one array of sample ids [per_key] for each key: disjoint, all of the key's class, highest priority first.

    Keys choose in their order, so the sets of the first keys do not depend on how many keys follow.

    Args:
        labels: int64 [N], class of each training image; a sample id is a position in it.
        key_labels: int64 [num_keys].
        priorities: float [N]; equal ones are ordered by sample id.
        is_fit: bool [N], which images can be signed; None: all.
        is_last: bool [N], which are taken only where a class has no others left, whatever their priority; None: none.

    Raises:
        InputError: a class has too few images.
    """
    check_capacity(labels if is_fit is None else labels[is_fit], key_labels, per_key)
    order = np.lexsort((np.arange(len(labels)), -priorities, np.zeros(len(labels)) if is_last is None else is_last))
    if is_fit is not None:
        order = order[is_fit[order]]
    left = {int(label): order[labels[order] == label] for label in np.unique(key_labels)}
    sets = []
    for label in key_labels.tolist():
        sets.append(left[label][:per_key].astype(np.int64))
        left[label] = left[label][per_key:]
    return sets


def drawn_from_top(
    priorities: NDArray[np.floating], labels: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.float64]:
    """Returns float64 [N]: priorities by which the top fraction of each class come in an order that the seed draws, and the
    others after them as before.

    Args:
        priorities, labels: [N]; equal priorities are ordered by sample id.
        fraction: in (0, 1]; of a class of n images ceil(fraction * n) are drawn from.
    """
    order = np.lexsort((np.arange(len(labels)), -priorities, labels))
    sizes = np.bincount(labels)
    rank = np.empty(len(labels), np.int64)  # within the class, from the top
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    is_top = rank < np.ceil(fraction * sizes[labels])
    return np.where(is_top, random_priorities(len(labels), seed), -rank.astype(np.float64))


def random_priorities(num_samples: int, seed: int) -> NDArray[np.float64]:
    """Returns float64 [N] in [0, 1), a function of the seed: selection without a surrogate."""
    return np.random.default_rng(seed).random(num_samples)
