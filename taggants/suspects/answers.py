"""The protocol of suspects, and what they may answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.detection import Evidence, Registration, key_ranks
from taggants.detection.outcome import LabelMap
from taggants.detection.question import REFUSED, Question, answer_values
from taggants.errors import InputError


class Suspect(Protocol):
    """A model under test, asked only for what it says of given images.

    Attributes:
        name: for the certificate and its file, of letters, digits and -_. only.
        sha256: of what is known of it, such as its weights, 64 hex digits; None behind an API.
        num_classes: number of classes that it answers with.
        class_names: of its classes in order, where they are known.

    A suspect may have an `identity`, a text that is another one whenever its answers may be: they are kept under it, so that
    it is not asked again after a crash, or in a test that is repeated.
    """

    name: str
    sha256: str | None
    num_classes: int
    class_names: tuple[str, ...] | None

    def answers(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Returns what it says of uint8 images [N, channels, H, W], in one of three forms.

        Real numbers that are not integers: scores [N, num_classes], larger is likelier. Integers: the best m labels in
        order [N, m], best first, or one label [N]. -1 fills the end of a shorter list; a row of -1: it refused to answer, as does
        one of scores with NaN. `Answers` checks them.
        """
        ...


@dataclass(frozen=True, eq=False)
class Answers:
    """Checked answers to N images: scores float [N, num_classes], or labels int [N, m], best first; the other is None."""

    num_classes: int
    scores: NDArray[np.floating] | None
    labels: NDArray[np.integer] | None

    @classmethod
    def of(cls, given: ArrayLike, num_images: int, num_classes: int) -> Answers:
        """Returns the answers in what a suspect gave, by the forms of `Suspect.answers`.

        Raises:
            InputError: another type or shape, too few or too many columns of scores, or a label that is no class, stands twice in
                a row or behind an empty place.
        """
        table = np.asarray(given)
        forms = (
            f"real scores [{num_images}, {num_classes}], integer labels [{num_images}, m], best first, or one integer label "
            f"for each image [{num_images}]"
        )
        if table.dtype.kind not in "fiu" or table.ndim not in (1, 2) or len(table) != num_images:
            raise InputError(f"answers of shape {table.shape} and type {table.dtype} must be {forms}")
        if table.dtype.kind == "f":
            if table.shape != (num_images, num_classes):
                raise InputError(
                    f"scores of shape {table.shape} must be [{num_images}, {num_classes}], one column for each class; answer "
                    "with all classes, in the dataset's order"
                )
            return cls(num_classes, table, None)
        labels = table[:, None] if table.ndim == 1 else table
        is_empty = labels == REFUSED
        named = labels[~is_empty]
        if named.size and not 0 <= named.min() <= named.max() < num_classes:
            raise InputError(
                f"integers are labels and must be 0 to {num_classes - 1}, not {named.min()} to {named.max()}; return scores "
                "as floats, or the dataset's class numbers"
            )
        if not 1 <= labels.shape[1] <= num_classes:
            raise InputError(
                f"answers of shape {table.shape} and type {table.dtype} must be {forms} with m in 1..{num_classes}"
            )
        if (is_empty[:, :-1] & ~is_empty[:, 1:]).any():
            raise InputError(
                "a list of labels has an empty place (-1) before a label; fill up shorter lists at their end"
            )
        ordered = np.sort(labels, axis=1)
        twice = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != REFUSED)).any(axis=1))
        if twice.size:
            raise InputError(f"labels name a class twice in row {twice[0]}: give each at most once for an image")
        return cls(num_classes, None, labels)

    def check_usable(self) -> None:
        """Raises InputError where every answer is refused or holds NaN: there is nothing to judge."""
        if self.num_unusable == self.num_images:
            what = "is a refusal" if self.scores is None else "holds NaN"
            raise InputError(f"every answer {what}, which says nothing of the suspect; check how it is asked")

    @property
    def num_images(self) -> int:
        table = self.labels if self.scores is None else self.scores
        assert table is not None, "one of the two is there"
        return len(table)

    @property
    def num_unusable(self) -> int:
        """Number of images whose scores hold NaN, or whose answer was refused; they get the worst rank."""
        return int(self._unusable.sum())

    @property
    def best(self) -> NDArray[np.int64]:
        """The best class of each image, int64 [N]; REFUSED where there is none."""
        if self.scores is not None:
            return np.where(self._unusable, REFUSED, np.nan_to_num(self.scores, nan=0.0).argmax(axis=1))
        assert self.labels is not None, "one of the two is there"
        return self.labels[:, 0].astype(np.int64)

    @property
    def _unusable(self) -> NDArray[np.bool_]:
        if self.scores is not None:
            with_nan: NDArray[np.bool_] = np.isnan(self.scores).any(axis=1)
            return with_nan
        assert self.labels is not None, "one of the two is there"
        unusable: NDArray[np.bool_] = (self.labels == REFUSED).all(axis=1) & (self.labels.shape[1] > 0)
        return unusable

    def restricted(self, columns: NDArray[np.int64]) -> Answers:
        """Returns what is said of some classes alone, which are numbered 0, 1, ... from now on.

        Lists of labels leave out the others; what is missing then at the end of a row is filled up with REFUSED.

        columns: int [n], the classes in their new order, each once.

        Raises:
            InputError: there are no scores of such a class.
        """
        if self.scores is not None:
            if columns.max() >= self.num_classes:
                raise InputError(
                    f"the label map names class {columns.max()} but there are scores of {self.num_classes}"
                )
            return Answers(len(columns), self.scores[:, columns], None)
        assert self.labels is not None, "one of the two is there"
        number = np.full(max(self.num_classes, int(columns.max()) + 1) + 1, REFUSED, dtype=np.int64)
        number[columns] = np.arange(len(columns))
        renamed = number[self.labels]  # REFUSED itself finds the last entry, which stays REFUSED
        order = np.argsort(renamed == REFUSED, axis=1, kind="stable")
        return Answers(len(columns), None, np.take_along_axis(renamed, order, axis=1)[:, : len(columns)])

    def evidence(self, key_labels: NDArray[np.int64]) -> Evidence:
        """Returns the ranks of the key labels [N]. Doubt counts against the owner: ties, NaN and classes that are not named."""
        if self.scores is not None:
            ranks = key_ranks(self.scores, key_labels)
        else:
            assert self.labels is not None, "one of the two is there"
            found = self.labels == key_labels[:, None]
            ranks = np.where(found.any(axis=1), found.argmax(axis=1) + 1, self.num_classes)
        return Evidence(self.num_classes, tuple(ranks.tolist()))


