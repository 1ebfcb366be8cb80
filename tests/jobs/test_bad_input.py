from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from taggants.data.image_codec import encode_png
from taggants.models import ModelSpec, build_model, checkpoint_bytes
from taggants.stages.plan import make_plan
from tests.jobs.running import exit_code, settings_in


def one_sentence(capsys) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in captured.out + captured.err
    return lines[0]


def nothing_signed(folder: Path) -> bool:
    written = [path for path in folder.rglob("*") if path.is_file()]
    return not any({"signed", "attempts", "commits", "certificates"} & set(path.parts) for path in written)


@pytest.fixture
def dataset(tmp_path):
    """Forty 8x8 grey images of two classes as Parquet; returns a function that writes it, changed."""

    def write(change=lambda rows: None, drop=()):
        rng = np.random.default_rng(0)
        rows = [
            {
                "image": {"bytes": encode_png(rng.integers(0, 256, (1, 8, 8), dtype=np.uint8)), "path": f"{i}.png"},
                "label": i % 2,
            }
            for i in range(40)
        ]
        change(rows)
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for split in ("train", "test"):
            pq.write_table(pa.Table.from_pylist(rows).drop_columns(list(drop)), folder / f"{split}.parquet")
        return ["data.source=parquet", f"data.root={folder}"]

    return write


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("crafting.epsilom=0.1", "config field 'crafting.epsilom' does not exist"),
        ("crafting.epsilon=2", "config field 'crafting.epsilon' = 2: pixels are in [0, 1]; write 2/255"),
        ("surrogate.model=resnet999", "model 'resnet999' does not exist"),
        ("surrogate.model=timm/vit_tiny_patch16_224", "does not take 1 channels of 8 px"),
        (
            "detection.question={kinds: [{model: timm/nope}]}",
            "detection.question.kinds: model 'timm/nope' does not exist",
        ),
        (
            "detection.question={kinds: [{model: timm/vit_tiny_patch16_224, patch_size: 16}]}",
            "detection.question.kinds: model 'timm/vit_tiny_patch16_224' with patch_size 16 does not take 1 channels of 8 px",
        ),
        ("detection.top_k=10", "detection.top_k = 10 must be below the number of classes, 10"),
        ("keys.cell_size=9", "cell_size is 9 but must be an integer in 1..8"),
        ("crafting.crop_padding=8", "crop padding 8 must be below the image size 8"),
        ("evaluation.training.crop_padding=8", "crop padding 8 must be below the image size 8"),
        ("data.num_classes=11", "num_classes is 11"),
        ("crafting.milestones=[2]", "crafting.milestones.0' = 2 must be a number >= 0 and <= 1"),
        ("data.train=2024-13-45", "the value is not YAML"),
        ("surrogate.num_threads=100000000000", "surrogate.num_threads"),
    ],
)
def test_bad_settings_stop_before_any_work(tmp_path, capsys, setting, sentence):
    assert exit_code("craft", settings_in(tmp_path, setting)) == 2
    assert sentence in one_sentence(capsys)
    assert nothing_signed(tmp_path)
    assert not list(tmp_path.rglob("models"))


def test_budget_that_no_class_can_hold(tmp_path, capsys):
    assert exit_code("craft", settings_in(tmp_path, "signing.images_per_key=400")) == 2
    assert "images but a key needs 400" in one_sentence(capsys)
    assert nothing_signed(tmp_path)
    assert not list(tmp_path.rglob("models"))


def test_missing_column_is_named_and_what_there_is_listed(tmp_path, capsys, dataset):
    assert exit_code("craft", settings_in(tmp_path, *dataset(drop=["label"]))) == 2
    sentence = one_sentence(capsys)
    assert "label" in sentence
    assert "image" in sentence
    assert not (tmp_path / "secrets").exists()
    assert not (tmp_path / "runs").exists()


def test_corrupt_image_is_named(tmp_path, capsys, dataset):
    def corrupt(rows):
        rows[17]["image"]["bytes"] = b"\x89PNG not quite"

    assert exit_code("craft", settings_in(tmp_path, *dataset(corrupt))) == 2
    sentence = one_sentence(capsys)
    assert "17" in sentence
    assert "train.parquet" in sentence
    assert nothing_signed(tmp_path)


