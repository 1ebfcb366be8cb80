"""Engines for pass 2 of a crafting step: the pixel gradient of <v, grad_theta L> for a constant direction v.

All have one signature, so that a configuration chooses one by name. F is the cost of one forward pass of one sample; multiples
are those of a complete two-pass step, of which pass 1 (the signing gradient) is 3 F. Finite differences (FD) of the pixel
gradient along v need first-order code only, and h is chosen relative to the weights: |h v| = step |theta|, where no step
means `STEP_OF_SMOOTH`, `STEP_OF_PATTERN` or `STEP_WITH_KINKS` by the layers of the model, the first for any that has smooth
ones. ReLUs and max-poolings behind gates (`activation_pattern.gate_kinks`) keep the pattern of theta, so that the difference
tends to the exact gradient there too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from taggants.alignment.activation_pattern import ActivationPattern, has_gates, recorded, replayed
from taggants.alignment.gradients import Base, Gradient, inner, trainable_parameters
from taggants.registry import Registry

_TWICE_DIFFERENTIABLE_ATTENTION = partial(sdpa_kernel, SDPBackend.MATH)

PixelGradient = Callable[[Tensor, Tensor, Base | None], Tensor]
"""(images [N, C, H, W] in [0, 1], labels, base) -> grad_images <v, grad_theta sum_i L_i>, like images.

labels: int64 [N], or label weights [N, num_classes].

