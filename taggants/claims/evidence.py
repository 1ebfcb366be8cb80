"""The evidence in recorded answers about disclosed keys, compared with what a certificate holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from taggants.claims.disclosure import DisclosedKeys
from taggants.detection import Certificate, Evidence, Registration
from taggants.detection.outcome import LabelMap
from taggants.errors import InputError
from taggants.suspects.answers import Answers, is_kept, question_table
from taggants.suspects.label_maps import fitted_label_map, held_out_half

_ROOT_MEAN_SQUARE: Final = 256  # of a row of evidence


def check_evidence(
    certificate: Certificate, keys: DisclosedKeys, recorded: Sequence[Answers]
) -> tuple[bool | None, str]:
    """Returns whether the certificate's evidence about the disclosed keys is that in the recorded answers, and a sentence.

    None: the suspect was not asked about any of them, or knows the class of none.

    recorded: answers of the suspect, then of the registered references.

    Raises:
        InputError: the answers are not as many as were asked.
    """
    question = certificate.registration.question
    assert question is not None, "there are recorded answers"
    num_asked = len(certificate.ranks) + certificate.num_left_out
    num_images = len(question.cover_ids) + num_asked * question.num_queries
    if recorded[0].num_images != num_images:
        raise InputError(
            f"the suspect answered {recorded[0].num_images} images but {num_images} were asked by the certificate"
        )
    asked = keys.indices < num_asked
    indices, labels = keys.indices[asked], keys.labels[asked]
    kept = is_kept(labels, certificate.label_map)
    num_left_out = int(np.count_nonzero(~kept))
    is_all = len(indices) == num_asked
    if num_left_out > certificate.num_left_out or (is_all and num_left_out != certificate.num_left_out):
        return (
            False,
            f"num_left_out is {certificate.num_left_out} but {num_left_out} disclosed keys are of classes left out",
        )
    if not kept.any():
        return None, "the suspect was not asked about the disclosed keys, or knows the class of none"
    table = question_table(question, recorded[0], recorded[1:], certificate.label_map)
    own = (
        labels
        if certificate.label_map is None
        else np.searchsorted(np.array(certificate.label_map.known), labels[kept])
    )
    evidence = Evidence.of_table(table[indices[kept]], own)
    for place, index in enumerate(indices[kept].tolist()):
        if not _stands_at(certificate, evidence, place, index):
            return False, f"the answers about key {index} give another row or rank than the certificate holds"
    if is_all and evidence != certificate.evidence:
        return False, "the answers about all keys give other evidence than the certificate holds"
    if not _holds_rows(certificate, table):
        return False, "the answers about the other keys give other rows than the certificate holds"
    what = f"all {num_asked}" if is_all else f"{len(indices)} of {num_asked}"
    return (
        True,
        f"recomputed from the answers for {what} keys that were asked, by the registered question and references",
    )


def check_covers(certificate: Certificate, suspect: Answers, labels: NDArray[np.int64]) -> tuple[bool, str]:
    """Returns whether the plain covers were answered as the certificate says, and a sentence.

    labels: class of each cover, int64 [num_covers].

    Raises:
        InputError: a label map cannot be fitted to the answers, as the certificate says it was.
    """
    label_map, claimed, best = certificate.label_map, certificate.covers, suspect.best[: len(labels)]
    counted = np.ones(len(labels), dtype=np.bool_)
    if label_map is not None and label_map.kind == "fitted":  # those that a map is fitted on would agree anyway
        counted = held_out_half(labels)
        label_map = _fitted(certificate, best[~counted], labels[~counted])
    wanted = labels
    if label_map is not None:
        wanted = np.array([-2 if theirs is None else theirs for theirs in label_map.classes])[labels]
    counted &= wanted >= 0
    found = int(counted.sum()), int((best == wanted)[counted].sum())
    if claimed is None:
        text = f"covers is null but the answers say {found[1]} of {found[0]} right"
        return found[0] == 0, text if found[0] else "the suspect knows the class of no plain cover"
    if found != (claimed.num, claimed.num_right):
        return (
            False,
            f"covers are {claimed.num_right} of {claimed.num} right but the answers say {found[1]} of {found[0]}",
        )
    return True, f"{claimed.num_right} of {claimed.num} plain covers are answered with their class"


def check_label_map(
    certificate: Certificate, suspect: Answers, labels: NDArray[np.int64] | None
) -> tuple[bool | None, str]:
    """Returns whether the label map is one that was there before any key was asked, and a sentence; None: the files do not tell.

    labels: class of each cover, int64 [num_covers]; None where their dataset is missing.

    Raises:
        InputError: a label map cannot be fitted to the answers.
    """
    label_map = certificate.label_map
    assert label_map is not None, "there is one"
    if label_map.kind == "names":
        return None, "by names: compare it with the suspect's class names"
    if label_map.kind == "file":
        return None, "whoever tested gave it as a file: nothing shows that no answer about a key was known by then"
    if labels is None:
        return None, "it was fitted on the answers to plain covers, which shows with their dataset: --covers"
    if _fitted(certificate, suspect.best[: len(labels)], labels) != label_map:
        return False, "label_map is not the one that fits the answers to plain covers"
    return True, "label_map is the one that fits the answers to plain covers"


def check_same_answers(
    registration: Registration,
    label_map: LabelMap | None,
    recorded: Answers,
    again: Answers,
    indices: NDArray[np.int64],
) -> tuple[bool | None, str]:
    """Returns whether a model that was asked again about some keys says of them what was recorded, and a sentence.

    Compared are the rows of evidence without references, each of which depends on the answers about its key alone. Another
    processor moves the last digits of scores, and so a rank now and then: up to a tenth of a row's root mean square is allowed.
    None: it was not asked about any of these keys.

    Args:
        recorded: to the covers, then about all keys from the first on.
        again: to the covers, then about the keys in indices, rising.

    Raises:
        InputError: answers are not of whole keys.
    """
    question = registration.question
    assert question is not None, "there are recorded answers"
    before, now = (question_table(question, answers, [], label_map) for answers in (recorded, again))
    asked = indices < len(before)
    if not asked.any():
        return None, "it was not asked about the disclosed keys"
    differences = before[indices[asked]] - now[asked]
    apart = np.sqrt(np.mean(differences.astype(np.float64) ** 2, axis=1))
    if apart.max() > _ROOT_MEAN_SQUARE / 10:
        key = int(indices[asked][apart.argmax()])
        return False, f"asked again about key {key}, it answers otherwise than was recorded"
    return True, f"asked again about {int(asked.sum())} keys, it answers as was recorded"


def _fitted(certificate: Certificate, best: NDArray[np.int64], labels: NDArray[np.int64]) -> LabelMap:
    return fitted_label_map(best, labels, certificate.registration.num_classes)


def _holds_rows(certificate: Certificate, table: NDArray[np.int64]) -> bool:
    """Whether the certificate's rows are those of the answers, in their order, but for the keys left out: no label is needed."""
    rows = iter(map(tuple, np.sort(table, axis=1).tolist()))
    return all(row in rows for row in certificate.evidence.table or ())  # `in` goes on behind the last row found


def _stands_at(certificate: Certificate, evidence: Evidence, place: int, index: int) -> bool:
    """Whether a key's row and rank stand in the certificate where they can: it does not say which keys before it are left out."""
    table = certificate.evidence.table
    if table is None or evidence.table is None:
        return False
    candidates = range(max(0, index - certificate.num_left_out), min(index, len(table) - 1) + 1)
    row, rank = evidence.table[place], evidence.ranks[place]
    return any(table[at] == row and certificate.ranks[at] == rank for at in candidates)
