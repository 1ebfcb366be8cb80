from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taggants.detection.evidence import Evidence
from taggants.detection.exact import exact_p_value
from taggants.detection.question import (
    COMPARISONS,
    ONE_SLOPE,
    REFUSED,
    SLOPE_EACH,
    Question,
    answer_values,
    balanced_covers,
    evidence_table,
    overlay,
)
from taggants.errors import InputError

QUESTION = Question(
    covers_fingerprint="covers",
    cover_ids=(4, 2),
    amplitudes=(32, 128),
    overlay_weights=(1, 2),
    bare_shift=1,
    bare_weight=3,
    top_m=10,
)


def test_overlays_are_the_rounded_formula_at_every_pixel_and_amplitude() -> None:
    covers, keys = (values.astype(np.uint8) for values in np.meshgrid(np.arange(256), np.arange(0, 256, 5)))
    for amplitude in (1, 32, 63, 64, 128, 255, 256):
        found = overlay(covers[None, None], keys[None], amplitude)[0, 0]
        exact = [
            [
                min(255, max(0, math.floor(c + Fraction(amplitude, 256) * (k - Fraction(255, 2)) + Fraction(1, 2))))
                for c, k in zip(*rows, strict=True)
            ]
            for rows in zip(covers[:, ::9].tolist(), keys[:, ::9].tolist(), strict=True)
        ]
        assert found[:, ::9].tolist() == exact


def test_the_queries_of_a_key_never_change() -> None:
    """A vector for ever: another order or rounding would make registered questions others."""
    key = (np.arange(27, dtype=np.uint8) * 9).reshape(3, 3, 3)
    covers = np.arange(54, dtype=np.uint8).reshape(2, 3, 3, 3) * 4
    queries = QUESTION.queries(key, covers)
    assert queries.shape == (QUESTION.num_queries, 3, 3, 3) == (9 + 2 * 2, 3, 3, 3)
    assert QUESTION.weights.tolist() == [3] * 9 + [1, 1, 2, 2]
    for place, query in enumerate(queries):
        np.testing.assert_array_equal(QUESTION.query(place, key, covers), query)
    assert (queries[4] == key).all()
    assert (queries[5] == np.roll(key, 1, axis=2)).all()
    assert (queries[7] == np.roll(key, 1, axis=1)).all()
    assert (queries[10] == overlay(covers[1:], key, 32)[0]).all()
    assert (queries[11] == overlay(covers[:1], key, 128)[0]).all()
    assert (
        hashlib.sha256(queries.tobytes()).hexdigest()
        == "52a6357ff98e59e09431b9298522867a23e1b1aeefca431a4cc1c619eb8757bc"
    )


def test_a_question_without_the_bare_key_shows_no_noise() -> None:
    natural = Question("covers", (0,), (32,), (1,), 0, 0, 10)
    covers = np.full((1, 1, 4, 4), 100, dtype=np.uint8)
    queries = natural.queries(np.full((1, 4, 4), 255, dtype=np.uint8), covers)
    assert queries.tolist() == np.full((1, 1, 4, 4), 116).tolist()


def test_covers_are_balanced_and_depend_on_the_labels_of_the_dataset_alone() -> None:
    labels = [0, 0, 0, 1, 2, 2, 1, 0]
    assert balanced_covers(labels, 3, 3) == (0, 3, 4)
    assert balanced_covers(labels, 7, 3) == (0, 3, 4, 1, 6, 5, 2)
    assert balanced_covers(labels, 8, 4) == (0, 3, 4, 1, 6, 5, 2, 7)  # class 3 has no image
    with pytest.raises(InputError, match=r"num_covers is 9 but must be in 1\.\.8"):
        balanced_covers(labels, 9, 3)


