"""What a step asks of a device, counted on the CPU by benchmarks/launches.py."""

from __future__ import annotations

import pytest
import torch

from benchmarks.launches import NUM_IMAGES, SIZE, count_step, jpeg_codec
from taggants.augmentation import ColourJitter, Compose, CropAndFlip, RandomResizedCrop, ThreeAugment
from taggants.perturbation.codec import LosslessCodec

STRONG = Compose((RandomResizedCrop(SIZE), ThreeAugment(), ColourJitter(0.3)))


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch):
    monkeypatch.setattr("taggants.alignment.gradients.adds_by_tensor", lambda first: False)


@pytest.mark.parametrize("engine", ["one_sided", "central", "double_backward"])
def test_a_step_neither_waits_for_the_device_nor_sends_it_constants(engine):
    count = count_step("cnn", engine, STRONG, codec=jpeg_codec(NUM_IMAGES, SIZE), mixes=True, dtype=torch.float32)
    assert (count.reads, count.constants) == (0, 0)


def test_gradients_are_added_and_multiplied_all_tensors_at_once():
    """ResNet-50 has 161 tensors of weights; one launch for each in every product took 5,073 operators."""
    options = {"codec": LosslessCodec(), "mixes": False, "dtype": torch.float32}
    one = count_step("timm/resnet50", "one_sided", CropAndFlip(4, True), **options)
    assert one.operators.total() < 1600


def test_surrogates_of_one_step_share_their_views():
    options = {"codec": jpeg_codec(NUM_IMAGES, SIZE), "mixes": False, "dtype": torch.float32}
    one = count_step("cnn", "one_sided", STRONG, **options)
    three = count_step("cnn", "one_sided", STRONG, models=3, **options)
    assert three.operators["bitwise_xor"] == one.operators["bitwise_xor"], "draws"
    assert three.operators["floor"] == one.operators["floor"], "the JPEG codec"
