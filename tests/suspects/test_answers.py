from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from taggants.data.layouts.parquet.thrift import read_struct, write_struct
from taggants.detection import Evidence, exact_p_value, rank_scores
from taggants.detection.outcome import LabelMap
from taggants.detection.question import Question, evidence_table
from taggants.errors import InputError
from taggants.models import ModelSpec, build_model, checkpoint_bytes
from taggants.storage import encode_table
from taggants.suspects import Answers, CallableSuspect, Owner, check_suspect, open_suspect, question_evidence
from taggants.suspects.answers import question_table
from taggants.suspects.recorded_answers import check_recordable, decode_answers, encode_answers
from tests.detection.registrations import registered

LABELS = np.array([2, 0, 1])
SCORES = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
OWNER = Owner(10, (1, 8, 8))
IMAGES = np.zeros((3, 1, 8, 8), dtype=np.uint8)


def test_scores_lists_and_single_labels_say_the_same_of_the_first_places() -> None:
    order = np.argsort(-SCORES, axis=1)
    for given in (SCORES, SCORES.astype(np.float32), SCORES.tolist(), order, order[:, :2], order[:, :1], order[:, 0]):
        assert Answers.of(given, 3, 3).evidence(LABELS).ranks == (1, 1, 1)


def test_classes_that_are_not_named_have_the_worst_rank() -> None:
    assert Answers.of([[0, 1], [0, 1], [0, 1]], 3, 4).evidence(np.array([0, 1, 2])).ranks == (1, 2, 4)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (SCORES[:, :2], r"scores of shape \(3, 2\) must be \[3, 3\], one column for each class"),
        (np.pad(SCORES, ((0, 0), (0, 1))), r"scores of shape \(3, 4\)"),
        (SCORES[:2], r"answers of shape \(2, 3\)"),
        (SCORES[:, 0], r"scores of shape \(3,\)"),
        (SCORES[None], r"answers of shape \(1, 3, 3\)"),
        (SCORES > 0.5, "type bool"),
        (SCORES.astype(complex), "type complex128"),
        ([["a"], ["b"], ["c"]], "type <U1"),
        ([[0, 1], [-1, 1], [0, 2]], "an empty place"),
        ([0, 1, 3], "integers are labels and must be 0 to 2, not 0 to 3; return scores as floats"),
        ([0, 1, -2], "must be 0 to 2, not -2 to 1"),
        ([[0, 1], [1, 1], [0, 2]], "twice in row 1"),
        (np.zeros((3, 4), int), r"with m in 1\.\.3"),
        (np.zeros((3, 0), int), r"with m in 1\.\.3"),
    ],
)
def test_answers_in_no_known_form_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Answers.of(given, 3, 3)


def test_a_refusal_gets_the_worst_rank_and_is_counted() -> None:
    for given in ([2, -1, 1], [[2, 1], [-1, -1], [1, 2]]):
        answers = Answers.of(given, 3, 3)
        assert answers.num_unusable == 1
        assert answers.evidence(LABELS).ranks == (1, 3, 1)
        assert answers.best.tolist() == [2, -1, 1]
    for given, sentence in (
        ([-1, -1, -1], "every answer is a refusal"),
        (np.full((3, 3), np.nan), "every answer holds NaN"),
    ):
        with pytest.raises(InputError, match=sentence):
            Answers.of(given, 3, 3).check_usable()


def test_a_shorter_list_is_filled_up_at_its_end() -> None:
    answers = Answers.of([[2, 0], [1, -1], [0, -1]], 3, 3)
    assert answers.num_unusable == 0
    assert answers.evidence(np.array([0, 1, 1])).ranks == (2, 1, 3)


@pytest.mark.parametrize(
    "given", [SCORES.astype(np.float32), [[2, 0], [-1, -1], [1, 2]], np.where(SCORES > 5, np.nan, SCORES)]
)
def test_recorded_answers_are_read_as_they_were_given(given: Any) -> None:
    answers = Answers.of(given, 3, 3)
    data = encode_answers(answers)
    assert data == encode_answers(answers)
    again = decode_answers(data, 3)
    for name in ("scores", "labels"):
        expected = getattr(answers, name)
        assert (getattr(again, name) is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(getattr(again, name), expected)


def test_a_damaged_file_of_answers_is_named() -> None:
    data = encode_answers(Answers.of(SCORES, 3, 3))
    rows = pa.array([[0.5, 0.5], None], pa.list_(pa.float64(), 2))
    others = [encode_table(pa.table(columns)) for columns in ({"scores": [1.0]}, {"other": rows}, {"scores": rows}, {})]
    for broken in (data[:-9], b"", *others):
        with pytest.raises(InputError, match="file of answers"):
            decode_answers(broken, 3)
    with pytest.raises(InputError, match=r"must be \[3, 4\]"):
        decode_answers(data, 4)


def test_answers_that_unpack_to_more_than_they_should_are_refused_by_their_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pq.ParquetFile, "read", lambda file: pytest.fail("was read"))
    data = encode_answers(Answers.of(SCORES, 3, 3))
    with pytest.raises(InputError, match="has 3 answers, but 2 images are asked at most"):
        decode_answers(data, 3, 2)
    with pytest.raises(InputError, match="are more than 67108864 values; ask fewer covers"):
        check_recordable(67_200, 1_000)
    check_recordable(67_100, 1_000)
    monkeypatch.setattr("taggants.suspects.recorded_answers.MOST_ANSWER_VALUES", 8)
    with pytest.raises(InputError, match="at most 8 values"):
        decode_answers(data, None)