def slow_values(order: list[list[int]], num_classes: int, cut: int) -> list[int]:
    """Values of classes by groups of tied ones, best first; a group takes the worst rank of its members."""
    scored = [math.floor(64 * math.log(r) + 0.5) for r in range(1, num_classes + 1)]
    rest = sum(scored[cut:]) // (num_classes - cut) if cut < num_classes else None
    values, rank = [0] * num_classes, 0
    for group in order:
        rank += len(group)
        for label in group:
            values[label] = scored[rank - 1] if rank <= cut else rest
    return values


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, -math.inf, 7.0]), min_size=2, max_size=6), st.integers(1, 8))
def test_scores_and_the_labels_in_their_order_have_the_same_values(row: list[float], top_m: int) -> None:
    num_classes = len(row)
    cut = min(top_m, num_classes)
    groups = [[c for c in range(num_classes) if row[c] == value] for value in sorted(set(row), reverse=True)]
    values, says_nothing = answer_values([row], None, num_classes, top_m)
    assert values[0].tolist() == slow_values(groups, num_classes, cut)
    assert says_nothing[0] == (len(set(values[0].tolist())) == 1)
    if len(groups) == num_classes:
        order = [group[0] for group in groups]
        assert answer_values(None, [order], num_classes, top_m)[0].tolist() == values.tolist()
        assert answer_values(None, [order[:cut]], num_classes, num_classes)[0].tolist() == values.tolist()


def test_nan_refusals_and_ties_of_all_classes_say_nothing() -> None:
    values, says_nothing = answer_values([[1.0, math.nan, 0.0], [2.0, 2.0, 2.0], [1.0, 2.0, 0.0]], None, 3, 3)
    assert says_nothing.tolist() == [True, True, False]
    assert len(set(values[0].tolist())) == len(set(values[1].tolist())) == 1
    values, says_nothing = answer_values(None, [[REFUSED], [2]], 3, 3)
    assert says_nothing.tolist() == [True, False]
    assert values[1].tolist() == [57, 57, 0]


def slow_slopes(habits: list[list[list[Fraction]]], rows: list[list[Fraction]]) -> list[Fraction]:
    """One for each reference over all given keys, in 256ths: the normal equations by Gaussian elimination in fractions.

    habits: [references][keys][classes]. rows: [keys][classes].
    """
    flat = [[value for key in reference for value in key] for reference in habits]
    aim = [value for row in rows for value in row]
    count = len(flat)
    system = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in (*flat, aim)] for x in flat]
    penalty = Fraction(sum(system[i][i] for i in range(count)), 2**20 * max(1, count))
    if not penalty:
        return [Fraction(0)] * count
    for i in range(count):
        system[i][i] += penalty
    for i in range(count):
        for j in range(i + 1, count):
            factor = system[j][i] / system[i][i]
            system[j] = [b - factor * a for a, b in zip(system[i], system[j], strict=True)]
    slopes = [Fraction(0)] * count
    for i in reversed(range(count)):
        known = sum(system[i][j] * slopes[j] for j in range(i + 1, count))
        slopes[i] = (system[i][count] - known) / system[i][i]
    return [Fraction(math.floor(256 * slope + Fraction(1, 2)), 256) for slope in slopes]


