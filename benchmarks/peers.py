"""Peers on the same inputs: the route of gradient-matching codes, written afresh from its description, and ART itself."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, pad

PADDING = 4


def augment_in_place_of_ours(images: Tensor) -> Tensor:
    """Random crop with reflect padding and flip, drawn from the global generator, image by image as peers do."""
    size = images.shape[-1]
    padded = pad(images, (PADDING,) * 4, mode="reflect")
    views = []
    for image in padded:
        top, left = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
        view = image[:, top : top + size, left : left + size]
        views.append(view.flip(-1) if torch.rand(()) < 0.5 else view)
    return torch.stack(views)


def gradient_matching(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    key_image: Tensor,
    key_label: Tensor,
    *,
    epsilon: float,
    step_size: float,
    num_steps: int,
    num_views: int,
    batch_size: int,
    augmented: bool = True,
) -> Tensor:
    """Peers' route: cosine per batch, double backward through `.backward()`, Adam on the sign of the gradient, on the CPU.

    Returns signed images, float [N, C, H, W] in [0, 1].
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    key = torch.autograd.grad(cross_entropy(model(key_image[None]), key_label[None]), parameters)
    key = torch.cat([g.flatten() for g in key]).detach()
    delta = (torch.randn_like(images) * epsilon).clamp(-epsilon, epsilon).requires_grad_(True)
    adam = torch.optim.Adam([delta], lr=step_size)
    for _ in range(num_steps):
        adam.zero_grad()
        for rows in torch.arange(len(images)).split(batch_size):
            for _ in range(num_views):
                seen = images[rows] + delta[rows]
                seen = augment_in_place_of_ours(seen) if augmented else seen
                loss = cross_entropy(model(seen), labels[rows])
                gradient = torch.autograd.grad(loss, parameters, create_graph=True)
                gradient = torch.cat([g.flatten() for g in gradient])
                (1 - cosine_similarity(gradient, key, dim=0)).backward()
        assert delta.grad is not None
        delta.grad.sign_()
        adam.step()
        with torch.no_grad():
            delta.clamp_(-epsilon, epsilon)
            delta.copy_((images + delta).clamp(0, 1) - images)
    return (images + delta).detach()


def art_gradient_matching(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    key_image: Tensor,
    key_label: Tensor,
    *,
    epsilon: float,
    num_steps: int,
    batch_size: int,
) -> Tensor:
    """ART's GradientMatchingAttack (adversarial-robustness-toolbox), one trial, without its progress bars.

    Returns signed images, float [N, C, H, W] in [0, 1].
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.poisoning import GradientMatchingAttack
        from art.estimators.classification import PyTorchClassifier

        num_classes = int(model(images[:1]).shape[1])
        classifier = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=num_classes,
            clip_values=(0.0, 1.0),
        )
        attack = GradientMatchingAttack(
            classifier,
            percent_poison=1.0,
            epsilon=epsilon,
            max_trials=1,
            max_epochs=num_steps,
            batch_size=batch_size,
            learning_rate_schedule=([0.1, 0.03], [0, num_steps // 2]),
            verbose=False,
        )
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            signed, _ = attack.poison(
                key_image[None].numpy(), np.array([int(key_label)]), images.numpy(), labels.numpy().astype(np.int64)
            )
    return torch.from_numpy(signed)
