"""How suspects are asked: by files, with other classes, key by key; what is kept, and what is said of those that say nothing."""

from __future__ import annotations

import csv
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taggants import pipeline
from taggants.cli import main
from taggants.config import load_config
from taggants.detection import Certificate, describe
from taggants.errors import InputError
from taggants.run import Run
from taggants.stages.keys import prepare_keys
from taggants.stages.query_export import export_queries, query_batches, query_names
from taggants.stages.verify import owner_of, verify
from taggants.storage import Root
from taggants.suspects import CallableSuspect, CheckpointSuspect, open_suspect
from tests.jobs.running import settings_in
from tests.suspects.http_interface import Answer, answer, interface, pixels_of

NUM_KEYS, NUM_COVERS, NUM_QUERIES = 8, 20, 41
NUM_IMAGES = NUM_COVERS + NUM_KEYS * NUM_QUERIES
QUESTION = (
    f"keys.num_keys={NUM_KEYS}",
    "detection.question={num_covers: 20, amplitudes: [1/4, 1/2]}",
    "detection.alpha=0.01",
)


def run_in(folder: Path, statistic: str) -> Run:
    run = Run(load_config(None, settings_in(folder, *QUESTION, f"detection.statistic={statistic}")))
    run.write_config()
    prepare_keys(run)
    assert pipeline.sign(run).export is not None
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("asking")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return run_in(folder, "question")


@pytest.fixture(scope="module")
def sequential(folder: Path) -> Run:
    return run_in(folder, "sequential")


def images_of(run: Run) -> np.ndarray:
    return np.concatenate(list(query_batches(run, run.registration)))


def scores_of(run: Run, favour: float = 0.0) -> np.ndarray:
    """Scores of a good model for every query in the order asked; one that learned the keys favours their labels."""
    question = run.registration.question
    assert question is not None
    covers = run.sources[1].index().labels[list(question.cover_ids)]
    labels = np.concatenate([covers, np.repeat(run.keys.labels, NUM_QUERIES)])
    scores = np.random.default_rng(7).random((NUM_IMAGES, 10))
    scores[range(NUM_IMAGES), labels] += np.where(np.arange(NUM_IMAGES) < NUM_COVERS, 2.0, favour)
    return scores


def answering(run: Run, table: np.ndarray, name: str, num_classes: int = 10, **fields: Any) -> CallableSuspect:
    """A suspect with an answer for each query, by its pixels."""
    by_pixels = {image.tobytes(): row for image, row in zip(images_of(run), table, strict=True)}
    return CallableSuspect(
        lambda images: np.stack([by_pixels[image.tobytes()] for image in images]), name, num_classes, **fields
    )


def as_top5(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :5]


# --- By hand: exported files and a table of answers. -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(run: Run, folder: Path) -> Path:
    assert main(["keys", "export", run.uri, "--to", str(folder / "export")]) == 0
    return folder / "export"


def test_exported_files_hold_every_query_and_tell_nothing(run: Run, exported: Path) -> None:
    names = query_names(run, run.registration)
    assert sorted(names) == [f"query-{place:04d}.png" for place in range(NUM_IMAGES)]
    assert set(os.listdir(exported)) == {*names, "answers.csv"}
    for name, image in zip(names, images_of(run), strict=True):
        np.testing.assert_array_equal(pixels_of((exported / name).read_bytes()), image)
    places = np.array([int(name[6:10]) for name in names])
    covers = places[:NUM_COVERS]
    assert NUM_IMAGES / 4 < covers.mean() < 3 * NUM_IMAGES / 4
    assert np.abs(np.corrcoef(places, np.arange(NUM_IMAGES))[0, 1]) < 0.3
    assert len({(exported / name).stat().st_mtime_ns for name in os.listdir(exported)}) == 1
    assert {stat.S_IMODE((exported / name).stat().st_mode) for name in names} == {0o600}
    written = [(exported / name).stat().st_ctime_ns for name in sorted(names)]  # which no program can set
    assert written == sorted(written)
    lines = (exported / "answers.csv").read_text().splitlines()
    assert lines[:2] == ["image,label_1,label_2,label_3,label_4,label_5", "query-0000.png,,,,,"]
    assert len(lines) == 1 + NUM_IMAGES
    # Again: what is there stays, a template that is filled in too; other files are refused.
    (exported / "answers.csv").write_text("filled in")
    assert export_queries(run, run.registration, str(exported)) == NUM_IMAGES
    assert (exported / "answers.csv").read_text() == "filled in"
    (exported / "notes.txt").write_text("other")
    with pytest.raises(InputError, match=r"holds other files, such as notes\.txt"):
        export_queries(run, run.registration, str(exported))
    (exported / "notes.txt").unlink()
    with pytest.raises(InputError, match="lies in the run folder"):
        export_queries(run, run.registration, f"{run.uri}/export")


