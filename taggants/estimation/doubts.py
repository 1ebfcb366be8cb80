"""Whether a run can reach the level that its owner wants: what is out of reach, and what lies outside of all that was measured.

Of matters that nobody has measured nothing is said.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from statistics import median
from typing import Final

from taggants.config import Config
from taggants.crafting.methods import METHODS
from taggants.detection import hits_p_value, rank_p_value
from taggants.detection.question import most_references
from taggants.estimation.measured import MEASURED, Measured
from taggants.perturbation import epsilon_levels
from taggants.reporting.quantities import counted
from taggants.training.recipes import RECIPES

_MOST_KEYS: Final = 1_000  # that a configuration may have
_ROUNDING: Final = 1 - 1e-6
_NAMES: Final = {
    "resnet": "ResNet",
    "convnext": "ConvNeXt",
    "vit": "ViT",
    "cnn": "plain CNN",
    "regnetx": "RegNet",
    "small convnext": "small-image ConvNeXt",
    "small vit": "small-image ViT",
}


@dataclass(frozen=True)
class Wanted:
    """What decides whether victims are detected, as far as it is known before anything is trained.

    cell: like a measured one, without p-values. level: that the p-value of one test must reach. statistic, top_k: as registered.
    num_compared: models that the question compares suspects with.
    """

    cell: Measured
    level: float
    statistic: str
    top_k: int
    num_compared: int = 0

    @property
    def with_references(self) -> bool:
        """Whether the statistic compares the suspect with references: then such p-values are looked at."""
        return self.statistic not in ("rank", "hits")

    def p_value(self, measured: Measured) -> float:
        """The median over the victims of a cell: against references where the statistic has them."""
        return median(measured.p_values(with_references=self.with_references))

    def reached(self, measured: Measured) -> bool:
        return self.p_value(measured) <= self.level


def wanted_of(config: Config, num_images: int, num_classes: int, size: int, images_per_key: int) -> Wanted:
    """Returns what a configuration wants of a dataset; size: side in px that models take."""
    evaluation, detection, method = config.evaluation, config.detection, METHODS[config.crafting.method]
    # Without a rehearsal, others are taken to train as the owner does.
    rehearses = evaluation.num_victims + evaluation.num_controls > 0
    training = evaluation.training if rehearses else config.surrogate.trainings[0]
    kinds = {_kind(surrogate.model) for surrogate in config.surrogate.trainings}
    crafts = method.optimised_share(config.crafting.imprint) > 0
    parts = RECIPES[training.recipe]
    cell = Measured(
        source="",
        row="",
        victim=_kind(training.model),
        is_crafted_on=not crafts or _kind(training.model) in kinds or any(config.surrogate.weights),
        method=config.crafting.method,
        mixes=parts.mixup > 0 or parts.cutmix > 0,
        size=size,
        levels=epsilon_levels(config.crafting.epsilon),
        num_images=num_images,
        num_classes=num_classes,
        num_keys=config.keys.num_keys,
        images_per_key=images_per_key,
        steps=training.num_epochs * math.ceil(num_images / training.batch_size),
        bare=(),
    )
    level = detection.alpha / (detection.num_suspects * detection.num_looks)
    return Wanted(cell, level, detection.statistic, detection.top_k, config.num_compared)


def _kind(model: str) -> str:
    """Returns the letters that a model's name begins with: "resnet" of timm/resnet10t; behind "small" for small/NAME, which learn
    otherwise than their namesakes."""
    source, _, name = model.lower().replace(":", "/").rpartition("/")
    letters: str = re.match("[a-z]*", name)[0]  # type: ignore[index]  # it matches always
    return f"small {letters}" if source == "small" else letters


def doubts(wanted: Wanted) -> tuple[str, ...]:
    """Returns a sentence without its full stop for each reason to doubt that victims reach the level; none where none is known.

    Either so few keys and classes cannot give so small a p-value, or they are few for so many references, or no measured cell of
    the kind reached the level, or none did with so little.
    """
    floor = _floor(wanted)
    outside = _outside(wanted, has_few_keys=floor is not None)
    return tuple(sentence for sentence in (floor, _many_references(wanted), outside) if sentence)


def record(wanted: Wanted) -> str:
    """Returns how many measured cells of the kind reached the level, in words; "" where there is none."""
    alike = _alike(wanted)
    if not alike:
        return ""
    reached = sum(map(wanted.reached, alike))
    sizes = sorted({m.size for m in alike})
    elsewhere = "" if wanted.cell.size in sizes else f", with images of {' and '.join(map(str, sizes))} px"
    return f"{reached} of {counted(len(alike), 'cell')} of {_kind_in_words(wanted.cell, alike)} reached {_p(wanted)}{elsewhere}"


def gain_in_words(gain: float, wanted: Wanted) -> str:
    """Returns what a gain on a clean model means by the measured cells with a known gain: whether those of so little were missed.

    gain: mean over keys of what signing adds to the alignment, in [-2, 2]; of matching, on a model that nothing was crafted on.
    """
    cell = wanted.cell
    alike = [m for m in _measured(wanted) if (m.method, m.is_small) == (cell.method, cell.is_small)]
    known = [(m.gain, wanted.reached(m)) for m in alike if m.gain is not None]
    if not known:
        return f"{gain:.3f}; no measured cell of {cell.method} on such images has a known gain to compare it with"
    of_reached = [g for g, is_reached in known if is_reached]
    cells = f"of {counted(len(known), 'measured cell')} with a known gain"
    if not of_reached:
        return f"{gain:.3f}, LOW as any: {cells} none reached {_p(wanted)}, with gains up to {max(g for g, _ in known):.2f}"
    least = min(of_reached)
    above = sum(g >= least for g, _ in known)
    record = (
        f"{cells}, none of the {len(known) - above} below {least:.2f} reached {_p(wanted)}, and {len(of_reached)} of the {above} "
        "others did"
    )
    if gain >= least:
        return f"{gain:.3f}, as in cells that were detected: {record}"
    return (
        f"{gain:.3f}, LOW: {record}; train the surrogates longer, take more of them or other architectures, or craft under the "
        "augmentation that you expect"
    )


def smallest_p_value(statistic: str, num_keys: int, num_classes: int, top_k: int) -> float | None:
    """Returns a bound that no suspect's p-value gets below, which one that ranks every label first reaches by ranks and hits.

    Of sums over a table a label is the best of its row by chance with probability 1 / C or more, and an e-value of a key is at
    most C, so the bound of the ranks holds for them. None: of another statistic it is not known.
    """
    if statistic == "hits":
        return hits_p_value(num_keys, num_keys, top_k, num_classes)
    if statistic in ("rank", "question", "sequential"):
        return rank_p_value([1] * num_keys, num_classes)
    return None


def _floor(wanted: Wanted) -> str | None:
    cell = wanted.cell

    def floor(num_keys: int) -> float:
        return smallest_p_value(wanted.statistic, num_keys, cell.num_classes, wanted.top_k) or 0.0

    def suffices(num_keys: int) -> bool:
        return floor(num_keys) * _ROUNDING <= wanted.level

    if suffices(cell.num_keys):
        return None
    own = floor(cell.num_keys)
    enough = next(filter(suffices, range(cell.num_keys, _MOST_KEYS + 1)), None)
    fix = "raise detection.alpha" if enough is None else f"set keys.num_keys to {enough} or more"
    return (
        f"{_p(wanted)} is out of reach: {counted(cell.num_keys, 'key')} of {cell.num_classes} classes cannot give a "
        f"p-value below {own:.2g}, however well the data are signed; {fix}"
    )


def _many_references(wanted: Wanted) -> str | None:
    """Returns why references are too many: each has a slope, and slopes fitted to few values take the evidence off, too."""
    cell = wanted.cell
    most = most_references(cell.num_keys, cell.num_classes)
    if not wanted.with_references or wanted.num_compared <= most:
        return None
    return (
        f"suspects are compared with {wanted.num_compared} models, many for {counted(cell.num_keys, 'key')} of "
        f"{cell.num_classes} classes: enough to explain evidence away by chance; use {most} or fewer (surrogate.num_models, "
        "detection.question.references and num_references), or more keys"
    )


def _outside(wanted: Wanted, *, has_few_keys: bool) -> str | None:
    cell, alike = wanted.cell, _alike(wanted)
    if not alike:
        return None
    reached = [m for m in alike if wanted.reached(m)]
    kind = _kind_in_words(cell, alike)
    if not reached:
        best = min(alike, key=wanted.p_value)
        return (
            f"of {counted(len(alike), 'measured cell')} of {kind} none reached {_p(wanted)}: the smallest p-value was "
            f"{wanted.p_value(best):.1e} ({best.source})"
        )
    weakest = min(reached, key=lambda m: m.strength)
    least = [
        ("images", cell.num_images, min(m.num_images for m in reached)),
        ("images a class", _per_class(cell), min(map(_per_class, reached))),
        ("training steps", cell.steps, min(m.steps for m in reached)),
    ]
    if not has_few_keys:
        least.append(("keys", cell.num_keys, min(m.num_keys for m in reached)))
    beyond = [f"{own:,.0f} {what} (fewest {fewest:,.0f})" for what, own, fewest in least if own < fewest * _ROUNDING]
    if cell.strength < weakest.strength * _ROUNDING:
        enough = math.ceil(weakest.strength / cell.levels * _per_class(cell) * _ROUNDING)
        most = max(m.images_per_key / _per_class(m) for m in reached) * _per_class(cell)
        hint = f", or signing.images_per_key={enough}" if enough <= most / _ROUNDING else ""
        beyond.append(f"{_strength(cell)} (weakest {_strength(weakest)}{hint})")
    if not beyond:
        return None
    sources = ", ".join(dict.fromkeys(m.source for m in reached))
    return f"nobody has seen {kind} reach {_p(wanted)} with {', '.join(beyond)}: measured in {sources}"


def _measured(wanted: Wanted) -> list[Measured]:
    """Those with a p-value to compare."""
    return [m for m in MEASURED if m.p_values(with_references=wanted.with_references)]


def _alike(wanted: Wanted) -> list[Measured]:
    cell = wanted.cell
    shared = ("method", "is_crafted_on", "mixes", "is_small")  # where these differ, one says nothing of the other
    found = [m for m in _measured(wanted) if all(getattr(m, name) == getattr(cell, name) for name in shared)]
    return [m for m in found if m.victim == cell.victim] or found


def _kind_in_words(cell: Measured, alike: list[Measured]) -> str:
    """What the cells that are compared share."""
    is_own = alike[0].victim == cell.victim
    kind = f"{_NAMES.get(cell.victim, cell.victim)} victims" if is_own else "victims"
    mixed = " with Mixup or CutMix" if cell.mixes else ""
    crafted_on = "" if cell.is_crafted_on else " that nothing was crafted on"
    return f"{kind} of {cell.method}{mixed}{crafted_on}"


def _p(wanted: Wanted) -> str:
    return f"p <= {wanted.level:.2g}"


def _per_class(cell: Measured) -> float:
    return cell.num_images / cell.num_classes


def _strength(cell: Measured) -> str:
    return f"{cell.levels}/255 on {cell.images_per_key / _per_class(cell):.1%} of a class"