def test_key_file_that_fails_its_own_commitment(tmp_path, capsys):
    assert exit_code("keys", settings_in(tmp_path)) == 0
    capsys.readouterr()
    key_file = tmp_path / "secrets" / "digits.json"
    content = json.loads(key_file.read_text())
    secret = content["secret"]
    content["secret"] = "00" * 32
    key_file.write_text(json.dumps(content))
    assert exit_code("craft", settings_in(tmp_path)) == 2
    sentence = one_sentence(capsys)
    assert "fails its own commitment" in sentence
    assert secret not in sentence
    assert nothing_signed(tmp_path)


def test_checkpoint_whose_class_count_differs(tmp_path, capsys):
    assert exit_code("keys", settings_in(tmp_path)) == 0
    capsys.readouterr()
    spec = ModelSpec("cnn", num_classes=4, channels=1, image_size=8)
    suspect = tmp_path / "other" / "model.safetensors"
    suspect.parent.mkdir()
    suspect.write_bytes(checkpoint_bytes(build_model(spec, 0), spec))
    assert exit_code("verify", settings_in(tmp_path, f"verify.suspects=[{suspect}]")) == 2
    assert "has 4 classes but the keys were drawn from 10" in one_sentence(capsys)
    assert nothing_signed(tmp_path)


def test_run_folder_of_another_plan(tmp_path, capsys):
    def kept():
        files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and "scores" not in path.parts]
        return {path: path.read_bytes() for path in files if path.name not in ("registration.json", "config.json")}

    assert exit_code("craft", settings_in(tmp_path)) == 0
    before = kept()
    capsys.readouterr()
    (tmp_path / "secrets" / "digits.json").unlink()
    assert exit_code("craft", settings_in(tmp_path)) == 2
    assert "is registered for other keys or data" in one_sentence(capsys)
    for registration in (tmp_path / "runs").glob("*/registration.json"):
        registration.unlink()
    assert exit_code("craft", settings_in(tmp_path)) == 2
    assert "plan" in one_sentence(capsys)
    assert kept() == before


