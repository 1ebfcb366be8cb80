"""What the power bench measures: its file of cells, and the configuration of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml

from taggants.config import Config, load_config
from taggants.errors import InputError
from taggants.identity import identity


@dataclass(frozen=True)
class Cell:
    """settings: on top of the bench's. victims: how many to train, by kind. draw: of keys; 0: as configured."""

    name: str
    settings: tuple[str, ...]
    victims: Mapping[str, int]
    draw: int


@dataclass(frozen=True)
class Bench:
    """kinds: settings of evaluation.training, by kind. controls, references: clean models of each kind.

    baseline: the cell that the others are compared with; None: none is. lpips_weights: a file as `read_lpips` reads it; None:
    LPIPS is not measured.
    """

    preset: str
    settings: tuple[str, ...]
    kinds: Mapping[str, tuple[str, ...]]
    controls: int
    references: int
    cells: tuple[Cell, ...]
    baseline: str | None
    lpips_weights: str | None = None

    def config(self, cell: Cell, kind: str) -> Config:
        settings = [*self.settings, *self.kinds[kind], *cell.settings, "execution.pool=inline"]
        config = load_config(self.preset, settings)
        if cell.draw:
            look = [section.model_dump(mode="json", exclude={"root", "name"}) for section in (config.keys, config.data)]
            name = f"power-{identity(look)[:8]}-{cell.draw}"
            public = {"name": name, "root": f"{config.output.root}/power/keys"}
            config = config.model_copy(update={"keys": config.keys.model_copy(update=public)})
        return config


_HEAD: Final = frozenset(
    ("preset", "settings", "kinds", "victims", "baseline", "controls", "references", "draws", "cells", "lpips_weights")
)


def read_bench(path: str, settings: Sequence[str]) -> Bench:
    """Returns the cells of a file, one for each draw.

    Raises:
        InputError: a cell names a kind or a field that the file's head does not know, or the baseline is no cell.
    """
    tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    unknown = sorted(set(tree) - _HEAD)
    if unknown:
        raise InputError(f"{path} has a field {unknown[0]!r}; there are {', '.join(sorted(_HEAD))}")
    kinds = {name: tuple(own) for name, own in tree["kinds"].items()}
    cells = []
    for name, given in tree["cells"].items():
        victims = given.get("victims", tree["victims"])
        unknown = sorted((set(given) - {"settings", "victims", "draws"}) | (set(victims) - set(kinds)))
        if unknown:
            raise InputError(
                f"cell {name!r} names {unknown[0]!r}; it has settings, victims of {', '.join(kinds)}, draws"
            )
        for draw in given.get("draws", tree.get("draws", [0])):
            cells.append(Cell(name, tuple(given.get("settings", ())), victims, int(draw)))
    if min(tree["controls"], *(count for cell in cells for count in cell.victims.values())) < 1:
        raise InputError(
            f"{path} asks for no control or no victim of a kind; ask for one at least, or leave the kind out"
        )
    baseline = tree.get("baseline")
    if baseline is not None and baseline not in tree["cells"]:
        raise InputError(f"baseline {baseline!r} is no cell of {path}; name one of: {', '.join(tree['cells'])}")
    shared = (*tree["settings"], *settings)
    weights = tree.get("lpips_weights")
    if weights is not None and not (isinstance(weights, str) and weights):
        raise InputError(f"lpips_weights {weights!r} must be the path of a file; leave it out to measure no LPIPS")
    return Bench(
        tree["preset"],
        shared,
        kinds,
        tree["controls"],
        tree.get("references", 0),
        tuple(cells),
        baseline,
        None if weights is None else os.path.expandvars(weights),
    )


def narrowed(bench: Bench, cells: Sequence[str] = (), kinds: Sequence[str] = (), draws: Sequence[int] = ()) -> Bench:
    """Returns the bench with these cells, kinds of victims and draws alone; none named: all.

    Raises:
        InputError: the bench has no such cell, kind or draw.
    """
    known = {
        "cell": [cell.name for cell in bench.cells],
        "kind": bench.kinds,
        "draw": [cell.draw for cell in bench.cells],
    }
    for (what, names), asked in zip(known.items(), (cells, kinds, draws), strict=True):
        unknown = [name for name in asked if name not in names]
        if unknown:
            raise InputError(f"no {what} {unknown[0]!r}; there are {', '.join(map(str, dict.fromkeys(names)))}")
    kept = []
    for cell in bench.cells:
        victims = {kind: count for kind, count in cell.victims.items() if not kinds or kind in kinds}
        if victims and (not cells or cell.name in cells) and (not draws or cell.draw in draws):
            kept.append(replace(cell, victims=victims))
    return replace(bench, cells=tuple(kept))
