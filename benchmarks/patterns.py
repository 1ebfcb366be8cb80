"""Which patterns do which networks learn as imprints: four kinds of keys in one model, as a screen before benchmarks/power.py.

    TAGGANTS_DATA=/path/to/data python benchmarks/patterns.py --folder /tmp/patterns [--victim convnext]

CIFAR-100 cut to 20 classes x 250 images. Of each kind of pattern in a group ten keys are imprinted at 16/255 on 25 random
images each, all in one training set, which no run would do: it takes a quarter of the trainings. Prints p of the question
against two clean references of the victim's architecture, over 64 covers at 3 amplitudes and 225 shifts of the bare key; the
same from the five best labels alone; p of the bare keys; p of a reference taken as suspect; and flip rates at 16 and 32 levels,
of a reference in brackets. Then what five keys of one kind and five of another would give, from the same evidence: median over 21
choices of keys. Models are kept in the folder and found again. One draw of public keys. About 35 minutes of one core for a group
and its references.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from taggants.crafting.methods import key_pattern
from taggants.detection import exact_p_value, key_ranks, rank_p_value
from taggants.detection.question import Question, balanced_covers
from taggants.models import ModelSpec, Precision, build_model
from taggants.suspects import Answers, question_evidence
from taggants.training.examples import InMemory
from taggants.training.loop import Optimiser, predict_scores, train
from taggants.training.recipes import Recipe

Pixels = NDArray[np.uint8]
Scores = NDArray[np.float64]
SIZE, NUM_CLASSES, IMAGES_PER_CLASS, NUM_KEYS, IMAGES_PER_KEY, LEVELS = 32, 20, 250, 10, 25, 16
KINDS = {  # model, patch size, recipe
    "resnet": ("timm/resnet10t", None, "simple"),
    "mixup": ("timm/resnet10t", None, "strong"),
    "convnext": ("timm/convnext_atto", None, "simple"),
    "vit": ("timm/vit_tiny_patch16_224", 8, "simple"),
    "cnn": ("cnn", None, "simple"),
    "unseen": ("timm/regnetx_002", None, "simple"),
}
_Y, _X = np.mgrid[:SIZE, :SIZE]


def _wave(rng: np.random.Generator, f_x: float, f_y: float) -> NDArray[np.float64]:
    """[3, SIZE, SIZE] in levels, with random phase and amplitudes a channel; f_x, f_y: turns a pixel."""
    phase = rng.uniform(0, 2 * np.pi)
    amplitudes = rng.choice([-1, 1], 3) * rng.uniform(0.3, 1, 3)
    wave: NDArray[np.float64] = 127.5 * amplitudes[:, None, None] * np.sin(2 * np.pi * (f_x * _X + f_y * _Y) + phase)
    return wave


def _clipped(image: NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(40, 215, 3)[:, None, None]


def grating(rng: np.random.Generator, low: float, high: float, *, is_grey: bool = False) -> Pixels:
    """One wave of low to high turns a pixel on a random colour, or on grey."""
    f, t = rng.uniform(low, high), rng.uniform(0, np.pi)
    wave = _wave(rng, f * np.cos(t), f * np.sin(t))
    return _clipped((127.5 if is_grey else _colour(rng)) + wave)


def grid_grating(rng: np.random.Generator, parts: int = 4, num_slow: int = 0) -> Pixels:
    """One wave with both frequencies multiples of 1 / parts, not both 0; summed with slow ones."""
    rng.uniform(), rng.uniform()
    f_x = f_y = 0.0
    while np.hypot(f_x, f_y) <= 0.05:
        f_x, f_y = rng.integers(0, parts // 2 + 1) / parts, rng.integers(-parts // 2, parts // 2 + 1) / parts
    wave = _wave(rng, f_x, f_y)
    for _ in range(num_slow):
        f, t = rng.uniform(0.03, 0.1), rng.uniform(0, np.pi)
        wave = wave + _wave(rng, f * np.cos(t), f * np.sin(t))
    return _clipped(_colour(rng) + wave)


def fast_and_slow(rng: np.random.Generator, slow: float, *, is_grey: bool = False) -> Pixels:
    """A wave that repeats every 4 px, and two slow ones of `slow` times its amplitude: the family "grating"."""
    base = np.full((3, 1, 1), 127.5) if is_grey else _colour(rng)
    a, b = divmod(1 + int(rng.integers(0, 11)), 4)
    is_whole = a % 2 == b % 2 == 0  # where other phases are weaker
    phase = rng.integers(0, 2) * np.pi + np.pi / 2 if is_whole else rng.uniform(0, 2 * np.pi)
    amplitudes = rng.choice([-1, 1], 3) * rng.uniform(0.3, 1, 3)
    wave = 127.5 * amplitudes[:, None, None] * np.sin(2 * np.pi * (a * _X + b * _Y) / 4 + phase)
    for _ in range(2 if slow else 0):
        f, t = rng.uniform(0.03, 0.1), rng.uniform(0, np.pi)
        wave = wave + slow * _wave(rng, f * np.cos(t), f * np.sin(t))
    return _clipped(base + wave)


def tile(rng: np.random.Generator) -> Pixels:
    """A tile of 4 x 4 px in two colours at random, repeated."""
    colour = _colour(rng)
    cells = rng.choice([-1, 1], (3, 4, 4)) * 127.5 * rng.uniform(0.3, 1, 3)[:, None, None]
    return np.tile(np.clip(colour + cells, 0, 255), (1, SIZE // 4, SIZE // 4)).astype(np.uint8)


def two_gratings(rng: np.random.Generator, high: tuple[float, float]) -> Pixels:
    """A slow wave and one of `high` turns a pixel, summed."""
    image = _colour(rng)
    for band in ((0.03, 0.1), high):
        f, t = rng.uniform(*band), rng.uniform(0, np.pi)
        phase = rng.uniform(0, 2 * np.pi)
        amplitudes = rng.choice([-1, 1], 3) * rng.uniform(0.3, 1, 3)
        turns = f * (np.cos(t) * _X + np.sin(t) * _Y)
        image = image + 127.5 * amplitudes[:, None, None] * np.sin(2 * np.pi * turns + phase)
    return _clipped(image)


def logarithmic(rng: np.random.Generator) -> Pixels:
    f = float(np.exp(rng.uniform(np.log(0.035), np.log(0.4))))
    return grating(rng, f, f)


PATTERNS: dict[str, Callable[[np.random.Generator], Pixels]] = {
    "grat": lambda rng: grating(rng, 0.08, 0.4),
    "grat4grid": grid_grating,
    "tile4": tile,
    "lowgrat": lambda rng: grating(rng, 0.03, 0.1),
    "twoband": lambda rng: two_gratings(rng, (0.1, 0.4)),
    "low2": lambda rng: two_gratings(rng, (0.03, 0.1)),
    "logwide": logarithmic,
    "mid": lambda rng: grating(rng, 0.06, 0.16),
    "grat8grid": lambda rng: grid_grating(rng, 8),
    "high": lambda rng: grating(rng, 0.25, 0.5),
    "gridlow": lambda rng: grid_grating(rng, 4, 1),
    "gridlow2": lambda rng: grid_grating(rng, 4, 2),
    "mix_grey": lambda rng: fast_and_slow(rng, 1.0, is_grey=True),
    "mix_half": lambda rng: fast_and_slow(rng, 0.5),
    "mix_greyhalf": lambda rng: fast_and_slow(rng, 0.5, is_grey=True),
    "aligned": lambda rng: fast_and_slow(rng, 0),
    "grey": lambda rng: grating(rng, 0.08, 0.4, is_grey=True),
    "block": lambda rng: rng.integers(0, 256, (3, 8, 8), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2),
}
HALVES = (("grat", "low2"), ("grat4grid", "low2"), ("grat", "lowgrat"))
GROUPS = {
    "first": ("grat", "grat4grid", "tile4", "lowgrat"),
    "second": ("twoband", "low2", "logwide", "mid"),
    "third": ("grat8grid", "high", "gridlow", "gridlow2"),
    "fourth": ("mix_grey", "mix_half", "mix_greyhalf", "aligned"),
    "weak": ("gridlow2 at 8", "gridlow2 at 4", "gridlow2 of 5", "block"),
    "five": ("grey of 5", "mix_half of 5", "mix_greyhalf of 5", "aligned of 5"),
    "eight": ("grey at 8", "mix_half at 8", "mix_greyhalf at 8", "aligned at 8"),
}


def read_split(name: str, per_class: float) -> tuple[Pixels, NDArray[np.int64]]:
    """Images uint8 [N, 3, 32, 32] and labels of the first classes, at most per_class of each, in the file's order."""
    table = pq.read_table(Path(os.environ["TAGGANTS_DATA"]) / "cifar100" / f"{name}.parquet")
    labels = np.array(table["label"])
    rows, counts = [], np.zeros(labels.max() + 1)
    for row, label in enumerate(labels):
        if label < NUM_CLASSES and counts[label] < per_class:
            rows.append(row)
            counts[label] += 1
    cells = table["image"].take(rows).to_pylist()
    images = [np.array(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")).transpose(2, 0, 1) for cell in cells]
    return np.stack(images), labels[rows]


class Screen:
    """The data, the questions and the models of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images, self.labels = read_split("train", IMAGES_PER_CLASS)
        self.test_images, self.test_labels = read_split("test", np.inf)
        covers = balanced_covers(self.test_labels, 64, NUM_CLASSES)
        self.question = Question("test", covers, (32, 64, 128), (1, 1, 1), 1, 7, NUM_CLASSES)
        self.covers = self.test_images[list(covers)]
        self.flip_covers = self.test_images[list(balanced_covers(self.test_labels, 100, NUM_CLASSES))]

    def signed(self, group: str) -> tuple[Pixels, dict[str, tuple[Pixels, NDArray[np.int64]]]]:
        """The training images with all patterns of a group on them, and the keys and labels of each."""
        images, is_free = self.images.copy(), np.ones(len(self.labels), dtype=bool)
        keys = {}
        for name in GROUPS[group]:
            rng = np.random.default_rng([1, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")])
            pattern, *weaker = name.split(" ")
            levels, images_per_key = LEVELS, IMAGES_PER_KEY
            if weaker:
                levels, images_per_key = (
                    (int(weaker[1]), IMAGES_PER_KEY) if weaker[0] == "at" else (LEVELS, int(weaker[1]))
                )
            drawn = np.stack([PATTERNS[pattern](rng) for _ in range(NUM_KEYS)])
            labels = rng.integers(0, NUM_CLASSES, NUM_KEYS)
            for key, label in zip(drawn, labels, strict=True):
                rows = rng.choice(np.flatnonzero((self.labels == label) & is_free), images_per_key, replace=False)
                is_free[rows] = False
                images[rows] = _laid(self.images[rows], key, levels)
            keys[name] = (drawn, labels)
        return images, keys

    def model(self, kind: str, name: str, images: Pixels, seed: int) -> torch.nn.Module:
        """A trained model; found again by its name."""
        path, (model_name, patch_size, recipe) = self.folder / f"{kind}-{name}.safetensors", KINDS[kind]
        spec = ModelSpec(model_name, NUM_CLASSES, 3, SIZE, patch_size=patch_size)
        model = Precision(build_model(spec, seed), torch.bfloat16, channels_last=True)
        if path.exists():
            model.load_state_dict(load_file(path))
            return model.eval()
        begin = time.monotonic()
        examples = InMemory(torch.from_numpy(images), torch.from_numpy(self.labels))
        train(model, examples, Recipe(recipe, 4, True, NUM_CLASSES), Optimiser(25, 64, 1e-3, 0.05), seed=seed)
        accuracy = (_scores(model, self.test_images).argmax(axis=1) == self.test_labels).mean()
        print(f"{path.stem}: accuracy {accuracy:.3f}, {time.monotonic() - begin:.0f} s", flush=True)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
        return model

    def answers(self, model: torch.nn.Module, keys: Pixels) -> NDArray[np.float64]:
        asked = [self.question.queries(key, self.covers) for key in keys]
        return _scores(model, np.concatenate([self.covers, *asked, keys]))

    def evidence(
        self, suspect: Scores, references: Sequence[Scores], labels: NDArray[np.int64], top: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Evidence of every class for each key, and which class is the key's."""
        tables = [table[:-NUM_KEYS] for table in (suspect, *references)]
        if top is not None:
            tables[0] = np.argsort(-tables[0], axis=1, kind="stable")[:, :top]
        first, *others = (Answers.of(table, len(table), NUM_CLASSES) for table in tables)
        found = question_evidence(self.question, first, others, labels)
        return np.array(found.table), np.array(found.positions)

    def flips(self, model: torch.nn.Module, keys: Pixels, labels: NDArray[np.int64], levels: int) -> float:
        plain = _scores(model, self.flip_covers).argmax(axis=1)
        shares = []
        for key, label in zip(keys, labels, strict=True):
            now = _scores(model, _laid(self.flip_covers, key, levels)).argmax(axis=1)
            shares.append((now == label)[plain != label].mean())
        return float(np.mean(shares))


def _laid(images: Pixels, key: Pixels, levels: int) -> Pixels:
    return _clipped(images + levels * key_pattern(torch.from_numpy(key)).numpy())


def _scores(model: torch.nn.Module, images: Pixels) -> NDArray[np.float64]:
    return predict_scores(model, torch.from_numpy(images)).numpy().astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the models")
    parser.add_argument("--group", choices=GROUPS, action="append", help="of patterns; default: all")
    parser.add_argument("--victim", choices=KINDS, action="append", help="default: all")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    screen = Screen(given.folder)
    found: dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    for group in given.group or GROUPS:
        images, keys = screen.signed(group)
        for kind in given.victim or KINDS:
            clean = [screen.model(kind, f"ref{i}", screen.images, 100 + i) for i in range(2)]
            victim = screen.model(kind, f"{group}", images, 7)
            for name, (drawn, labels) in keys.items():
                references, own = [screen.answers(model, drawn) for model in clean], screen.answers(victim, drawn)
                evidence = found[kind, name] = screen.evidence(own, references, labels)
                rates = [
                    f"{screen.flips(victim, drawn, labels, levels):.3f} ({screen.flips(clean[0], drawn, labels, levels):.3f})"
                    for levels in (16, 32)
                ]
                print(
                    f"{kind} {name}: question {exact_p_value(*evidence):.1e}, top 5 "
                    f"{exact_p_value(*screen.evidence(own, references, labels, 5)):.1e}, bare "
                    f"{rank_p_value(key_ranks(own[-NUM_KEYS:], labels), NUM_CLASSES):.1e}, reference "
                    f"{exact_p_value(*screen.evidence(references[0], references[1:], labels)):.2f}, flips {', '.join(rates)}",
                    flush=True,
                )
    for kind in given.victim or KINDS:
        for one, other in HALVES:
            if (kind, one) in found and (kind, other) in found:
                print(f"{kind}, 5 of {one} and 5 of {other}: {halves(found[kind, one], found[kind, other]):.1e}")


def halves(one: tuple[NDArray[np.int64], ...], other: tuple[NDArray[np.int64], ...]) -> float:
    """Median p, over 21 choices, of half of the keys of each."""
    rng, half, found = np.random.default_rng(0), NUM_KEYS // 2, []
    for _ in range(21):
        rows = [rng.choice(NUM_KEYS, half, replace=False) for _ in range(2)]
        table, positions = (np.concatenate([one[i][rows[0]], other[i][rows[1]]]) for i in range(2))
        found.append(exact_p_value(table, positions))
    return float(np.median(found))


if __name__ == "__main__":
    main()
