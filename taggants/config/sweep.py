"""The section on sweeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from taggants.alignment import ENGINES
from taggants.config.fields import PixelBound, Section, named_in
from taggants.training.recipes import RECIPES


class SweptVictim(Section):
    """A kind of victim that a sweep trains; everything else is as in evaluation.training."""

    model: str = Field("cnn", description="as evaluation.training.model")
    recipe: Annotated[str, named_in(RECIPES)] = Field("simple", description="as evaluation.training.recipe")
    patch_size: int | None = Field(None, ge=1, le=1024, description="as evaluation.training.patch_size")


class SweepConfig(Section):
    """The cells of `taggants sweep`: every combination of the values below. Not hashed: each cell is a run of its own.

    An empty list takes the configuration's own value.
    """

    images_per_key: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="instead of signing.images_per_key and signing.budget"
    )
    num_keys: tuple[Annotated[int, Field(ge=1, le=1_000)], ...] = Field(
        (),
        description="instead of keys.num_keys; the keys are nested, only the most are crafted, unless surrogates are retrained",
    )
    epsilons: tuple[PixelBound, ...] = Field((), description="instead of crafting.epsilon")
    engines: tuple[Annotated[str, named_in(ENGINES)], ...] = Field((), description="instead of crafting.engine")
    surrogates: tuple[str, ...] = Field(
        (), description="instead of surrogate.model, with surrogate.architectures empty"
    )
    victims: tuple[SweptVictim, ...] = Field(
        (), description="instead of model, recipe and patch_size of evaluation.training"
    )
    num_victims: int = Field(3, ge=1, description="models trained on each cell's signed data")
    num_controls: int = Field(3, ge=0, description="models trained on the clean data, for each kind of victim")
    alphas: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (1e-2, 1e-3, 1e-6), min_length=1, description="levels at which power is reported"
    )
    wanted_power: float = Field(0.8, gt=0, lt=1, description="power that the recommended cell must reach")
    stop_hopeless: bool = Field(False, description="skip the remaining victims of a cell whose first ones are hopeless")
    stop_after: int = Field(2, ge=1, description="number of first victims that decide whether a cell is hopeless")
    stop_above: float = Field(
        0.2, gt=0, lt=1, description="a cell is hopeless when all of those victims have p-values above this"
    )
    max_concurrent_trials: int | None = Field(
        None, ge=1, description="cells at a time; null: as many as the cluster has CPUs and GPUs for"
    )
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        ("tensorboard",), description="where Ray Tune also writes its results; mlflow and wandb must be installed"
    )

    @model_validator(mode="after")
    def _distinct(self) -> SweepConfig:
        for name in ("images_per_key", "num_keys", "epsilons", "engines", "surrogates", "victims", "alphas", "loggers"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"sweep.{name} names a value twice; name each once")
        return self
