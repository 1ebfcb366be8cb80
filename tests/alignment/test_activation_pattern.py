import pytest
import torch
from torch import nn

from taggants.alignment.activation_pattern import gate_kinks, has_gates, recorded, replayed


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)]
        return nn.Sequential(
            *layers, nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(16, 3)
        ).double()


def batch(seed: int) -> torch.Tensor:
    return torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def piece_of(model: nn.Module, base: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The linear piece on which the plain model takes `base`, at other images; by loops and indices, without gates."""
    first, second, last = model[0], model[3][0], model[5]
    at_base, moved = first(base), first(images)
    open_at_base, moved = at_base.relu(), moved * (at_base > 0)
    padded = nn.functional.pad(open_at_base, (1, 1, 1, 1), value=-torch.inf)
    other = nn.functional.pad(moved, (1, 1, 1, 1))
    pooled_base, pooled = torch.empty(5, 6, 4, 4).double(), torch.empty(5, 6, 4, 4).double()
    for n, c, i, j in torch.cartesian_prod(*(torch.arange(size) for size in (5, 6, 4, 4))).tolist():
        rows, columns = slice(2 * i, 2 * i + 3), slice(2 * j, 2 * j + 3)
        winner = padded[n, c, rows, columns].argmax()
        pooled_base[n, c, i, j] = padded[n, c, rows, columns].flatten()[winner]
        pooled[n, c, i, j] = other[n, c, rows, columns].flatten()[winner]
    return last((second(pooled) * (second(pooled_base) > 0)).flatten(1))


def test_replay_stays_on_the_linear_piece_of_the_recorded_pass() -> None:
    plain, gated = network(), network()
    gate_kinks(gated)
    base, images = batch(1), batch(2)
    with recorded(gated) as pattern:
        torch.testing.assert_close(gated(base), plain(base))
    with replayed(gated, tuple(pattern)):
        found = gated(images)
    with torch.no_grad():
        torch.testing.assert_close(found, piece_of(plain, base, images))
        assert (found - plain(images)).abs().max() > 0.01  # the other images lie on other pieces


def test_without_a_pattern_gates_change_nothing() -> None:
    plain, gated = network(), network()
    gate_kinks(gated)
    assert has_gates(gated)
    assert not has_gates(plain)
    assert [name for name, _ in gated.named_parameters()] == [name for name, _ in plain.named_parameters()]
    for images in (batch(1), batch(2)):
        a, b = images.clone().requires_grad_(True), images.clone().requires_grad_(True)
        torch.testing.assert_close(
            torch.autograd.grad(gated(a).square().sum(), a), torch.autograd.grad(plain(b).square().sum(), b)
        )


def test_a_pattern_ends_with_its_block() -> None:
    gated = network()
    gate_kinks(gated)
    with recorded(gated) as pattern:
        gated(batch(1))
    expected = gated(batch(2))
    with pytest.raises(RuntimeError), replayed(gated, tuple(pattern)):
        gated(batch(2)[:, :1])  # one channel of two: fails within
    torch.testing.assert_close(gated(batch(2)), expected)
    assert len(pattern) == 3, "passes after the block are not recorded"


def test_a_second_pass_within_a_block_is_refused() -> None:
    gated = network()
    gate_kinks(gated)
    with recorded(gated) as pattern:
        gated(batch(1))
    twice = nn.Sequential(gated, nn.Unflatten(1, (3, 1, 1)), nn.Upsample(8), nn.Conv2d(3, 2, 1).double(), gated)
    with pytest.raises(IndexError), replayed(gated, tuple(pattern)):
        twice(batch(1))
