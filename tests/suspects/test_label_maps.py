"""Label maps: found by names, files and plain covers; and the test on what a suspect knows is exact."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from taggants.detection import exact_p_value
from taggants.detection.outcome import LabelMap
from taggants.detection.question import Question
from taggants.errors import InputError
from taggants.suspects import Answers, question_evidence
from taggants.suspects.answers import is_kept
from taggants.suspects.label_maps import fitted_label_map, held_out_half, label_map_by_names, label_map_from_file

OWNER = ("Zürich", "cat", "dog", "sea lion")
SUSPECT = ("wolf", " ZU\u0308RICH", "Cat", "cats", "sea  lion")


def test_names_are_equal_without_regard_to_case_and_unicode_form() -> None:
    assert label_map_by_names(OWNER, SUSPECT).classes == (1, 2, None, None)
    with pytest.raises(InputError, match="'cat' stands for two classes of the signed dataset"):
        label_map_by_names((*OWNER, "CAT"), SUSPECT)
    with pytest.raises(InputError, match="stands for two classes of the suspect"):
        label_map_by_names(OWNER, (*SUSPECT, "CAT"))
    assert label_map_by_names(OWNER, (*SUSPECT, "crane", "crane")).classes == (1, 2, None, None)  # none of the owner's
    with pytest.raises(InputError, match="class names of the suspect are not known"):
        label_map_by_names(OWNER, None)
    with pytest.raises(InputError, match="knows 1 of the owner's classes but at least 2"):
        label_map_by_names(OWNER, ("dog", "wolf"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("map.csv", "owner,suspect\ncat,Cat\n3,wolf\ndog,\n"),
        ("map.csv", "\ufeffowner,suspect\r\n1,2\r\n\r\n3,0\r\n"),
        ("map.json", json.dumps({"cat": 2, "3": "wolf", "dog": None})),
    ],
)
def test_a_file_names_classes_by_name_or_number(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert label_map_from_file(str(tmp_path / name), OWNER, 4, SUSPECT, 5) == LabelMap("file", (None, 2, None, 0))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("map.csv", "ours,theirs\n1,2\n", "two columns owner and suspect"),
        ("map.csv", "owner,suspect\n1,2,3\n", "two columns owner and suspect"),
        ("map.csv", "", "two columns owner and suspect"),
        ("map.csv", 'owner,suspect\n"1,2\n', "is not CSV"),
        ("map.csv", "owner,suspect\n1,2\n2,2\n", "takes a class of the suspect for two"),
        ("map.csv", "owner,suspect\n1,2\ncat,3\n", "'cat' stands there twice"),
        ("map.csv", "owner,suspect\n1,2\n2,5\n", "the suspect has no class 5; give one of its names, or 0 to 4"),
        ("map.csv", "owner,suspect\n1,2\ncow,3\n", "the dataset has no class 'cow'"),
        ("map.csv", "owner,suspect\n1,2\n", "at least 2"),
        ("map.json", "[1, 2]", "must be a JSON object"),
        ("map.json", '{"1": 2, "1": 3}', "twice"),
        ("map.json", '{"1": 2, "2": 1.5}', "has no class 1.5"),
    ],
)
def test_a_file_that_is_no_map_is_named(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        label_map_from_file(str(tmp_path / name), OWNER, 4, SUSPECT, 5)


def test_a_fitted_map_agrees_as_often_as_any_one_to_one_map_can() -> None:
    rng = np.random.default_rng(0)
    labels, best = rng.integers(0, 4, 60), rng.integers(-1, 5, 60)
    found = fitted_label_map(best, labels, 4)

    def agreement(classes: tuple[int | None, ...]) -> int:
        return sum(classes[label] == answer for label, answer in zip(labels, best, strict=True))

    assert agreement(found.classes) == max(agreement(order) for order in itertools.permutations(range(5), 4))
    relabelled = np.array([3, 0, 4, 1])[labels]
    assert fitted_label_map(relabelled, labels, 4) == LabelMap("fitted", (3, 0, 4, 1))
    unknown = np.where(labels == 2, -1, relabelled)
    assert fitted_label_map(unknown, labels, 4) == LabelMap("fitted", (3, 0, None, 1))
    with pytest.raises(InputError, match="60 plain covers do not tell"):
        fitted_label_map(np.zeros(60, int), labels, 4)
    with pytest.raises(InputError, match="too large to fit"):
        fitted_label_map(best, labels, 2**26)


def test_a_map_is_checked_on_covers_that_it_was_not_fitted_on() -> None:
    labels = np.array([0, 1, 2, 0, 1, 0, 0])
    assert held_out_half(labels).tolist() == [False, False, False, True, True, False, True]
    rng = np.random.default_rng(1)
    labels, best = np.repeat(np.arange(20), 4), rng.integers(0, 1000, 80)  # a suspect that knows nothing
    held_out = held_out_half(labels)
    found = fitted_label_map(best, labels, 20)
    theirs = np.array([-2 if found.classes[label] is None else found.classes[label] for label in labels])
    assert (theirs == best).mean() >= 0.25  # of what it was fitted on
    halved = fitted_label_map(best[~held_out], labels[~held_out], 20)
    theirs = np.array([-2 if halved.classes[label] is None else halved.classes[label] for label in labels[held_out]])
    assert (theirs == best[held_out]).mean() <= 0.05


def test_the_test_on_known_classes_is_exact_given_which_keys_they_leave() -> None:
    """All draws of labels of 4 keys of 5 classes, against a suspect that knows 3 of them: P(p <= alpha | kept keys) <= alpha, and
    the p-values are those of a suspect and keys of 3 classes."""
    rng = np.random.default_rng(2)
    question = Question("", (), (), (), 0, 1, 5)
    label_map = LabelMap("file", (6, None, 0, None, 3))
    for answers in (
        Answers.of(rng.random((4, 7)), 4, 7),
        Answers.of(np.argsort(-rng.random((4, 7)), axis=1)[:, :4], 4, 7),
    ):
        reference = Answers.of(rng.random((4, 5)), 4, 5)
        found: dict[tuple[int, ...], list[float]] = {}
        for labels in map(np.array, itertools.product(range(5), repeat=4)):
            kept = is_kept(labels, label_map)
            if not kept.any():
                continue
            evidence = question_evidence(question, answers, [reference], labels, label_map)
            assert (evidence.num_classes, len(evidence.ranks)) == (3, kept.sum())
            p_value = exact_p_value(np.array(evidence.table), evidence.positions)
            found.setdefault(tuple(np.flatnonzero(kept).tolist()), []).append(p_value)
        for kept_keys, p_values in found.items():
            assert len(p_values) == 3 ** len(kept_keys) * 2 ** (4 - len(kept_keys))
            for alpha in sorted(set(p_values)):
                assert np.mean(np.array(p_values) <= alpha * (1 + 1e-12)) <= alpha * (1 + 1e-9)
