"""A test that may be looked at after every key, and stopped at any time: e-values instead of one p-value.

Under the null an e-value has mean at most 1, and so has the product of those of further keys given the earlier ones. Whatever
decides when to stop, the product ever reaches 1 / alpha with probability at most alpha (Ville; Ramdas, Grünwald, Vovk and Shafer,
"Game-theoretic statistics and safe anytime-valid inference", 2023).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.errors import InputError

TILTS: Final = (0.25, 0.5, 1.0, 2.0)  # of weak to strong evidence; the product is their mean, decided before any label


def running_e_values(table: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Returns the logarithm of the e-value after each key: float64 [num_keys].

    A key's row of evidence is standardised to z (large where the suspect favours a class), and its factor at a tilt t is
    exp(t z[label]) divided by the mean of exp(t z) over the classes: its mean over uniform labels is 1, whatever the row is.
    The e-value is the mean over `TILTS` of the products over keys. A row of equal values has the factor 1.

    Null: as of `exact_p_value`: the table does not depend on the labels, which were drawn i.i.d. uniform.

    Args:
        table: real [num_keys, num_classes], small where the suspect favours a class, in the order in which keys are asked.
        labels: int [num_keys] in 0..num_classes-1, or [num_draws, num_keys] for many draws of labels at once.

    Returns:
        In the shape of `labels`. exp of an entry is the e-value of the keys up to it; exp(-max(0, largest entry)) is a p-value
        that holds at any stopping time.

    Raises:
        InputError: a shape or type is wrong, or a label or value is out of its range.
    """
    rows, columns = np.asarray(table, dtype=np.float64), np.asarray(labels)
    if rows.ndim != 2 or rows.shape[1] < 2 or not np.isfinite(rows).all():
        raise InputError(f"table has shape {rows.shape} but must be finite numbers [num_keys, num_classes].")
    if columns.ndim not in (1, 2) or columns.shape[-1] != len(rows) or columns.dtype.kind not in "iu":
        raise InputError(f"labels has shape {columns.shape} but must be integers, one for each of {len(rows)} keys.")
    if columns.size and not (columns.min() >= 0 and columns.max() < rows.shape[1]):
        raise InputError(f"labels holds a value outside 0..{rows.shape[1] - 1}.")
    spread = rows.std(axis=1, keepdims=True)
    favour = (rows.mean(axis=1, keepdims=True) - rows) / np.where(spread > 0, spread, 1)
    products = []
    for tilt in TILTS:
        log_factor = tilt * favour - np.log(np.exp(tilt * favour).mean(axis=1, keepdims=True))
        products.append(np.cumsum(log_factor[np.arange(len(rows)), columns], axis=-1))
    running: NDArray[np.float64] = np.logaddexp.reduce(products, axis=0) - np.log(len(TILTS))
    return running