def test_a_page_that_unpacks_to_more_than_the_footer_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's header decides what pyarrow takes of memory."""
    scores = np.random.default_rng(0).random((2**15, 8))
    data = encode_answers(Answers.of(scores, 2**15, 8))
    np.testing.assert_array_equal(decode_answers(data, 8).scores, scores)
    start = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(0).dictionary_page_offset
    header, end = read_struct(data, start)
    assert header.value(2) >= 2**20  # a number of as many bytes as the one to take its place
    header.change(2, 2**25)
    changed = data[:start] + write_struct(header) + data[end:]
    assert len(changed) == len(data)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda file: pytest.fail("was read"))
    with pytest.raises(InputError, match="unpacks to more than its answers take"):
        decode_answers(changed, 8)
    for size in (-1, 2**31 - 1):
        header.change(3, size)
        with pytest.raises(InputError, match="file of answers is damaged"):
            decode_answers(data[:start] + write_struct(header) + data[end:], 8)


def test_evidence_in_answers_to_a_question_is_the_sum_over_its_queries() -> None:
    """One cover, one amplitude and the bare key for two keys: the covers' answers do not count, the rest by their weights."""
    question = Question("covers", (5,), (64,), (1,), 0, 3, 3)
    suspect = [[0, 1, 2], [0, 1, 2], [1, 0, 2], [2, 1, 0], [-1, -1, -1]]
    reference = [[2, 1, 0], [0, 2, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    score = {0: 0, 1: 44, 2: 70}
    sums = [
        [
            [3 * score[answers[1].index(c)] + score[answers[2].index(c)] for c in range(3)],
            [3 * score[answers[3].index(c)] for c in range(3)],
        ]
        for answers in (suspect, reference)
    ]
    expected = evidence_table(np.array(sums[0])[:, None], [np.array(sums[1])[:, None]], [1])
    asked, compared = Answers.of(suspect, 5, 3), Answers.of(reference, 5, 3)
    found = question_evidence(question, asked, [compared], np.array([1, 2]))
    assert found.table == tuple(tuple(sorted(row)) for row in expected.tolist())
    assert [row[rank - 1] for row, rank in zip(found.table, found.ranks, strict=True)] == [
        expected[0][1],
        expected[1][2],
    ]
    with pytest.raises(InputError, match="answers to 5 images but the question has 7"):
        question_evidence(question, asked, [compared], np.array([0, 1, 2]))
    # The references are cut where the suspect's lists end: a suspect that names one class says where it stands, no more.
    one = Answers.of([0, 0, 1, 2, -1], 5, 3)
    assert question_evidence(question, one, [one], np.array([1, 2])).table == ((0, 0, 0), (0, 0, 0))
    scores = Answers.of(-np.argsort(reference, axis=1).astype(float), 5, 3)
    assert question_evidence(question, one, [scores], np.array([1, 2])) == question_evidence(
        question, one, [compared], np.array([1, 2])
    )


def test_nan_in_a_row_gets_the_worst_rank_and_is_counted() -> None:
    scores = SCORES.copy()
    scores[1, 2] = np.nan
    answers = Answers.of(scores, 3, 3)
    assert answers.num_unusable == 1
    assert answers.evidence(LABELS).ranks == (1, 3, 1)


def test_columns_that_are_left_out_would_be_a_false_yes() -> None:
    """Why they are refused: padded by the best score, half of the classes pass for ranks that no chance gives."""
    random = np.random.default_rng(0)
    wrapper = CallableSuspect(lambda images: random.random((len(images), 5)), "it", 10)
    with pytest.raises(InputError, match="one column for each class"):
        Answers.of(wrapper.answers(np.zeros((16, 1, 8, 8), np.uint8)), 16, 10)


@pytest.mark.parametrize("num_named", [1, 3, 10])
def test_short_lists_hold_the_level(num_named: int) -> None:
    random = np.random.default_rng(num_named)
    top = np.stack([random.permutation(10)[:num_named] for _ in range(8)])
    answers = Answers.of(top, 8, 10)
    p_values = np.array(
        [
            exact_p_value(rank_scores(10), answers.evidence(labels).positions)
            for labels in random.integers(0, 10, (1500, 8))
        ]
    )
    for alpha in (0.3, 0.1, 0.03):
        assert (p_values <= alpha).mean() < alpha + 4 * np.sqrt(alpha * (1 - alpha) / 1500)


@pytest.mark.parametrize(
    "as_given", [np.asarray, np.ndarray.tolist, torch.from_numpy, lambda a: torch.tensor(a, requires_grad=True)]
)
def test_a_function_may_answer_with_arrays_lists_or_tensors_in_batches(as_given: Any) -> None:
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    images.setflags(write=False)
    sizes = []

    def predict(batch: Any) -> Any:
        sizes.append(len(batch))
        return as_given(batch[:, 0, 0, :1] * np.ones((1, 4)))

    suspect = CallableSuspect(predict, "it", 4, batch_size=3)
    assert np.array_equal(suspect.answers(images), np.arange(7.0)[:, None] * np.ones((1, 4)))
    assert sizes == [3, 3, 1]


def test_bfloat16_tensors_are_read() -> None:
    suspect = CallableSuspect(lambda batch: torch.ones(len(batch), 4, dtype=torch.bfloat16), "it", 4)
    assert suspect.answers(IMAGES).shape == (3, 4)


def test_a_function_that_changes_its_images_changes_no_key() -> None:
    def predict(batch: Any) -> Any:
        batch += 1
        return np.zeros((len(batch), 4))

    before = IMAGES.copy()
    CallableSuspect(predict, "it", 4).answers(IMAGES)
    assert np.array_equal(IMAGES, before)


@pytest.mark.parametrize(
    ("predict", "sentence"),
    [
        (lambda batch: np.zeros((1, 4)), r"2 images were answered with shape \(1, 4\)"),
        (lambda batch: 3, r"2 images were answered with shape \(\)"),
        (lambda batch: [[0], [0, 1]], "rows have several lengths"),
        (lambda batch: np.zeros((len(batch), len(batch))), "in several forms"),
    ],
)
def test_functions_that_answer_otherwise_are_named(predict: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        CallableSuspect(predict, "it", 4, batch_size=2).answers(IMAGES)


def test_an_error_of_the_function_is_its_own() -> None:
    def predict(batch: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        CallableSuspect(predict, "it", 4).answers(IMAGES)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "x" * 151, "\u00e9"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="suspect name"):
        check_suspect(CallableSuspect(len, name, 4), registered(num_classes=4, top_k=1))


def test_a_text_of_no_known_form_is_named_with_the_forms() -> None:
    with pytest.raises(
        InputError, match=r"suspect 'ftp:x' is not in a known form; write one of: path or s3://.*predict\)"
    ):
        open_suspect("ftp:x", OWNER)


def test_a_checkpoint_in_a_folder_with_accents_has_a_name_for_its_file(tmp_path: Path) -> None:
    spec = ModelSpec("cnn", num_classes=10, channels=1, image_size=8)
    file = tmp_path / "mod\u00e8le 1" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(checkpoint_bytes(build_model(spec, 0), spec))
    suspect = open_suspect(str(file), OWNER)
    check_suspect(suspect, registered(num_classes=10))
    assert suspect.name.startswith("mod-le-1-")


def test_a_suspect_that_knows_more_and_fewer_classes_is_asked_for_those_it_shares() -> None:
    """Against a suspect that had just these classes."""
    rng = np.random.default_rng(3)
    question = Question("", (), (), (), 0, 1, 9)
    wide, reference = rng.random((6, 7)), rng.random((6, 4))
    label_map = LabelMap("names", (5, None, 0, 3))
    labels = np.array([0, 1, 2, 3, 1, 0])
    kept = np.array([0, 2, 3, 5])
    narrow, other = Answers.of(wide[:, [5, 0, 3]], 6, 3), Answers.of(reference[:, [0, 2, 3]], 6, 3)
    table = question_table(question, narrow, [other])
    expected = Evidence.of_table(table[kept], [0, 1, 2, 0])
    asked, compared = Answers.of(wide, 6, 7), Answers.of(reference, 6, 4)
    assert question_evidence(question, asked, [compared], labels, label_map) == expected
    lists = Answers.of(np.argsort(-wide, axis=1), 6, 7)
    assert question_evidence(question, lists, [compared], labels, label_map) == expected
    short = Answers.of(np.argsort(-wide, axis=1)[:, :3], 6, 7)
    found = question_evidence(question, short, [], labels, label_map)
    assert found.num_classes == 3
    assert len(found.ranks) == 4
    with pytest.raises(InputError, match="knows the class of no key"):
        question_evidence(question, asked, [compared], np.ones(6, dtype=np.int64), label_map)
    # The first keys alone, where asking was stopped: references were asked about all.
    first = Answers.of(wide[:2], 2, 7)
    assert question_evidence(question, first, [compared], labels[:2], label_map).ranks == expected.ranks[:1]
