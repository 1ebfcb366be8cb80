import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta, binom, ttest_rel

from taggants.errors import InputError
from taggants.sweep.power import (
    cell_power,
    false_positives,
    median,
    proportion,
    recommend,
    strongest_cell,
)
from taggants.sweep.results import Cell, SweepResults, Trained


def trained(name: str, index: int, p_value: float, accuracy: float = 0.9, **more: object) -> Trained:
    base = Trained(name, index, accuracy, 3, p_value, f"run/certificates/{name}.json", 2.0, worst_class_accuracy=0.75)
    return replace(base, **more)  # type: ignore[arg-type]


def cell(name: str, victims: list[float], controls: list[float], **more: object) -> Cell:
    base = Cell(
        name=name,
        images_per_key=2,
        num_keys=4,
        epsilon=0.25,
        engine="double_backward",
        surrogate="cnn",
        victim="cnn",
        recipe="simple",
        num_images=1000,
        settings=(),
        run="run",
        alignment=0.5,
        psnr_db=30.0,
        ssim=0.9,
        lpips=None,
        sample_steps=800,
        crafting_seconds=1.0,
        victims=tuple(trained(f"{name}-victim-{i}", i, p) for i, p in enumerate(victims)),
        controls=tuple(trained(f"control-{i}", i, p) for i, p in enumerate(controls)),
        stopped=None,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def results(*cells: Cell, wanted_power: float = 0.8) -> SweepResults:
    return SweepResults({}, "", (1e-2, 1e-3), wanted_power, "rank", 10, "f", {}, "", tuple(cells), top_k=1)


def test_exact_intervals_are_those_of_the_beta_quantiles_and_of_r() -> None:
    for count, total in ((0, 3), (1, 3), (3, 3), (4, 17), (17, 17)):
        found = proportion(count, total)
        assert found.low == pytest.approx(beta.ppf(0.025, count, total - count + 1) if count else 0.0)
        assert found.high == pytest.approx(beta.ppf(0.975, count + 1, total - count) if count < total else 1.0)
    # R: binom.test(3, 3)$conf.int, binom.test(682, 925)$conf.int
    assert proportion(3, 3).low == pytest.approx(0.2924018, abs=1e-7)
    assert (proportion(682, 925).low, proportion(682, 925).high) == pytest.approx((0.7076683, 0.7654066), abs=1e-7)
    assert (proportion(0, 0).low, proportion(0, 0).high, proportion(0, 0).estimate) == (0, 1, None)


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.3, 0.5, 0.9])
def test_exact_intervals_cover_at_least_as_often_as_they_say(probability: float) -> None:
    n = 7
    covered = sum(
        binom.pmf(count, n, probability)
        for count in range(n + 1)
        if proportion(count, n).low <= probability <= proportion(count, n).high
    )
    assert covered >= 0.95


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 10, 25])
def test_median_interval_has_the_confidence_it_says(n: int) -> None:
    random = np.random.default_rng(n)
    samples = random.exponential(size=(1000, n))
    covered = []
    for sample in samples:
        found = median(sample.tolist())
        assert found is not None
        assert found.estimate == np.median(sample)
        covered.append(found.low <= math.log(2) <= found.high)
    assert np.mean(covered) == pytest.approx(found.confidence, abs=4 * math.sqrt(0.25 / 1000))
    assert (found.confidence >= 0.95) == (n >= 6)


def test_median_interval_is_the_innermost_with_95_percent() -> None:
    found = median([float(i) for i in range(1, 11)])
    assert found is not None
    # Order statistics 2 and 9 of 10: 97.9%; 3 and 8 have 89.1% (Conover, Practical nonparametric statistics, 3.2).
    assert (found.low, found.high, found.confidence) == pytest.approx((2, 9, 0.978515625))
    assert median([]) is None


def test_victims_are_paired_with_the_control_of_their_seed() -> None:
    one = cell("a", [], [])
    victims = tuple(
        trained(f"v{i}", i, 1e-3, a, worst_class_accuracy=a - 0.4) for i, a in ((0, 0.9), (2, 0.8), (3, 0.1))
    )
    controls = tuple(trained(f"c{i}", i, 0.5, a) for i, a in ((2, 0.9), (1, 0.1), (0, 0.95)))
    found = cell_power(replace(one, victims=victims, controls=controls), [1e-2, 1e-3, 1e-4])
    expected = ttest_rel([0.9, 0.8], [0.95, 0.9]).confidence_interval(0.95)
    assert found.accuracy_change is not None
    assert found.accuracy_change.num_pairs == 2
    assert found.accuracy_change.mean == pytest.approx(-0.075)
    assert (found.accuracy_change.low, found.accuracy_change.high) == pytest.approx((expected.low, expected.high))
    assert found.worst_class_change is not None
    assert found.worst_class_change.mean == pytest.approx((0.5 + 0.4) / 2 - 0.75)
    assert [power.count for power in found.power] == [3, 3, 0]  # p = alpha is detected
    assert found.training_seconds == 6.0
    assert cell_power(replace(one, victims=victims), [1e-2]).accuracy_change is None


def test_a_control_counts_once_for_each_number_of_keys() -> None:
    p_values = [0.005, 0.5, 0.8]
    four, again = cell("a", [], p_values), cell("b", [], p_values, images_per_key=3)
    eight = cell("c", [], [0.3, 0.0005, 0.9], num_keys=8)
    found = {(f.num_keys, f.alpha): f for f in false_positives(results(four, again, eight))}
    assert {key: (f.rate.count, f.rate.total) for key, f in found.items()} == {
        (4, 1e-2): (1, 3),
        (4, 1e-3): (0, 3),
        (8, 1e-2): (1, 3),
        (8, 1e-3): (1, 3),
        (None, 1e-2): (2, 6),
        (None, 1e-3): (1, 6),
    }
    assert found[4, 1e-3].contains_alpha
    assert found[4, 1e-2].contains_alpha  # [0.0084, 0.906]
    assert not found[8, 1e-3].contains_alpha
    assert [f.num_keys for f in false_positives(results(four))] == [4, 4]
    with pytest.raises(InputError, match="and, in cell b"):
        false_positives(results(four, cell("b", [], [0.005, 0.6, 0.8])))


def test_the_cheapest_cell_that_reaches_the_power_is_recommended() -> None:
    weak = cell("weak", [0.5, 1e-4, 0.5], [], sample_steps=100)
    lucky = cell("lucky", [1e-4] * 3, [], sample_steps=200)
    sure = cell("sure", [1e-4] * 17, [], sample_steps=400)
    dear = cell("dear", [1e-4] * 20, [], sample_steps=400, images_per_key=9)
    found = recommend(results(dear, sure, lucky, weak), 1e-3)
    assert (found.certain, found.likely) == ("sure", "lucky")
    assert found.victims_needed == 17
    assert proportion(17, 17).low >= 0.8 > proportion(16, 16).low
    assert recommend(results(weak), 1e-3).likely is None
    assert recommend(results(dear, sure), 1e-6).certain is None


def test_the_strongest_cell_has_the_lowest_median_p_and_of_equals_the_fewest_sample_steps() -> None:
    dear = cell("dear", [1e-3, 1e-5, 1e-7], [], sample_steps=900)
    weak = cell("weak", [1e-2, 1e-2, 1e-9], [], sample_steps=100)
    cheap = cell("cheap", [1e-5, 1e-5, 1e-4], [], sample_steps=300)
    assert strongest_cell([dear, weak, cheap]) is cheap
    assert strongest_cell([dear, weak]) is dear
    assert strongest_cell([cell("untested", [], [])]) is None