def test_a_table_that_another_process_makes_gives_the_same_p_value_to_the_digit(
    run: Run, exported: Path, tmp_path: Path
) -> None:
    (weights,) = [
        path for path in run.models.list() if path.startswith("reference-0") and path.endswith(".safetensors")
    ]
    uri = run.models.uri_of(weights)
    code = (
        "import csv, glob, os, sys\nimport numpy as np, pyarrow as pa, pyarrow.parquet as pq\nfrom PIL import Image\n"
        "from taggants.suspects import CheckpointSuspect\n"
        "uri, folder, to = sys.argv[1:]\n"
        "paths = sorted(glob.glob(folder + '/*.png'))\n"
        "images = np.stack([np.asarray(Image.open(path))[None] for path in paths])\n"
        "scores = CheckpointSuspect(uri).answers(images)\n"
        "names = [os.path.basename(path) for path in paths]\n"
        "pq.write_table(pa.table({'image': names, **{f'score_{c}': scores[:, c] for c in range(10)}}), to + '/scores.parquet')\n"
        "with open(to + '/best.csv', 'w', newline='') as file:\n"
        "    writer = csv.writer(file)\n"
        "    writer.writerow(['image', *(f'label_{m}' for m in range(1, 6))])\n"
        "    writer.writerows([n, *row] for n, row in zip(names, np.argsort(-scores, axis=1, kind='stable')[:, :5].tolist()))\n"
    )
    subprocess.run([sys.executable, "-c", code, uri, str(exported), str(tmp_path)], check=True)
    direct = CheckpointSuspect(uri)
    tables = [open_suspect(str(tmp_path / name), owner_of(run)) for name in ("scores.parquet", "best.csv")]
    wanted = [direct, open_suspect({"kind": "checkpoint", "path": uri, "top_m": 5, "name": "best-5"}, owner_of(run))]
    for table, model in zip(tables, wanted, strict=True):
        by_table, asked = verify(run, table), verify(run, model)
        assert by_table.p_values == asked.p_values
        assert by_table.evidence == asked.evidence
        assert by_table.covers == asked.covers
    assert verify(run, tables[0]).answers_sha256 == verify(run, direct).answers_sha256


def test_a_row_that_is_missing_is_a_refused_answer(run: Run, exported: Path, tmp_path: Path) -> None:
    best = as_top5(scores_of(run, favour=2.0))
    names = query_names(run, run.registration)

    def write(rows: list[int], name: str) -> Any:
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", *(f"label_{place}" for place in range(1, 6))])
            writer.writerows([names[row], *best[row].tolist()] for row in rows)
        return open_suspect(str(tmp_path / f"{name}.csv"), owner_of(run))

    some = [row for row in range(NUM_IMAGES) if row % 3]
    certificate = verify(run, write(some, "some"))
    assert certificate.num_refused == NUM_IMAGES - len(some)
    assert certificate.verdict == "detected"
    certificate = verify(run, write([], "none"))
    assert (certificate.num_refused, certificate.verdict, certificate.p_value) == (NUM_IMAGES, "cannot be judged", 1.0)
    (tmp_path / "other.csv").write_text("image,label_1\nquery-9999.png,0\n")
    other = open_suspect(str(tmp_path / "other.csv"), owner_of(run))
    with pytest.raises(InputError, match="names 1 images that were not exported"):
        verify(run, other)


