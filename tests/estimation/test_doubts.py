from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from taggants.config import load_config
from taggants.detection import STATISTICS, Evidence, exact_p_value, rank_p_value
from taggants.detection.sequential import running_e_values
from taggants.estimation.doubts import Wanted, doubts, record, smallest_p_value, wanted_of
from taggants.estimation.measured import MEASURED, Measured

ROOT = Path(__file__).parents[2]
DIGITS = (1_297, 10, 8, 7)
PHOTOS = (20_000, 40, 32, 50)


def wanted(preset: str, data: tuple[int, int, int, int], *settings: str) -> Wanted:
    return wanted_of(load_config(f"taggants/presets/{preset}.yaml", settings), *data)


@pytest.mark.parametrize("measured", MEASURED, ids=lambda m: f"{m.source} {m.row}")
def test_every_measured_number_stands_in_its_row(measured: Measured) -> None:
    lines = [line for line in (ROOT / measured.source).read_text().splitlines() if measured.row in line]
    own = [*measured.bare, *measured.referenced, *([] if measured.gain is None else [measured.gain])]
    found = [set(map(float, re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", line))) for line in lines]
    assert any(set(own) <= numbers for numbers in found), (own, lines)


def test_the_gain_goes_with_the_victims_p_as_the_page_says() -> None:
    """Spearman -0.78 over the eleven rows with the same keys and a ResNet victim."""
    rows = [
        m for m in MEASURED if m.gain is not None and m.victim == "resnet" and m.num_keys == 10 and "1 px" not in m.row
    ]
    assert len(rows) == 11
    assert spearmanr([m.gain for m in rows], [m.bare[0] for m in rows]).statistic == pytest.approx(-0.78, abs=0.005)


@pytest.mark.parametrize(("num_keys", "num_classes", "top_k"), [(1, 2, 1), (3, 2, 1), (2, 4, 2), (3, 3, 2)])
def test_no_answers_get_below_the_floor(num_keys: int, num_classes: int, top_k: int) -> None:
    ranks = itertools.product(range(1, num_classes + 1), repeat=num_keys)
    smallest = min(rank_p_value(list(r), num_classes) for r in ranks)
    assert smallest_p_value("rank", num_keys, num_classes, top_k) == pytest.approx(smallest)
    assert smallest_p_value("hits", num_keys, num_classes, top_k) == pytest.approx((top_k / num_classes) ** num_keys)
    tables = np.random.default_rng(0).integers(0, 4, (200, num_keys, num_classes))
    floor = smallest_p_value("question", num_keys, num_classes, top_k)
    assert floor is not None
    found = [exact_p_value(table, table.argmin(1)) for table in tables]
    assert min(found) == pytest.approx(floor)
    e_values = [float(np.exp(running_e_values(table, table.argmin(1)).max())) for table in tables]
    assert 1 / max(e_values) >= smallest_p_value("sequential", num_keys, num_classes, top_k)  # type: ignore[operator]


def test_floors_are_known_of_all_statistics_of_the_package() -> None:
    assert Evidence(2, (1,)).num_classes == 2
    assert all(smallest_p_value(name, 3, 5, 1) is not None for name in STATISTICS)
    assert smallest_p_value("a plug-in's", 3, 5, 1) is None


def test_what_was_measured_to_work_leaves_no_doubt() -> None:
    assert "out of reach" not in " ".join(doubts(wanted("digits", DIGITS, "keys.num_keys=3"))), "1e-3 is not above 1e-3"
    assert doubts(wanted("digits", DIGITS)) == ()
    assert doubts(wanted("cifar100_paper_strength", PHOTOS, "detection.alpha=1e-5")) == ()
    assert record(wanted("digits", DIGITS)) == "17 of 26 cells of plain CNN victims of matching reached p <= 0.001"
    assert record(wanted("cifar100_paper_strength", (10_000, 20, 64, 50))).endswith("with images of 32 px")


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [
        ((1_297, 2, 8, 7), ["keys.num_keys=8"], "8 keys of 2 classes cannot give a p-value below 0.0039"),
        ((1_297, 2, 8, 7), ["keys.num_keys=8"], "set keys.num_keys to 10 or more"),
        (
            DIGITS,
            ["detection.statistic=hits", "detection.top_k=5", "keys.num_keys=9"],
            "set keys.num_keys to 10 or more",
        ),
        (DIGITS, ["detection.num_suspects=100", "keys.num_keys=4"], "p <= 1e-05 is out of reach"),
        (DIGITS, ["crafting.epsilon=16/255"], "16/255 on 5.4% of a class (weakest 64/255 on 2.3% of a class)"),
        (
            (1_297, 10, 8, 1),
            [],
            "64/255 on 0.8% of a class (weakest 64/255 on 2.3% of a class, or signing.images_per_key=3)",
        ),
        (DIGITS, ["evaluation.training.num_epochs=2"], "164 training steps (fewest 246)"),
        ((600, 10, 8, 4), [], "600 images (fewest 1,297), 60 images a class (fewest 130)"),
        (DIGITS, ["keys.num_keys=4"], "4 keys (fewest 8)"),
        (DIGITS, ["detection.alpha=1e-13"], "none reached p <= 1e-13: the smallest p-value was 4.0e-13"),
    ],
)
def test_too_little_is_said_with_what_was_measured(
    data: tuple[int, int, int, int], settings: list[str], said: str
) -> None:
    assert said in " | ".join(doubts(wanted("digits", data, *settings)))


def test_the_images_that_are_asked_for_are_enough() -> None:
    (sentence,) = doubts(wanted("cifar100_paper_strength", (20_000, 40, 32, 20)))
    (asked,) = map(int, re.findall(r"or signing\.images_per_key=(\d+)", sentence))
    assert asked == 50
    assert doubts(wanted("cifar100_paper_strength", (20_000, 40, 32, asked))) == ()
    assert "16/255" in doubts(wanted("cifar100_paper_strength", (20_000, 40, 32, asked - 1)))[0]
    (sentence,) = doubts(wanted("cifar100_paper_strength", PHOTOS, "crafting.epsilon=1/255"))
    assert "images_per_key" not in sentence, "more of a class than was ever signed"


def test_few_steps_of_victims_are_named_and_those_of_surrogates_without_a_rehearsal() -> None:
    short = ["evaluation.training.num_epochs=1"]
    (sentence,) = doubts(wanted("cifar100_paper_strength", PHOTOS, *short))
    assert "313 training steps (fewest 1,975)" in sentence
    unrehearsed = [*short, "evaluation.num_victims=0", "evaluation.num_controls=0"]
    assert doubts(wanted("cifar100_paper_strength", PHOTOS, *unrehearsed)) == ()


def test_kinds_of_victims_that_were_missed_are_named() -> None:
    unseen = "evaluation.training.model=timm/vit_tiny_patch16_224"
    (sentence,) = doubts(wanted("cifar100_paper_strength", PHOTOS, unseen))
    assert "none reached" in sentence
    assert "ViT victims of matching that nothing was crafted on" in sentence
    (sentence,) = doubts(wanted("cifar100_paper_strength", PHOTOS, "evaluation.training.recipe=strong"))
    assert (
        "ResNet victims of matching with Mixup or CutMix none reached p <= 0.001: the smallest p-value was 1.8e-01"
        in sentence
    )


@pytest.mark.parametrize("name", ["small/vit", "small:vit"])
def test_networks_for_small_images_are_kinds_of_their_own(name: str) -> None:
    training = f"evaluation.training={{model: {name}, recipe: small-images, num_epochs: 25, batch_size: 64}}"
    timms = training.replace(name, "timm/vit_tiny_patch16_224")
    assert (wanted("cifar100", PHOTOS, training).cell.victim, wanted("cifar100", PHOTOS, timms).cell.victim) == (
        "small vit",
        "vit",
    )


def test_nothing_is_said_of_methods_that_were_not_measured() -> None:
    mixed = wanted("cifar100_paper_strength", PHOTOS, "crafting.method=mixed", "crafting.epsilon=1/255")
    assert (doubts(mixed), record(mixed)) == ((), "")


def test_many_references_for_few_keys_and_classes_are_named() -> None:
    def sentences(num_compared: int, num_classes: int, statistic: str = "question") -> tuple[str, ...]:
        cell = replace(MEASURED[0], method="nothing measured", num_keys=10, num_classes=num_classes)
        return doubts(Wanted(cell, 1e-3, statistic, 1, num_compared))

    assert sentences(9, 20) == ()
    (sentence,) = sentences(10, 20)
    assert "compared with 10 models, many for 10 keys of 20 classes" in sentence
    assert "use 9 or fewer" in sentence
    assert sentences(10, 20, "rank") == ()
    assert sentences(2, 5) == ()
    assert "use 2 or fewer" in sentences(3, 5)[0]
    assert wanted("cifar100_paper_strength", PHOTOS, "detection.question.num_references=3").num_compared == 5


def test_references_count_only_where_the_statistic_has_them() -> None:
    cell = next(m for m in MEASURED if m.row == "| 2 seeds |")
    question = Wanted(replace(cell, bare=()), 1e-3, "question", 1)
    assert question.reached(cell)
    assert not replace(question, statistic="rank").reached(cell)
