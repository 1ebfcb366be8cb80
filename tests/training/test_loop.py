from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from timm.optim import Lamb

from taggants.errors import InputError
from taggants.models import ModelSpec, build_model
from taggants.seeds import hash_seed
from taggants.training.examples import InMemory
from taggants.training.loop import Optimiser, TrainingState, accuracy, train
from taggants.training.recipes import RECIPES, Recipe, RecipeParts
from taggants.training.scores import gradient_norms, losses

SPEC = ModelSpec("cnn", num_classes=3, channels=1, image_size=8)
OPTIMISER = Optimiser(num_epochs=4, batch_size=16, learning_rate=3e-3, weight_decay=0.01)


@pytest.fixture(scope="module")
def stripes():
    """Three classes of bright bands under noise: uint8 [90, 1, 8, 8]."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = rng.integers(0, 90, (90, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 150
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["simple", "strong"])
def test_training_learns_and_is_a_function_of_the_seed(stripes, name):
    recipe = Recipe(name, crop_padding=1, flip=True, num_classes=3)
    optimiser = Optimiser(num_epochs=12, batch_size=16, learning_rate=3e-3, weight_decay=0.01)
    trained = []
    for seed in (1, 1, 2):
        random.seed(len(trained))
        np.random.seed(len(trained))
        torch.manual_seed(len(trained))
        model = build_model(SPEC, seed)
        train(model, InMemory(*stripes), recipe, optimiser, seed=seed)
        trained.append(model)
    assert torch.equal(weights(trained[0]), weights(trained[1]))
    assert not torch.equal(weights(trained[0]), weights(trained[2]))
    assert accuracy(trained[0], *stripes) > 0.9


@pytest.mark.parametrize("stop_after", [1, 3])
def test_resumed_training_equals_uninterrupted_training(stripes, stop_after):
    recipe = Recipe("strong", crop_padding=1, flip=False, num_classes=3)
    whole = build_model(SPEC, 1)
    train(whole, InMemory(*stripes), recipe, OPTIMISER, seed=1)

    class Killed(Exception):
        pass

    saved = {}

    def kill(report, state):
        if state.epochs_done == stop_after:
            saved["state"], saved["model"] = state, {k: v.clone() for k, v in stopped.state_dict().items()}
            raise Killed

    stopped = build_model(SPEC, 1)
    with pytest.raises(Killed):
        train(stopped, InMemory(*stripes), recipe, OPTIMISER, seed=1, on_epoch_end=kill)
    resumed = build_model(SPEC, 7)
    resumed.load_state_dict(saved["model"])
    train(resumed, InMemory(*stripes), recipe, OPTIMISER, seed=1, resume=saved["state"])
    assert torch.equal(weights(whole), weights(resumed))


def test_divergence_is_named(stripes):
    recipe = Recipe("simple", 0, False, 3)
    mad = Optimiser(num_epochs=3, batch_size=16, learning_rate=1e18, weight_decay=0.0)
    with pytest.raises(InputError, match=r"training diverged in epoch \d .* at learning rate 1e\+18; lower it"):
        train(build_model(SPEC, 1), InMemory(*stripes), recipe, mad, seed=1)


def test_strong_recipe_mixes_labels_and_leaves_global_generators_alone(stripes):
    images, labels = stripes[0][:16], stripes[1][:16]
    python_state, numpy_state = random.getstate(), np.random.get_state()[1].copy()
    pixels, mixed = Recipe("strong", 1, True, 3).batch(images, labels, torch.arange(16), seed=5, epoch=2)
    assert pixels.shape == (16, 1, 8, 8)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    torch.testing.assert_close(mixed.sum(1), torch.ones(16))
    assert ((mixed > 0).sum(1) > 1).any()
    assert random.getstate() == python_state
    assert (np.random.get_state()[1] == numpy_state).all()


def test_strong_recipe_takes_colour_images():
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    pixels, _ = Recipe("strong", 2, True, 3).batch(images, torch.tensor([0, 1, 2, 0]), torch.arange(4), seed=5, epoch=2)
    assert pixels.shape == (4, 3, 16, 16)


def test_simple_recipe_without_augmentation_is_the_images_themselves(stripes):
    images, labels = stripes
    pixels, targets = Recipe("simple", 0, False, 3).batch(images, labels, torch.arange(90), seed=0, epoch=0)
    assert torch.equal(pixels, images.float() / 255)
    assert torch.equal(targets.argmax(1), labels)


def test_seeds_of_distinct_values_differ():
    assert len({hash_seed(a, b) for a in range(20) for b in range(20)}) == 400


def test_gradient_norms_equal_single_sample_backward(stripes):
    images, labels = stripes[0][:7], stripes[1][:7]
    model = build_model(SPEC, 2).eval()
    expected = []
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(image[None].float() / 255), label[None]).backward()
        expected.append(torch.sqrt(sum(p.grad.square().sum() for p in model.parameters())))
    torch.testing.assert_close(gradient_norms(model, images, labels, batch_size=3), torch.stack(expected))


def test_losses_equal_single_sample_cross_entropies(stripes):
    images, labels = stripes[0][:7], stripes[1][:7]
    model = build_model(SPEC, 2).eval()
    expected = [
        torch.nn.functional.cross_entropy(model(i[None].float() / 255), y[None]).detach()
        for i, y in zip(images, labels, strict=True)
    ]
    torch.testing.assert_close(losses(model, images, labels, batch_size=3), torch.stack(expected))


def test_last_batch_of_one_image_is_left_out_where_batch_norm_could_not_take_it(stripes):
    images, labels = stripes[0][:17], stripes[1][:17]
    spec = ModelSpec("timm/resnet18", num_classes=3, channels=1, image_size=8)
    optimiser = Optimiser(num_epochs=1, batch_size=16, learning_rate=1e-3, weight_decay=0.0)
    model = build_model(spec, 1)
    train(model, InMemory(images, labels), Recipe("simple", 0, False, 3), optimiser, seed=1)
    assert weights(model).isfinite().all()


def test_batches_too_small_for_batch_norm_are_refused(stripes):
    spec = ModelSpec("timm/resnet18", num_classes=3, channels=1, image_size=8)
    optimiser = Optimiser(num_epochs=1, batch_size=1, learning_rate=1e-3, weight_decay=0.0)
    with pytest.raises(InputError, match="batches of 1 images leave fewer than 2 to each of 1 workers"):
        train(build_model(spec, 1), InMemory(*stripes), Recipe("simple", 0, False, 3), optimiser, seed=1)


@pytest.mark.parametrize("model", ["cnn", "timm/resnet18"])
@pytest.mark.parametrize("num_images", [17, 18, 19, 20])
def test_all_workers_take_the_same_number_of_steps(stripes, model, num_images):
    """They exchange gradients at each: one step more on one worker would hang it."""
    images, labels = stripes[0][:num_images], stripes[1][:num_images]
    optimiser = Optimiser(num_epochs=1, batch_size=16, learning_rate=1e-3, weight_decay=0.0)
    steps = []
    for rank in range(2):
        network = build_model(ModelSpec(model, num_classes=3, channels=1, image_size=8), 1)
        count = [0]
        network.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        train(
            network, InMemory(images, labels), Recipe("simple", 0, False, 3), optimiser, seed=1, rank=rank, world_size=2
        )
        steps.append(count[0])
    assert steps[0] == steps[1] >= 1


def test_the_plain_loop_is_what_is_written_out_here(stripes):
    """The loop, written out."""
    images, labels = stripes
    recipe = Recipe("strong", crop_padding=1, flip=True, num_classes=3)
    model, expected = build_model(SPEC, 1), build_model(SPEC, 1)
    train(model, InMemory(images, labels), recipe, OPTIMISER, seed=1)

    adam = torch.optim.AdamW(expected.parameters(), lr=1.0, weight_decay=0.01, fused=True)
    expected.train()
    for epoch in range(4):
        order = torch.from_numpy(np.random.default_rng([1, epoch]).permutation(90))
        for index, rows in enumerate(order.split(16)):
            time = epoch + index / 6
            adam.param_groups[0]["lr"] = 3e-3 * min(1.0, time + 0.05) * 0.5 * (1 + float(np.cos(np.pi * time / 4)))
            pixels, targets = recipe.batch(images[rows], labels[rows], rows, seed=hash_seed(1, 0), epoch=epoch)
            adam.zero_grad()
            torch.nn.functional.cross_entropy(expected(pixels), targets).backward()
            adam.step()
    assert torch.equal(weights(model), weights(expected))


RECIPES.register("test-mixing", RecipeParts(mixup=0.8, cutmix=1.0))


def test_images_are_mixed_with_their_mirror_in_the_batch_and_labels_with_the_share_of_pixels():
    """What is left of each image in its mixture is worked out from the pixels: one share, or a box of nothing."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(9)
    pixels, weights = Recipe("test-mixing", 0, False, 9).batch(images, labels, torch.arange(9), seed=3, epoch=0)
    kinds = set()
    for index in range(9):
        own, other = (images[i].double() / 255 for i in (index, 8 - index))
        differs = (own - other).abs() > 0.1
        share = ((pixels[index].double() - other) / (own - other))[differs]
        if index == 4:
            assert torch.equal(pixels[4], images[4].float() / 255)  # its own mirror
            assert weights[4, 4] == 1
            continue
        if share.std() < 1e-4:
            kinds.add("mixup")
            mean = share.mean()
        else:
            kinds.add("cutmix")
            is_other = (pixels[index].double() - other).abs().amax(0) < 1e-6
            rows, columns = is_other.any(1), is_other.any(0)
            assert torch.equal(is_other, rows[:, None] & columns)
            assert torch.equal(pixels[index][:, ~is_other], (images[index].float() / 255)[:, ~is_other])
            mean = (~is_other).double().mean()
        torch.testing.assert_close(weights[index, index].double(), mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(weights[index, 8 - index].double(), 1 - mean, atol=1e-5, rtol=0)
    assert kinds == {"mixup", "cutmix"}


def test_label_smoothing_and_warm_up_are_the_recipes(stripes):
    logits, labels = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    smoothed = torch.tensor([[0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3]])
    expected = -(smoothed * logits.log_softmax(1)).sum()
    torch.testing.assert_close(Recipe("small-images", 0, False, 3).loss(logits, labels), expected)
    moved = []
    for warm_up_epochs in (1.0, 4.0):  # the first step of SGD moves in proportion to the rate
        model = build_model(SPEC, 1)
        before = weights(model)
        optimiser = Optimiser(1, 90, 1e-3, 0.0, name="sgd", warm_up_epochs=warm_up_epochs)
        train(model, InMemory(*stripes), Recipe("simple", 0, False, 3), optimiser, seed=1)
        moved.append(torch.linalg.norm(weights(model) - before))
    torch.testing.assert_close(moved[0], 4 * moved[1], rtol=1e-2, atol=0)


def test_dropout_replays_after_a_stop_and_leaves_the_global_generator_alone(stripes):
    def dropping():
        return torch.nn.Sequential(build_model(SPEC, 1), torch.nn.Dropout(0.5))

    recipe, saved = Recipe("simple", 0, False, 3), {}

    def save(report, state):
        if state.epochs_done == 2:
            saved["state"] = TrainingState(2, {name: value.clone() for name, value in state.optimiser.items()})
            saved["model"] = {name: value.clone() for name, value in whole.state_dict().items()}

    whole = dropping()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(whole, InMemory(*stripes), recipe, OPTIMISER, seed=1, on_epoch_end=save)
    assert torch.equal(before, torch.get_rng_state())
    resumed = dropping()
    resumed.load_state_dict(saved["model"])
    torch.rand(3)
    train(resumed, InMemory(*stripes), recipe, OPTIMISER, seed=1, resume=saved["state"])
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_batches_of_every_recipe_are_images_and_a_function_of_the_seed(name, channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, channels, 16, 16), dtype=torch.uint8, generator=generator)
    recipe = Recipe(name, crop_padding=2, flip=True, num_classes=3)

    def batch(seed):
        return recipe.batch(images, torch.arange(8) % 3, torch.arange(8), seed=seed, epoch=1)

    (pixels, mixed), (again, mixed_again), (other, _) = batch(1), batch(1), batch(2)
    assert pixels.shape == images.shape
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    torch.testing.assert_close(mixed.sum(1), torch.ones(8))
    assert torch.equal(pixels, again)
    assert torch.equal(mixed, mixed_again)
    assert not torch.equal(pixels, other)


