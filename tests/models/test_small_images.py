from __future__ import annotations

import pytest
import timm
import torch

from taggants.alignment import ENGINES, gate_kinks, loss_gradient_and_base
from taggants.alignment.engines import STEP_OF_PATTERN, STEP_OF_SMOOTH, STEP_WITH_KINKS, _step_of
from taggants.errors import InputError
from taggants.models import ModelSpec, build_model, check_model, checkpoint_bytes, model_from_checkpoint
from taggants.models.weights import network_of

NAMES = ["small/convnext", "small/vit"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 11), (3, 16), (1, 28), (3, 32), (3, 33), (3, 64), (3, 128)])
def test_takes_images_of_all_sizes(name, channels, size):
    model = build_model(ModelSpec(name, 7, channels, size), seed=1).eval()
    scores = model(torch.rand(2, channels, size, size))
    assert scores.shape == (2, 7)
    assert scores.isfinite().all()


@pytest.mark.parametrize("size", [32, 64])
def test_the_network_gets_the_same_map_of_32_and_64_px(size):
    images = torch.rand(1, 3, size, size)
    convnext = build_model(ModelSpec("small/convnext", 4, 3, size), seed=1)[1].eval()
    assert convnext.stem(images).shape == (1, 40, 16, 16)
    assert convnext.forward_features(images).shape == (1, 320, 2, 2)
    vit = build_model(ModelSpec("small/vit", 4, 3, size), seed=1)[1].eval()
    assert vit.patch_embed(images).shape == (1, 64, 192)


def test_behind_its_stem_the_convnext_is_the_one_of_timm():
    ours = build_model(ModelSpec("small/convnext", 4, 3, 32), seed=1)[1].eval()
    theirs = timm.create_model("convnext_atto", num_classes=4).eval()
    weights = {name: tensor for name, tensor in ours.state_dict().items() if not name.startswith("stem")}
    missing = theirs.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("stem") for name in missing.missing_keys)
    images = torch.rand(2, 3, 32, 32)
    theirs.stem = ours.stem
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("name", NAMES)
def test_pixel_gradients_of_crafting_agree_with_differences(name):
    # Without kinks between the points, which a ReLU has and differences of the loss straddle.
    model = build_model(ModelSpec(name, 4, 3, 16), seed=1).double().eval()
    model = torch.nn.Sequential(*[_without_kinks(part) for part in model])
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(1, 3, 16, 16, generator=generator, dtype=torch.float64), torch.tensor([2])
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.1 for p in model.parameters()]
    found = ENGINES["double_backward"].bind(model, direction)(images, labels, None)

    def along(pixels):
        loss = torch.nn.functional.cross_entropy(model(pixels), labels)
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        return float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))

    for place in ((0, 0, 0, 0), (0, 1, 7, 9), (0, 2, 15, 3)):
        step = torch.zeros_like(images)
        step[place] = 1e-5
        difference = (along(images + step) - along(images - step)) / 2e-5
        assert float(found[place]) == pytest.approx(difference, rel=1e-4, abs=1e-9)
    assert loss_gradient_and_base(model, images, labels)[0]


def _without_kinks(part: torch.nn.Module) -> torch.nn.Module:
    for name, child in part.named_children():
        if isinstance(child, torch.nn.ReLU):
            setattr(part, name, torch.nn.Softplus())
        else:
            _without_kinks(child)
    return part


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ["central", "one_sided"])
def test_finite_differences_behind_gates_agree_with_double_backward(name, engine):
    plain, gated = (build_model(ModelSpec(name, 4, 3, 16), seed=1).double().eval() for _ in range(2))
    gate_kinks(gated)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(3, 3, 16, 16, generator=generator, dtype=torch.float64), torch.tensor([2, 0, 1])
    direction = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().std().nan_to_num(1)
        for p in plain.parameters()
    ]
    exact = ENGINES["double_backward"].bind(plain, direction)(images, labels, None)
    base = loss_gradient_and_base(gated, images, labels)[1] if engine == "one_sided" else None
    found = ENGINES[engine].bind(gated, direction)(images, labels, base)
    assert torch.nn.functional.cosine_similarity(exact.flatten(), found.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(
    ("name", "gated", "plain"),
    [
        ("small/convnext", STEP_OF_SMOOTH, STEP_OF_SMOOTH),  # ReLUs in the stem alone: at their step it is near chance
        ("small/vit", STEP_OF_SMOOTH, STEP_OF_SMOOTH),
        ("timm/convnext_atto", STEP_OF_SMOOTH, STEP_OF_SMOOTH),
        ("timm/resnet10t", STEP_OF_PATTERN, STEP_WITH_KINKS),
        ("cnn", STEP_OF_PATTERN, STEP_WITH_KINKS),
    ],
)
def test_networks_with_smooth_layers_are_moved_by_the_short_step(name, gated, plain):
    model = build_model(ModelSpec(name, 4, 3, 32), seed=1)
    assert _step_of(model) == plain
    gate_kinks(model)
    assert _step_of(model) == gated


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_depth_reaches_the_network_and_its_checkpoint(name):
    spec = ModelSpec(name, 4, 1, 28, drop_path=0.2)
    model = build_model(spec, seed=1)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.2)
    read, found = model_from_checkpoint(checkpoint_bytes(model.eval(), spec), "here")
    assert found == spec
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(read(images), model(images))


@pytest.mark.parametrize("name", NAMES)
def test_a_suspect_may_be_one_that_others_trained(name):
    model = build_model(ModelSpec(name, 7, 3, 32), seed=1).eval()
    tensors = {f"module.{key}": tensor for key, tensor in model[1].state_dict().items()}
    read = network_of(name, tensors, "theirs.pth", channels=1, image_size=32)
    assert (read.spec.num_classes, read.spec.channels) == (7, 3)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(read.model(images), model(images))


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_and_patches_are_refused(name):
    for size in (7, 129):
        with pytest.raises(
            InputError,
            match=f"model '{name}' takes images of 8 to 128 px, not {size}; choose timm/NAME for larger ones, cnn for smaller",
        ):
            check_model(ModelSpec(name, 4, 3, size))
    with pytest.raises(InputError, match=f"model '{name}' takes no patch_size, but 4 is given; leave it out"):
        build_model(ModelSpec(name, 4, 3, 32, patch_size=4), seed=1)
    with pytest.raises(
        InputError, match=r"model 'small/resnet' does not exist; use .*; or small/convnext or small/vit"
    ):
        build_model(ModelSpec("small/resnet", 4, 3, 32), seed=1)