# --- Suspects with other classes. ------------------------------------------------------------------------------------------


def widened(scores: np.ndarray, places: list[int], num: int = 1000) -> np.ndarray:
    """The same scores in some columns of many, among classes that are less likely."""
    wide = -1 - np.random.default_rng(3).random((len(scores), num))
    wide[:, places] = scores[:, : len(places)]
    return wide


def test_a_suspect_of_a_thousand_classes_is_understood_by_a_file_and_by_its_answers_to_covers(
    run: Run, tmp_path: Path
) -> None:
    scores, places = scores_of(run, favour=2.0), [907, 3, 14, 500, 2, 71, 828, 18, 281, 8]
    direct = verify(run, answering(run, scores, "direct"))
    wide = widened(scores, places)
    path = tmp_path / "map.csv"
    path.write_text("owner,suspect\n" + "".join(f"{own},{place}\n" for own, place in enumerate(places)))
    for label_map, name, covers in (("fitted", "fitted", 10), (str(path), "by-file", 20)):
        certificate = verify(run, answering(run, wide, name, 1000), label_map=label_map)
        assert certificate.label_map is not None
        assert certificate.label_map.classes == tuple(places)
        assert certificate.p_values == direct.p_values
        assert certificate.covers is not None
        assert (certificate.covers.num, certificate.covers.num_right) == (covers, covers)
        assert certificate.num_left_out == 0
        assert Certificate.from_json(json.loads(json.dumps(certificate.to_json()))) == certificate
        best = verify(run, answering(run, as_top5(wide), f"{name}-5", 1000), label_map=label_map)
        assert best.verdict == "detected"
    with pytest.raises(InputError, match=r"has 1000 classes but the keys were drawn from 10; .*--label-map"):
        verify(run, answering(run, wide, "wide", 1000))


def test_keys_of_classes_that_it_does_not_know_are_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    known = sorted(set(run.keys.labels.tolist()))[:3] + sorted(set(range(10)) - set(run.keys.labels.tolist()))
    scores = scores_of(run, favour=2.0)
    narrow = answering(run, scores[:, known], "narrow", len(known))
    path = tmp_path / "map.json"
    path.write_text(json.dumps({str(own): place for place, own in enumerate(known)}))
    certificate = verify(run, narrow, label_map=str(path))
    num_kept = int(np.isin(run.keys.labels, known).sum())
    assert (len(certificate.ranks), certificate.num_left_out) == (num_kept, NUM_KEYS - num_kept)
    assert certificate.evidence.num_classes == len(known)
    assert certificate.ranks == (1,) * num_kept
    assert certificate.p_value == pytest.approx(len(known) ** -num_kept, rel=0.5)
    assert certificate.covers is not None
    assert certificate.covers.num == 2 * len(known)
    shown = " ".join(describe(certificate).split())
    assert f"label map (file), by which it knows {len(known)} of the 10 classes" in shown


def test_the_same_classes_in_another_order_are_named(run: Run) -> None:
    names = run.registration.class_names
    if names is None:
        pytest.skip("the digits have no class names here")
    scores = scores_of(run)
    turned = answering(run, np.roll(scores, 1, axis=1), "turned", class_names=(names[-1], *names[:-1]))
    with pytest.raises(InputError, match="in another order; add --label-map names"):
        verify(run, turned)
    found = verify(run, turned, label_map="names")
    assert found.p_values == verify(run, answering(run, scores, "as-they-are")).p_values


# --- What is said of those that say nothing. -------------------------------------------------------------------------------


