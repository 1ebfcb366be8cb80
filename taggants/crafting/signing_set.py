"""Crafting the perturbations of one signing set: the optimiser of Data Taggants, for any objective of its gradient.

Bouaziz, Usunier, El-Mhamdi, ICLR 2025, section 3 (gradient matching after Geiping et al., ICLR 2021). Pure: tensors and
numbers in, values out; no storage, no Ray, no global generator. On a GPU the host waits for the device at the start and the
end of a set, where restarts are compared, and once in each convergence window; never within a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from taggants.alignment import (
    Base,
    Objective,
    PixelGradient,
    PixelGradientEngine,
    add,
    alignment,
    alignment_direction,
    base_of,
    key_gradient,
    loss_gradient,
    loss_gradient_and_base,
)
from taggants.alignment.gradients import Gradient
from taggants.augmentation import Augmentation, Compose, Mixing
from taggants.perturbation import initial_perturbation, project, to_uint8
from taggants.perturbation.codec import Codec, LosslessCodec
from taggants.perturbation.perceptual import PerceptualTerm


@dataclass(frozen=True)
class Optimisation:
    """How a perturbation is optimised; every field changes the result and is part of the plan.

    levels: L-infinity bound in 8-bit levels. step_size: length of a step in units of the bound.
    milestones: steps after which the step size is multiplied by `decay`. momentum: Adam's beta_1.
    views: independent augmentations of each image per step. microbatch: augmented images per pass; changes rounding only.
    initial_noise: standard deviation of the start in units of the bound.
    engine: of the pixel gradient. objective: of the gradients, to be maximised.
    augmentation: what the images go through in training; evaluation: before a test.
    cycle: take one surrogate after the other, one a step, instead of the mean over all of them at every step.
    halving: of several restarts, the better half goes on after 1/2^k of the steps, and so on until one is left at 1/2.
    convergence_window: every so many steps the mean alignment of the last window is compared with that of the window before;
        where it rose by less than `convergence_gain`, the schedule jumps to the next milestone, and ends after the last. 0
        runs every step.
    direction_interval: steps of one surrogate for which the direction in parameter space is kept. 1 is exact. Above, pass 1
        is left out in between: its 3 F, or 1 of 3 F where the engine needs its base; the history repeats the cosine.
    """

    levels: int
    num_steps: int
    step_size: float
    milestones: tuple[int, ...]
    decay: float
    momentum: float
    num_restarts: int
    num_views: int
    microbatch: int
    initial_noise: float
    augmentation: Augmentation
    engine: PixelGradientEngine
    objective: Objective = alignment_direction
    evaluation: Augmentation = field(default_factory=lambda: Compose(()))
    cycle: bool = False
    halving: bool = True
    convergence_window: int = 0
    convergence_gain: float = 0.0
    direction_interval: int = 1

    @property
    def most_steps(self) -> int:
        """Steps over all restarts, unless they converge early."""
        total, left, done = 0, self.num_restarts, 0
        for rung in _rungs(self):
            total, done, left = total + left * (rung - done), rung, -(-left // 2)
        return total

    def sample_steps_per_image(self, num_surrogates: int) -> int:
        """Steps x views x surrogates of a step, over all restarts, unless they converge early."""
        return self.most_steps * self.num_views * (1 if self.cycle else num_surrogates)


@dataclass(frozen=True, eq=False)
class SigningSet:
    """The images that carry one key, all on one device.

    images: uint8 [N, C, H, W]; where their sizes differ, each at the top left of the canvas. labels: int64 [N].
    image_ids: int64 [N], unique. sizes: int64 [N, 2], height and width; None where all fill the canvas.
    codec: what storing does to them. mixing: with which images they are mixed in training. dtype: of pixels and perturbations.
    """

    images: Tensor
    labels: Tensor
    image_ids: Tensor
    sizes: Tensor | None = None
    codec: Codec = field(default_factory=LosslessCodec)
    mixing: Mixing | None = None
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return len(self.images)

    def clean(self, rows: slice) -> Tensor:
        """Returns images in [0, 1]; made anew each time, so that only 8 bits a value stay on the device."""
        return self.images[rows].to(self.dtype) / 255

    def augmented(
        self, stored: Tensor, rows: slice, augmentation: Augmentation, *, seed: int, step: int, view: int
    ) -> Tensor:
        """Returns one view of stored images."""
        sizes = None if self.sizes is None else self.sizes[rows]
        return augmentation(stored, self.image_ids[rows], seed=seed, step=step, view=view, sizes=sizes)


@dataclass(frozen=True)
class CraftedSet:
    """images: uint8 [N, C, H, W], what the encoder gets; read: the same, what a reader of the stored file gets.

    alignment: cosine of the unaugmented set as it is read, in [-1, 1], mean over surrogates, whatever the objective;
    alignment_before: of the clean images. None for both where nothing was optimised.
    history: the objective on the augmented set at every step of the kept restart.
    """

    images: Tensor
    read: Tensor
    alignment: float | None
    alignment_before: float | None
    history: tuple[float, ...]


class _Restart:
    """One start of the optimisation and how far it has come."""

    def __init__(self, signing_set: SigningSet, optimisation: Optimisation, seed: int) -> None:
        self.seed = seed
        self.perturbation = initial_perturbation(
            signing_set.clean(slice(None)), optimisation.levels, optimisation.initial_noise, seed
        )
        self.average = torch.zeros_like(self.perturbation)
        self.history: list[Tensor] = []
        self.position = 0  # in the schedule; ahead of the steps taken where it jumped
        # By surrogate: value of the objective and direction of the last pass 1.
        self.along: dict[int, tuple[Tensor, PixelGradient]] = {}

    def has_converged(self, window: int, gain: float) -> bool:
        """Asks the device once a window."""
        if window == 0 or len(self.history) < 2 * window or len(self.history) % window:
            return False
        recent = torch.stack(self.history[-2 * window :])
        return bool(recent[window:].mean() - recent[:window].mean() < gain)


def key_gradients(surrogates: Sequence[nn.Module], key_image: Tensor, key_label: Tensor) -> list[Gradient]:
    """Returns the key's gradient on each surrogate.

    Args:
        key_image: uint8 [C, S, S], of the size the surrogates take; key_label: int64 scalar.
    """
    return [key_gradient(model, key_image.to(torch.float32) / 255, key_label) for model in surrogates]


def craft_signing_set(
    surrogates: Sequence[nn.Module],
    signing_set: SigningSet,
    keys: Sequence[Gradient],
    optimisation: Optimisation,
    *,
    seed: int,
    perceptual: PerceptualTerm | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> CraftedSet:
    """Returns the signed images whose summed loss gradient does best by the objective, such as aligning with the key's.

    Args:
        surrogates: in eval mode, at least one; the objective is the mean over them.
        keys: the key's gradient on each surrogate, of `key_gradients`.
        seed: of the start and of the augmentation draws; restart r uses seed + r.
        perceptual: a distance from the clean images, kept small beside the objective.
        on_step: called after every step.
    """

    def mean_of(objective: Callable[[Gradient, Gradient], Tensor], images: Callable[[slice], Tensor]) -> float:
        values = [
            objective(key, _signing_gradient(model, signing_set, images, optimisation))
            for model, key in zip(surrogates, keys, strict=True)
        ]
        return float(torch.stack(values).mean())

    def as_read(restart: _Restart) -> Callable[[slice], Tensor]:
        return lambda rows: signing_set.codec(signing_set.clean(rows) + restart.perturbation[rows], rows)

    def reached(restart: _Restart) -> float:
        return mean_of(lambda key, signing: optimisation.objective(key, signing)[0], as_read(restart))

    restarts = [_Restart(signing_set, optimisation, seed + r) for r in range(optimisation.num_restarts)]
    for rung in _rungs(optimisation):
        for restart in restarts:
            _advance(surrogates, signing_set, keys, optimisation, restart, rung, perceptual, on_step)
        if len(restarts) > 1:
            # sorted is stable: equal restarts keep their order.
            restarts = sorted(restarts, key=reached, reverse=True)[: -(-len(restarts) // 2)]
    best = restarts[0]
    codec = signing_set.codec
    signed = [
        (signing_set.clean(rows) + best.perturbation[rows], rows) for rows in row_slices(signing_set, optimisation)
    ]
    return CraftedSet(
        images=torch.cat([codec.to_stored(part, rows) for part, rows in signed]),
        read=torch.cat([to_uint8(codec(part, rows)) for part, rows in signed]),
        alignment=mean_of(alignment, as_read(best)),
        alignment_before=mean_of(alignment, signing_set.clean),
        history=tuple(torch.stack(best.history).tolist()) if best.history else (),
    )


def _rungs(optimisation: Optimisation) -> list[int]:
    """Positions in the schedule at which restarts are compared; the last is its end."""
    if not optimisation.halving:
        return [optimisation.num_steps]
    halvings = (optimisation.num_restarts - 1).bit_length()
    return [optimisation.num_steps >> k for k in range(halvings, -1, -1)]


def _advance(
    surrogates: Sequence[nn.Module],
    signing_set: SigningSet,
    keys: Sequence[Gradient],
    optimisation: Optimisation,
    restart: _Restart,
    until: int,
    perceptual: PerceptualTerm | None,
    on_step: Callable[[], None],
) -> None:
    """signAdam with straight-through storing, up to a position in the schedule."""
    step_size = optimisation.step_size * optimisation.levels / 255
    while restart.position < until:
        step = len(restart.history)
        chosen = [step % len(surrogates)] if optimisation.cycle else range(len(surrogates))
        visit = step // len(surrogates) if optimisation.cycle else step
        values, ascent = [], torch.zeros_like(restart.perturbation)
        views = _Views(signing_set, optimisation, restart.perturbation, restart.seed, step)
        for index in chosen:
            model, bases = surrogates[index], None
            if visit % optimisation.direction_interval == 0:
                value, direction, bases = _direction(model, views, keys[index])
                restart.along[index] = value, optimisation.engine.bind(model, direction)
            value, along = restart.along[index]
            values.append(value)
            ascent += _pixel_gradient(model, views, along, bases) / len(chosen)
        if perceptual is not None:
            for rows in row_slices(signing_set, optimisation):
                stored = signing_set.codec(signing_set.clean(rows) + restart.perturbation[rows], rows)
                ascent[rows] -= perceptual.gradient(stored, rows)
        restart.history.append(torch.stack(values).mean())
        # Adam on signs: the second moment is 1 after bias correction, so an average of signs is all its state.
        restart.average.mul_(optimisation.momentum).add_(ascent.sign_(), alpha=1 - optimisation.momentum)
        debiased = restart.average / (1 - optimisation.momentum ** (step + 1))
        rate = step_size * optimisation.decay ** sum(restart.position >= m for m in optimisation.milestones)
        for rows in row_slices(signing_set, optimisation):
            restart.perturbation[rows] = project(
                restart.perturbation[rows] + rate * debiased[rows], signing_set.clean(rows), optimisation.levels
            )
        restart.position += 1
        if restart.has_converged(optimisation.convergence_window, optimisation.convergence_gain):
            later = [m for m in optimisation.milestones if m > restart.position]
            restart.position = min(later, default=optimisation.num_steps)
        on_step()


def row_slices(signing_set: SigningSet, optimisation: Optimisation) -> Iterator[slice]:
    """Yields slices of images whose views together fill a microbatch."""
    size = max(1, optimisation.microbatch // optimisation.num_views)
    for start in range(0, len(signing_set), size):
        yield slice(start, min(start + size, len(signing_set)))


def objective_and_pixel_gradient(
    model: nn.Module,
    signing_set: SigningSet,
    perturbation: Tensor,
    key: Gradient,
    optimisation: Optimisation,
    *,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Returns the objective on the whole augmented set (scalar) and its gradient by the perturbation (like it).

    Two passes over the same draws: the first sums the signing gradient, the second differentiates along the direction that
    the sum gives. No graph spans two microbatches, so both results are those of one batch, up to rounding.
    """
    views = _Views(signing_set, optimisation, perturbation, seed, step)
    value, direction, bases = _direction(model, views, key)
    return value, _pixel_gradient(model, views, optimisation.engine.bind(model, direction), bases)


