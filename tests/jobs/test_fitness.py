"""Images that cannot be signed among others: they are counted, never signed, and exported as they are."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from taggants.config import load_config
from taggants.data import open_source
from taggants.data.fitness import fitness_of
from taggants.data.image_codec import encode_png
from taggants.run import Run
from taggants.stages import plan
from taggants.storage import Root
from tests.jobs.running import exit_code, settings_in

NUM_OF_CLASS = 12


def cmyk(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels[0]).convert("CMYK").save(sink, "JPEG")
    return sink.getvalue()


def rgba(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels[0]).convert("RGBA").save(sink, "PNG")
    return sink.getvalue()


def with_a_comment_behind_the_scan(pixels: np.ndarray) -> bytes:
    """Fit by its headers; its file cannot be written again as it is."""
    sink = io.BytesIO()
    Image.fromarray(pixels[0]).save(sink, "JPEG", quality=95)
    return sink.getvalue()[:-2] + b"\xff\xfe\0\3x" + sink.getvalue()[-2:]


def turned(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[0]).save(sink, "JPEG", exif=exif, quality=95)
    return sink.getvalue()


def write_folder(folder: Path, *, num_unfit: int, num_turned: int) -> list[str]:
    rng = np.random.default_rng(0)
    for label in "ab":
        (folder / "train" / label).mkdir(parents=True)
        for i in range(NUM_OF_CLASS):
            pixels = rng.integers(0, 256, (1, 8, 8), dtype=np.uint8)
            data, name = encode_png(pixels), f"{i:02d}.png"
            if i < num_unfit:
                data = (cmyk, rgba)[i % 2](pixels)
            elif i < num_unfit + num_turned:
                data = turned(pixels)
            elif i == num_unfit + num_turned:
                data = with_a_comment_behind_the_scan(pixels)
            (folder / "train" / label / name).write_bytes(data)
    return ["data.source=imagefolder", f"data.root={folder}", "data.train=train", "data.test=null"]


def test_only_fit_images_are_signed_and_the_others_counted(tmp_path, capsys):
    data = write_folder(tmp_path / "data", num_unfit=4, num_turned=5)
    settings = settings_in(tmp_path, *data, "keys.num_keys=1", "signing.images_per_key=3")
    assert exit_code("craft", settings) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 of 24 images cannot be signed and stay as they are: 4 a JPEG with 4 colour components" in said
    assert "10 of 24 images have an EXIF orientation" in said
    assert "is a JPEG with headers between or after its scans; another image is signed" in said
    assert "images to sign have an EXIF orientation, since their classes" in said
    run = Run(load_config(None, settings))
    signed = {i for shard in run.folder.read_plan().shards for i in shard.sample_ids}
    assert len(signed) == 3
    # Two upright ones are left, then one of those that are turned.
    assert int(run.fitness.is_turned[list(signed)].sum()) == 1
    for sample_id in range(run.index.num_rows):
        path = run.sources[0].path_of(sample_id)
        is_same = run.root.child("signed").read_bytes(path) == run.sources[0].root.read_bytes(path)
        assert is_same == (sample_id not in signed)
    assert all(run.fitness.is_fit[list(signed)])


def test_a_class_of_too_few_fit_images_is_refused_before_keys_are_drawn(tmp_path, capsys):
    data = write_folder(tmp_path / "data", num_unfit=10, num_turned=0)
    assert exit_code("keys", settings_in(tmp_path, *data, "keys.num_keys=1", "signing.images_per_key=3")) == 2
    captured = capsys.readouterr()
    assert "class 0 has 2 images that can be signed, and 10 that cannot, but a key needs 3" in captured.err
    assert "20 of 24 images cannot be signed" in captured.out
    assert not (tmp_path / "secrets").exists()


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_plan_counts_them(form, tmp_path, capsys):
    data = write_folder(tmp_path / "data", num_unfit=4, num_turned=5)
    settings = settings_in(tmp_path, *data, "keys.num_keys=1", "signing.images_per_key=3")
    words = [word for setting in settings for word in ("--set", setting)]
    from taggants.cli import main

    assert main(["plan", *words, *(["--json"] if form == "json" else [])]) == 0
    shown = capsys.readouterr().out
    if form == "json":
        work = json.loads(shown)["work"]
        assert work["unfit"]["a JPEG with 4 colour components (CMYK or YCCK)"] == 4
        assert work["turned"] == 10
    else:
        assert "left out  4 images that cannot be signed: a JPEG with 4 colour components" in shown
        assert "turned    10 images have an EXIF orientation" in shown


def keys(tmp_path: Path, *settings: str) -> int:
    data = ["data.source=imagefolder", f"data.root={tmp_path / 'data'}", "data.train=train", "data.test=null"]
    return exit_code("keys", settings_in(tmp_path, *data, "keys.num_keys=1", "signing.images_per_key=3", *settings))


def test_a_registration_is_never_written_over(tmp_path, capsys):
    write_folder(tmp_path / "data", num_unfit=0, num_turned=0)
    assert keys(tmp_path) == 0
    (run,) = (path.parent for path in (tmp_path / "runs").glob("*/registration.json"))
    first = (run / "registration.json").read_bytes()
    number = json.loads(first)["registration_sha256"]
    image = tmp_path / "data" / "train" / "a" / "05.png"
    image.write_bytes(encode_png(np.zeros((1, 8, 8), np.uint8)))
    capsys.readouterr()
    assert keys(tmp_path) == 2
    said = capsys.readouterr().err
    assert f"data changed since {run}/registration.json was written" in said
    assert f"output.void_registrations=[{number}]" in said
    assert keys(tmp_path, f"output.void_registrations=[{'0' * 64}]") == 2  # of another one
    capsys.readouterr()
    assert not (run / "registration-2.json").exists()
    assert keys(tmp_path, f"output.void_registrations=[{number}]") == 0
    said = capsys.readouterr().out
    assert f"registration {number} in registration.json is VOID" in said
    assert f"publish {run}/registration-2.json" in said
    assert (run / "registration.json").read_bytes() == first
    assert keys(tmp_path) == 0  # which needs the setting no more
    image.write_bytes(encode_png(np.ones((1, 8, 8), np.uint8)))
    assert keys(tmp_path, f"output.void_registrations=[{number}]") == 2
    second = json.loads((run / "registration-2.json").read_bytes())["registration_sha256"]
    assert keys(tmp_path, f"output.void_registrations=[{number},{second}]") == 0
    numbers = [json.loads(path.read_bytes())["registration_sha256"] for path in sorted(run.glob("registration*.json"))]
    assert len(set(numbers)) == 3


def test_files_left_out_are_counted(tmp_path, capsys):
    write_folder(tmp_path / "data", num_unfit=0, num_turned=0)
    folder = tmp_path / "data" / "train" / "a"
    for name in ("1.gif", "2.GIF", "3.avif", "4.jfif", "5.jpe", "notes.txt"):
        (folder / name).write_bytes(b"")
    assert keys(tmp_path) == 0
    said = capsys.readouterr().out
    assert "left out by their names" in said
    for counted in ("2 .gif", "1 .avif", "1 .jfif", "1 .jpe", "1 .txt"):
        assert counted in said


def test_names_that_look_alike_are_explained(tmp_path, capsys):
    for split, name in (("train", "Kätzchen"), ("test", unicodedata.normalize("NFD", "Kätzchen"))):
        for label in (name, "Hund"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = np.random.default_rng(i).integers(0, 256, (1, 8, 8), dtype=np.uint8)
                (folder / f"{i}.png").write_bytes(encode_png(pixels))
    assert keys(tmp_path, "data.test=test") == 2
    assert "look alike but are other characters (Unicode NFC and NFD" in capsys.readouterr().err


def test_images_too_different_for_one_canvas_are_not_signed_together(tmp_path, monkeypatch, capsys):
    root = Root(str(tmp_path))
    for i, (height, width) in enumerate([(1, 65_500), (65_500, 1), (8, 8), (9, 9)]):
        root.write_bytes(f"a/{i}.png", encode_png(np.zeros((1, height, width), np.uint8)))
    source = open_source("imagefolder", root, "", channels=1)
    run = SimpleNamespace(
        fitness=fitness_of(source),
        index=SimpleNamespace(labels=np.zeros(4, np.int64)),
        keys=SimpleNamespace(labels=np.zeros(1, np.int64)),
        sources=(source, source),
    )
    monkeypatch.setattr(plan, "signing_size", lambda run: 3)
    (chosen,) = plan._fit_signing_sets(run, -np.arange(4.0))
    assert chosen.tolist() == [0, 2, 3]
    assert "a/1.png (sample 1) is too long for one canvas with the others" in capsys.readouterr().out