@pytest.mark.parametrize(
    ("job", "settings", "sentence"),
    [
        ("verify", [], "no suspect is named"),
        ("verify", ["verify.suspects=[/nowhere/model.safetensors]"], "has no registration.json; run `taggants craft`"),
        ("train", [], "run `taggants craft` with this configuration first"),
        ("craft", ["data.source=parquet", "data.root=/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_is_missing_is_named(tmp_path, capsys, job, settings, sentence):
    assert exit_code(job, settings_in(tmp_path, *settings)) == 2
    assert sentence in one_sentence(capsys)


def test_missing_and_foreign_suspects_are_named(tmp_path, capsys):
    assert exit_code("keys", settings_in(tmp_path)) == 0
    capsys.readouterr()
    assert exit_code("verify", settings_in(tmp_path, f"verify.suspects=[{tmp_path}/none.safetensors]")) == 2
    assert "none.safetensors does not exist" in one_sentence(capsys)
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    assert exit_code("verify", settings_in(tmp_path, f"verify.suspects=[{tmp_path}/junk.safetensors]")) == 2
    assert "is not a model written by taggants" in one_sentence(capsys)


def test_changed_export_is_not_trained_on(tmp_path, capsys):
    assert exit_code("craft", settings_in(tmp_path)) == 0
    capsys.readouterr()
    (signed,) = (tmp_path / "runs").glob("*/signed/train.parquet")
    shutil.copy(tmp_path / "runs" / "datasets" / "digits" / "train.parquet", signed)
    assert exit_code("train", settings_in(tmp_path)) == 2
    assert "train.parquet" in one_sentence(capsys)


def test_images_that_cannot_be_signed_are_found_before_any_work(tmp_path, capsys, dataset):
    settings = dataset()
    assert exit_code("craft", settings_in(tmp_path, *settings, "data.channels=3")) == 2
    captured = capsys.readouterr()
    assert "40 a greyscale PNG but data.channels = 3" in captured.out
    assert "class 0 has 0 images that can be signed, and 20 that cannot, but a key needs 3" in captured.err
    assert not list(tmp_path.rglob("models"))


def test_test_images_of_another_size_are_found_before_any_work(tmp_path, capsys, dataset):
    settings = dataset()
    table = pq.read_table(tmp_path / "data" / "test.parquet")
    rows = table.to_pylist()
    rows[0]["image"]["bytes"] = encode_png(np.zeros((1, 16, 16), dtype=np.uint8))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "test.parquet")
    assert exit_code("craft", settings_in(tmp_path, *settings)) == 2
    sentence = one_sentence(capsys)
    assert "test image" in sentence
    assert "has shape (1, 16, 16)" in sentence
    assert "data.image_size" in sentence
    assert not list(tmp_path.rglob("models"))


def test_class_without_images_is_refused_before_keys_are_drawn(tmp_path, capsys, dataset):
    def skip_a_class(rows):
        for row in rows:
            row["label"] *= 2

    assert exit_code("craft", settings_in(tmp_path, *dataset(skip_a_class))) == 2
    assert "class 1 has 0 images but a key needs 3" in one_sentence(capsys)
    assert not (tmp_path / "secrets").exists()


def test_truncated_parquet_file_is_named_and_mended(tmp_path, capsys, dataset):
    settings = settings_in(tmp_path, *dataset())
    train = tmp_path / "data" / "train.parquet"
    whole = train.read_bytes()
    for size_bytes in (len(whole) // 2, len(whole) - 4, 4, 0):
        train.write_bytes(whole[:size_bytes])
        assert exit_code("craft", settings) == 2
        assert "train.parquet is damaged or not a complete Parquet file; write or fetch it again" in one_sentence(
            capsys
        )
        assert not (tmp_path / "secrets").exists()
    train.write_bytes(whole)
    assert exit_code("craft", settings) == 0


def jpeg(seed):
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, "JPEG", quality=90)
    return sink.getvalue()


@pytest.fixture
def jpeg_folder(tmp_path):
    """Forty JPEG files of two classes; returns the settings to read them."""
    for split in ("train", "test"):
        for i in range(40):
            path = tmp_path / "data" / split / "ab"[i % 2] / f"{i:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(i))
    settings = ["data.source=imagefolder", f"data.root={tmp_path / 'data'}", "data.train=train", "data.test=test"]
    return [*settings, "data.channels=3"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_jpeg_that_does_not_decode_is_named_and_mended(tmp_path, capsys, jpeg_folder, split):
    """The pixels of most images are first decoded for training: nothing is signed by then, so the image may be replaced."""
    settings = settings_in(tmp_path, *jpeg_folder)
    image = tmp_path / "data" / split / "a" / "02.jpg"
    image.write_bytes(jpeg(2)[:300])
    assert exit_code("craft", settings) == 2
    assert f"{split}/a/02.jpg (sample 1): the image cannot be decoded" in one_sentence(capsys)
    assert nothing_signed(tmp_path)
    keys = (tmp_path / "secrets" / "digits.json").read_bytes()
    image.write_bytes(jpeg(99))
    if split == "train":  # other data make the registration void, which its owner has to say
        assert exit_code("craft", settings) == 2
        [setting] = re.findall(r"output\.void_registrations=\[[0-9a-f]{64}\]", one_sentence(capsys))
        settings = [*settings, setting]
    assert exit_code("craft", settings) == 0
    assert (tmp_path / "secrets" / "digits.json").read_bytes() == keys


def test_jpeg_that_is_damaged_while_a_run_crafts_costs_its_shard_alone(tmp_path, capsys, monkeypatch, jpeg_folder):
    settings = settings_in(tmp_path, *jpeg_folder)
    plans = []

    def then_damage(run, surrogates):
        plan = make_plan(run, surrogates)
        path = Path(run.sources[0].root.uri) / run.sources[0].path_of(plan.shards[1].sample_ids[0])
        plans.append((path, path.read_bytes()))
        path.write_bytes(path.read_bytes()[:300])
        return plan

    with monkeypatch.context() as patch:
        patch.setattr("taggants.pipeline.make_plan", then_damage)
        assert exit_code("craft", settings) == 1
    captured = capsys.readouterr()
    [(path, whole)] = plans
    assert "Traceback" not in captured.out + captured.err
    assert "craft: 2 shards crafted, 0 found done, of 3" in captured.out
    [reason] = [line for line in captured.out.splitlines() if "shard 1 failed for good" in line]
    assert f"{path} (sample " in reason
    assert "cannot be decoded" in reason
    assert "nothing was exported; fix the cause and run the same command again" in captured.out
    assert not list(tmp_path.glob("runs/*/signed"))
    commits = {path: path.read_bytes() for path in tmp_path.glob("runs/*/commits/*")}
    assert len(commits) == 2
    path.write_bytes(jpeg(99))  # another dataset than the one that is half signed
    assert exit_code("craft", settings) == 2
    assert "is registered for other keys or data" in one_sentence(capsys)
    path.write_bytes(whole)
    assert exit_code("craft", settings) == 0
    assert "craft: 1 shards crafted, 2 found done, of 3" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in commits} == commits


def test_key_that_is_there_twice_in_a_tar_is_named_and_mended(tmp_path, capsys):
    def write(path, keys):
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for i, key in enumerate(keys):
                for name, data in ((f"{key}.jpg", jpeg(i)), (f"{key}.cls", b"%d" % (i % 2))):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    keys = [f"{i:02d}" for i in range(40)]
    write(tmp_path / "data" / "train.tar", [*keys[:-1], "05"])
    write(tmp_path / "data" / "test.tar", keys)
    settings = settings_in(tmp_path, "data.source=webdataset", f"data.root={tmp_path / 'data'}", "data.channels=3")
    settings += ["data.train=train.tar", "data.test=test.tar"]
    assert exit_code("craft", settings) == 2
    assert re.search(r"Key '05' of .*train\.tar has two images; give every image its own key", one_sentence(capsys))
    assert not (tmp_path / "secrets").exists()
    write(tmp_path / "data" / "train.tar", keys)
    assert exit_code("craft", settings) == 0


def test_class_folder_without_images_is_named_and_mended(tmp_path, capsys, jpeg_folder):
    settings = settings_in(tmp_path, *jpeg_folder)
    empty = tmp_path / "data" / "train" / "c"
    empty.mkdir()
    (empty / "notes.txt").write_text("to be filled")
    assert exit_code("craft", settings) == 2
    sentence = one_sentence(capsys)
    assert "Class 'c' in" in sentence
    assert "has no images" in sentence
    assert "remove the folder or restore its images" in sentence
    assert not (tmp_path / "secrets").exists()
    shutil.rmtree(empty)
    assert exit_code("craft", settings) == 0


def test_images_of_several_sizes_are_named_with_the_setting_that_takes_them(tmp_path, capsys, dataset):
    def enlarge(rows):
        rows[21]["image"]["bytes"] = encode_png(np.zeros((1, 16, 16), dtype=np.uint8))  # none of those looked at first

    settings = dataset(enlarge)
    assert exit_code("craft", settings_in(tmp_path, *settings)) == 2
    sentence = one_sentence(capsys)
    assert "sample 21" in sentence
    assert "set data.image_size" in sentence
    assert nothing_signed(tmp_path)


def test_exchanged_surrogate_is_noticed(tmp_path, capsys):
    assert exit_code("craft", settings_in(tmp_path, "evaluation.num_controls=1")) == 0
    capsys.readouterr()
    (surrogate,) = tmp_path.glob("runs/models/surrogate-0-*/model.safetensors")
    (control,) = tmp_path.glob("runs/models/control-0-*/model.safetensors")
    shutil.copy(control, surrogate)
    assert exit_code("craft", settings_in(tmp_path)) == 2
    assert "is not the model trained there" in one_sentence(capsys)


@pytest.mark.parametrize("content", ["{}", "[1]", "{"])
def test_damaged_training_result_is_named(tmp_path, capsys, content):
    assert exit_code("craft", settings_in(tmp_path)) == 0
    capsys.readouterr()
    (result,) = tmp_path.glob("runs/models/surrogate-0-*/result.json")
    result.write_text(content)
    assert exit_code("craft", settings_in(tmp_path)) == 2
    assert "result.json" in one_sentence(capsys)


def test_mangled_key_spec_does_not_show_the_secret(tmp_path, capsys):
    assert exit_code("keys", settings_in(tmp_path)) == 0
    capsys.readouterr()
    key_file = tmp_path / "secrets" / "digits.json"
    content = json.loads(key_file.read_text())
    content["spec"]["cell_size"] = content["secret"]
    key_file.write_text(json.dumps(content))
    assert exit_code("craft", settings_in(tmp_path)) == 2
    sentence = one_sentence(capsys)
    assert content["secret"] not in sentence
    assert "restore it from your backup" in sentence


@pytest.mark.parametrize(("first", "second"), [("true", "false"), ("false", "true")])
def test_public_demonstration_secret_is_never_taken_for_a_real_one(tmp_path, capsys, first, second):
    assert exit_code("keys", settings_in(tmp_path, f"keys.demonstration={first}")) == 0
    capsys.readouterr()
    assert exit_code("keys", settings_in(tmp_path, f"keys.demonstration={second}")) == 2
    assert f"but keys.demonstration = {second}; choose another keys.name" in one_sentence(capsys)
