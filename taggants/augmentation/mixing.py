"""Mixup and CutMix of each image with a constant companion image, as an augmentation of images and labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from taggants.augmentation.draws import Draws
from taggants.errors import InputError

_FIRST_STREAM = 64
_STREAMS = range(_FIRST_STREAM, _FIRST_STREAM + 6)
_NUM_QUANTILES = 4096


class Mixing(Protocol):
    """Images and labels in, mixed images and label weights out."""

    def __call__(
        self, images: Tensor, labels: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int
    ) -> tuple[Tensor, Tensor]:
        """Returns images like `images`, differentiable in them, and their label weights [N, num_classes], rows of sum 1.

        Args:
            images: float32 or float64 [N, C, S, S] in [0, 1], augmented before. labels, image_ids: int64 [N].
            seed, step, view: what the draws are a function of, with the image id.
        """


@dataclass(frozen=True)
class MixAugment:
    """Mixup (Zhang et al., ICLR 2018) or CutMix (Yun et al., ICCV 2019) with another image, one half of the draws each.

    num_classes: columns of the label weights. mixup_alpha, cutmix_alpha: the share of the image's own label is drawn from
    Beta(alpha, alpha); 0 turns one of the two off. probability: of mixing at all. The defaults are the paper's victims'.
    CutMix replaces a box with the image's proportions around a uniform centre, cut at the border; the labels get the shares
    of the areas (as timm's `Mixup`). `bind` gives it the images to mix with.
    """

    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        if min(self.mixup_alpha, self.cutmix_alpha) < 0 or max(self.mixup_alpha, self.cutmix_alpha) == 0:
            raise InputError(
                f"mixup alpha {self.mixup_alpha:g} and cutmix alpha {self.cutmix_alpha:g} must be at least 0 and not both 0; "
                "for example 0.8 and 1"
            )
        if not 0 <= self.probability <= 1:
            raise InputError(f"mixing probability {self.probability:g} must lie in [0, 1]; for example 1")

    def with_partners(
        self,
        images: Tensor,
        labels: Tensor,
        partners: Tensor,
        partner_labels: Tensor,
        image_ids: Tensor,
        *,
        seed: int,
        step: int,
        view: int,
    ) -> tuple[Tensor, Tensor]:
        """Returns each image mixed with its partner, and label weights; see `Mixing`.

        Args:
            partners: like `images`; partner_labels: like `labels`.
        """
        draws = Draws(image_ids, _STREAMS, seed=seed, step=step, view=view)
        height, width = images.shape[2:]
        kept = self._kept(draws, height, width, images.device)  # [N, H, W]
        # The area of a box is counted on the map of what is kept, so the weights are right at the borders too.
        own = kept.mean(dim=(1, 2))[:, None]
        one_hot = torch.eye(self.num_classes, dtype=torch.float64, device=images.device)
        weights = own * one_hot[labels] + (1 - own) * one_hot[partner_labels]
        share = kept.to(images.dtype)[:, None]
        return share * images + (1 - share) * partners, weights.to(images.dtype)

    def _kept(self, draws: Draws, height: int, width: int, device: torch.device) -> Tensor:
        """The share of the image itself in each pixel, float64 [N, H, W] in [0, 1]."""
        mixes, which, quantile = draws.fractions(_FIRST_STREAM + 1, 3)
        mixup_alpha, cutmix_alpha = self.mixup_alpha, self.cutmix_alpha
        probability_of_cutmix = 0.5 if min(mixup_alpha, cutmix_alpha) > 0 else float(mixup_alpha == 0)
        by_mixup = beta_quantile(quantile, mixup_alpha or cutmix_alpha)[:, None, None]
        cut_share = torch.sqrt(1 - beta_quantile(quantile, cutmix_alpha or mixup_alpha))

        def in_box(size: int, stream: int) -> Tensor:  # bool [N, size]
            cut = (size * cut_share).long()
            centre = draws.below(size, stream)
            pixels = torch.arange(size, device=device)
            return (pixels >= (centre - cut // 2)[:, None]) & (pixels < (centre + (cut + 1) // 2)[:, None])

        box = in_box(height, _FIRST_STREAM + 4)[:, :, None] & in_box(width, _FIRST_STREAM + 5)[:, None, :]
        by_cutmix = torch.where(box, 0.0, 1.0).double()
        mixed = torch.where((which < probability_of_cutmix)[:, None, None], by_cutmix, by_mixup)
        return torch.where((mixes < self.probability)[:, None, None], mixed, 1.0)

    def bind(self, companions: Tensor, companion_labels: Tensor) -> MixWithCompanions:
        """Returns the mixing with these images.

        Args:
            companions: uint8, or float in [0, 1], [M, C, S, S], of the size of the augmented images and on their device. They
                get no gradient and no further augmentation.
            companion_labels: int64 [M] in 0..num_classes-1.

        Raises:
            InputError: no companions, or labels that do not match them or the number of classes.
        """
        if companions.ndim != 4 or len(companions) == 0 or companion_labels.shape != companions.shape[:1]:
            raise InputError(
                f"companions of shape {list(companions.shape)} with labels of shape {list(companion_labels.shape)} cannot be "
                "mixed in; give at least one image [M, C, S, S] and a label for each"
            )
        low, high = int(companion_labels.min()), int(companion_labels.max())
        if low < 0 or high >= self.num_classes:
            raise InputError(
                f"companion labels in {low}..{high} must lie in 0..{self.num_classes - 1}; correct them or num_classes"
            )
        return MixWithCompanions(self, companions, companion_labels)


@dataclass(frozen=True, eq=False)
class MixWithCompanions:
    """`MixAugment` bound to its companions; a `Mixing`."""

    mix: MixAugment
    companions: Tensor
    companion_labels: Tensor

    def __call__(
        self, images: Tensor, labels: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int
    ) -> tuple[Tensor, Tensor]:
        """See `Mixing`.

        Raises:
            InputError: images whose shape is not the companions'.
        """
        if images.shape[1:] != self.companions.shape[1:]:
            raise InputError(
                f"images of shape {list(images.shape[1:])} cannot be mixed with companions of shape "
                f"{list(self.companions.shape[1:])}; resize the companions"
            )
        chosen = Draws(image_ids, _STREAMS, seed=seed, step=step, view=view).below(len(self.companions), _FIRST_STREAM)
        companions = self.companions[chosen].detach().to(images.dtype)
        if self.companions.dtype == torch.uint8:
            companions = companions / 255
        return self.mix.with_partners(
            images, labels, companions, self.companion_labels[chosen], image_ids, seed=seed, step=step, view=view
        )


def beta_quantile(fractions: Tensor, alpha: float) -> Tensor:
    """Returns the quantiles of Beta(alpha, alpha) at `fractions` in [0, 1]; float64, same shape.

    Linear between 4097 tabulated quantiles: exact for alpha = 1, within 5e-6 for alpha in
    [0.1, 1], within 0.003 up to 2.
    """
    table = _beta_table(alpha, fractions.device)
    position = fractions * _NUM_QUANTILES
    index = position.long().clamp(max=_NUM_QUANTILES - 1)
    return torch.lerp(table[index], table[index + 1], position - index)


@lru_cache  # kept on the device, which would have to wait for it at every call
def _beta_table(alpha: float, device: torch.device) -> Tensor:
    return torch.from_numpy(betaincinv(alpha, alpha, np.arange(_NUM_QUANTILES + 1) / _NUM_QUANTILES)).to(device)