@pytest.mark.parametrize(
    ("name", "targets"), [("deit3", [[1.0, 1, 0], [0, 1, 0]]), ("resnet-a2", [[0.0, 1, 0], [0, 1, 0]])]
)
def test_binary_cross_entropy_counts_mixed_classes_whole_above_the_recipes_threshold(name, targets):
    logits = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.2, -0.3]])
    probabilities = 1 / (1 + torch.exp(-logits))
    targets = torch.tensor(targets)
    expected = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).mean()
    loss = Recipe(name, 0, False, 3).loss(logits, torch.tensor([[0.15, 0.85, 0.0], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("recipe", "optimiser"),
    [
        ("deit3", Optimiser(30, 16, 1e-2, 0.02, name="lamb", clip_norm=1.0)),
        ("resnet-a2", Optimiser(30, 16, 1e-2, 0.02, name="lamb", clip_norm=1.0)),
        ("fine-tune", Optimiser(12, 16, 3e-2, 1e-4, name="sgd")),
    ],
)
def test_the_papers_recipes_learn(stripes, recipe, optimiser):
    model = build_model(SPEC, 1)
    train(model, InMemory(*stripes), Recipe(recipe, 0, False, 3), optimiser, seed=1)
    assert accuracy(model, *stripes) > 0.9


def test_gradients_are_clipped_to_the_norm(stripes):
    """One SGD step from momentum 0 moves along (1 + 0.9) times the clipped gradient (Nesterov)."""
    moved = []
    for clip_norm in (None, 1e-3):
        model = build_model(SPEC, 1)
        before = weights(model)
        optimiser = Optimiser(1, 90, 0.1, 0.0, name="sgd", clip_norm=clip_norm)
        train(model, InMemory(*stripes), Recipe("simple", 0, False, 3), optimiser, seed=1)
        moved.append(weights(model) - before)
    rate = 0.1 * 0.05  # warm-up
    torch.testing.assert_close(torch.linalg.norm(moved[1]), torch.tensor(rate * 1.9 * 1e-3), rtol=1e-2, atol=0)
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.999
    assert torch.linalg.norm(moved[0]) > 10 * torch.linalg.norm(moved[1])


def test_lamb_and_sgd_equal_the_libraries_own_steps(stripes):
    for name, make in (
        ("lamb", lambda groups: Lamb(groups, lr=1e-2, max_grad_norm=None)),
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True)),
    ):
        model, expected = build_model(SPEC, 1), build_model(SPEC, 1)
        recipe = Recipe("simple", 0, False, 3)
        train(model, InMemory(*stripes), recipe, Optimiser(2, 90, 1e-2, 0.1, name=name), seed=1)
        biases = [p for p in expected.parameters() if p.ndim == 1]
        rest = [p for p in expected.parameters() if p.ndim > 1]
        descent = make([{"params": biases, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.1}])
        for epoch in range(2):
            for group in descent.param_groups:
                group["lr"] = 1e-2 * min(1.0, epoch + 0.05) * 0.5 * (1 + float(np.cos(np.pi * epoch / 2)))
            rows = torch.from_numpy(np.random.default_rng([1, epoch]).permutation(90))
            pixels, targets = recipe.batch(stripes[0][rows], stripes[1][rows], rows, seed=1, epoch=epoch)
            descent.zero_grad()
            recipe.loss(expected(pixels), targets).backward()
            descent.step()
        torch.testing.assert_close(weights(model), weights(expected), rtol=1e-5, atol=1e-7)
