from __future__ import annotations

import dataclasses
import hashlib
import logging
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from taggants.data.digits import write_digits
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.models import ModelSpec, build_model, checkpoint_bytes
from taggants.storage import Root
from taggants.training import scores as scores_module
from taggants.training import scoring
from taggants.training.scores import gradient_norms
from taggants.training.scoring import Candidates, Scores, ScoringJob, candidate_scores, score_here

SPEC = ModelSpec("cnn", num_classes=10, channels=1, image_size=8)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> ScoringJob:
    root = Root(str(tmp_path_factory.mktemp("scoring")))
    write_digits(root.child("digits"))
    surrogates = []
    for seed in (1, 2):
        data = checkpoint_bytes(build_model(SPEC, seed), SPEC)
        root.write_bytes(f"models/{seed}.safetensors", data)
        surrogates.append((f"{seed}.safetensors", hashlib.sha256(data).hexdigest()))
    source = ParquetSource(root.child("digits"), "train.parquet", channels=1)
    fingerprint = source.index().fingerprint
    return ScoringJob(root.child("models"), tuple(surrogates), source, fingerprint, None, "gradient_norm", "cpu", 1)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_WINDOW_ROWS", 300)  # five windows of digits


@pytest.fixture
def store(tmp_path: Path) -> Root:
    return Root(str(tmp_path / "scores"))


class Counting:
    """A pass that remembers the samples it scored, and may break off."""

    def __init__(self, most_windows: int | None = None) -> None:
        self.sample_ids: list[int] = []
        self._most_windows = most_windows

    def __call__(self, job: ScoringJob, windows: Sequence[Candidates]) -> Iterator[Scores]:
        for index, (sample_ids, scores) in enumerate(score_here(job, windows)):
            if index == self._most_windows:
                raise KeyboardInterrupt
            self.sample_ids += sample_ids.tolist()
            yield sample_ids, scores


def scores_of(
    job: ScoringJob, classes: Sequence[int], store: Root, score: scoring.ScoringPass = score_here
) -> np.ndarray:
    return candidate_scores(job, job.source.index().labels, np.array(classes), store, score)


def rows_of(job: ScoringJob, classes: Sequence[int]) -> np.ndarray:
    return np.flatnonzero(np.isin(job.source.index().labels, classes))


@pytest.mark.parametrize("function", ["gradient_norm", "loss"])
def test_scores_are_means_of_what_each_surrogate_gives_for_one_image(
    job: ScoringJob, store: Root, function: str
) -> None:
    scores = scores_of(dataclasses.replace(job, function=function), [3, 8], store)  # type: ignore[arg-type]
    labels = job.source.index().labels
    rows = rows_of(job, [3, 8])
    for row in [*rows[:3], *rows[-3:]]:
        image = torch.from_numpy(job.source.read_images([int(row)])).float() / 255
        values = []
        for seed in (1, 2):
            model = build_model(SPEC, seed).eval()
            loss = cross_entropy(model(image), torch.tensor(labels[[row]]))
            loss.backward()
            norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))  # type: ignore[arg-type, union-attr]
            values.append(float(norm if function == "gradient_norm" else loss.detach()))
        assert scores[row] == pytest.approx(np.mean(values), rel=1e-4)
    assert (np.delete(scores, rows) == 0).all()


def test_scores_have_the_same_bits_whichever_classes_are_asked_for_and_in_whatever_order(
    job: ScoringJob, store: Root, tmp_path: Path
) -> None:
    alone = scores_of(job, [3], Root(str(tmp_path / "alone")))
    together = scores_of(job, [8, 3, 1, 3], Root(str(tmp_path / "together")))
    scores_of(job, [1], store)
    scores_of(job, [3, 1], store)
    grown = scores_of(job, [3, 8, 1], store)
    rows = rows_of(job, [3])
    assert np.array_equal(alone[rows], together[rows])
    assert np.array_equal(grown, together)


def test_what_is_scored_is_not_scored_again(job: ScoringJob, store: Root) -> None:
    first, second, third = Counting(), Counting(), Counting()
    before = scores_of(job, [3, 4], store, first)
    scores_of(job, [4, 9], store, second)
    assert sorted(first.sample_ids) == rows_of(job, [3, 4]).tolist()
    assert sorted(second.sample_ids) == rows_of(job, [9]).tolist()
    assert np.array_equal(scores_of(job, [3, 4], store, third), before)
    assert third.sample_ids == []
    assert len(store.list()) == 1


