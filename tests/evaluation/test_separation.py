from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from taggants.evaluation.separation import collapse_floor
from taggants.reporting.similarity import draw_similarity
from taggants.training.separation import separation


class Sums(nn.Module):
    """Features: the mean of each channel. Answers: the channel with the largest."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3))


def model() -> nn.Module:
    network = nn.Sequential(Sums(), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(3))
    return nn.Sequential(nn.Identity(), network).eval()


def flat(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.array(colours, dtype=np.uint8)[:, :, None, None].repeat(4, axis=2).repeat(4, axis=3)


def test_cosines_are_of_features_centred_on_natural_images() -> None:
    natural = flat((90, 100, 100), (110, 100, 100))
    keys = flat((200, 100, 100), (0, 100, 100), (100, 200, 100), (255, 100, 100))
    seen = separation("toy", model(), keys, natural)
    expected = [[1, -1, 0, 1], [-1, 1, 0, -1], [0, 0, 1, 0], [1, -1, 0, 1]]
    np.testing.assert_allclose(seen.cosines, expected, atol=1e-6)
    np.testing.assert_allclose(sorted(seen.pairs), [-1, -1, 0, 0, 0, 1], atol=1e-6)
    assert seen.relative_norm == pytest.approx((100 + 100 + 100 + 155) / 4 / 10)
    assert (seen.num_answered, seen.commonest_share) == (2, 0.5)
    (only,) = separation("toy", model(), keys[:1], natural).pairs
    assert only == 1


@pytest.mark.parametrize(("num_classes", "floor"), [(10, 0.5), (40, 7e-5), (100, 2e-8)])
def test_the_floor_of_ten_different_labels(num_classes: int, floor: float) -> None:
    assert collapse_floor(np.arange(10) * num_classes // 10, num_classes) == pytest.approx(floor, rel=0.3)


def test_the_floor_is_the_least_over_all_rankings_that_a_model_can_give_to_all_keys() -> None:
    from itertools import permutations

    from taggants.detection import rank_p_value

    labels = np.array([3, 1, 3, 0, 3, 1])
    least = min(rank_p_value(np.array(ranking)[labels], 4) for ranking in permutations(range(1, 5)))
    assert collapse_floor(labels, 4) == least


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 40)])
def test_the_picture_shows_keys_at_two_edges_and_cosines_between(channels: int, size: int) -> None:
    keys = np.random.default_rng(0).integers(0, 256, (3, channels, size, size), dtype=np.uint8)
    cosines = np.array([[1, 0, -1], [0, 1, 0.5], [-1, 0.5, 1]])
    picture = np.asarray(Image.open(io.BytesIO(draw_similarity(keys, cosines))))
    tile = max(32, size)
    assert picture.shape == (4 * (tile + 2) + 2, 4 * (tile + 2) + 2, 3)
    centre = [2 + tile // 2 + place * (tile + 2) for place in range(4)]
    red, white, blue = (picture[centre[1], centre[k]].tolist() for k in (1, 2, 3))
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert min(white) > 240
    key = picture[2 : 2 + tile, 2 + tile + 2 : 2 + 2 * tile + 2]
    assert np.array_equal(key, picture[2 + tile + 2 : 2 + 2 * tile + 2, 2 : 2 + tile])
    assert key[0, 0].tolist() == np.broadcast_to(keys[0, :, 0, 0], 3).tolist()
