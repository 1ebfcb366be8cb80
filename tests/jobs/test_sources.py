"""Datasets of every layout and of images of several sizes, through the stages of a run."""

from __future__ import annotations

import shutil
import tarfile

import numpy as np
import pytest

from taggants import pipeline
from taggants.config import load_config
from taggants.crafting.plan import Plan, Shard
from taggants.data import prepared
from taggants.data.digits import write_digits
from taggants.data.image_codec import encode_png
from taggants.data.layouts.image_folder import ImageFolder
from taggants.data.layouts.webdataset.source import WebDataset
from taggants.export import verify_export
from taggants.run import Run
from taggants.stages.check import check
from taggants.stages.export import _draw_contact_sheet
from taggants.stages.keys import prepare_keys
from tests.jobs.running import exit_code, load_job, settings_in
from tests.jobs.test_bad_input import nothing_signed, one_sentence


def draw_folder(folder, *, sizes=((40, 52),), num_per_class=12):
    """Two classes of colour images; each class has a hue."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for i in range(num_per_class):
                image = rng.integers(0, 128, (3, *sizes[i % len(sizes)]), dtype=np.uint8)
                image[label] += 100
                (folder / split / name / f"{i:02d}.png").write_bytes(encode_png(image))
    return ["data.source=imagefolder", f"data.root={folder}", "data.train=train", "data.test=test", "data.channels=3"]


def as_tars(folder):
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}.tar", "w") as tar:
            for label, name in enumerate(("cat", "dog")):
                for path in sorted((folder / split / name).iterdir()):
                    tar.add(path, f"{name}{path.name}")
                    (folder / "label").write_text(str(label))
                    tar.add(folder / "label", f"{name}{path.stem}.cls")
    return [
        "data.source=webdataset",
        f"data.root={folder}",
        "data.train=train.tar",
        "data.test=test",
        "data.channels=3",
    ]


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset"])
def test_images_of_several_sizes_are_trained_on_and_scored_resized(tmp_path, layout):
    settings = draw_folder(tmp_path / "data", sizes=((40, 52), (33, 16), (16, 16)))
    if layout == "webdataset":
        settings = as_tars(tmp_path / "data")
    config = load_config(None, settings_in(tmp_path, *settings, "data.image_size=16"))
    job = Run(config)
    check(job)
    assert isinstance(job.sources[0], ImageFolder if layout == "imagefolder" else WebDataset)
    assert job.model_size == (3, 16)
    prepare_keys(job)
    assert job.keys.images.shape == (3, 3, 16, 16)
    plan = pipeline.prepare(job)[1]
    assert sum(len(shard.sample_ids) for shard in plan.shards) == 9
    for shard in plan.shards:
        assert {int(job.index.labels[i]) for i in shard.sample_ids} == {int(job.keys.labels[shard.key_index])}


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset"])
def test_native_files_are_signed_exported_and_trained_on(tmp_path, layout):
    settings = draw_folder(tmp_path / "data", sizes=((40, 52), (33, 18)))
    if layout == "webdataset":
        settings = as_tars(tmp_path / "data")
    settings += ["data.image_size=16", "crafting.epsilon=16/255", "evaluation.num_victims=1"]
    config = load_config(None, settings_in(tmp_path, *settings, "output.private_manifest=true"))
    result = load_job("craft").main(config)
    job = Run(config)
    sample_ids = range(job.index.num_rows)
    clean, signed = (
        job.sources[0].read_sized(sample_ids),
        job.sources[0].at(result.export.signed).read_sized(sample_ids),
    )
    assert {image.shape for image in clean} == {(3, 40, 52), (3, 33, 18)}
    changes = [np.abs(a.astype(int) - b).max() for a, b in zip(clean, signed, strict=True)]  # fails on other shapes
    assert 0 < max(changes) <= 16
    assert {i for i in sample_ids if changes[i]} == set(verify_export(result.export.signed).signed_sample_ids)
    (certificate,) = result.certificates.values()
    assert certificate.suspect.startswith("victim-0")


def test_contact_sheet_shows_the_middles_of_images_of_several_sizes(tmp_path, monkeypatch):
    settings = draw_folder(tmp_path / "data", sizes=((40, 52), (33, 17), (18, 16)))
    job = Run(load_config(None, settings_in(tmp_path, *settings, "data.image_size=16")))
    originals = job.sources[0].read_sized(range(3))
    images = {i: original + np.uint8(5) for i, original in enumerate(originals)}
    shards = tuple(Shard(i, i, (i,), seed=0) for i in range(3))
    drawn = []
    monkeypatch.setattr("taggants.stages.export.draw_contact_sheet", lambda *pictures: drawn.extend(pictures) or b"")
    _draw_contact_sheet(job, Plan("config", "data", "keys", "models", shards), images)
    clean, signed, captions = drawn
    assert captions == ["cat"] * 3
    for shown, original, (top, left) in zip(clean, originals, ((11, 18), (7, 0), (0, 0)), strict=True):
        assert np.array_equal(shown, original[:, top : top + 18, left : left + 16])
    assert (signed == clean + 5).all()


def test_data_of_several_sizes_without_a_size_for_the_models(tmp_path, capsys):
    settings = draw_folder(tmp_path / "data", sizes=((16, 16), (16, 16), (16, 20)))
    assert exit_code("craft", settings_in(tmp_path, *settings)) == 2
    sentence = one_sentence(capsys)
    assert "has shape (3, 16, 20) but the first training image (3, 16, 16)" in sentence
    assert "set data.image_size" in sentence
    assert nothing_signed(tmp_path)
    assert not (tmp_path / "secrets").exists()


def test_oblong_data_without_a_size_for_the_models(tmp_path, capsys):
    assert exit_code("craft", settings_in(tmp_path, *draw_folder(tmp_path / "data"))) == 2
    assert "images are 40 x 52 px, which is not square; set data.image_size" in one_sentence(capsys)


def test_class_that_the_test_split_lacks_would_shift_labels(tmp_path, capsys):
    settings = draw_folder(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "test" / "cat")
    assert exit_code("craft", settings_in(tmp_path, *settings, "data.image_size=16")) == 2
    sentence = one_sentence(capsys)
    assert "only in training: cat" in sentence
    assert "only in test: none" in sentence
    assert not (tmp_path / "secrets").exists()


def test_torchvision_dataset_is_written_once_under_the_output_root(tmp_path, monkeypatch):
    written = []

    def write(name, root, *, download_folder):
        written.append((name, root.uri, download_folder))
        write_digits(root)

    monkeypatch.setattr(prepared, "write_torchvision", write)
    settings = ["data.source=torchvision", "data.dataset=MNIST", f"data.root={tmp_path}/cache", "data.num_classes=4"]
    job = Run(load_config(None, settings_in(tmp_path, *settings)))
    check(job)
    assert job.index.num_classes == 4
    assert written == [("MNIST", str(tmp_path / "runs" / "datasets" / "torchvision-MNIST"), f"{tmp_path}/cache")]


def test_run_without_git_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    job = Run(load_config(None, settings_in(tmp_path)))
    job.write_config()
    assert job.root.read_json("config.json")["git_commit"] is None
