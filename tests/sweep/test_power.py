import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta, binom, ttest_rel

from taggants.detection.binomial import binomial_p_value, hits_needed
from taggants.detection.rank_statistic import rank_p_value, rank_scores
from taggants.errors import InputError
from taggants.sweep.power import (
    _Sum,
    cell_power,
    extrapolate,
    extrapolate_cell,
    false_positives,
    mean,
    median,
    proportion,
    recommend,
    strongest_cell,
)
from taggants.sweep.results import Cell, SweepResults, Trained


def trained(name: str, index: int, p_value: float, accuracy: float = 0.9, **more: object) -> Trained:
    return Trained(name, index, accuracy, 3, p_value, f"run/certificates/{name}.json", 2.0, **more)  # type: ignore[arg-type]


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
    )
    return replace(base, **more)  # type: ignore[arg-type]


def results(*cells: Cell, wanted_power: float = 0.8) -> SweepResults:
    return SweepResults({}, "", (1e-2, 1e-3), wanted_power, "rank", 10, "f", {}, "", tuple(cells))


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


def test_accuracy_change_is_the_paired_t_interval() -> None:
    random = np.random.default_rng(0)
    signed, clean = random.normal(0.9, 0.01, 5), random.normal(0.91, 0.01, 5)
    found = mean((signed - clean).tolist())
    outside = ttest_rel(signed, clean).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((outside.low, outside.high))
    assert mean([0.5]) == mean([0.5])
    assert mean([]) is None


def test_victims_are_paired_with_the_control_of_their_seed() -> None:
    one = cell("a", [], [])
    victims = tuple(trained(f"v{i}", i, 1e-3, a, worst_class_accuracy=w) for i, a, w in ((0, 0.9, 0.5), (2, 0.8, None)))
    controls = tuple(trained(f"c{i}", i, 0.5, a, worst_class_accuracy=0.75) for i, a in ((2, 0.9), (1, 0.1), (0, 0.95)))
    found = cell_power(replace(one, victims=victims, controls=controls), [1e-2, 1e-3, 1e-4])
    assert found.accuracy_change is not None
    assert found.accuracy_change.estimate == pytest.approx(-0.075)
    assert found.accuracy_change.num_pairs == 2
    assert found.worst_class_change is not None
    assert (found.worst_class_change.estimate, found.worst_class_change.low) == (pytest.approx(-0.25), None)
    assert [power.count for power in found.power] == [2, 2, 0]  # p = alpha is detected
    assert found.training_seconds == 4.0


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


@pytest.mark.parametrize(("num_classes", "num_keys"), [(10, 4), (10, 16), (100, 30), (1000, 40)])
def test_tails_of_the_rank_statistic_are_its_p_values(num_classes: int, num_keys: int) -> None:
    null = _Sum(np.bincount(rank_scores(num_classes)) / num_classes, num_keys)
    random = np.random.default_rng(num_keys)
    for strength in (1, 2, 5, 20, 10**4):
        ranks = np.ceil(random.integers(1, num_classes + 1, num_keys) / strength).astype(np.int64)
        total = int(rank_scores(num_classes)[ranks - 1].sum())
        assert null.tail(total) == pytest.approx(rank_p_value(ranks, num_classes), rel=1e-9)
    for alpha in (0.05, 1e-3, 1e-6):
        critical = null.critical(alpha)
        assert null.tail(critical) <= alpha < null.tail(critical + 1) or critical == -1
    assert null.tail(-1) <= 1e-300


def test_tails_of_misses_are_the_binomial_p_values() -> None:
    null = _Sum(np.array([0.1, 0.9]), 20)
    for hits in range(21):
        assert null.tail(20 - hits) == pytest.approx(binomial_p_value(hits, 20, 1, 10), rel=1e-9)
    assert 20 - null.critical(1e-3) == hits_needed(1e-3, 20, 1, 10)
    assert _Sum(np.array([0.5, 0.5]), 3).critical(1e-2) == -1


def drawn_ranks(
    random: np.random.Generator, victims: int, keys: int, share: float, num_classes: int, *, shared: bool
) -> np.ndarray:
    """Keys that take (in all victims alike, or in each on its own) are hits; the ranks of the others are uniform."""
    takes = np.broadcast_to(random.random((1 if shared else victims, keys)) < share, (victims, keys))
    return np.where(takes, 1, random.integers(1, num_classes + 1, (victims, keys)))


@pytest.mark.parametrize("statistic", ["rank", "hits"])
@pytest.mark.parametrize("classes", [10, 30])
def test_expected_power_is_that_of_a_simulation_key_by_key(statistic, classes) -> None:
    random = np.random.default_rng(5)
    ranks = drawn_ranks(random, 3, 12, 0.3, 10, shared=False)
    alpha, num_keys = 1e-3, 15
    found = extrapolate(
        ranks,
        observed_classes=10,
        top_k=1,
        statistic=statistic,
        num_keys=num_keys,
        num_classes=classes,
        alpha=alpha,
        num_resamples=20,
    )
    p_values = []
    for _ in range(800):
        victim = ranks[random.integers(3)]
        share = (np.mean(victim == 1) - 1 / 10) / (1 - 1 / 10)
        misses = victim[victim > 1]
        new = []
        for _ in range(num_keys):
            if random.random() < share or random.random() < 1 / classes:
                new.append(1)
            else:
                place = (random.choice(misses) - 2 + random.random()) / (10 - 1)
                new.append(2 + int(place * (classes - 1)))
        hits = sum(rank == 1 for rank in new)
        rank_p, hits_p = rank_p_value(new, classes), binomial_p_value(hits, num_keys, 1, classes)
        p_values.append(rank_p if statistic == "rank" else hits_p)
    power = np.mean(np.array(p_values) <= alpha)
    assert 0.1 < power < 0.9
    assert found.power.estimate == pytest.approx(power, abs=4 * math.sqrt(0.25 / 800))
    assert found.log10_p.estimate == pytest.approx(np.median(np.log10(p_values)), abs=0.5)


