"""Whole runs with the options of crafting that the other stories leave at their defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.jobs.running import exit_code, settings_in


def the_run(folder: Path) -> Path:
    (run,) = (path.parent for path in (folder / "runs").glob("*/plan.json"))
    return run


def test_an_ensemble_of_architectures_and_early_checkpoints(tmp_path):
    settings = settings_in(
        tmp_path,
        "surrogate.num_models=2",
        "surrogate.architectures=[cnn, cnn_wide]",
        "surrogate.checkpoints=[0.5, 1]",
        "surrogate.precision=bfloat16",
        "crafting.ensemble=cycle",
        "crafting.engine=one_sided",
        "crafting.direction_interval=2",
    )
    assert exit_code("craft", settings) == 0
    assert {path.name for path in (tmp_path / "runs" / "models").glob("surrogate-*/*.safetensors")} == {
        "epoch-00001.safetensors",
        "model.safetensors",
    }
    assert (the_run(tmp_path) / "signed" / "manifest.json").exists()


def test_strong_augmentation_mixing_and_a_perceptual_term(tmp_path, capsys):
    settings = settings_in(
        tmp_path,
        "crafting.augmentation=resized_crop",
        "crafting.three_augment=true",
        "crafting.colour_jitter=0.3",
        "crafting.mixing=0.5",
        "crafting.perceptual=ssim",
        "crafting.num_restarts=3",
        "crafting.convergence_window=1",
        "crafting.precision=bfloat16",
    )
    assert exit_code("craft", settings) == 0
    assert "SSIM" in capsys.readouterr().out


def test_jpeg_files_are_signed_as_jpeg_with_lpips(tmp_path, real_data, capsys):
    settings = settings_in(
        tmp_path,
        "data.source=parquet",
        f"data.root={real_data}/tiny_imagenet20",
        "data.test=val.parquet",
        "data.channels=3",
        "data.num_classes=3",
        "data.images_per_class=12",
        "keys.cell_size=8",
        "crafting.engine=one_sided",
        "crafting.perceptual=lpips",
        f"crafting.lpips_weights={real_data}/lpips/lpips_alex_v0.1_fp16.pt",
    )
    assert exit_code("craft", settings) == 0
    printed = capsys.readouterr().out
    assert "LPIPS" in printed
    status = json.loads((the_run(tmp_path) / "status.json").read_text())
    assert status["state"] == "finished"
    assert -1 <= status["mean_alignment"] <= 1


without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("crafting.compile=true", "central or one_sided"),
        ("crafting.device=cuda", "execution.num_gpus"),
        ("crafting.precision=tf32", "crafting.device=cuda"),
        ("crafting.perceptual=lpips", "crafting.lpips_weights"),
        ("surrogate.checkpoints=[0.5]", "must increase and end with 1"),
        ("crafting.difference_step=0.001", "double_backward is exact, leave it out"),
        ("surrogate.architectures=[cnn, cnn_wide]", "set it to 2 or more"),
        ("crafting.lpips_weights=/no/such.pt", "crafting.lpips_weights = /no/such.pt does not exist"),
        ("evaluation.training.init_from=/no/m.safetensors", "init_from = /no/m.safetensors does not exist"),
        pytest.param("surrogate.device=cuda", "set surrogate.num_workers to 1", marks=without_gpu),
        ("output.root=s3://bad bucket/runs", "check the bucket's name"),
    ],
)
def test_options_that_do_not_fit_together_are_refused_before_any_work(tmp_path, setting, words, capsys):
    engine = "crafting.engine=double_backward"
    assert exit_code("craft", settings_in(tmp_path, "execution.pool=ray", engine, setting)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