def test_a_pass_that_was_broken_off_goes_on(job: ScoringJob, store: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = scores_of(job, [3, 4], store.child("undisturbed"))
    monkeypatch.setattr(scoring, "_SAVE_EVERY_S", 0.0)
    first, second = Counting(most_windows=3), Counting()
    with pytest.raises(KeyboardInterrupt):
        scores_of(job, [3, 4], store, first)
    assert np.array_equal(scores_of(job, [3, 4], store, second), undisturbed)
    assert len(first.sample_ids) > 100
    assert sorted(first.sample_ids + second.sample_ids) == rows_of(job, [3, 4]).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"function": "loss"},
        {"image_size": 8},
        {"num_threads": 2},
        {"dataset_fingerprint": "other"},
        {"device": "cuda"},
    ],
)
def test_whatever_decides_a_score_makes_another_file(job: ScoringJob, changes: dict[str, object]) -> None:
    other = dataclasses.replace(job, **changes)  # type: ignore[arg-type]
    read_as_rgb = dataclasses.replace(job, source=dataclasses.replace(job.source, channels=3))  # type: ignore[type-var]
    fewer = dataclasses.replace(job, surrogates=job.surrogates[:1])
    assert len({job.identity, other.identity, read_as_rgb.identity, fewer.identity}) == 4


def test_where_things_lie_makes_no_other_file(job: ScoringJob) -> None:
    moved = tuple((f"elsewhere/{path}", sha256) for path, sha256 in job.surrogates)
    elsewhere = dataclasses.replace(
        job, models=Root("/elsewhere"), surrogates=moved, source=job.source.at(Root("/moved"))
    )
    assert elsewhere.identity == job.identity


@pytest.mark.parametrize("damage", ["half", "a bit", "empty"])
def test_a_damaged_file_is_replaced(
    job: ScoringJob, store: Root, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = scores_of(job, [3], store)
    (path,) = store.list()
    data = bytearray(store.read_bytes(path))
    if damage == "half":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = bytearray()
    else:
        data[data.index(before[rows_of(job, [3])[5]].tobytes())] ^= 1
    store.write_bytes(path, bytes(data))
    counting = Counting()
    with caplog.at_level(logging.WARNING, "taggants"):
        assert np.array_equal(scores_of(job, [3], store, counting), before)
    assert len(counting.sample_ids) == len(rows_of(job, [3]))
    assert "is damaged, so the candidates are scored again" in caplog.text
    assert np.array_equal(scores_of(job, [3], store, Counting(most_windows=0)), before)


def test_the_file_is_for_its_owner_alone(job: ScoringJob, store: Root) -> None:
    scores_of(job, [3], store)
    assert stat.S_IMODE((Path(store.uri) / store.list()[0]).stat().st_mode) == 0o600


def test_progress_counts_what_the_store_holds(job: ScoringJob, store: Root) -> None:
    labels = job.source.index().labels
    scores_of(job, [3], store)
    seen: list[int] = []
    candidate_scores(job, labels, np.array([3, 4]), store, score_here, seen.append)
    assert seen[0] == len(rows_of(job, [3]))
    assert seen[-1] == len(rows_of(job, [3, 4]))
    assert len(seen) == 1 + 5


def test_thread_count_is_restored(job: ScoringJob, store: Root) -> None:
    before = torch.get_num_threads()
    scores_of(dataclasses.replace(job, num_threads=before + 1), [3], store)
    assert torch.get_num_threads() == before


def test_a_checkpoint_that_was_changed_is_refused(job: ScoringJob, store: Root) -> None:
    with pytest.raises(InputError, match="is not the model trained there"):
        scores_of(dataclasses.replace(job, surrogates=((job.surrogates[0][0], "0" * 64),)), [3], store)


def test_gradients_of_a_large_model_are_held_for_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(SPEC, 1).eval()
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7)
    sizes: list[int] = []
    model[0].register_forward_pre_hook(lambda module, given: sizes.append(1))
    whole = gradient_norms(model, images, labels)
    assert len(sizes) == 1
    bytes_of_one = sum(parameter.numel() * 4 for parameter in model.parameters())
    monkeypatch.setattr(scores_module, "_MOST_GRADIENT_BYTES", 3 * bytes_of_one)
    torch.testing.assert_close(gradient_norms(model, images, labels), whole)
    assert len(sizes) == 1 + 3
    monkeypatch.setattr(scores_module, "_MOST_GRADIENT_BYTES", bytes_of_one - 1)
    torch.testing.assert_close(gradient_norms(model, images, labels), whole)
    assert len(sizes) == 1 + 3 + 7


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_ray_gives_the_same_bits_with_any_number_of_actors_and_blocks(job: ScoringJob, tmp_path: Path) -> None:
    from taggants.training.scoring_pool import score_on_ray

    here = scores_of(job, [3, 8, 1], Root(str(tmp_path / "here")))
    for num_workers, num_blocks in ((1, None), (2, 3)):
        on_ray = partial(score_on_ray, num_workers=num_workers, num_cpus=0.5, num_blocks=num_blocks)
        store = Root(str(tmp_path / f"{num_workers} {num_blocks}"))
        assert np.array_equal(scores_of(job, [3, 8, 1], store, on_ray), here), (num_workers, num_blocks)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_bad_input_of_an_actor_is_one_sentence(job: ScoringJob, store: Root) -> None:
    from taggants.training.scoring_pool import score_on_ray

    missing = dataclasses.replace(job, models=job.models.child("nowhere"))
    with pytest.raises(InputError, match=r"1\.safetensors does not exist"):
        scores_of(missing, [3], store, partial(score_on_ray, num_workers=1, num_cpus=0.5))