def question_evidence(
    question: Question,
    suspect: Answers,
    references: Sequence[Answers],
    key_labels: NDArray[np.int64],
    label_map: LabelMap | None = None,
) -> Evidence:
    """Returns the evidence in answers to a question: to its plain covers, then to the queries of each key in turn.

    With a label map the evidence is of the classes that the suspect knows and of the keys of these classes (`is_kept`), in their
    order: given which keys these are, their labels are uniform on the known classes. Where the suspect was asked about the first
    keys only, key_labels are of these. Other arguments as of `question_table`.

    Raises:
        InputError: as `question_table`, the suspect was asked about another number of keys, or no key is kept.
    """
    kept = is_kept(key_labels, label_map)
    if not kept.any():
        raise InputError("the suspect knows the class of no key; test a model that knows more of the dataset's classes")
    table = question_table(question, suspect, references, label_map)
    if len(table) != len(key_labels):
        num_images = len(question.cover_ids) + len(key_labels) * question.num_queries
        raise InputError(f"there are answers to {suspect.num_images} images but the question has {num_images}")
    labels = key_labels if label_map is None else np.searchsorted(np.array(label_map.known), key_labels[kept])
    return Evidence.of_table(table[kept], labels)


def question_table(
    question: Question, suspect: Answers, references: Sequence[Answers], label_map: LabelMap | None = None
) -> NDArray[np.int64]:
    """Returns the evidence table of all keys that were asked, int64 [num_asked, classes that the suspect knows]: a function of
    the answers alone, whatever the labels are, so that somebody who knows some of the keys can check the rows of these.

    For each query the references' ranks are cut as the suspect's are, at the registered top m or where its list of labels ends.

    Raises:
        InputError: the answers are not of whole keys, or the references' are fewer.
    """
    num_covers = len(question.cover_ids)
    num_asked = (suspect.num_images - num_covers) // question.num_queries
    num_images = num_covers + num_asked * question.num_queries
    if num_asked < 1 or suspect.num_images != num_images:
        raise InputError(
            f"there are answers to {suspect.num_images} images but the question has {num_covers} and {question.num_queries} a key"
        )
    if label_map is not None:
        suspect = suspect.restricted(np.array([label_map.classes[own] for own in label_map.known]))
    named = np.full(suspect.num_images, suspect.num_classes)
    if suspect.labels is not None:
        named = np.count_nonzero(suspect.labels != REFUSED, axis=1)
    cuts = np.clip(named, 1, question.top_m)[num_covers:num_images]
    tables = []
    for answers in (suspect, *references):
        if answers.num_images < suspect.num_images:
            raise InputError(f"a reference answered {answers.num_images} images but {suspect.num_images} were asked")
        compared = answers if label_map is None or answers is suspect else answers.restricted(np.array(label_map.known))
        tables.append(_cut_values(compared, num_covers, cuts))
    return question.evidence(tables[0], tables[1:])


def _cut_values(answers: Answers, first: int, cuts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`answer_values` of the answers from `first` on, each cut at its own number of ranks: int64 [len(cuts), num_classes]."""
    values = np.empty((len(cuts), answers.num_classes), dtype=np.int64)
    for cut in np.unique(cuts):
        rows = np.flatnonzero(cuts == cut)
        scores, labels = (None if t is None else t[first + rows] for t in (answers.scores, answers.labels))
        values[rows] = answer_values(scores, labels, answers.num_classes, int(cut))[0]
    return values


def is_kept(key_labels: NDArray[np.int64], label_map: LabelMap | None) -> NDArray[np.bool_]:
    """Returns of each key label, in the owner's classes, whether the suspect knows it: bool [num_keys]."""
    if label_map is None:
        return np.ones(len(key_labels), dtype=np.bool_)
    return np.isin(key_labels, label_map.known)


def check_suspect(suspect: Suspect, registration: Registration, *, with_label_map: bool = False) -> None:
    """Raises InputError unless the suspect has a name to file under and, without a label map, the classes of the registration."""
    name = suspect.name
    if (
        not 1 <= len(name) <= 150
        or name[0] == "."
        or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)
    ):
        raise InputError(f"suspect name {name!r} must be 1 to 150 letters, digits and -_. and not begin with a dot")
    if with_label_map and registration.question is None:
        raise InputError(
            "a label map needs a registered question: set fields of detection.question before keys are drawn"
        )
    if with_label_map:
        return
    if suspect.num_classes != registration.num_classes:
        raise InputError(
            f"suspect {name!r} has {suspect.num_classes} classes but the keys were drawn from {registration.num_classes}; test a "
            "model of the dataset that these keys belong to, or say which classes are which by --label-map"
        )
    ours, theirs = registration.class_names, suspect.class_names
    if ours is not None and theirs is not None and ours != theirs and sorted(ours) == sorted(theirs):
        raise InputError(f"suspect {name!r} has the dataset's classes in another order; add --label-map names")
