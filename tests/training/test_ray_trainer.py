from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from taggants.data.digits import write_digits
from taggants.data.image_codec import encode_png
from taggants.data.parquet_source import ParquetSource
from taggants.data.source import resize_and_crop
from taggants.errors import InputError
from taggants.models import ModelSpec, model_from_checkpoint
from taggants.storage import Root
from taggants.training import ray_trainer
from taggants.training.loop import Optimiser, accuracy
from taggants.training.ray_trainer import TrainingJob, run_training
from taggants.training.recipes import Recipe


@pytest.fixture
def job(tmp_path):
    data = Root(str(tmp_path / "digits"))
    write_digits(data)
    return TrainingJob(
        name="surrogate-0",
        spec=ModelSpec("cnn", 10, 1, 8),
        recipe=Recipe("simple", 0, False, 10),
        optimiser=Optimiser(num_epochs=3, batch_size=64, learning_rate=2e-3, weight_decay=0.01),
        seed=3,
        train_source=ParquetSource(data, ("train.parquet",)),
        test_source=ParquetSource(data, ("test.parquet",)),
        train_fingerprint="digits",
        test_fingerprint="digits too",
        num_threads=1,
        num_workers=0,
    )


def quiet(report):
    return None


def test_local_mode_trains_saves_and_returns_the_finished_run(job, tmp_path):
    run = Root(str(tmp_path / "run"))
    epochs = []
    trained = run_training(job, run, lambda report: epochs.append(report.epoch))
    assert epochs == [0, 1, 2]
    model, spec = model_from_checkpoint(run.read_bytes(trained.path), trained.path)
    assert spec == job.spec
    images, labels = (torch.from_numpy(array) for array in job.test_source.read_all())
    assert accuracy(model, images, labels) == trained.accuracy > 0.8
    assert run_training(job, run, quiet) == trained
    assert epochs == [0, 1, 2]


def test_interrupted_run_goes_on_and_ends_in_the_same_bytes(job, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_trainer, "_SAVE_EVERY_S", 0.0)
    whole = run_training(job, Root(str(tmp_path / "whole")), quiet)
    run = Root(str(tmp_path / "stopped"))

    class Killed(Exception):
        pass

    def kill(report):
        if report.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        run_training(job, run, kill)
    assert not run.exists(whole.path)
    epochs = []
    assert run_training(job, run, lambda report: epochs.append(report.epoch)).sha256 == whole.sha256
    assert epochs == [2]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"train_fingerprint": "signed"},
        {"test_fingerprint": "other"},
        {"num_threads": 2},
        {"image_size": 8},
    ],
)
def test_another_job_is_another_model(job, change):
    assert dataclasses.replace(job, **change).identity != job.identity


def test_where_the_data_lie_is_no_part_of_the_identity(job):
    elsewhere = dataclasses.replace(job.train_source, root=Root("/elsewhere"))
    assert dataclasses.replace(job, train_source=elsewhere).identity == job.identity


def test_damaged_state_starts_training_anew_and_ends_in_the_same_bytes(job, tmp_path):
    whole = run_training(job, Root(str(tmp_path / "whole")), quiet)
    run = Root(str(tmp_path / "damaged"))
    run.write_bytes(f"{whole.path.partition('/')[0]}/state.safetensors", b"half a file")
    assert run_training(job, run, quiet).sha256 == whole.sha256


@pytest.mark.parametrize("change", [{"label_column": "coarse"}, {"image_column": "thumbnail"}, {"channels": 3}])
def test_how_the_data_is_read_is_part_of_the_identity(job, change):
    source = dataclasses.replace(job.train_source, **change)
    assert dataclasses.replace(job, train_source=source).identity != job.identity


def test_labels_beyond_the_models_classes_are_refused(job, tmp_path):
    narrow = dataclasses.replace(job, spec=ModelSpec("cnn", 5, 1, 8), recipe=Recipe("simple", 0, False, 5))
    with pytest.raises(InputError, match="label 9 is beyond the model's 5 classes"):
        run_training(narrow, Root(str(tmp_path / "run")), quiet)


def test_images_of_another_size_are_refused(job, tmp_path):
    large = dataclasses.replace(job, spec=ModelSpec("cnn", 10, 1, 16))
    with pytest.raises(InputError, match=r"training images have shape \(1, 8, 8\) but the model takes \(1, 16, 16\)"):
        run_training(large, Root(str(tmp_path / "run")), quiet)


def test_images_of_all_sizes_are_trained_on_resized(job, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 256, (1, 20 + i % 7, 31 - i % 11), dtype=np.uint8) for i in range(11)]
    rows = [{"image": encode_png(image), "label": i % 10} for i, image in enumerate(drawn)]
    folder = Root(str(tmp_path / "drawn"))
    folder.write_table("all.parquet", pa.Table.from_pylist(rows))
    source = ParquetSource(folder, ("all.parquet",))
    monkeypatch.setattr(ray_trainer, "_READ_ROWS", 4)
    seen = []
    monkeypatch.setattr(ray_trainer, "train", lambda model, images, labels, *_, **__: seen.append((images, labels)))
    resized = dataclasses.replace(job, train_source=source, test_source=source, image_size=8)
    run_training(resized, Root(str(tmp_path / "run")), quiet)
    ((images, labels),) = seen
    assert torch.equal(images, torch.from_numpy(np.stack([resize_and_crop(image, 8) for image in drawn])))
    assert labels.tolist() == [i % 10 for i in range(11)]


def test_a_chunk_of_grey_images_among_colour_is_named(job, tmp_path, monkeypatch):
    rows = [{"image": encode_png(np.zeros((1 if i >= 4 else 3, 8, 8), np.uint8)), "label": i} for i in range(8)]
    folder = Root(str(tmp_path / "drawn"))
    folder.write_table("all.parquet", pa.Table.from_pylist(rows))
    monkeypatch.setattr(ray_trainer, "_READ_ROWS", 4)
    mixed = dataclasses.replace(job, train_source=ParquetSource(folder, ("all.parquet",)), image_size=8)
    with pytest.raises(InputError, match=r"sample 4\) has 1 channels but sample 0 has 3"):
        run_training(mixed, Root(str(tmp_path / "run")), quiet)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_ray_train_workers_train_and_bad_input_reaches_the_caller(job, tmp_path, num_workers):
    run = Root(str(tmp_path / "run"))
    trained = run_training(dataclasses.replace(job, num_workers=num_workers), run, quiet)
    assert trained.accuracy > 0.8
    assert run.exists(trained.path)
    if num_workers == 1:
        assert trained.sha256 == run_training(job, Root(str(tmp_path / "local")), quiet).sha256
        large = dataclasses.replace(job, num_workers=1, spec=ModelSpec("cnn", 10, 1, 16))
        with pytest.raises(InputError, match="use one size"):
            run_training(large, Root(str(tmp_path / "other")), quiet)
