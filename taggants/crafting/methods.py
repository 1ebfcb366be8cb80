"""How the images of a signing set come to carry their key, by name: what `crafting.method` chooses between.

"matching" is Data Taggants: the perturbations are optimised on surrogates (`taggants.crafting.signing_set`). "imprint" adds the
key's own pattern, as a watermark would, and needs no surrogate; networks that learn textures learn it, and it harms more: see
docs/how-it-works.md. "mixed" does one to some images of each set and the other to the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taggants.alignment.gradients import Gradient
from taggants.crafting.signing_set import CraftedSet, Optimisation, SigningSet, craft_signing_set, row_slices
from taggants.perturbation import project, to_uint8
from taggants.perturbation.perceptual import PerceptualTerm
from taggants.registry import Registry


@dataclass(frozen=True)
class Imprint:
    """How patterns of keys are added to images.

    share: of each signing set that "mixed" imprints, in [0, 1].
    weakest: in units of the bound, in (0, 1]; each image's strength is drawn between it and 1.
    shift: largest cyclic shift of the pattern in pixels of the key, along each axis; each image's is drawn from 0 to it.
    """

    share: float = 1 / 3
    weakest: float = 1.0
    shift: int = 0


@dataclass(frozen=True, eq=False)
class SetToSign:
    """All that a method may use.

    signing_set: with labels, ids and codec. key_image: uint8 [C, S, S], on its device. key_gradients: on each of the surrogates.
    surrogates: none where the method optimises no image. seed: of augmentations and starts. key_id: 64 hex digits that nobody
    knows without the secret. part: the same for the images at some places of the set only.
    """

    signing_set: SigningSet
    key_image: Tensor
    key_gradients: Callable[[], list[Gradient]]
    surrogates: Sequence[nn.Module]
    optimisation: Optimisation
    imprint: Imprint
    seed: int
    key_id: str = field(repr=False)
    perceptual: PerceptualTerm | None
    part: Callable[[Sequence[int]], SetToSign]


@dataclass(frozen=True)
class Method:
    """A way to sign a set.

    Attributes:
        description: half a sentence for the help.
        optimised_share: which share of a set is optimised on surrogates, in [0, 1]; at 0 none are trained for it.
        sign: what it does; a function of its argument alone.
    """

    description: str
    optimised_share: Callable[[Imprint], float]
    sign: Callable[[SetToSign], CraftedSet]

    def num_optimised(self, num_images: int, imprint: Imprint) -> int:
        """Returns how many images of a set are optimised."""
        return round(self.optimised_share(imprint) * num_images)


def match(given: SetToSign) -> CraftedSet:
    """Returns the set with all images optimised on the surrogates."""
    return craft_signing_set(
        given.surrogates,
        given.signing_set,
        given.key_gradients(),
        given.optimisation,
        seed=given.seed,
        perceptual=given.perceptual,
    )


def imprint(given: SetToSign) -> CraftedSet:
    """Returns the set with the key's pattern on all images, within the bound. No alignment is measured."""
    signing_set, levels = given.signing_set, given.optimisation.levels
    pattern = key_pattern(given.key_image)
    stored, read = [], []
    for rows in row_slices(signing_set, given.optimisation):
        clean = signing_set.clean(rows)
        perturbation = torch.zeros_like(clean)
        sizes = None if signing_set.sizes is None else signing_set.sizes[rows].tolist()
        for place, image_id in enumerate(signing_set.image_ids[rows].tolist()):
            height, width = clean.shape[2:] if sizes is None else sizes[place]
            strength, down, right = imprint_draws(given.key_id, image_id, given.imprint)
            laid = pattern_on(pattern, height, width, down, right)
            perturbation[place, :, :height, :width] = strength * levels / 255 * laid
        signed = clean + project(perturbation, clean, levels)
        stored.append(signing_set.codec.to_stored(signed, rows))
        read.append(to_uint8(signing_set.codec(signed, rows)))
    return CraftedSet(torch.cat(stored), torch.cat(read), alignment=None, alignment_before=None, history=())


def mix(given: SetToSign) -> CraftedSet:
    """Returns the set with some images imprinted and the others optimised, each as if the others were not there.

    Which is which is drawn from the key's id, so that nobody else can tell. The alignment is that of the optimised ones.
    """
    ids = given.signing_set.image_ids.tolist()
    num_optimised = METHODS["mixed"].num_optimised(len(ids), given.imprint)
    drawn = sorted(range(len(ids)), key=lambda place: _draw(b"taggants/v1/imprinted", given.key_id, ids[place]))
    optimised, imprinted = sorted(drawn[:num_optimised]), sorted(drawn[num_optimised:])
    parts = [sign(given.part(places)) for sign, places in ((match, optimised), (imprint, imprinted)) if places]
    order = torch.tensor([*optimised, *imprinted], device=parts[0].images.device).argsort()
    return CraftedSet(
        images=torch.cat([part.images for part in parts])[order],
        read=torch.cat([part.read for part in parts])[order],
        alignment=parts[0].alignment,
        alignment_before=parts[0].alignment_before,
        history=parts[0].history,
    )


def key_pattern(key_image: Tensor) -> Tensor:
    """Returns float32 like the uint8 key: sign(k - 127.5) min(1, |k - 127.5| / 64), in [-1, 1]."""
    return ((key_image.to(torch.float32) - 127.5) / 64).clamp(-1, 1)


def pattern_on(pattern: Tensor, height: int, width: int, down: int, right: int) -> Tensor:
    """Returns [C, height, width]: the pattern [C, S, S] as it lies on an image of that size, so that models that take images of
    S px, shorter side resized and centre cropped, see it in its own size. Beyond the central square it is repeated.

    down, right: cyclic shift, in pixels of the pattern.
    """
    own, shorter = pattern.shape[-1], min(height, width)
    laid = pattern.roll((down, right), dims=(1, 2))
    if shorter != own:
        size = (shorter, shorter)
        laid = F.interpolate(laid[None], size, mode="bilinear", align_corners=False, antialias=shorter < own)[0]
    rows, columns = (
        (torch.arange(side, device=pattern.device) - (side - shorter) // 2) % shorter for side in (height, width)
    )
    return laid[:, rows][:, :, columns]


def imprint_draws(key_id: str, image_id: int, settings: Imprint) -> tuple[float, int, int]:
    """Returns strength in [weakest, 1] and shifts in 0..shift down and to the right, uniform, of one image of one key."""
    words = _draw(b"taggants/v1/imprint", key_id, image_id)
    unit, down, right = (int.from_bytes(words[start : start + 8], "big") for start in (0, 8, 16))
    strength = settings.weakest + (1 - settings.weakest) * (unit / 2**64)
    return strength, down % (settings.shift + 1), right % (settings.shift + 1)


def _draw(label: bytes, key_id: str, image_id: int) -> bytes:
    """32 bytes from the secret by way of the key's id, alike whichever images are signed with this one."""
    return hashlib.sha256(label + bytes.fromhex(key_id) + image_id.to_bytes(8, "big")).digest()


METHODS: Registry[Method] = Registry("method")
METHODS.register("matching", Method("gradient matching, the paper's", lambda settings: 1.0, match))
METHODS.register("imprint", Method("the key's own pattern, no surrogate needed", lambda settings: 0.0, imprint))
METHODS.register("mixed", Method("some images imprinted, the others matched", lambda settings: 1 - settings.share, mix))
