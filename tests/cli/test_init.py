from __future__ import annotations

import numpy as np
import pytest

from taggants.cli import main
from taggants.config import Config, load_config
from taggants.data.image_codec import encode_png
from taggants.data.inspection import inspect_dataset
from taggants.models import cpu_has_bfloat16
from taggants.suggestion import suggest


@pytest.fixture
def flowers(tmp_path):
    """An image folder of three classes with 40 colour images each, in a folder whose name YAML would read otherwise."""
    folder = tmp_path / "no: 1 #flowers"
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 5)):
        for name in ("aster", "iris", "rose"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)
                (folder / split / name / f"{i}.png").write_bytes(encode_png(image))
    return folder


def test_written_file_is_the_suggested_configuration_with_a_comment_for_each_field(
    flowers, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(flowers)]) == 0
    shown = capsys.readouterr().out
    assert "120 images to train on ('train'), 15 to test ('val')" in shown
    assert "classes 3 of 40 images each" in shown
    assert (
        "doubt     nobody has seen ResNet victims of imprint reach p <= 0.001 with 120 images (fewest 5,000)" in shown
    )
    assert main(["plan"]) == 2  # not the digits
    assert "no configuration is given, and taggants.yaml is here; add --config taggants.yaml" in capsys.readouterr().err
    steps = [line for line in shown.splitlines() if "--config taggants.yaml" in line]
    assert [step.split("taggants ")[1].split()[0] for step in steps] == ["plan", "keys", "craft"]
    suggestion = suggest(inspect_dataset(str(flowers)), bfloat16=cpu_has_bfloat16())
    assert "image_column" not in suggestion.tree["data"], "of Parquet files alone"
    assert load_config("taggants.yaml") == Config.model_validate(suggestion.tree)
    text = (tmp_path / "taggants.yaml").read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert all(
        " ".join(reason.split()) in " ".join(text.replace("#", "").split()) for reason in suggestion.reasons.values()
    )
    assert (
        main(["plan", "taggants.yaml", "--set", "surrogate.model=cnn", "--set", "evaluation.training.model=cnn"]) == 0
    )


def test_folder_with_spaces_and_accents_is_written_as_it_reads(flowers, tmp_path):
    folder = flowers.rename(tmp_path / "mes fleurs \u00e9t\u00e9")
    written = tmp_path / "c.yaml"
    assert main(["init", str(folder), "--output", str(written)]) == 0
    assert str(folder) in written.read_text(encoding="utf-8")
    assert load_config(str(written)).data.root == str(folder)


def test_file_that_is_there_is_kept(flowers, tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 1\n")
    assert main(["init", str(flowers), "--output", str(mine)]) == 2
    assert "mine.yaml already exists; choose another --output" in capsys.readouterr().err
    assert mine.read_text() == "seed: 1\n"


def test_folder_without_a_dataset_is_refused(tmp_path, capsys):
    assert main(["init", str(tmp_path / "nothing"), "--output", str(tmp_path / "c.yaml")]) == 2
    assert "holds no dataset that can be read" in capsys.readouterr().err
    assert not (tmp_path / "c.yaml").exists()
