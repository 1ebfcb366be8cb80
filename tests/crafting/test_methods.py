"""Ways for images to carry a key: the imprint against its definition, and the mixture of both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taggants.crafting.methods import (
    METHODS,
    Imprint,
    SetToSign,
    imprint_draws,
    key_pattern,
    pattern_on,
)
from taggants.crafting.signing_set import SigningSet, key_gradients
from taggants.data.set_codec import codec_for
from taggants.perturbation.codec import LosslessCodec
from tests.crafting.optimisation import OPTIMISATION
from tests.tiny_models import smooth_net

KEY_ID = "ab" * 32
KEY = torch.randint(0, 256, (1, 6, 6), generator=torch.Generator().manual_seed(9), dtype=torch.uint8)


def to_sign(count: int = 9, size: int = 6, *, codec: object = None, **settings: object) -> SetToSign:
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    ids = torch.arange(count) * 7 + 3
    net = smooth_net().float()

    def part(places: Sequence[int]) -> SetToSign:
        rows = torch.tensor(places)
        signing_set = SigningSet(images[rows], torch.full((len(rows),), 1), ids[rows], codec=codec or LosslessCodec())  # type: ignore[arg-type]
        return SetToSign(
            signing_set=signing_set,
            key_image=KEY,
            key_gradients=lambda: key_gradients([net], KEY, torch.tensor(1)),
            surrogates=[net],
            optimisation=replace(OPTIMISATION, levels=16, microbatch=8),
            imprint=Imprint(**settings),  # type: ignore[arg-type]
            seed=5,
            key_id=KEY_ID,
            perceptual=None,
            part=part,
        )

    return part(range(count))


def slow_imprint(given: SetToSign) -> np.ndarray:
    """Pixel by pixel, in Python's numbers."""
    key, images = given.key_image.numpy(), given.signing_set.images.numpy()
    signed = np.empty_like(images)
    for (n, c, y, x), pixel in np.ndenumerate(images):
        strength, down, right = imprint_draws(KEY_ID, int(given.signing_set.image_ids[n]), given.imprint)
        k = float(key[c, (y - down) % 6, (x - right) % 6]) - 127.5
        u = np.sign(k) * min(1.0, abs(k) / 64)
        signed[n, c, y, x] = min(255, max(0, round(float(pixel) + 16 * strength * u)))
    return signed


@pytest.mark.parametrize("settings", [{}, {"weakest": 0.25}, {"shift": 5}, {"weakest": 0.5, "shift": 2}])
def test_an_imprint_is_the_keys_pattern_within_the_bound(settings: dict[str, Any]) -> None:
    given = to_sign(**settings)
    crafted = METHODS["imprint"].sign(given)
    assert crafted.images.dtype == torch.uint8
    change = crafted.images.int() - given.signing_set.images.int()
    assert change.abs().max() <= 16
    assert np.abs(crafted.images.numpy().astype(int) - slow_imprint(given)).max() <= 1  # where a half is rounded
    assert (crafted.images.numpy() == slow_imprint(given)).mean() > 0.99
    assert torch.equal(crafted.images, crafted.read)
    assert (crafted.alignment, crafted.alignment_before, crafted.history) == (None, None, ())


def test_the_draws_are_uniform_and_the_mean_over_shifted_imprints_hides_the_key() -> None:
    settings = Imprint(weakest=0.5, shift=5)
    draws = [imprint_draws(KEY_ID, image_id, settings) for image_id in range(600)]
    strengths = np.array([strength for strength, _, _ in draws])
    assert (strengths.min() >= 0.5, strengths.max() <= 1) == (True, True)
    assert strengths.mean() == pytest.approx(0.75, abs=0.02)
    for axis in (1, 2):
        assert min(np.bincount([draw[axis] for draw in draws], minlength=6)) > 60
    assert imprint_draws("cd" * 32, 0, settings) != draws[0]
    pattern = key_pattern(KEY)
    mean = torch.stack([pattern_on(pattern, 6, 6, down, right) for _, down, right in draws]).mean(0)
    assert (mean - pattern.mean()).std() < 0.2 * pattern.std()


def test_the_same_image_carries_the_same_whatever_is_signed_with_it() -> None:
    given = to_sign(weakest=0.3, shift=3)
    alone = METHODS["imprint"].sign(given.part([4]))
    assert torch.equal(METHODS["imprint"].sign(given).images[4], alone.images[0])


@pytest.mark.parametrize(("height", "width"), [(6, 6), (12, 12), (12, 20), (21, 9), (5, 7)])
def test_on_an_image_of_another_size_models_see_the_pattern_in_its_own(height: int, width: int) -> None:
    """Resized as models take images, the pattern of a wave comes back; beyond the square it is repeated."""
    y, x = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    pattern = torch.stack([torch.sin(2 * torch.pi * (x + y) / 6)]).float()
    laid = pattern_on(pattern, height, width, 0, 0)
    assert laid.shape == (1, height, width)
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = laid[:, top : top + shorter, left : left + shorter]
    seen = torch.nn.functional.interpolate(square[None], (6, 6), mode="bilinear", antialias=True)[0]
    assert torch.corrcoef(torch.stack([seen.flatten(), pattern.flatten()]))[0, 1] > 0.9
    for beyond in range(left):
        assert torch.equal(laid[:, :, beyond], laid[:, :, (beyond - left) % shorter + left])


def test_a_mixture_imprints_some_and_matches_the_others_as_if_alone() -> None:
    given = to_sign(count=9, share=1 / 3)
    mixed = METHODS["mixed"].sign(given)
    imprinted = METHODS["imprint"].sign(given)
    same = (mixed.images == imprinted.images).flatten(1).all(1)
    assert same.sum() == 3
    others = (~same).nonzero()[:, 0].tolist()
    matched = METHODS["matching"].sign(given.part(others))
    assert torch.equal(mixed.images[others], matched.images)
    assert (mixed.alignment, mixed.history) == (matched.alignment, matched.history)
    assert METHODS["mixed"].num_optimised(25, Imprint(share=0.32)) == 17


@pytest.mark.parametrize(("share", "method"), [(0.0, "matching"), (1.0, "imprint")])
def test_a_mixture_of_one_kind_is_that_kind(share: float, method: str) -> None:
    given = to_sign(count=4, share=share)
    mixed, one = METHODS["mixed"].sign(given), METHODS[method].sign(given)
    assert torch.equal(mixed.images, one.images)
    assert mixed.alignment == one.alignment
    assert METHODS["mixed"].optimised_share(given.imprint) == 1 - share


def jpeg(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=85)
    return sink.getvalue()


def test_what_readers_of_a_jpeg_see_is_told() -> None:
    plain = to_sign(count=4, size=16).signing_set.images[:, 0].numpy()
    given = to_sign(count=4, size=16, codec=codec_for([jpeg(image) for image in plain]))
    crafted = METHODS["imprint"].sign(given)
    assert (crafted.images.int() - given.signing_set.images.int()).abs().max() <= 16
    for stored, read in zip(crafted.images[:, 0].numpy(), crafted.read[:, 0].numpy(), strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(jpeg(stored)))), read)
    assert not torch.equal(crafted.images, crafted.read)
