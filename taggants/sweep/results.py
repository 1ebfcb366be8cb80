"""What a sweep found: trained models, cells and the whole, as frozen records that round-trip through JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from taggants.errors import InputError

SWEEP_FORMAT = "taggants-sweep/1"


@dataclass(frozen=True)
class Trained:
    """One victim or control, tested with the keys of a cell.

    Attributes:
        name: as its certificate's suspect, such as "victim-0-1a2b".
        index: number of its seed; victim and control of one index share it.
        accuracy: on the test split, in [0, 1].
        num_hits: key labels within its top k.
        p_value: of the registered statistic, in (0, 1].
        certificate: path of its certificate from the sweep's output root.
        seconds: its training took, wherever that was done first.
        worst_class_accuracy: of the class with the lowest, in [0, 1].
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    index: int
    accuracy: float
    num_hits: int
    p_value: float
    certificate: str
    seconds: float
    worst_class_accuracy: float


@dataclass(frozen=True)
class Cell:
    """One point of the map: everything but the seed of the models is fixed.

    Attributes:
        name: unique in the sweep.
        images_per_key: signing images that carry one key.
        num_keys: K.
        epsilon: L-infinity bound in [0, 1].
        engine: of the pixel gradient.
        surrogate: model crafted on.
        victim: model trained and tested.
        recipe: of its training.
        num_images: rows of the dataset.
        settings: the `section.field=value` that make this cell of the sweep's configuration.
        run: path of its run folder from the sweep's output root.
        alignment: mean over keys, in [-1, 1]; None where nothing was optimised.
        psnr_db, ssim, lpips: of the taggants; lpips None where it was not measured.
        sample_steps: images x views x steps x surrogates of its signing sets, crafted for this cell or found.
        crafting_seconds: worker seconds of the same.
        victims: trained on the signed data, by index.
        controls: trained on the clean data, tested with the same keys.
        stopped: why victims were left out, None where all were trained.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    images_per_key: int
    num_keys: int
    epsilon: float
    engine: str
    surrogate: str
    victim: str
    recipe: str
    num_images: int
    settings: tuple[str, ...]
    run: str
    alignment: float | None
    psnr_db: float
    ssim: float
    lpips: float | None
    sample_steps: int
    crafting_seconds: float
    victims: tuple[Trained, ...]
    controls: tuple[Trained, ...]
    stopped: str | None

    @property
    def num_signed(self) -> int:
        """Signed images."""
        return self.images_per_key * self.num_keys

    @property
    def budget(self) -> float:
        """Signed fraction of the dataset."""
        return self.num_signed / self.num_images


@dataclass(frozen=True)
class SweepResults:
    """A whole sweep.

    Attributes:
        config: the resolved configuration, without a key in it.
        command: that repeats the sweep.
        alphas: levels at which power is reported, descending.
        wanted_power: that the recommendation must reach, in (0, 1).
        statistic: name of the registered statistic.
        num_classes: C.
        dataset_fingerprint: of the clean data.
        software: versions.
        created_at: ISO 8601, UTC.
        cells: of the map.
        top_k: a key is a hit when its label is among the k first answers.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    config: dict[str, Any]
    command: str
    alphas: tuple[float, ...]
    wanted_power: float
    statistic: str
    num_classes: int
    dataset_fingerprint: str
    software: dict[str, str]
    created_at: str
    cells: tuple[Cell, ...]
    top_k: int

    def to_json(self) -> dict[str, Any]:
        return {"format": SWEEP_FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: object) -> SweepResults:
        """The results that `to_json` wrote.

        Raises:
            InputError: another format, or fields missing, unknown or of another type.
        """
        if not isinstance(value, dict) or value.get("format") != SWEEP_FORMAT:
            raise InputError(f"not the results of a sweep: format must be {SWEEP_FORMAT!r}")
        try:
            return TypeAdapter(cls).validate_python({name: item for name, item in value.items() if name != "format"})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"not the results of a sweep: {where}: {first['msg']}") from None