def test_two_of_the_first_three_answers_count_as_hits_for_top_3() -> None:
    ranks = np.array([[1, 3, 2, 9, 7, 3], [3, 3, 1, 1, 8, 10]])
    options = {"observed_classes": 10, "top_k": 3, "statistic": "hits", "num_keys": 6, "alpha": 0.05}
    found = extrapolate(ranks, num_classes=10, **options)
    # At the measured classes the victims hit with 4/6 each; 5 of 6 hits are needed at 0.05.
    assert hits_needed(0.05, 6, 3, 10) == 5
    assert found.power.estimate == pytest.approx(binom.sf(4, 6, 4 / 6))
    further = extrapolate(ranks, num_classes=20, **options)
    share = (4 / 6 - 3 / 10) / (1 - 3 / 10)
    needed = hits_needed(0.05, 6, 3, 20)
    assert needed is not None
    assert further.power.estimate == pytest.approx(binom.sf(needed - 1, 6, share + (1 - share) * 3 / 20))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("statistic", ["rank", "hits"])
def test_intervals_of_the_extrapolation_cover_the_truth(statistic, shared: bool) -> None:
    random = np.random.default_rng(11)
    share, classes, num_keys, alpha = 0.35, 20, 20, 1e-3
    many = drawn_ranks(random, 1500, num_keys, share, classes, shared=False)
    p_of = {
        "rank": lambda row: rank_p_value(row, classes),
        "hits": lambda row: binomial_p_value(int((row == 1).sum()), num_keys, 1, classes),
    }[statistic]
    p_values = np.array([p_of(row) for row in many])
    truth, typical = np.mean(p_values <= alpha), np.median(np.log10(p_values))
    assert 0.3 < truth < 0.98
    covered, covered_p, refused = [], [], 0
    for _ in range(30):
        try:
            found = extrapolate(
                drawn_ranks(random, 3, 14, share, 10, shared=shared),
                observed_classes=10,
                top_k=1,
                statistic=statistic,
                num_keys=num_keys,
                num_classes=classes,
                alpha=alpha,
                num_resamples=40,
            )
        except InputError:
            refused += 1
            continue
        covered.append(found.power.low <= truth <= found.power.high)
        covered_p.append(found.log10_p.low <= typical <= found.log10_p.high)
    assert refused <= 3
    # At 95% fewer than 22 of 27 have probability 2e-3, and of 30 1e-5.
    assert sum(covered) >= 22
    assert sum(covered_p) >= 22


def test_all_hits_are_no_certainty() -> None:
    ranks = np.ones((3, 8), dtype=np.int64)
    found = extrapolate(ranks, observed_classes=10, top_k=1, statistic="hits", num_keys=8, num_classes=10, alpha=1e-6)
    assert found.hit_rate.estimate == found.hit_rate.high == 1
    # Jeffreys' interval of 8 hits in 8
    assert found.hit_rate.low == pytest.approx(beta.ppf(0.025, 8.5, 0.5), abs=0.04)
    assert found.power.low < 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": [[1, 1, 1, 1]]}, "too few"),
        ({"ranks": [[1, 1, 1]] * 3}, "too few"),
        ({"num_keys": 41}, "41 keys are too far"),
        ({"num_classes": 101}, "101 classes are too far"),
        ({"num_classes": 1}, "1 classes are too far"),
        ({"alpha": 1e-13}, "alpha is 1e-13"),
        ({"ranks": [[1, 1, 1, 11]] * 3}, "must be in 1..10"),
        ({"ranks": [[1, 6, 5, 8], [7, 4, 10, 3]]}, "cannot be told from chance"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    options = {"observed_classes": 10, "top_k": 1, "statistic": "rank", "num_keys": 8, "num_classes": 10, "alpha": 0.01}
    given = {"ranks": [[1, 1, 1, 2]] * 3, **options}
    extrapolate(**given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        extrapolate(**{**given, **change})  # type: ignore[arg-type]


def test_extrapolation_of_a_cell() -> None:
    ranks = [(1, 1, 3, 1), (1, 2, 1, 1), (1, 1, 1, 5)]
    victims = tuple(trained(f"v{i}", i, 1e-3, ranks=row) for i, row in enumerate(ranks))
    one = replace(cell("a", [], []), victims=victims)
    found = extrapolate_cell(one, results(one), num_keys=8, num_classes=20, alpha=1e-3)
    direct = extrapolate(ranks, observed_classes=10, top_k=1, statistic="rank", num_keys=8, num_classes=20, alpha=1e-3)
    assert found == direct
    assert found.sureness == (
        "from 3 victims and 4 keys, 2 times beyond what was measured; so few victims say little of how victims differ"
    )
    with pytest.raises(InputError, match="have no ranks"):
        extrapolate_cell(cell("b", [0.1, 0.1], []), results(one), num_keys=8, num_classes=20, alpha=1e-3)


def test_the_strongest_cell_has_the_lowest_median_p_and_of_equals_the_fewest_sample_steps() -> None:
    dear = cell("dear", [1e-3, 1e-5, 1e-7], [], sample_steps=900)
    weak = cell("weak", [1e-2, 1e-2, 1e-9], [], sample_steps=100)
    cheap = cell("cheap", [1e-5, 1e-5, 1e-4], [], sample_steps=300)
    assert strongest_cell([dear, weak, cheap]) is cheap
    assert strongest_cell([dear, weak]) is dear
    assert strongest_cell([cell("untested", [], [])]) is None