base: for an engine with `needs_base`; pass 1 delivers it at almost no cost."""


@dataclass(frozen=True)
class PixelGradientEngine:
    """bind: (model, v) -> PixelGradient; what one step shares among its microbatches is computed in it.

    is_first_order: the model is differentiated once only, so fused and compiled kernels will do.
    """

    bind: Callable[..., PixelGradient]
    needs_base: bool = False
    is_first_order: bool = False

    def with_step(self, step: float) -> PixelGradientEngine:
        """Returns the same finite difference with |h v| = step |theta|."""
        assert self.is_first_order, "exact engines take no step"
        return replace(self, bind=partial(self.bind, step=step))


def pixel_gradient(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    weights: dict[str, Tensor] | None = None,
    pattern: ActivationPattern = (),
) -> Tensor:
    """Returns grad_images of the SUM of cross-entropies, like images; 2 F. `weights` stand in for the model's own.

    Those are detached, else kernels of our own would compute their gradients too.
    """
    images = images.detach().requires_grad_(True)
    with replayed(model, pattern):
        scores = functional_call(model, _named_weights(model) if weights is None else weights, (images,))
    return torch.autograd.grad(cross_entropy(scores, labels, reduction="sum"), [images])[0]


def base_of(model: nn.Module, images: Tensor, labels: Tensor) -> Base:
    """Returns the base of a finite difference where no pass 1 has delivered it; 2 F."""
    with recorded(model) as pattern:
        gradient = pixel_gradient(model, images, labels)
    return Base(gradient, tuple(pattern))


def double_backward(model: nn.Module, direction: Gradient) -> PixelGradient:
    """Reference: reverse over reverse, asking only for the pixels. Exact. 10 to 11 F; about twice the memory of training.

    Refused by torch.compile (pytorch #91469) and by fused attention (#116350), so the math kernel is used.
    """

    def by_pixels(images: Tensor, labels: Tensor, base: Base | None) -> Tensor:
        images = images.detach().requires_grad_(True)
        with _TWICE_DIFFERENTIABLE_ATTENTION():
            loss = cross_entropy(model(images), labels, reduction="sum")
            gradient = list(torch.autograd.grad(loss, trainable_parameters(model), create_graph=True))
            return torch.autograd.grad(inner(gradient, direction), [images])[0]

    return by_pixels


def forward_over_reverse(model: nn.Module, direction: Gradient) -> PixelGradient:
    """The directional derivative of the pixel gradient along v, by forward over reverse. Exact. 9 F; memory of training.

    jvp of grad, never grad of jvp: torch 2.14.1 gets the latter wrong through LayerNorm without a word (pytorch #196700).
    Forward mode is missing in memory-efficient attention (#117629): the math kernel is used.
    """
    weights = _named_weights(model)
    tangents = dict(zip(weights, direction, strict=True))

    def by_pixels(images: Tensor, labels: Tensor, base: Base | None) -> Tensor:
        def gradient_at(parameters: dict[str, Tensor]) -> Tensor:
            def loss(pixels: Tensor) -> Tensor:
                return cross_entropy(functional_call(model, parameters, (pixels,)), labels, reduction="sum")

            by_image: Tensor = grad(loss)(images)
            return by_image

        with _TWICE_DIFFERENTIABLE_ATTENTION():
            derivative: Tensor = jvp(gradient_at, (weights,), (tangents,))[1]
        return derivative

    return by_pixels


def central_difference(model: nn.Module, direction: Gradient, *, step: float | None = None) -> PixelGradient:
    """(g(theta + h v) - g(theta - h v)) / 2h with g the pixel gradient. Error O(h^2) where the loss is smooth. 7 F; memory of
    training. Behind gates 8 F, as the pattern at theta takes a forward pass, and 2 bytes more for each ReLU of a microbatch.

    On ReLU networks without gates it is not autograd's gradient: autograd takes ReLU'' = 0, a finite step sees the kinks.
    """
    h, weights = _step_length(model, direction, step), _named_weights(model)
    up, down = _moved(weights, direction, h), _moved(weights, direction, -h)
    gated = has_gates(model)

    def by_pixels(images: Tensor, labels: Tensor, base: Base | None) -> Tensor:
        pattern: ActivationPattern = ()
        if gated:
            with torch.no_grad(), recorded(model) as entries:
                model(images)
            pattern = tuple(entries)
        ends = [pixel_gradient(model, images, labels, weights, pattern) for weights in (up, down)]
        return (ends[0] - ends[1]) / (2 * h)

    return by_pixels


def one_sided_difference(model: nn.Module, direction: Gradient, *, step: float | None = None) -> PixelGradient:
    """(g(theta + h v) - g(theta)) / h, where pass 1 delivers g(theta). Error O(h) where the loss is smooth. 5 F.

    Gates and kinks as in `central_difference`; pass 1 delivers the pattern, 2 bytes for each ReLU, held for all microbatches.
    Only the sign of each entry is used by the optimiser.
    """
    h = _step_length(model, direction, step)
    up = _moved(_named_weights(model), direction, h)

    def by_pixels(images: Tensor, labels: Tensor, base: Base | None) -> Tensor:
        assert base is not None, "pass 1 delivers the base of a one-sided difference"
        return (pixel_gradient(model, images, labels, up, base.pattern) - base.gradient) / h

    return by_pixels


def _named_weights(model: nn.Module) -> dict[str, Tensor]:
    """Detached, so that no graph is built for them."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _step_length(model: nn.Module, direction: Gradient, step: float | None) -> Tensor:
    """h with |h v| = step |theta|; 1 when v vanishes, so that the difference is 0 and not 0 / 0."""
    if step is None:
        step = _step_of(model)
    weights = [weight.detach() for weight in trainable_parameters(model)]
    length = torch.sqrt(inner(direction, direction))
    h = step * torch.sqrt(inner(weights, weights)) / length.clamp_min(torch.finfo(length.dtype).tiny)
    return torch.where(length > 0, h, torch.ones_like(h))


def _step_of(model: nn.Module) -> float:
    if any(isinstance(module, _CURVED) for module in model.modules()):
        return STEP_OF_SMOOTH
    if any(isinstance(module, _KINKED) for module in model.modules()):
        return STEP_WITH_KINKS
    return STEP_OF_PATTERN if has_gates(model) else STEP_OF_SMOOTH


def _moved(weights: dict[str, Tensor], direction: Gradient, h: Tensor) -> dict[str, Tensor]:
    """New tensors: the model's own weights are never touched."""
    # The weights come first: a sum has the memory layout of its first term.
    moved = torch._foreach_add(list(weights.values()), torch._foreach_mul(direction, h))
    return dict(zip(weights, moved, strict=True))


STEP_OF_SMOOTH = 3e-4
"""|h v| / |theta| for networks without kinks: far below it bfloat16 loses the difference, far above it the curvature
enters (ConvNeXt-atto after few steps: cosine with the exact gradient 0.97 at 3e-4, 0.69 at 1e-3, 0.10 at 3e-3).

Taken for networks with ReLUs beside smooth layers, too: small/convnext and small/vit, trained on CIFAR-100, in bfloat16, two
classes each: behind gates 0.88, 0.92 and 0.86, 0.92 at 3e-4, 0.51, 0.62 and 0.69, 0.67 at 1e-3; without gates 0.55, 0.60 and
0.54, 0.74 at 3e-4, 0.17 and 0.08 at 3e-3 (one class; benchmarks/finite_step.py)."""

STEP_OF_PATTERN = 1e-3
"""The same for ReLU networks behind gates (trained CNN, CIFAR-100 images: cosine 0.999, 0.993, 0.975 at 3e-4, 1e-3, 3e-3 in
float32; 0.980, 0.986, 0.970 in bfloat16; benchmarks/finite_step.py)."""

STEP_WITH_KINKS = 3e-3
"""The same for ReLU networks without gates. A finite step sees the kinks that autograd ignores, more of them the longer it is:
on a trained CNN and CIFAR-100 images the alignment gained by one step along the signs was 0.086 (one-sided, 3e-3) against
0.064 by double backward, 0.071 at 1e-3 and 0.069 at 1e-2; but what it gained carried over to victims less well."""

_KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardswish, nn.Hardtanh)

_CURVED = (nn.LayerNorm, nn.GELU, nn.SiLU)
"""Of ConvNeXts, transformers and EfficientNets; timm's own layer normalisations are of the first class."""

ENGINES: Registry[PixelGradientEngine] = Registry("engine")
"""The engines that a configuration can name."""

ENGINES.register("double_backward", PixelGradientEngine(double_backward))
ENGINES.register("jvp", PixelGradientEngine(forward_over_reverse))
ENGINES.register("central", PixelGradientEngine(central_difference, is_first_order=True))
ENGINES.register("one_sided", PixelGradientEngine(one_sided_difference, needs_base=True, is_first_order=True))
