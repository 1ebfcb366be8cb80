"""The cells of a configured sweep: each a configuration of its own, with a name and the settings that make it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taggants.config import Config, config_from_tree
from taggants.errors import InputError
from taggants.identity import identity


@dataclass(frozen=True)
class CellSpec:
    """What one cell is.

    Attributes:
        name: unique in the sweep, fit for a file name.
        settings: `section.field=value`, which on top of the sweep's configuration make `config`.
        config: of the cell's run.
    """

    name: str
    settings: tuple[str, ...]
    config: Config


def expand(config: Config) -> tuple[CellSpec, ...]:
    """Returns every combination of the values in `config.sweep`.

    Raises:
        InputError: a combination is not a valid configuration.
    """
    sweep = config.sweep
    # Axis: of each value how the name tells it, and the fields that it sets.
    axes: list[list[tuple[str, dict[str, Any]]]] = [
        [(f"k{k}", {"keys.num_keys": k}) for k in sweep.num_keys or (config.keys.num_keys,)],
        [(f"m{m}", {"signing.images_per_key": m, "signing.budget": None}) for m in sweep.images_per_key],
        [(f"e{255 * epsilon:.6g}", {"crafting.epsilon": epsilon}) for epsilon in sweep.epsilons],
        [(engine, {"crafting.engine": engine}) for engine in sweep.engines],
        [(f"on-{name}", {"surrogate.model": name, "surrogate.architectures": []}) for name in sweep.surrogates],
        [
            (
                f"{v.model}-{v.recipe}",
                {f"evaluation.training.{name}": getattr(v, name) for name in ("model", "recipe", "patch_size")},
            )
            for v in sweep.victims
        ],
    ]
    counts = {"evaluation.num_victims": sweep.num_victims, "evaluation.num_controls": sweep.num_controls}
    cells: list[CellSpec] = []
    for index, values in enumerate(itertools.product(*(axis for axis in axes if axis))):
        name = "-".join([values[0][0], *(name for name, _ in values[1:])])
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
        fields = {field: value for _, part in values for field, value in part.items()} | counts
        # "timm/a-b" and "timm/a/b" would share a name.
        if name in {cell.name for cell in cells}:
            name = f"{name}-{index}"
        settings = tuple(f"{field}={json.dumps(value)}" for field, value in fields.items())
        cells.append(CellSpec(name, settings, _with(config, settings, name)))
    return tuple(cells)


def _with(config: Config, settings: Sequence[str], name: str) -> Config:
    try:
        return config_from_tree(config.model_dump(mode="json"), settings)
    except InputError as error:
        raise InputError(f"cell {name} of the sweep is not a valid configuration: {error}") from None


def sweep_hash(cells: Sequence[CellSpec]) -> str:
    """16 hex digits over all that decides what is in the cells; names the folder of the sweep."""
    sweep = cells[0].config.sweep
    content = [[cell.config.hash, _decisive_training(cell)] for cell in cells]
    stopping = [sweep.stop_after, sweep.stop_above] if sweep.stop_hopeless else None
    decisive = [sorted(content, key=json.dumps), sweep.num_victims, sweep.num_controls, stopping]
    return identity(decisive)[:16]


def _decisive_training(cell: CellSpec) -> dict[str, Any]:
    training = cell.config.evaluation.training
    return training.model_dump(mode="json", exclude=set(training.immaterial_fields))


def crafted_together(cells: Sequence[CellSpec]) -> list[list[CellSpec]]:
    """Returns the cells grouped by all that decides a shard but the number of keys; in a group, most keys first.

    The first cell's shards are all that its group needs: keys and signing sets are nested. Surrogates that are trained again
    on the signed data have seen all keys of their cell, so such cells share nothing.
    """
    groups: dict[str, list[CellSpec]] = {}
    for cell in cells:
        config = cell.config
        if config.surrogate.retrainings == 0:
            config = config.model_copy(update={"keys": config.keys.model_copy(update={"num_keys": 1})})
        groups.setdefault(config.hash, []).append(cell)
    return [sorted(group, key=lambda cell: -cell.config.keys.num_keys) for group in groups.values()]


def distinct_runs(cells: Sequence[CellSpec]) -> list[CellSpec]:
    """Returns one cell for each run folder, most keys first: cells that differ in their victims share one."""
    runs = {cell.config.hash: cell for cell in reversed(cells)}
    return sorted(runs.values(), key=lambda cell: -cell.config.keys.num_keys)
