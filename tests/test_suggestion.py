from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml

from taggants.cli.commands.demo import PRESET
from taggants.cli.configuration import preset_path
from taggants.config import Config, load_config
from taggants.data.inspection import Inspection
from taggants.errors import InputError
from taggants.estimation.doubts import doubts, wanted_of
from taggants.models import ModelSpec, check_model
from taggants.suggestion import DEFAULT_STRENGTH, STRENGTHS, _most_keys_of_a_class, suggest

DIGITS = Inspection(
    layout="parquet",
    root="/data/my digits!",
    train="train.parquet",
    test="test.parquet",
    image_column="image",
    label_column="label",
    num_images=1297,
    num_test_images=500,
    class_sizes=(123, 129, 120, 144, 123, 129, 130, 138, 132, 129),
    class_names=None,
    channels=1,
    sizes=((8, 8),),
    encodings=("PNG",),
)


def like(num_images: int, num_classes: int, *sizes: tuple[int, int], channels: int = 3) -> Inspection:
    class_sizes = (num_images // num_classes,) * num_classes
    return replace(DIGITS, num_images=sum(class_sizes), class_sizes=class_sizes, sizes=sizes, channels=channels)


def configured(inspection: Inspection) -> Config:
    return Config.model_validate(yaml.safe_load(yaml.safe_dump(dict(suggest(inspection).tree))))


def test_the_demo_signs_the_digits_as_is_suggested_for_them() -> None:
    config, demo = configured(DIGITS), load_config(preset_path(PRESET), [])
    for section in ("signing", "surrogate", "crafting"):
        assert getattr(config, section) == getattr(demo, section)
    assert config.keys.model_dump(exclude={"name", "demonstration"}) == demo.keys.model_dump(
        exclude={"name", "demonstration"}
    )
    assert config.keys.name == "my-digits"
    assert config.evaluation.training == demo.evaluation.training
    assert config.data.image_size is None


def test_images_below_eight_pixels_get_noise_as_waves_come_out_alike() -> None:
    seven, eight = (configured(like(1_297, 10, (side, side), channels=1)) for side in (7, 8))
    assert (seven.keys.family, eight.keys.family) == ("block", "grating")


def test_imagenet_gets_the_papers_strength() -> None:
    config = configured(like(1_281_000, 1000, (375, 500), (500, 375)))
    assert (config.keys.num_keys, config.signing.images_per_key) == (10, 128)
    assert config.crafting.epsilon == 16 / 255
    assert config.data.image_size == 224
    assert config.surrogate.flip


@pytest.mark.parametrize(
    ("inspection", "image_size"),
    [
        (like(5000, 10, (32, 32)), None),
        (like(5000, 10, (512, 512)), 224),
        (like(5000, 10, (60, 80), (80, 60)), 64),
        (like(5000, 10, (30, 40), (28, 28)), 32),
    ],
)
def test_models_take_the_size_of_the_images_or_a_usual_one(inspection: Inspection, image_size: int | None) -> None:
    assert configured(inspection).data.image_size == image_size


@pytest.mark.parametrize("num_classes", [2, 3, 5, 10, 40, 1000])
@pytest.mark.parametrize("per_class", [60, 600])
def test_every_key_finds_its_images_in_nearly_every_draw(num_classes: int, per_class: int) -> None:
    config = configured(like(num_classes * per_class, num_classes, (32, 32)))
    num_keys, per_key = config.keys.num_keys, config.signing.images_per_key
    assert per_key is not None
    assert num_keys * per_key <= 0.1 * num_classes * per_class + 1e-9
    drawn = np.random.default_rng(0).integers(0, num_classes, (2000, num_keys))
    most = [np.bincount(labels).max() for labels in drawn]
    assert np.mean(np.array(most) * per_key > per_class) <= 0.005


def test_fewer_classes_get_more_keys() -> None:
    counts = [configured(like(60_000, num_classes, (32, 32))).keys.num_keys for num_classes in (2, 5, 10, 100)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.mark.parametrize(("num_keys", "num_classes"), [(1, 2), (16, 10), (64, 2), (10, 1000)])
def test_most_keys_of_a_class_is_the_smallest_bound_of_that_risk(num_keys: int, num_classes: int) -> None:
    from scipy.stats import binom

    most = _most_keys_of_a_class(num_keys, num_classes)
    assert num_classes * binom.sf(most, num_keys, 1 / num_classes) <= 1e-3
    assert num_classes * binom.sf(most - 1, num_keys, 1 / num_classes) > 1e-3


def test_refuses_what_cannot_be_signed() -> None:
    with pytest.raises(InputError, match="one class"):
        suggest(like(100, 1, (8, 8)))
    with pytest.raises(InputError, match="50 training images, too few: 8 keys would need at least 80"):
        suggest(like(50, 5, (8, 8)))
    with pytest.raises(InputError, match=r"class '3' of .* has 1 of 1,175 training images"):
        suggest(replace(DIGITS, num_images=1175, class_sizes=(123, 129, 120, 1, 123, 129, 130, 138, 132, 129)))


def test_every_reason_speaks_of_a_suggested_field() -> None:
    suggestion = suggest(replace(like(5000, 10, (60, 80), (80, 60)), test=None))
    assert {"data.image_size", "data.test"} <= set(suggestion.reasons)
    for field in suggestion.reasons:
        section, name = field.split(".")
        assert name in suggestion.tree[section]


def test_a_gpu_is_used_if_asked_for() -> None:
    config = Config.model_validate(suggest(like(50_000, 10, (32, 32)), device="cuda").tree)
    assert config.surrogate.device == "cuda"
    matched = Config.model_validate(suggest(like(50_000, 10, (32, 32)), device="cuda", strength="quiet").tree)
    assert (matched.crafting.device, matched.crafting.precision, matched.execution.num_gpus) == ("cuda", "bfloat16", 1)


def test_a_cpu_trains_in_bfloat16_where_it_can_and_the_model_is_worth_it() -> None:
    assert "precision" not in suggest(like(5000, 20, (32, 32))).tree["surrogate"]
    assert suggest(like(5000, 20, (32, 32)), bfloat16=True).tree["surrogate"]["precision"] == "bfloat16"
    assert "precision" not in suggest(DIGITS, bfloat16=True).tree["surrogate"]


def test_photographs_get_an_imprint_of_gratings_and_small_images_have_them_matched() -> None:
    config, small = configured(like(5000, 20, (32, 32))), configured(DIGITS)
    assert (config.keys.family, config.crafting.method, config.signing.selection) == ("grating", "imprint", "loss")
    assert [training.model for training in config.surrogate_trainings] == ["timm/resnet10t"], "images are ranked by it"
    assert config.detection.question is not None
    assert not config.detection.question.bare_key
    found = [(training.model, training.recipe) for training in config.reference_trainings]
    plain = [("timm/convnext_atto", "simple"), ("cnn", "simple"), ("timm/vit_tiny_patch16_224", "simple")]
    assert found == [("timm/resnet10t", "strong"), *plain]
    assert config.reference_trainings[-1].patch_size == 8
    assert (config.signing.images_per_key, config.crafting.epsilon) == (25, 16 / 255)
    assert (small.keys.family, small.crafting.method) == ("grating", "matching")


def test_without_a_test_split_the_bare_key_is_asked() -> None:
    config = configured(replace(like(5000, 20, (32, 32)), test=None))
    assert config.detection.question is not None
    assert config.detection.question.bare_key


@pytest.mark.parametrize(("num_classes", "num_references"), [(2, 2), (3, 4), (10, 4)])
def test_few_classes_get_few_references(num_classes: int, num_references: int) -> None:
    config = configured(like(5000, num_classes, (32, 32)))
    assert len(config.reference_trainings) == num_references
    assert config.keys.num_keys * (num_classes - 1) >= 20 * num_references


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("num_classes", [2, 3, 4, 10, 20])
@pytest.mark.parametrize("num_images", [450, 600, 1000, 5000])
def test_what_is_suggested_raises_no_doubt_of_its_own_making(num_images: int, num_classes: int, strength: str) -> None:
    inspection = like(num_images, num_classes, (32, 32))
    config = Config.model_validate(suggest(inspection, strength=strength).tree)
    per_key = config.signing.images_per_key
    assert per_key is not None
    found = " ".join(doubts(wanted_of(config, num_images, num_classes, 32, per_key)))
    assert "are compared with" not in found
    assert "out of reach" not in found


def test_refuses_images_that_are_smaller_than_keys() -> None:
    with pytest.raises(InputError, match="3 px a side, but keys are images of 4 px or more"):
        suggest(like(5000, 10, (3, 3)))


@pytest.mark.parametrize(
    ("size", "patch_size"), [(30, 6), (31, None), (32, 8), (50, 10), (64, 16), (150, 15), (224, 16)]
)
def test_patches_divide_the_image(size: int, patch_size: int | None) -> None:
    question = configured(like(5000, 20, (size, size))).detection.question
    assert question is not None
    assert [kind.patch_size for kind in question.kinds if kind.patch_size] == ([patch_size] if patch_size else [])


@pytest.mark.parametrize("size", [24, 30, 32, 50, 64, 100, 128, 200, 224])
def test_every_reference_takes_the_images(size: int) -> None:
    config = configured(like(5000, 20, (size, size)))
    for training in config.reference_trainings:
        check_model(ModelSpec(training.model, 20, 3, config.data.image_size or size, training.patch_size))


def test_a_key_is_carried_by_a_share_of_its_class_but_no_more_than_a_twentieth_of_the_images_is_signed() -> None:
    assert configured(like(10_000, 20, (64, 64))).signing.images_per_key == 50
    few_classes = configured(like(50_000, 10, (32, 32)))
    assert few_classes.signing.images_per_key == 50_000 // 20 // few_classes.keys.num_keys


def test_the_quiet_strength_is_the_papers_method() -> None:
    inspection = like(5000, 20, (32, 32))
    tree = suggest(inspection, strength="quiet").tree
    config = Config.model_validate(tree)
    assert (config.keys.family, config.crafting.method, config.signing.selection) == ("block", "matching", "random")
    assert config.crafting.num_steps == 250
    assert len(config.surrogate_trainings) == 1
    assert (config.signing.images_per_key, config.crafting.epsilon) == (25, 16 / 255)
    assert suggest(inspection) == suggest(inspection, strength=DEFAULT_STRENGTH)
    assert list(STRENGTHS) == ["quiet", "balanced", "strong"]


def test_the_balanced_strength_is_the_strong_one_at_half_the_bound() -> None:
    inspection = like(5000, 20, (32, 32))
    balanced, strong = suggest(inspection, strength="balanced"), suggest(inspection, strength="strong")
    assert Config.model_validate(balanced.tree).crafting.epsilon == 8 / 255
    assert {**balanced.tree, "crafting": {**balanced.tree["crafting"], "epsilon": "16/255"}} == strong.tree
    assert balanced.reasons["crafting.epsilon"] != strong.reasons["crafting.epsilon"]


def test_refuses_a_strength_that_is_not_known_or_of_small_images() -> None:
    with pytest.raises(InputError, match="strength 'loud' does not exist; it is quiet, balanced or strong"):
        suggest(like(5000, 20, (32, 32)), strength="loud")
    with pytest.raises(InputError, match="of images of 24 px or more, but these have 8; leave it out"):
        suggest(DIGITS, strength="quiet")
