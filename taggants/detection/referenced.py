"""The p-value of all key ranks against what clean models answer anyway.

A network with BatchNorm sees all noise keys as one far-away point, and answers them with the same few classes whether it was
trained on taggants or not: that a key label ranks high or low says as much of this habit as of the taggants. Clean models of its
kind show the habit. What the suspect ranks better than they do is what signing can have done.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from taggants.detection.evidence import Evidence
from taggants.detection.exact import exact_p_value
from taggants.detection.question import answer_values
from taggants.detection.ranks import key_ranks
from taggants.errors import InputError


def referenced_p_value(scores: ArrayLike, labels: ArrayLike, references: Sequence[ArrayLike]) -> float:
    """One-sided p-value of the sum over keys of s(rank of the label) minus its mean over the references, with the rank
    statistic's s(r) = floor(64 ln(r) + 1/2); small when the suspect ranks the labels better than the references do.

    Null: neither the suspect nor the references depend on the key labels, which were drawn i.i.d. uniform over the classes.
    Given all answers, the sum is then one of independent draws from each key's own table of C values, whatever the models
    and key images are, and its distribution is the convolution of the tables: exact, with ties and for answers that
    are equal for all keys. A key on which the suspect ranks all classes alike counts for nothing: else the references alone
    would decide.

    References must be chosen without regard to the key labels and committed to with the statistic: picked by how they
    rank the labels, they void the p-value.

    Args:
        scores: real [num_keys, num_classes], the suspect's, larger is likelier; NaN in a row counts as all alike.
        labels: int [num_keys] in 0..num_classes-1.
        references: tables like `scores`, of clean models on the same key images, at least one.

    Returns:
        P(sum_null <= sum), in [1e-300, 1]; the floor is an upper bound of smaller values.

    Raises:
        InputError: a shape, type or label is wrong, there are more than 1,000,000 classes, or there is no reference.
    """
    if len(references) == 0:
        raise InputError("references holds no table but must hold the answers of at least one clean model.")
    key_ranks(scores, labels)  # checks both
    num_classes = np.shape(scores)[1]
    suspect, *others = (answer_values(table, None, num_classes, num_classes)[0] for table in (scores, *references))
    values = len(others) * suspect
    for other in others:
        if other.shape != suspect.shape:
            raise InputError(
                f"a reference has values of shape {other.shape} but the suspect's have {suspect.shape}: ask both the same keys."
            )
        values = values - other
    values[np.ptp(suspect, axis=1) == 0] = 0
    evidence = Evidence.of_table(values, labels)
    return exact_p_value(np.array(evidence.table), evidence.positions)