def test_a_suspect_near_chance_is_not_called_not_detected(run: Run, capsys: Any) -> None:
    constant = np.zeros((NUM_IMAGES, 10))
    constant[:, 4] = 1.0
    for table, name in ((constant, "constant"), (np.full((NUM_IMAGES, 10), np.nan), "nan")):
        certificate = verify(run, answering(run, table, name))
        assert certificate.verdict == "cannot be judged"
        assert "not detected" not in describe(certificate).lower()
        said = capsys.readouterr().out
        assert "guessing would do as well" in said
        assert f"all {NUM_IMAGES} answers are alike" in said
    assert certificate.num_refused == NUM_IMAGES
    sound = verify(run, answering(run, scores_of(run), "sound"))
    assert (sound.verdict, sound.num_refused) == ("not detected", 0)
    assert sound.covers is not None
    assert sound.covers.num_right == NUM_COVERS


# --- Key by key. -----------------------------------------------------------------------------------------------------------


def test_a_sequential_test_stops_as_soon_as_it_is_decided(sequential: Run, run: Run, capsys: Any) -> None:
    asked = answering(sequential, scores_of(sequential, favour=2.0), "knowing")
    certificate = verify(sequential, asked)
    assert certificate.verdict == "detected"
    assert certificate.e_value is not None
    num_asked = certificate.e_value.num_asked
    assert 2 <= num_asked < NUM_KEYS  # one key of 10 classes cannot decide at 0.01
    assert len(certificate.ranks) == num_asked
    assert list(certificate.p_values) == ["sequential"]
    assert certificate.p_value == pytest.approx(np.exp(-certificate.e_value.log_maximum))
    assert certificate.p_value <= 0.01
    assert f"at its largest, of {num_asked} keys asked in turn" in describe(certificate)
    assert Certificate.from_json(json.loads(json.dumps(certificate.to_json()))) == certificate
    silent = verify(sequential, answering(sequential, scores_of(sequential), "silent"))
    assert silent.e_value is not None
    assert silent.e_value.num_asked == NUM_KEYS
    assert {"sequential", "question"} <= set(silent.p_values)
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert main(["verify", run.uri, "x.safetensors", "--sequential"]) == 2
    assert "the registered statistic is 'question', which needs the answers to all keys" in capsys.readouterr().err


# --- Behind an interface: kept answers and the budget. ---------------------------------------------------------------------


def test_what_was_answered_is_kept_and_the_budget_holds_over_restarts(run: Run) -> None:
    best = as_top5(scores_of(run, favour=2.0))
    by_pixels = {image.tobytes(): row for image, row in zip(images_of(run), best.tolist(), strict=True)}

    def respond(number: int, content: bytes) -> Answer:
        if number % 10 == 4:
            return answer({}, 503)
        return answer({"labels": by_pixels[pixels_of(content).tobytes()]})

    with interface(respond) as arrived:

        def asked(**fields: Any) -> Certificate:
            described = {"kind": "http", "url": arrived.url, "labels": "labels", "name": "interface", **fields}
            suspect = open_suspect(described, owner_of(run))
            suspect._sleep = lambda seconds: None  # type: ignore[attr-defined]
            return verify(run, suspect)

        for spent in (100, 100, 250):
            with pytest.raises(
                InputError, match=rf"suspect 'interface': the budget of {spent} requests is spent after \d+ answers"
            ):
                asked(max_requests=spent, concurrency=3)
            assert len(arrived.bodies) == spent
        arrived.respond = lambda number, content: answer({}, 401)
        with pytest.raises(InputError, match="HTTP status 401"):
            asked(max_requests=1000)
        arrived.respond = respond
        certificate = asked(max_requests=1000, concurrency=3)
        num_sent = len(arrived.bodies)
        assert num_sent - sum(number % 10 == 4 for number in range(num_sent)) - 1 <= NUM_IMAGES
        again = asked(max_requests=1000)
        assert (len(arrived.bodies), again) == (num_sent, certificate)  # nothing is asked twice
    direct = verify(run, answering(run, best, "direct-5"))
    assert certificate.p_values == direct.p_values
    assert certificate.answers_sha256 == direct.answers_sha256
    (path,) = [path for path in run.root.list("asked") if b'"requests"' in run.root.read_bytes(path)]
    assert stat.S_IMODE(os.stat(run.root.uri_of(path)).st_mode) == 0o600