@dataclass(frozen=True)
class _Shown:
    """All views of some rows as a model is shown them: images [V n, C, S, S], a function of delta, their part of the
    perturbation, and labels or label weights."""

    rows: slice
    delta: Tensor
    images: Tensor
    labels: Tensor


class _Views:
    """What models are shown of a signing set in one step."""

    def __init__(
        self, signing_set: SigningSet, optimisation: Optimisation, perturbation: Tensor, seed: int, step: int
    ) -> None:
        self.optimisation = optimisation
        self.perturbation = perturbation
        self._signing_set, self._seed, self._step = signing_set, seed, step
        self._kept: _Shown | None = None

    def __iter__(self) -> Iterator[_Shown]:
        """One microbatch after the other. A set that is a single one is computed once for both passes and all surrogates;
        of others no two graphs are held at a time, so each pass computes them anew."""
        slices = list(row_slices(self._signing_set, self.optimisation))
        if len(slices) > 1:
            yield from map(self._shown, slices)
            return
        if self._kept is None:
            self._kept = self._shown(slices[0])
        yield self._kept

    def _shown(self, rows: slice) -> _Shown:
        signing_set = self._signing_set
        delta = self.perturbation[rows].detach().requires_grad_(True)
        stored = signing_set.codec(signing_set.clean(rows) + delta, rows)
        images, labels = [], []
        for view in range(self.optimisation.num_views):
            draw = {"seed": self._seed, "step": self._step, "view": view}
            seen = signing_set.augmented(stored, rows, self.optimisation.augmentation, **draw)
            weights = signing_set.labels[rows]
            if signing_set.mixing is not None:
                seen, weights = signing_set.mixing(seen, weights, signing_set.image_ids[rows], **draw)
            images.append(seen)
            labels.append(weights)
        return _Shown(rows, delta, torch.cat(images), torch.cat(labels))


