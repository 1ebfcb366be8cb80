"""What the power bench keeps of each cell and kind of victim."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from benchmarks.power.findability import Findability

FLIP_LEVELS = (16, 32, 64)
PS = ("bare", "question", "own", "top_5")


@dataclass(frozen=True, kw_only=True)
class Clean:
    """accuracy: on the test split, in [0, 1]. flips: a rate for each of FLIP_LEVELS, mean over keys; see benchmarks/power.py."""

    name: str
    accuracy: float
    flips: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Tested(Clean):
    """p-values of one model, see benchmarks/power.py."""

    bare: float
    question: float
    own: float
    top_5: float


@dataclass(frozen=True)
class Record:
    """What was measured of one cell with one kind of victim.

    spec: identity of all settings it was measured with. references: clean models of the kind that `own` compares with.
    """

    cell: str
    draw: int
    kind: str
    spec: str
    run: str
    epsilon: float
    images_per_key: int
    psnr_db: float
    ssim: float
    lpips: float | None
    alignment: float | None
    gain: float
    findability: dict[str, Findability]
    victims: tuple[Tested, ...]
    controls: tuple[Tested, ...]
    references: tuple[Clean, ...]

    @property
    def clean(self) -> tuple[Clean, ...]:
        return (*self.controls, *self.references)


RECORD = TypeAdapter(Record)
