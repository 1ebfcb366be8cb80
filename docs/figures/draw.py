"""Draws the figures of the documentation: python docs/figures/draw.py runs/HASH secrets/NAME.json

The run is one of `taggants craft --preset digits --set keys.demonstration=true`. The figures are committed.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from taggants.detection import rank_scores

FOLDER = Path(__file__).parent
INK, MUTED, LINE, FILL, ACCENT, SOFT = "#1f2430", "#5b6270", "#b9bfca", "#eef0f8", "#3f51b5", "#c5cbe9"


def text(
    x: float, y: float, words: str, size: int = 14, colour: str = INK, anchor: str = "middle", weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{words}</text>"
    )


def box(x: float, y: float, width: float, height: float, title: str, lines: Sequence[str], fill: str = FILL) -> str:
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{LINE}"/>']
    parts.append(text(x + width / 2, y + 25, title, 15, weight=600))
    parts += [text(x + width / 2, y + 48 + 19 * i, line, 14, MUTED) for i, line in enumerate(lines)]
    return "".join(parts)


def arrow(points: Iterable[tuple[float, float]], dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{MUTED}" stroke-width="1.5" marker-end="url(#head)"{dash}/>'


def write(name: str, width: int, height: int, title: str, parts: Iterable[str]) -> None:
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L10,5 L0,10 z" fill="{MUTED}"/></marker></defs>'
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="Helvetica, Arial, sans-serif"><title>{title}</title>{head}'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )
    (FOLDER / name).write_text(svg.replace("><", ">\n<"), encoding="utf-8")


def draw_pipeline() -> None:
    left, middle, right, width = 8, 194, 380, 172
    parts = [
        text(left, 22, "The owner, before publication", 14, ACCENT, "start", 600),
        box(left, 34, width, 106, "Keys", ["K images with", "random labels, from", "one 256-bit secret"]),
        box(middle, 34, width, 106, "Surrogate", ["a model trained on", "the clean dataset"]),
        box(right, 34, width, 106, "Craft", ["change a few images:", "their gradient aligns", "with a key's gradient"]),
        arrow([(left + width, 120), (187, 120), (187, 156), (430, 156), (430, 142)]),
        arrow([(middle + width, 87), (right - 2, 87)]),
        box(left, 190, width, 88, "Registration", ["commits to keys, test", "and level; public"], "#ffffff"),
        arrow([(90, 140), (90, 188)]),
        box(right, 190, width, 88, "Signed dataset", ["same layout and labels,", "some images changed"], "#ffffff"),
        arrow([(490, 140), (490, 188)]),
        f'<line x1="{left}" y1="306" x2="{right + width}" y2="306" stroke="{LINE}"/>',
        text(left, 330, "Later, from outside", 14, ACCENT, "start", 600),
        box(right, 344, width, 88, "Suspect", ["somebody's model: was", "it trained on the data?"], "#ffffff"),
        arrow([(466, 278), (466, 342)], dashed=True),
        text(474, 300, "perhaps", 13, MUTED, "start"),
        box(middle, 344, width, 88, "Verify", ["show it the key images,", "rank the keys' labels"]),
        arrow([(right, 388), (middle + width + 2, 388)]),
        arrow([(90, 278), (90, 292), (187, 292), (187, 372), (middle - 2, 372)]),
        box(left, 344, width, 88, "Certificate", ["ranks, exact p-value,", "registration's hash"], "#ffffff"),
        arrow([(middle, 404), (left + width + 2, 404)]),
    ]
    write("pipeline.svg", 560, 440, "From keys to certificate", parts)


def null_distribution(num_keys: int, num_classes: int) -> NDArray[np.float64]:
    one_key = np.bincount(rank_scores(num_classes)) / num_classes
    total = np.ones(1)
    for _ in range(num_keys):
        total = np.convolve(total, one_key)
    return total


def draw_null(ranks: Sequence[int], control_ranks: Sequence[int], num_classes: int) -> None:
    """The null distribution in bins, on a logarithmic axis of probability, with the sums of a victim and a clean model."""
    scores = rank_scores(num_classes)
    probabilities = null_distribution(len(ranks), num_classes)
    observed, control = (int(scores[np.array(r) - 1].sum()) for r in (ranks, control_ranks))
    width = 40
    bins = np.add.reduceat(probabilities, np.arange(0, probabilities.size, width))
    left, right, top, bottom, lowest = 58, 510, 44, 270, -14

    def x(value: float) -> float:
        return left + (right - left) * value / probabilities.size

    def y(probability: float) -> float:
        return bottom - (bottom - top) * max(0.0, np.log10(probability) - lowest) / -lowest

    p_value = probabilities[: observed + 1].sum()
    title = f"Sum of the rank scores of {len(ranks)} keys, {num_classes} classes, under the null"
    parts = [text(left, 24, title, 14, anchor="start", weight=600)]
    for exponent in range(lowest, 1, 2):
        height = y(10.0**exponent)
        parts.append(f'<line x1="{left}" y1="{height:.1f}" x2="{right}" y2="{height:.1f}" stroke="#e4e7ee"/>')
        power = f'10<tspan dy="-5" font-size="10">{exponent}</tspan>' if exponent else "1"
        parts.append(text(left - 8, height + 4, power, 13, MUTED, "end"))
    for i, probability in enumerate(bins):
        if probability > 10.0**lowest:
            colour = ACCENT if (i + 1) * width <= observed + width / 2 else SOFT
            start, end = x(i * width), x(min((i + 1) * width, probabilities.size))
            parts.append(
                f'<rect x="{start:.1f}" y="{y(probability):.1f}" width="{end - start - 1:.1f}" '
                f'height="{bottom - y(probability):.1f}" fill="{colour}"/>'
            )
    for value, words, colour in (
        (observed, f"signed data: S = {observed}, p = {p_value:.1e}", ACCENT),
        (control, f"clean: S = {control}, p = {probabilities[: control + 1].sum():.2f}", MUTED),
    ):
        parts.append(
            f'<line x1="{x(value):.1f}" y1="{top}" x2="{x(value):.1f}" y2="{bottom + 54}" stroke="{colour}" stroke-width="1.5"/>'
        )
        parts.append(text(x(value) + 5, bottom + 50, words, 14, colour, "start", 600))
    parts.append(f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{MUTED}"/>')
    for value in range(0, probabilities.size, 400):
        parts.append(text(x(value), bottom + 18, str(value), 13, MUTED))
    write("null.svg", 560, 340, "The null distribution of the rank statistic", parts)


def pixels(x: float, y: float, size: float, image: NDArray[np.generic]) -> str:
    """A grey image [H, W] in 0..255 as squares."""
    side = size / image.shape[0]
    squares = [
        f'<rect x="{x + side * j:.1f}" y="{y + side * i:.1f}" width="{side + 0.3:.1f}" height="{side + 0.3:.1f}" '
        f'fill="#{3 * f"{int(value):02x}"}"/>'
        for i, row in enumerate(image)
        for j, value in enumerate(row)
    ]
    return "".join(squares) + f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="none" stroke="{LINE}"/>'


def draw_signed(run: Path, key_file: Path) -> None:
    """One signed digit, taken apart; beside it the key that its signing set carries."""
    from taggants.config import load_config
    from taggants.run import Run

    config = load_config(str(run / "config.json"), [f"output.root={run.parent}", f"keys.root={key_file.parent}"])
    shard = json.loads((run / "plan.json").read_text())["shards"][0]
    sample, key = shard["sample_ids"][1], shard["key_index"]
    original = decode(run.parent / "datasets", sample)
    signed = decode(run / "signed", sample)
    key_image = Run(config).keys.images[key, 0]
    difference = np.clip(127.5 + (signed.astype(int) - original) * 2 - 0.5, 0, 255)
    columns = (
        (8, original, "original"),
        (148, difference, "+ perturbation"),
        (288, signed, "= signed image"),
        (428, key_image, "the key it carries"),
    )
    parts = []
    for x, image, words in columns:
        parts += [pixels(x, 8, 124, image), text(x + 62, 154, words, 14, weight=600)]
    lines = (
        "label unchanged",
        f"at most {np.abs(signed.astype(int) - original).max()}/255",
        "published",
        "never published",
    )
    parts += [text(x + 62, 174, line, 13, MUTED) for (x, _, _), line in zip(columns, lines, strict=True)]
    write("signed.svg", 560, 186, "A signed digit", parts)


def decode(folder: Path, row: int) -> NDArray[np.uint8]:
    (path,) = folder.rglob("*train*.parquet")
    table = pq.read_table(path)
    return np.asarray(Image.open(io.BytesIO(table["image"][row].as_py()["bytes"])))


def main(run: Path, key_file: Path) -> None:
    victim, control = (
        json.loads(next((run / "certificates").glob(f"{name}-0-*.json")).read_text()) for name in ("victim", "control")
    )
    draw_pipeline()
    draw_null(victim["ranks"], control["ranks"], victim["num_classes"])
    draw_signed(run, key_file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
