"""Tables of answers: what they may hold, and that nothing else is taken for an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taggants.errors import InputError
from taggants.storage import encode_table
from taggants.suspects import Owner, check_suspect, open_suspect
from taggants.suspects.answers_table import AnswersTable
from taggants.suspects.recorded_answers import decode_answers
from tests.detection.registrations import registered

NAMES = ["query-0000.png", "query-0001.png", "query-0002.png"]
OWNER = Owner(3, (1, 8, 8), ("cat", "Dog", "Zürich"))


def opened(folder: Path, content: str | dict[str, Any], owner: Owner = OWNER, **fields: Any) -> AnswersTable:
    if isinstance(content, str):
        path = folder / "answers.csv"
        path.write_text(content)
    else:
        path = folder / "answers.parquet"
        pq.write_table(pa.table(content), path)
    suspect = open_suspect({"kind": "table", "path": str(path), **fields} if fields else str(path), owner)
    assert isinstance(suspect, AnswersTable)
    return suspect


@pytest.mark.parametrize(
    "content",
    [
        "image,label_1,label_2\nquery-0002.png,zu\u0308rich,CAT\nquery-0000.png,1,\n",
        "\ufeffimage,label_2,label_1\r\nquery-0000.png,,Dog\r\nquery-0001.png,,\r\nquery-0002.png,0.0,2.0\r\n",
        {"image": NAMES, "label_1": [1.0, None, 2.0], "label_2": [None, None, 0.0]},
        {"image": NAMES[::2], "label_1": ["dog", "2"], "label_2": [None, "cat"]},
    ],
)
def test_labels_by_name_or_number_and_images_without_an_answer(tmp_path: Path, content: Any) -> None:
    assert opened(tmp_path, content).rows_of(NAMES) == [[1], None, [2, 0]]


@pytest.mark.parametrize(
    "content",
    [
        "image,score_0,score_2,score_1\nquery-0000.png,0.5,-3,1e-3\nquery-0001.png,,,\n",
        "image,Zürich,dog,cat\nquery-0000.png,-3,0.001,0.5\n",
        {"image": NAMES[:1], "CAT": [0.5], "dog": [0.001], "zürich": [-3]},
    ],
)
def test_scores_by_place_or_name(tmp_path: Path, content: Any) -> None:
    table = opened(tmp_path, content)
    assert table.rows_of(NAMES) == [[0.5, 0.001, -3.0], None, None]
    check_suspect(table, registered(num_classes=3, top_k=1))


def test_columns_of_other_classes_need_a_label_map(tmp_path: Path) -> None:
    table = opened(tmp_path, "image,cat,wolf,fox,Dog\nquery-0000.png,1,2,3,4\n")
    assert (table.num_classes, table.class_names) == (4, ("cat", "wolf", "fox", "Dog"))
    for content in ("image,cat,Dog\nquery-0000.png,1,2\n", "image,cat,wolf,fox,Dog\nquery-0000.png,1,2,3,4\n"):
        with pytest.raises(InputError, match="--label-map"):
            check_suspect(opened(tmp_path, content), registered(num_classes=3, top_k=1))
    table = opened(tmp_path, "image,label_1\nquery-0000.png,7\n", num_classes=8)
    assert (table.num_classes, table.rows_of(NAMES[:1])) == (8, [[7]])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        ("image,label_1\nquery-0000.png,0,1\n", "3 values in row 2 but 2 columns"),
        ('image,label_1\n"query-0000.png,0\n', "is not CSV"),
        ("file,label_1\nquery-0000.png,0\n", "has no column 'image'"),
        ("image,label_1,label_1\nquery-0000.png,0,1\n", "two columns 'label_1'"),
        ("image\nquery-0000.png\n", "0 columns"),
        ("image,label_1,label_3\nquery-0000.png,0,1\n", "without a gap"),
        ("image,label_1,score_0\nquery-0000.png,0,1\n", "without a gap"),
        ("image,label_1,label_2\nquery-0000.png,,1\n", "an empty place before a label in row 1"),
        ("image,label_1,label_2\nquery-0000.png,1,1\n", "a label twice in row 1"),
        ("image,label_1\nquery-0000.png,3\n", "the label 3 but labels must be 0 to 2"),
        ("image,label_1\nquery-0000.png,-1\n", "the label '-1', which is no class number"),
        (
            "image,label_1\nquery-0000.png,horse\n",
            "the label 'horse', which is no class number and none of class_names",
        ),
        ("image,label_1\nquery-0000.png,0.5\n", "the label '0.5', which is no class number"),
        ("image,label_1\nquery-0000.png,0\nquery-0000.png,0\n", "'query-0000.png' twice"),
        ("image,score_0,score_1\nquery-0000.png,1,2\n", "2 columns of scores but must have score_0 to score_2"),
        ("image,score_0,score_1,score_3\nquery-0000.png,1,2,3\n", "must have score_0 to score_2"),
        ("image,score_0,score_1,score_2\nquery-0000.png,1,nan,3\n", "a score that is no number in row 1"),
        ("image,score_0,score_1,score_2\nquery-0000.png,1,,3\n", "a score that is no number in row 1"),
        ("image,score_0,score_1,score_2\nquery-0000.png,1,high,3\n", "a score that is no number in row 1"),
        ({"image": NAMES, "label_1": [True, False, True]}, "the column 'label_1' of type bool"),
        ({"image": NAMES, "label_1": pa.array([1, 2, 3], pa.timestamp("ns"))}, "of type timestamp"),
        ({"image": NAMES, "label_1": [0.5, 1.0, 1.0]}, "the label 0.5"),
        ({"image": NAMES, "score_0": [[1.0]] * 3, "score_1": [1.0] * 3, "score_2": [1.0] * 3}, "of type list"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        opened(tmp_path, content)


def test_images_that_were_not_exported_are_named(tmp_path: Path) -> None:
    table = opened(tmp_path, "image,label_1\nother.png,0\nquery-0000.png,0\n")
    with pytest.raises(InputError, match=r"names 1 images that were not exported, such as 'other.png'"):
        table.rows_of(NAMES)
    with pytest.raises(InputError, match="images of `taggants keys export` alone"):
        table.answers(np.zeros((3, 1, 8, 8), np.uint8))


def test_a_damaged_or_huge_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    pq.write_table(pa.table({"image": NAMES, "label_1": [0, 1, 2]}), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="is damaged"):
        open_suspect(str(path), OWNER)
    zeros = pa.array(np.zeros(2**24, np.int32))
    images = pa.DictionaryArray.from_arrays(zeros, ["a"])
    pq.write_table(pa.table({"image": images, "label_1": zeros, "label_2": zeros}), path)
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="has more than 33554432 values"):
        open_suspect(str(path), OWNER)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_damaged_bytes_are_an_error_in_one_sentence_or_still_answers(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answers.{suffix}"
    columns: dict[str, Any] = {"image": NAMES, "label_1": ["cat", "1", None], "label_2": ["dog", None, None]}
    pq.write_table(pa.table(columns), path)
    if suffix == "csv":
        path.write_text("image,label_1,label_2\n" + "".join(f"{name},cat,1\n" for name in NAMES))
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for _ in range(300):
        mutated = data.copy()
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            mutated[place] = rng.integers(0, 256)
        path.write_bytes(mutated[: rng.integers(1, len(data))] if rng.random() < 0.2 else mutated)
        try:
            rows = open_suspect(str(path), OWNER).rows_of(NAMES)  # type: ignore[attr-defined]
        except InputError as error:
            sentence = str(error)
        else:
            sentence = ""
            assert all(row is None or all(0 <= label < 3 for label in row) for row in rows)
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (pa.ListArray.from_arrays([0, 2**22], pa.array(np.zeros(2**22, np.int32))), "of type list<"),
        (pa.array([{"a": 1}]), "of type struct<"),
        (pa.array([b"0"]), "of type binary"),
        (pa.array(["a" * 5000]), "longer than 4096 bytes"),
        (pa.DictionaryArray.from_arrays(pa.array([0]), pa.array(["a" * 5000])), "longer than 4096 bytes"),
    ],
)
def test_values_that_may_be_of_any_size_are_refused(tmp_path: Path, column: Any, sentence: str) -> None:
    """A few hundred bytes of Parquet that grow to gigabytes once they are values of Python."""
    with pytest.raises(InputError, match=sentence):
        opened(tmp_path, {"image": NAMES[:1], "label_1": column})


@pytest.mark.parametrize(
    "columns",
    [
        {"scores": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0]), 2), "other": pa.array([1])},
        {"scores": pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 4), 2), 2)},
        {"scores": pa.array([[1.0, 2.0]])},
        {"other": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0]), 2)},
    ],
)
def test_recorded_answers_of_another_form_are_refused_unread(columns: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_table(pa.table(columns))
    monkeypatch.setattr(pq.ParquetFile, "read", lambda file: pytest.fail("was read"))
    with pytest.raises(InputError, match="must have one column"):
        decode_answers(data, 2)