def slow_evidence(
    suspect: NDArray[np.int64], references: list[NDArray[np.int64]], weights: list[int], comparison: str
) -> list[list[int]]:
    """Key by key in fractions, from the formula; square roots are bracketed by whole numbers."""
    num_keys, num_queries, num_classes = suspect.shape

    def about_the_mean(table: NDArray[np.int64], key: int) -> list[Fraction]:
        asked = [q for q in range(num_queries) if len(set(suspect[key, q].tolist())) > 1]
        row = [Fraction(sum(weights[q] * int(table[key, q, c]) for q in asked)) for c in range(num_classes)]
        return [value - sum(row) / num_classes for value in row]

    summed = [about_the_mean(suspect, key) for key in range(num_keys)]
    habits = [[about_the_mean(table, key) for key in range(num_keys)] for table in references]
    scale = 256 * num_classes  # what the integers are multiples of
    if comparison == ONE_SLOPE and references:
        scale *= len(references)
        mean = [
            [sum(parts) / len(references) for parts in zip(*rows, strict=True)] for rows in zip(*habits, strict=True)
        ]
        habits = [mean]
    rows = []
    for key, row in enumerate(summed):
        slopes = slow_slopes([habit[: key + 1] for habit in habits], summed[: key + 1])
        if comparison == ONE_SLOPE and references:
            product = sum(
                a * b for r, h in zip(summed[: key + 1], mean, strict=False) for a, b in zip(r, h, strict=True)
            )
            square = sum(b * b for h in mean[: key + 1] for b in h)
            slopes = [Fraction(0)]
            if square:
                slopes = [Fraction(min(256, max(0, math.floor(256 * product / square + Fraction(1, 2)))), 256)]
        left = [
            value - sum(slope * habit[key][c] for slope, habit in zip(slopes, habits, strict=True))
            for c, value in enumerate(row)
        ]
        mean_square = math.floor(sum((scale * value) ** 2 for value in left) / num_classes)
        root = max(
            n for n in range(max(0, math.isqrt(mean_square) - 2), math.isqrt(mean_square) + 3) if n * n <= mean_square
        )
        rows.append([math.floor(256 * scale * value / max(1, root)) for value in left])
    return rows


def test_a_reference_of_the_suspects_kind_explains_it_beside_others_that_do_not() -> None:
    """What the slopes are for: the mean of the references hides the one that knows."""
    generator = np.random.default_rng(0)
    habit, other = (generator.integers(0, 200, (10, 1, 20)) for _ in range(2))
    own = habit + generator.integers(-9, 10, habit.shape)
    labels = generator.integers(0, 20, 10)
    suspect = habit + generator.integers(-9, 10, habit.shape)
    suspect[range(10), 0, labels] -= 40

    def p_value(comparison: str) -> float:
        found = Evidence.of_table(evidence_table(suspect, [own, other], [1], comparison), labels)
        return exact_p_value(np.array(found.table), found.positions)

    assert p_value(SLOPE_EACH) < 1e-6 < 1e-3 < p_value(ONE_SLOPE)


def test_references_that_are_alike_share_a_slope() -> None:
    """A singular system without the penalty."""
    generator = np.random.default_rng(1)
    suspect, reference = (generator.integers(0, 200, (4, 3, 8)) for _ in range(2))
    once = evidence_table(suspect, [reference], [1, 2, 1])
    thrice = evidence_table(suspect, [reference] * 3, [1, 2, 1])
    assert np.abs(once - thrice).max() <= 8  # slopes are rounded
    nothing = np.full_like(reference, 7)
    assert evidence_table(suspect, [nothing], [1, 2, 1]).tolist() == evidence_table(suspect, [], [1, 2, 1]).tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(0, 3),
    st.sampled_from(COMPARISONS),
    st.data(),
)
def test_p_value_is_the_share_of_all_label_draws_at_least_as_good(
    num_keys: int, num_queries: int, num_classes: int, num_references: int, comparison: str, data: st.DataObject
) -> None:
    """Query by query, and by enumeration, for any answers."""
    row = st.lists(st.sampled_from([0.0, 1.0, 2.5, math.nan]), min_size=num_classes, max_size=num_classes)
    answers = st.lists(row, min_size=num_keys * num_queries, max_size=num_keys * num_queries)
    weights = data.draw(st.lists(st.integers(1, 5), min_size=num_queries, max_size=num_queries))
    models = [
        answer_values(data.draw(answers), None, num_classes, num_classes)[0].reshape(num_keys, num_queries, num_classes)
        for _ in range(1 + num_references)
    ]
    suspect, references = models[0], models[1:]
    found = evidence_table(suspect, references, weights, comparison)
    slow = slow_evidence(suspect, references, weights, comparison)
    assert found.tolist() == slow
    # A test that stops after the first keys has the same rows.
    assert evidence_table(suspect[:1], [table[:1] for table in references], weights, comparison).tolist() == slow[:1]
    labels = data.draw(st.lists(st.integers(0, num_classes - 1), min_size=num_keys, max_size=num_keys))
    evidence = Evidence.of_table(found, labels)
    observed = sum(r[label] for r, label in zip(slow, labels, strict=True))
    draws = list(itertools.product(*slow))
    share = Fraction(sum(sum(draw) <= observed for draw in draws), len(draws))
    assert exact_p_value(np.array(evidence.table), evidence.positions) == pytest.approx(float(share), rel=1e-12)


