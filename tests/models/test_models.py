from __future__ import annotations

import resource

import pytest
import timm
import torch

from taggants.errors import InputError
from taggants.models import ModelSpec, Precision, build_model, check_model, checkpoint_bytes, model_from_checkpoint

CNN = ModelSpec("cnn", num_classes=10, channels=1, image_size=8)


@pytest.mark.parametrize(
    "spec",
    [
        CNN,
        ModelSpec("cnn_wide", 100, 3, 32),
        ModelSpec("cnn", 5, 3, 64),
        ModelSpec("timm/resnet18", 7, 3, 32),
        ModelSpec("timm/resnet18", 7, 1, 32),
        ModelSpec("timm/vit_tiny_patch16_224", 4, 3, 64),
        ModelSpec("timm/convnext_atto", 4, 3, 64),
    ],
)
def test_model_takes_unit_pixels_and_gives_one_score_per_class(spec):
    model = build_model(spec, seed=1).eval()
    scores = model(torch.rand(2, spec.channels, spec.image_size, spec.image_size))
    assert scores.shape == (2, spec.num_classes)
    assert scores.isfinite().all()


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, same, other = (build_model(CNN, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [model.state_dict()["1.0.weight"] for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_checkpoint_round_trips_and_repeats_its_bytes():
    model = build_model(CNN, seed=1).eval()
    data = checkpoint_bytes(model, CNN)
    assert data == checkpoint_bytes(model, CNN)
    read, spec = model_from_checkpoint(data, "here")
    assert spec == CNN
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(read(images), model(images))


@pytest.mark.parametrize("name", ["cnn_huge", "timm/no_such_net", "resnet18"])
def test_unknown_models_are_refused(name):
    with pytest.raises(InputError, match=f"model '{name}' does not exist; use one of cnn, cnn_wide; or timm/NAME"):
        build_model(ModelSpec(name, 10, 3, 32), seed=0)


def test_input_size_that_a_model_cannot_take_is_refused():
    with pytest.raises(InputError, match="model 'timm/vit_tiny_patch16_224' does not take 3 channels of 8 px"):
        check_model(ModelSpec("timm/vit_tiny_patch16_224", 10, 3, 8))


def test_patch_size_and_stochastic_depth_reach_the_network_and_its_checkpoint():
    vit = ModelSpec("timm/vit_tiny_patch16_224", 4, 3, 32, patch_size=4)
    assert build_model(vit, seed=1)[1].patch_embed.num_patches == 64
    convnext = ModelSpec("timm/convnext_atto", 4, 3, 32, patch_size=1, drop_path=0.2)
    network = build_model(convnext, seed=1)[1]
    assert network.forward_features(torch.zeros(1, 3, 32, 32)).shape[2:] == (4, 4)
    rates = [module.drop_prob for module in network.modules() if isinstance(module, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.2)
    for spec in (vit, convnext):
        assert model_from_checkpoint(checkpoint_bytes(build_model(spec, seed=1), spec), "here")[1] == spec


def test_options_that_a_model_does_not_take_are_refused():
    for name, option in (("cnn", "patch_size"), ("timm/resnet18", "patch_size"), ("cnn", "drop_path")):
        value = 4 if option == "patch_size" else 0.1
        with pytest.raises(InputError, match=f"model '{name}' takes no {option}, but {value} is given; leave it out"):
            build_model(ModelSpec(name, 4, 3, 32, **{option: value}), seed=1)
    with pytest.raises(InputError, match=r"timm cannot build 'vgg11' .*drop_path_rate"):
        build_model(ModelSpec("timm/vgg11", 4, 3, 32, drop_path=0.1), seed=1)
    with pytest.raises(InputError, match="needs a name and whole numbers"):
        ModelSpec("timm/vit_tiny_patch16_224", 4, 3, 32, patch_size=0)
    with pytest.raises(InputError, match=r"drop_path must lie in \[0, 1\)"):
        ModelSpec("timm/resnet18", 4, 3, 32, drop_path=1.0)


@pytest.mark.parametrize("cut", [0, 4, 100, -50])
def test_damaged_checkpoints_are_refused(cut):
    data = checkpoint_bytes(build_model(CNN, seed=1), CNN)
    with pytest.raises(InputError, match="checkpoint here is not a model written by taggants"):
        model_from_checkpoint(data[:cut], "here")


def test_checkpoint_of_other_weights_is_refused():
    wrong = ModelSpec("cnn", num_classes=4, channels=1, image_size=8)
    with pytest.raises(InputError, match="does not fit the model 'cnn'"):
        model_from_checkpoint(checkpoint_bytes(build_model(CNN, seed=1), wrong), "here")


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_and_layout_change_rounding_only_and_leave_float32_outside(channels_last):
    spec = ModelSpec("timm/convnext_atto", 5, 3, 32)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = build_model(spec, seed=1).eval()
    gradients = {}
    for name, dtype in (("reference", None), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = (
            plain if dtype is None else Precision(build_model(spec, seed=1).eval(), dtype, channels_last=channels_last)
        )
        leaf = images.clone().requires_grad_(True)
        scores = model(leaf)
        assert scores.dtype == torch.float32
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2, 3]), reduction="sum")
        found = torch.autograd.grad(loss, [*model.parameters(), leaf])
        assert all(gradient.dtype == torch.float32 for gradient in found)
        gradients[name] = torch.cat([gradient.flatten() for gradient in found])
    torch.testing.assert_close(gradients["float32"], gradients["reference"], rtol=1e-3, atol=1e-3)
    cosine = torch.nn.functional.cosine_similarity(gradients["bfloat16"], gradients["reference"], dim=0)
    assert 0.99 < cosine < 1


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("timm/eva02_enormous_patch14_clip_224", 10, 3, 224),  # 4 billion parameters
        ModelSpec("timm/vit_tiny_patch16_224", 10, 3, 8192),
        ModelSpec("cnn", 10, 3, 1_000_000),
    ],
)
def test_a_small_file_that_names_a_huge_model_takes_no_memory(spec):
    data = checkpoint_bytes(build_model(CNN, seed=1), spec)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"does not fit the model|give images of up to"):
        model_from_checkpoint(data, "here")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB
