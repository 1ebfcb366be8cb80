"""The protocol of suspects, and what they may answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.detection import Evidence, key_ranks, key_ranks_from_top
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
    """

    name: str
    sha256: str | None
    num_classes: int
    class_names: tuple[str, ...] | None

    def answers(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Returns what it says of uint8 images [N, channels, H, W], in one of three forms.

        Real numbers that are not integers: scores [N, num_classes], larger is likelier. Integers: the best m labels in
        order [N, m], best first, or one label [N]; a row of -1: it refused to answer. `Answers` checks them.
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
            InputError: another type or shape, too few or too many columns of scores, only NaN, or a label that is no class
                or stands twice in a row.
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
            if np.isnan(table).any(axis=1).all():
                raise InputError("every answer holds NaN, which says nothing of the suspect; check how it is fed")
            return cls(num_classes, table, None)
        answers = cls(num_classes, None, table[:, None] if table.ndim == 1 else table)
        if answers.num_unusable == num_images:
            raise InputError("every answer is a refusal, which says nothing of the suspect; check how it is asked")
        assert answers.labels is not None, "just given"
        labels = answers.labels[~answers._unusable]
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise InputError(
                f"integers are labels and must be 0 to {num_classes - 1}, not {labels.min()} to {labels.max()}; return scores "
                "as floats, or the dataset's class numbers"
            )
        # Checks the labels as well; which keys they are compared with does not matter for that.
        answers.evidence(np.zeros(num_images, dtype=np.int64))
        return answers

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
        """
        if self.scores is not None:
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
            usable = ~self._unusable
            ranks = np.full(len(key_labels), self.num_classes, dtype=np.int64)
            if usable.any():
                ranks[usable] = key_ranks_from_top(self.labels[usable], key_labels[usable], self.num_classes)
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

    The references' ranks are cut as the suspect's are, at the registered top m or where its lists of labels end.

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
    tables = []
    cut = question.top_m if suspect.labels is None else min(question.top_m, suspect.labels.shape[1])
    for answers in (suspect, *references):
        if answers.num_images < suspect.num_images:
            raise InputError(f"a reference answered {answers.num_images} images but {suspect.num_images} were asked")
        if label_map is not None:
            columns = [label_map.classes[own] for own in label_map.known] if answers is suspect else label_map.known
            answers = answers.restricted(np.array(columns))
        values = answer_values(answers.scores, answers.labels, answers.num_classes, cut)[0]
        tables.append(values[num_covers:num_images])
    return question.evidence(tables[0], tables[1:])


def is_kept(key_labels: NDArray[np.int64], label_map: LabelMap | None) -> NDArray[np.bool_]:
    """Returns of each key label, in the owner's classes, whether the suspect knows it: bool [num_keys]."""
    if label_map is None:
        return np.ones(len(key_labels), dtype=np.bool_)
    return np.isin(key_labels, label_map.known)


def check_suspect(suspect: Suspect, num_classes: int) -> None:
    """Raises InputError unless the suspect has a name to file under, and as many classes as the labels were drawn from."""
    name = suspect.name
    if (
        not 1 <= len(name) <= 150
        or name[0] == "."
        or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)
    ):
        raise InputError(f"suspect name {name!r} must be 1 to 150 letters, digits and -_. and not begin with a dot")
    if suspect.num_classes != num_classes:
        raise InputError(
            f"suspect {name!r} has {suspect.num_classes} classes but the keys were drawn from {num_classes}; "
            "test a model of the dataset that these keys belong to"
        )