def _direction(model: nn.Module, views: _Views, key: Gradient) -> tuple[Tensor, Gradient, list[Base | None]]:
    """Pass 1: the objective, its derivative by the signing gradient, and for engines that need it each microbatch's base."""
    signing: Gradient | None = None
    bases: list[Base | None] = []
    for shown in views:
        base = None
        if views.optimisation.engine.needs_base:
            part, base = loss_gradient_and_base(model, shown.images, shown.labels)
        else:
            part = loss_gradient(model, shown.images.detach(), shown.labels)
        bases.append(base)
        signing = part if signing is None else add(signing, part)
    assert signing is not None, "a signing set holds at least one image"
    return *views.optimisation.objective(key, signing), bases


def _pixel_gradient(
    model: nn.Module, views: _Views, along: PixelGradient, bases: Sequence[Base | None] | None
) -> Tensor:
    """Pass 2: the gradient along a direction, by the perturbation. Without bases from pass 1 they are computed here."""
    gradient = torch.empty_like(views.perturbation)
    for index, shown in enumerate(views):
        images = shown.images.detach()
        base = None if bases is None else bases[index]
        if base is None and views.optimisation.engine.needs_base:
            base = base_of(model, images, shown.labels)
        by_images = along(images, shown.labels, base)
        (gradient[shown.rows],) = torch.autograd.grad(
            shown.images, [shown.delta], grad_outputs=by_images, retain_graph=True
        )
    return gradient


def _signing_gradient(
    model: nn.Module, signing_set: SigningSet, images: Callable[[slice], Tensor], optimisation: Optimisation
) -> Gradient:
    """The summed gradient of an unaugmented set, of which `images` gives the floats in [0, 1] of some rows."""
    signing: Gradient | None = None
    for rows in row_slices(signing_set, optimisation):
        with torch.no_grad():
            seen = signing_set.augmented(images(rows), rows, optimisation.evaluation, seed=0, step=0, view=0)
        part = loss_gradient(model, seen, signing_set.labels[rows])
        signing = part if signing is None else add(signing, part)
    assert signing is not None, "a signing set holds at least one image"
    return signing