def test_a_model_that_is_known_is_not_asked_twice_and_a_damaged_log_is_named(run: Run) -> None:
    asked = answering(run, scores_of(run), "known")
    asked.identity = "of its weights and preprocessing"  # type: ignore[attr-defined]
    before = set(run.root.list("asked"))
    first = verify(run, asked)
    (path,) = set(run.root.list("asked")) - before
    asked._predict = lambda images: pytest.fail("asked again")
    assert verify(run, asked) == first
    lines = run.root.read_bytes(path).splitlines(keepends=True)
    assert len(lines) == 1 + NUM_KEYS
    run.root.write_bytes(path, b"".join(lines[:3]) + b"no record\n" + lines[-1])
    with pytest.raises(InputError, match=r"\.jsonl is damaged; restore it, or delete it"):
        verify(run, asked)


def test_key_images_alone_are_asked_within_the_budget_too_wherever_the_run_lies(root: Root, tmp_path: Path) -> None:
    run = Run(load_config(None, settings_in(tmp_path, f"output.root={root.uri}", "detection.alpha=0.01")))
    prepare_keys(run)
    labels = {image.tobytes(): int(label) for image, label in zip(run.keys.images, run.keys.labels, strict=True)}
    with interface(lambda number, content: answer({"labels": labels[pixels_of(content).tobytes()]})) as arrived:

        def asked(max_requests: int) -> Certificate:
            described = {"kind": "http", "url": arrived.url, "labels": "labels", "max_requests": max_requests}
            return verify(run, open_suspect(described, owner_of(run)))

        for _ in range(2):
            with pytest.raises(InputError, match="the budget of 2 requests is spent after 2 answers"):
                asked(2)
        assert asked(3).ranks == (1, 1, 1)
        assert asked(3).ranks == (1, 1, 1)
    assert len(arrived.bodies) == 3


def test_a_spent_budget_ends_a_sequential_test_with_a_certificate(sequential: Run, capsys: Any) -> None:
    best = as_top5(scores_of(sequential))
    by_pixels = {image.tobytes(): row for image, row in zip(images_of(sequential), best.tolist(), strict=True)}
    with interface(lambda number, content: answer(by_pixels[pixels_of(content).tobytes()])) as arrived:
        described = {"kind": "http", "url": arrived.url, "send": "body", "labels": "*", "name": "poor"}
        budget = NUM_COVERS + 2 * NUM_QUERIES + 5
        certificate = verify(sequential, open_suspect({**described, "max_requests": budget}, owner_of(sequential)))
    assert len(arrived.bodies) == budget
    assert certificate.e_value is not None
    assert certificate.e_value.num_asked == 2
    assert certificate.verdict == "not detected"
    assert f"the test is of the first 2 keys: the budget of {budget} requests is spent" in capsys.readouterr().out


def test_queries_of_two_runs_are_never_mixed(
    run: Run, sequential: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs have files of the same names."""
    root, original = Root(str(tmp_path / "both")), Root.writing

    def writing_while_another_exports(self: Root, path: str, **options: Any) -> Any:
        with pytest.raises(InputError, match="something else is written into"):
            export_queries(sequential, sequential.registration, root.uri)
        return original(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Root, "writing", writing_while_another_exports)
        export_queries(run, run.registration, root.uri)
    before = {name: root.sha256(name) for name in root.list()}
    assert len(before) == NUM_IMAGES + 1
    with pytest.raises(InputError, match="is of another run; give an empty folder"):
        export_queries(sequential, sequential.registration, root.uri)
    assert {name: root.sha256(name) for name in root.list()} == before
