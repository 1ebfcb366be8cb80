from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from taggants.data import open_source
from taggants.errors import InputError
from taggants.models import ModelSpec
from taggants.storage import Root
from taggants.training.examples import Epoch, InMemory
from taggants.training.job import TrainingJob
from taggants.training.loop import Optimiser
from taggants.training.recipes import Recipe
from taggants.training.streaming import RayLoader, TorchLoader
from taggants.training.worker import read_split, run_training

SIZE = 12


@pytest.fixture
def folder(tmp_path):
    """45 images of several sizes in three classes, bright in a band that tells the class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 15), ("test", 5)):
        for label in range(3):
            place = tmp_path / split / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 90, (14 + number, 20, 3))
                image[:, 6 * label : 6 * label + 6] += 150
                Image.fromarray(image.astype(np.uint8)).save(place / f"{number}.png")
    return tmp_path


def sources(folder):
    return tuple(open_source("imagefolder", Root(str(folder)), split, channels=3) for split in ("train", "test"))


def rows_of(*batches):
    return [torch.tensor(batch) for batch in batches]


def loader(kind, source, labels):
    if kind == "torch":
        return TorchLoader(source, SIZE, labels, num_readers=2)
    return RayLoader(source, SIZE, labels, num_training_cpus=0)


KINDS = ["torch", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.fixture
def connected(request):
    if request.node.callspec.params["kind"] == "ray":
        request.getfixturevalue("ray_local")


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("kind", KINDS)
def test_streamed_batches_are_those_of_memory_bit_for_bit(folder, kind):
    images, labels = read_split(sources(folder)[0], SIZE)
    expected, streamed = InMemory(images, labels), loader(kind, sources(folder)[0], labels)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for number, recipe in enumerate((Recipe("strong", 1, True, 3), Recipe("simple", 2, True, 3))):
        epoch = Epoch(recipe, seed=7, number=number)
        rows = rows_of(range(44, 4, -2), [3, 3, 1], range(0, 40, 10))
        batches = list(streamed.batches(epoch, rows))
        assert len(batches) == 3
        for (pixels, weights), (own_pixels, own_weights) in zip(batches, expected.batches(epoch, rows), strict=True):
            assert torch.equal(pixels, own_pixels)
            assert torch.equal(weights, own_weights)
    assert torch.equal(before, torch.get_rng_state())  # dropout draws from it


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_damaged_meanwhile_is_named_in_one_sentence(folder, kind):
    source = sources(folder)[0]
    streamed = loader(kind, source, torch.from_numpy(source.index().labels))
    path = folder / "train" / "class1" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"class1/0\.png") as raised:
        list(streamed.batches(Epoch(Recipe("simple", 0, False, 3), 0, 0), rows_of([0, 1], [15])))
    assert "\n" not in str(raised.value)


def job_of(folder, **changes):
    train, test = sources(folder)
    job = TrainingJob(
        name="victim-0",
        spec=ModelSpec("cnn", 3, 3, SIZE),
        recipe=Recipe("simple", 1, True, 3),
        optimiser=Optimiser(num_epochs=3, batch_size=16, learning_rate=3e-3, weight_decay=0.01),
        seed=3,
        train_source=train,
        test_source=test,
        train_fingerprint="train",
        test_fingerprint="test",
        num_threads=1,
        num_workers=0,
        image_size=SIZE,
    )
    return dataclasses.replace(job, **changes)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.ray)])
def test_the_loader_changes_neither_the_model_nor_its_identity(folder, tmp_path, num_workers, request):
    kinds = ["memory", "device", "torch"]
    if num_workers:
        request.getfixturevalue("ray_local")
        kinds = ["memory", "ray"]
    trained = []
    for kind in kinds:
        job = job_of(folder, loader=kind, num_workers=num_workers, num_readers=1)
        trained.append(run_training(job, Root(str(tmp_path / f"models-{kind}")), lambda report: None))
    assert job.identity == job_of(folder, num_workers=num_workers).identity
    assert len({model.sha256 for model in trained}) == 1
    assert all(model.metrics == trained[0].metrics for model in trained)


@pytest.mark.parametrize("kind", ["memory", "torch"])
def test_training_reads_the_labels_without_hashing_the_files(folder, tmp_path, monkeypatch, kind):
    """Each process of a training gets its sources without their index: hashing ImageNet again would take it an hour."""
    job = job_of(folder, loader=kind, num_readers=1)
    expected = job.train_source.index().labels
    job = dataclasses.replace(job, train_source=sources(folder)[0], test_source=sources(folder)[1])
    monkeypatch.setattr(type(job.train_source), "_make_index", lambda source: pytest.fail("hashed the dataset"))
    assert job.train_source.labels().tolist() == expected.tolist()
    assert run_training(job, Root(str(tmp_path / "models")), lambda report: None).num_epochs == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": ModelSpec("cnn", 3, 1, SIZE)}, r"have shape \(3, 12, 12\) but the model takes \(1, 12, 12\)"),
        ({"spec": ModelSpec("cnn", 2, 3, SIZE)}, "label 2 is beyond the model's 2 classes"),
    ],
)
def test_streamed_examples_that_do_not_fit_are_refused(folder, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run_training(job_of(folder, loader="torch", **changes), Root(str(tmp_path / "models")), lambda report: None)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_ray_loader_wants_a_cpu_beside_the_training(folder):
    source = sources(folder)[0]
    with pytest.raises(InputError, match="needs a CPU beside those of the training, but Ray has"):
        RayLoader(source, SIZE, torch.zeros(45, dtype=torch.int64), num_training_cpus=100)