@pytest.mark.parametrize(
    ("comparison", "sha256"),
    [
        (SLOPE_EACH, "d0fc95728f2b6df54fb9071a65f1f0967dbe878a6914d36929e7cc940bc8144c"),
        (ONE_SLOPE, "169da33680c31117e65bb8573db3f8cf7ba7b97de84e78c08759f1f317a0897f"),
    ],
)
def test_the_evidence_of_given_answers_never_changes(comparison: str, sha256: str) -> None:
    """A vector for ever: another rounding would make published p-values others."""
    suspect, *references = (np.arange(4 * 6 * 5 * 7) ** 2 % 301).reshape(4, 6, 5, 7)
    found = evidence_table(suspect, references, [1, 3, 1, 2, 9], comparison)
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest() == sha256


@pytest.mark.parametrize(("num_keys", "num_classes", "num_references"), [(4, 6, 12), (2, 2, 5), (3, 9, 1)])
def test_many_references_with_large_weights_are_exact(num_keys: int, num_classes: int, num_references: int) -> None:
    """More references than values, too: then only the penalty makes the slopes unique."""
    generator = np.random.default_rng(6)
    suspect, *references = (generator.integers(0, 885, (num_keys, 3, num_classes)) for _ in range(1 + num_references))
    weights = [2**20, 1, 2**19]
    found = evidence_table(suspect, references, weights)
    assert found.tolist() == slow_evidence(suspect, references, weights, SLOPE_EACH)


def test_a_question_is_read_as_it_was_written_and_nothing_else_is() -> None:
    written = QUESTION.to_json()
    assert Question.from_json(written) == QUESTION
    earlier = replace(QUESTION, comparison=ONE_SLOPE)
    assert Question.from_json(earlier.to_json()) == earlier != QUESTION
    for changed in (
        {**written, "more": 1},
        {**written, "score": "hits"},
        {**written, "comparison": "none"},
        {**written, "amplitudes": 3},
        [],
        None,
    ):
        with pytest.raises(InputError):
            Question.from_json(changed)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cover_ids": (1, 1)}, "names a row twice"),
        ({"amplitudes": (64, 32)}, "must rise"),
        ({"overlay_weights": (1,)}, "there are 1 weights"),
        ({"amplitudes": (0, 32)}, "an amplitude in 256ths"),
        ({"cover_ids": ()}, "must all be given"),
        ({"covers_fingerprint": ""}, "must all be given"),
        (
            {"cover_ids": (), "amplitudes": (), "overlay_weights": (), "covers_fingerprint": "", "bare_weight": 0},
            "nothing",
        ),
        ({"bare_shift": 4}, "bare_shift"),
        ({"top_m": 0}, "top_m"),
        ({"cover_ids": tuple(range(60_000))}, "use fewer covers"),
    ],
)
def test_bad_questions_are_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Question(**{**{name: getattr(QUESTION, name) for name in QUESTION.__dataclass_fields__}, **change})


def test_keys_and_covers_of_other_sizes_are_named() -> None:
    key, covers = np.zeros((1, 4, 4), dtype=np.uint8), np.zeros((2, 1, 4, 4), dtype=np.uint8)
    with pytest.raises(InputError, match="key has shape"):
        QUESTION.queries(key[0], covers)
    with pytest.raises(InputError, match="covers have shape"):
        QUESTION.queries(key, covers[:1])
    with pytest.raises(InputError, match="a reference has values of shape"):
        evidence_table(np.zeros((1, 2, 3), dtype=np.int64), [np.zeros((1, 1, 3), dtype=np.int64)], [1, 1])
