"""The one configuration tree: its fields, its YAML, its hash.

A run is one frozen `Config`. What decides the signed bytes and the registration is hashed, and the hash names the run folder;
where and on how many workers it runs, and how it is evaluated, is not.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from taggants.errors import InputError
from taggants.registry import Registry


def _fraction(value: object) -> object:
    """Reads "16/255" as a number; leaves everything else to pydantic."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            return value
    return value


def _expand(value: object) -> object:
    """Expands $NAME in a path or URI; an unset variable is an error, not an empty string."""
    if isinstance(value, str):
        expanded = os.path.expandvars(value)
        if "$" in expanded:
            raise ValueError(f"{value!r} names an environment variable that is not set; set it or write the path")
        return expanded
    return value


def named_in(table: Registry[Any]) -> AfterValidator:
    """Returns the check that a field names an entry of an extension point's table."""

    def check(name: str) -> str:
        table.find(name)
        return name

    return AfterValidator(check)


FractionOf = Annotated[float, BeforeValidator(_fraction)]
UnitFraction = Annotated[FractionOf, Field(ge=0, le=1)]
Uri = Annotated[str, BeforeValidator(_expand)]


class Section(BaseModel):
    """Frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataConfig(Section):
    """The dataset to sign."""

    source: Literal["digits", "parquet", "imagefolder", "webdataset", "torchvision"] = Field(
        "digits",
        description="scikit-learn's digits; Parquet files in the Hugging Face layout; one folder per class; tars; "
        "a dataset that torchvision downloads",
    )
    root: Uri | None = Field(
        None,
        description="folder or s3:// prefix of the files; $NAME is expanded; null with digits; with torchvision the local "
        "folder of its own files, null for a temporary one",
    )
    dataset: str | None = Field(None, description="class in torchvision.datasets, as CIFAR10; only with torchvision")
    train: str = Field(
        "train.parquet",
        description="training split under root: a file, a prefix of several, or the folder of class folders",
    )
    test: str | None = Field(
        "test.parquet",
        description="test split under root, likewise; it serves for accuracies only; null: there is none, and accuracies are "
        "those on the training images",
    )
    image_column: str = Field("image", description="struct<bytes, path> or binary column of encoded images (Parquet)")
    label_column: str = Field("label", description="integer column of class labels (Parquet)")
    channels: Literal[1, 3] = Field(1, description="1 for grey images, 3 for colour")
    image_size: int | None = Field(
        None,
        ge=1,
        description="side in px that models take: images of other sizes are resized (shorter side) and centre-cropped for "
        "training and testing, while signing works on the native files; null: all images have one square size",
    )
    num_classes: int | None = Field(None, ge=2, description="use only classes below this; null for all; Parquet only")
    images_per_class: int | None = Field(
        None, ge=1, description="use only the first images of each class; null for all; Parquet only"
    )

    @model_validator(mode="after")
    def _fields_of_the_source(self) -> DataConfig:
        if self.source != "torchvision" and (self.root is None) != (self.source == "digits"):
            raise ValueError(
                f"data.root is required with data.source={self.source}"
                if self.root is None
                else "data.root must be null with data.source=digits"
            )
        if self.source == "torchvision" and "://" in (self.root or ""):
            raise ValueError("data.root must be a local folder or null with data.source=torchvision")
        if (self.dataset is None) == (self.source == "torchvision"):
            raise ValueError("data.dataset is required with data.source=torchvision and must be null without")
        if self.test is None and self.source in ("digits", "torchvision"):
            raise ValueError(f"data.test must not be null with data.source={self.source}, which has a test split")
        is_subset = self.num_classes is not None or self.images_per_class is not None
        if is_subset and self.source in ("imagefolder", "webdataset"):
            raise ValueError(
                f"data.num_classes and data.images_per_class must be null with data.source={self.source}: subsets are made "
                "of Parquet files only; leave files out of a copy instead"
            )
        return self


class KeysConfig(Section):
    """The secret keys. The key file lies under a root of its own, apart from every run folder."""

    root: Uri = Field("secrets", description="private folder; the key file in it has mode 0600")
    name: str = Field("digits", pattern=r"^[A-Za-z0-9_-]+$", description="file name of the key file, without .json")
    num_keys: int = Field(16, ge=1, le=1_000, description="K; hits needed for a given p fall as a share of K")
    family: Literal["block", "smooth"] = Field(
        "block", description="uniform noise in cells, nearest (paper) or bicubic"
    )
    cell_size: int = Field(1, ge=1, description="pixels along one side of a noise cell")
    demonstration: bool = Field(
        False,
        description="derive the secret from a public sentence: repeatable, but anybody can forge; never for a real dataset",
    )


class SigningConfig(Section):
    """The signing sets. Exactly one of budget and images_per_key is set."""

    budget: FractionOf | None = Field(None, gt=0, le=1, description="fraction of the training set that may be signed")
    images_per_key: int | None = Field(None, ge=1, description="images that carry each key")
    selection: Literal["random", "gradient_norm", "loss"] = Field(
        "gradient_norm",
        description="by largest surrogate gradient norm or loss (Witches' Brew, Sleeper Agent), or at random",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> SigningConfig:
        if (self.budget is None) == (self.images_per_key is None):
            raise ValueError("set exactly one of signing.budget and signing.images_per_key; the other must be null")
        return self


class TrainingConfig(Section):
    """How a surrogate, victim or control is trained."""

    model: str = Field("cnn", description='"cnn" or "cnn_wide" (built in, no normalisation layers) or timm/NAME')
    patch_size: int | None = Field(
        None, ge=1, le=1024, description="pixels, of vision transformers; null: the model's own; the others have none"
    )
    recipe: Literal["simple", "strong", "deit3", "resnet-a2", "fine-tune"] = Field(
        "simple",
        description="crop and flip; 3-Augment with Mixup and CutMix; the papers' recipes (see taggants/training/recipes.py)",
    )
    num_epochs: int = Field(60, ge=1, le=10_000, description="passes over the training set")
    batch_size: int = Field(16, ge=1, description="images per step, over all workers")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="highest rate; cosine schedule")
    weight_decay: float = Field(0.05, ge=0, le=1, description="decoupled with adamw")
    crop_padding: int = Field(0, ge=0, description="pixels of reflect padding before the random crop")
    flip: bool = Field(False, description="mirror half of the images; not for digits")
    num_workers: int = Field(
        0, ge=0, le=4096, description="Ray Train workers; 0 trains in this process; changes rounding"
    )
    num_threads: int = Field(1, ge=1, le=1024, description="torch threads of one training process; changes rounding")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of matrix products; weights and optimiser stay float32"
    )
    channels_last: bool = Field(False, description="memory layout of convolutions; faster on most machines")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where a training process computes")
    optimiser: Literal["adamw", "lamb", "sgd"] | None = Field(
        None, description="null: the recipe's, which is lamb with deit3 and resnet-a2, sgd with fine-tune, else adamw"
    )
    gradient_clip: float | None = Field(
        None, gt=0, description="largest norm of a step's gradient; null: the recipe's, 1 with deit3 and resnet-a2"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="keep the moving average of the weights with this decay; null: the last weights"
    )
    compile: bool = Field(False, description="by torch.compile; pays off in long trainings")
    init_from: Uri | None = Field(
        None, description="model.safetensors to start from; a head of another class count starts anew; null: random"
    )

    loader: Literal["memory", "torch", "ray"] = Field(
        "memory",
        description="where training images are: all in memory; or read from storage ahead of each step, by torch's DataLoader "
        "on the training machine or Ray Data on the whole cluster; the trained model is the same",
    )
    num_readers: int = Field(2, ge=1, le=256, description="reading processes of a training process with loader torch")

    immaterial_fields: ClassVar[tuple[str, ...]] = ("loader", "num_readers")
    """Never part of the hash."""
    later_fields: ClassVar[tuple[str, ...]] = (
        "optimiser",
        "gradient_clip",
        "ema_decay",
        "compile",
        "init_from",
        "patch_size",
    )
    """At their defaults no part of the hash: runs from before there were any keep their folders."""

    @classmethod
    def decisive(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns: of the dumped section what decides the model, and with it the hash."""
        later = {name: cls.model_fields[name].default for name in cls.later_fields}
        return {
            name: value
            for name, value in values.items()
            if name not in cls.immaterial_fields and not (name in later and value == later[name])
        }

    @model_validator(mode="after")
    def _fine_tunes_something(self) -> TrainingConfig:
        if self.recipe == "fine-tune" and self.init_from is None:
            raise ValueError(
                "recipe fine-tune needs init_from, the model.safetensors of another training to start from"
            )
        return self


class SurrogateConfig(TrainingConfig):
    """The owner's models that are crafted on: several of other seeds carry over to unseen models better than one."""

    num_models: int = Field(1, ge=1, le=64, description="surrogates, of other seeds")
    architectures: tuple[str, ...] = Field(
        (), max_length=64, description="models of the surrogates, in turn; empty: all are `model`"
    )
    checkpoints: tuple[Annotated[FractionOf, Field(gt=0, le=1)], ...] = Field(
        (1.0,), min_length=1, max_length=64, description="fractions of the training after which a surrogate is kept"
    )

    retrainings: int = Field(
        0,
        ge=0,
        le=16,
        description="times the surrogates are trained again, on the signed data so far, and the taggants crafted anew on "
        "them (Sleeper Agent); each costs a crafting and the trainings again",
    )

    later_fields: ClassVar[tuple[str, ...]] = (*TrainingConfig.later_fields, "retrainings")

    @model_validator(mode="after")
    def _distinct_checkpoints(self) -> SurrogateConfig:
        if list(self.checkpoints) != sorted(set(self.checkpoints)) or self.checkpoints[-1] != 1:
            raise ValueError("surrogate.checkpoints must rise to 1, for example [0.3, 1.0]")
        return self

    @model_validator(mode="after")
    def _every_architecture_is_trained(self) -> SurrogateConfig:
        if len(self.architectures) > self.num_models:
            raise ValueError(
                f"surrogate.architectures names {len(self.architectures)} models but surrogate.num_models is {self.num_models}; "
                f"set it to {len(self.architectures)} or more"
            )
        return self

    @property
    def trainings(self) -> tuple[TrainingConfig, ...]:
        """One training section for each surrogate."""
        shared = {name: getattr(self, name) for name in TrainingConfig.model_fields}
        names = self.architectures or (self.model,)
        return tuple(TrainingConfig(**shared | {"model": names[i % len(names)]}) for i in range(self.num_models))


class CraftingConfig(Section):
    """The perturbations. Every field is part of the plan, the microbatch and thread count because they change rounding."""

    epsilon: FractionOf = Field(
        64 / 255, ge=1 / 255, le=1, description="L-infinity bound, pixels in [0, 1]; paper 16/255"
    )
    num_steps: int = Field(150, ge=1, le=100_000, description="optimiser steps of each restart; paper's release 250")
    step_size: float = Field(0.4, gt=0, le=10, description="first step in units of epsilon")
    milestones: tuple[UnitFraction, ...] = Field(
        (40 / 250, 93 / 250, 156 / 250, 218 / 250),
        description="fractions of num_steps after which the step shrinks (paper's release)",
    )
    decay: float = Field(0.3, gt=0, le=1, description="factor at each milestone")
    momentum: float = Field(0.9, ge=0, lt=1, description="Adam's beta_1")
    num_restarts: int = Field(1, ge=1, le=100, description="starts, of which the best aligned is kept")
    halving: bool = Field(
        True,
        description="of several starts, let the better half go on, again and again, until one is left at half time",
    )
    convergence_window: int = Field(
        0,
        ge=0,
        description="steps over which the alignment is averaged to see whether it still rises; 0 runs all steps",
    )
    convergence_gain: float = Field(
        0.002, ge=0, le=2, description="a smaller rise from window to window shrinks the step, and ends the run at last"
    )
    num_views: int = Field(2, ge=1, le=64, description="independent augmentations of each image per step")
    initial_noise: float = Field(1.0, ge=0, le=1, description="standard deviation of the start in units of epsilon")
    augmentation: Literal["crop", "resized_crop"] = Field(
        "crop", description="crop after padding, or random resized crop; the latter always with data.image_size"
    )
    crop_padding: int = Field(0, ge=0, description="as in training: pixels of reflect padding before the random crop")
    flip: bool = Field(False, description="as in training: mirror half of the draws")
    three_augment: bool = Field(False, description="greyscale, solarisation or blur after the crop, as in DeiT III")
    colour_jitter: float = Field(
        0.0, ge=0, le=1, description="strength of brightness, contrast and saturation; DeiT III 0.3"
    )
    mixing: UnitFraction = Field(
        0.0, description="share of the draws mixed with another clean image (Mixup or CutMix, as strong victims do)"
    )
    perceptual: Literal["none", "ssim", "lpips"] = Field(
        "none",
        description="distance from the clean images that is kept small beside the alignment; paper's release LPIPS",
    )
    perceptual_weight: float = Field(0.01, gt=0, le=100, description="its weight; paper's release 0.01")
    lpips_weights: Uri | None = Field(
        None, description="file of the LPIPS-AlexNet weights; for the term, and for the figure in the report"
    )
    engine: Literal["double_backward", "jvp", "central", "one_sided"] = Field(
        "one_sided",
        description="see taggants/alignment/engines.py; as strong as the exact ones on every family of models measured, see "
        "benchmarks/, in half the work",
    )
    difference_step: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="finite step relative to the weights' norm; null: 1e-3 with ReLU (3e-3 where its pattern cannot be held: "
        "compiled, or ReLU6 and the like), else 3e-4",
    )
    direction_interval: int = Field(
        1, ge=1, le=1_000, description="steps for which the direction in parameter space is kept; 1 is exact"
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="of matrix products; perturbations, gradients and dot products stay float32"
    )
    channels_last: bool = Field(False, description="memory layout of convolutions; faster on most machines")
    compile: bool = Field(
        False, description="by torch.compile; with central and one_sided, which then lose precision on ReLU networks"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where a worker computes")
    ensemble: Literal["loop", "cycle"] = Field(
        "loop", description="every step takes the mean over all surrogates, or one surrogate in turn"
    )
    microbatch: int = Field(64, ge=1, description="augmented images per pass")
    num_threads: int = Field(1, ge=1, le=1024, description="torch threads of one worker; changes rounding")

    @model_validator(mode="after")
    def _fits_together(self) -> CraftingConfig:
        if self.compile and self.engine not in ("central", "one_sided"):
            raise ValueError(f"crafting.compile needs engine central or one_sided, not {self.engine}")
        if self.precision == "tf32" and self.device != "cuda":
            raise ValueError("crafting.precision=tf32 needs crafting.device=cuda; use float32 or bfloat16 on the CPU")
        if self.perceptual == "lpips" and self.lpips_weights is None:
            raise ValueError("crafting.perceptual=lpips needs the file crafting.lpips_weights; ssim needs none")
        if self.difference_step is not None and self.engine not in ("central", "one_sided"):
            raise ValueError(
                f"crafting.difference_step needs engine central or one_sided; {self.engine} is exact, leave it out"
            )
        return self


class DetectionConfig(Section):
    """The test, fixed before any suspect is queried and written into the public registration."""

    statistic: Literal["rank", "hits"] = Field("rank", description="which of the two exact p-values decides")
    top_k: int = Field(1, ge=1, description="a hit is a key label within the suspect's top k")
    alpha: float = Field(1e-3, gt=0, lt=1, description="a suspect with p <= alpha is detected")


class EvaluationConfig(Section):
    """The owner's own rehearsal: victims trained on the signed data, controls on the clean data. Not hashed."""

    num_victims: int = Field(3, ge=0, description="models trained on the signed data")
    num_controls: int = Field(3, ge=0, description="models of the same recipe and seeds trained on the clean data")
    training: TrainingConfig = TrainingConfig()
    gpus_per_model: FractionOf = Field(
        1.0,
        gt=0,
        le=1,
        description="of each model trained beside others by Ray on device cuda; 1/4 packs four on a GPU",
    )
    probe: DataConfig | None = Field(
        None,
        description="another dataset, for linear probes of the features in jobs/harm.py; its channels must be the run's",
    )


class VerifyConfig(Section):
    """What `jobs/verify.py` tests. Not hashed."""

    suspects: tuple[Uri, ...] = Field((), description="checkpoints (model.safetensors) to test")


class ExportConfig(Section):
    """Where and how `jobs/export.py` writes the signed dataset again. Not hashed."""

    layout: Literal["source", "parquet", "imagefolder", "webdataset"] = Field(
        "source", description="files of the new copy; source: those of the dataset, of which untouched ones are copied"
    )
    destination: Uri | None = Field(None, description="empty folder or s3:// prefix; required by jobs/export.py")


class TrainJobConfig(Section):
    """Which model `jobs/train.py` trains. Not hashed."""

    role: Literal["victim", "control"] = Field(
        "victim", description="victim: on the signed export; control: on the clean source"
    )
    index: int = Field(0, ge=0, description="seed offset and name, as in victim-0")


class ExecutionConfig(Section):
    """Where the work runs. Never changes a result, so it is not hashed."""

    pool: Literal["inline", "ray"] = Field("ray", description="craft in this process, or by Ray actors")
    num_workers: int = Field(2, ge=1, description="crafting actors")
    num_cpus: float = Field(1, ge=0, description="logical CPUs of one actor")
    num_gpus: float = Field(0, ge=0, description="GPUs of one actor, may be a fraction")
    max_failures: int = Field(2, ge=1, description="attempts of a shard that fails by itself")
    max_losses: int = Field(5, ge=1, description="times a shard may be lost to dead workers; preemptions do not count")
    max_shard_seconds: float | None = Field(
        None, gt=0, description="a shard of a Ray actor that takes longer fails; null for no limit"
    )


class OutputConfig(Section):
    """Where results go."""

    root: Uri = Field("runs", description="folder or s3:// prefix that holds the run folders and prepared datasets")
    log: Literal["text", "json"] = Field(
        "text", description="what jobs print: lines for people, or one JSON object a line for log collectors"
    )
    private_manifest: bool = Field(
        False, description="also list the signed rows in the export's manifest: keep such an export to yourself"
    )


class SweptVictim(Section):
    """A kind of victim that a sweep trains; everything else is as in evaluation.training."""

    model: str = Field("cnn", description="as evaluation.training.model")
    recipe: Literal["simple", "strong", "deit3", "resnet-a2", "fine-tune"] = Field(
        "simple", description="as evaluation.training.recipe"
    )
    patch_size: int | None = Field(None, ge=1, le=1024, description="as evaluation.training.patch_size")


class SweepConfig(Section):
    """The cells of `jobs/sweep.py`: every combination of the values below. Not hashed: each cell is a run of its own.

    An empty list takes the configuration's own value.
    """

    images_per_key: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="instead of signing.images_per_key and signing.budget"
    )
    num_keys: tuple[Annotated[int, Field(ge=1, le=1_000)], ...] = Field(
        (),
        description="instead of keys.num_keys; the keys are nested, only the most are crafted, unless surrogates are retrained",
    )
    epsilons: tuple[Annotated[FractionOf, Field(ge=1 / 255, le=1)], ...] = Field(
        (), description="instead of crafting.epsilon"
    )
    engines: tuple[Literal["double_backward", "jvp", "central", "one_sided"], ...] = Field(
        (), description="instead of crafting.engine"
    )
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
    wanted_power: float = Field(0.8, gt=0, lt=1, description="that the recommended cell must reach")
    stop_hopeless: bool = Field(False, description="leave out the other victims of a cell after hopeless ones")
    stop_after: int = Field(2, ge=1, description="so many first victims decide whether a cell is hopeless")
    stop_above: float = Field(0.2, gt=0, lt=1, description="it is when all of them have p-values above this")
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


class Config(Section):
    """One run."""

    seed: int = Field(
        0, ge=0, lt=2**32, description="of the surrogate, the signing sets and the crafting; never of the keys"
    )
    data: DataConfig = DataConfig()
    keys: KeysConfig = KeysConfig()
    signing: SigningConfig = SigningConfig(images_per_key=7)
    surrogate: SurrogateConfig = SurrogateConfig()
    crafting: CraftingConfig = CraftingConfig()
    detection: DetectionConfig = DetectionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    verify: VerifyConfig = VerifyConfig()
    export: ExportConfig = ExportConfig()
    train: TrainJobConfig = TrainJobConfig()
    execution: ExecutionConfig = ExecutionConfig()
    output: OutputConfig = OutputConfig()
    sweep: SweepConfig = SweepConfig()
    plugins: tuple[str, ...] = Field(
        (),
        description="Python modules that are imported first; each may register statistics, key families, layouts and so on; "
        "workers must be able to import them too",
    )

    @model_validator(mode="after")
    def _actors_have_gpus(self) -> Config:
        if self.crafting.device == "cuda" and self.execution.pool == "ray" and self.execution.num_gpus == 0:
            raise ValueError(
                "crafting.device=cuda needs execution.num_gpus above 0, may be a fraction: Ray hides GPUs from actors without"
            )
        return self

    @model_validator(mode="after")
    def _ray_loads_where_ray_runs(self) -> Config:
        for name, training in (("surrogate", self.surrogate), ("evaluation.training", self.evaluation.training)):
            if training.loader == "ray" and self.execution.pool == "inline":
                raise ValueError(f"{name}.loader=ray needs execution.pool=ray; loader torch needs no Ray")
        return self

    @property
    def hash(self) -> str:
        """16 hex digits over the sections that decide the signed bytes and the registration; names the run folder."""
        sections = {"seed", "data", "keys", "signing", "surrogate", "crafting", "detection"}
        decisive = self.model_dump(mode="json", include=sections)
        for section in ("data", "keys"):  # where they lie is not what they are: the registration holds that
            del decisive[section]["root"]
        decisive["surrogate"] = SurrogateConfig.decisive(decisive["surrogate"])
        canonical = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def load_config(path: str | None, settings: Sequence[str] = ()) -> Config:
    """Returns the configuration of a YAML (or JSON) file with `section.field=value` settings on top; defaults without a file.

    Raises:
        InputError: no such file, not YAML, an unknown field, or a value outside its range; the sentence names the field.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"config file {path!r} cannot be read ({error}); give the path of a YAML file") from error
        except yaml.YAMLError as error:
            raise InputError(f"config file {path!r} is not YAML ({' '.join(str(error).split())}); mend it") from error
        except (ValueError, RecursionError) as error:  # dates that do not exist, absurd nesting
            raise InputError(f"config file {path!r} holds a value that YAML cannot read ({error}); quote it") from error
        if isinstance(tree, dict) and {"config", "config_hash"} <= set(tree):
            tree = tree["config"]  # the config.json of a run
        if not isinstance(tree, dict):
            raise InputError(f"config file {path!r} must hold sections such as 'crafting:', not {type(tree).__name__}")
    for setting in settings:
        _apply(tree, setting)
    _import_plugins(tree.get("plugins"))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_one_sentence(error)) from None


def _import_plugins(names: Any) -> None:
    """Imports the modules that register extensions, before the tables are read; other values are left to the schema."""
    for name in names if isinstance(names, list | tuple) else ():
        try:
            importlib.import_module(str(name))
        except (ImportError, TypeError, ValueError) as error:
            raise InputError(
                f"plugins names the module {name!r}, which cannot be imported ({error}); install it, or add its folder to "
                "PYTHONPATH"
            ) from error


def _apply(tree: dict[str, Any], setting: str) -> None:
    field, equals, value = setting.partition("=")
    if not equals or not field:
        raise InputError(f"--set {setting!r} must read section.field=value, for example crafting.epsilon=16/255")
    *sections, name = field.strip().split(".")
    branch = tree
    for section in sections:
        inner = branch.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {setting!r}: {section!r} is a value, not a section")
        branch[section] = branch = dict(inner)  # a copy: a YAML alias makes one section of two
    try:
        branch[name] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--set {setting!r}: the value is not YAML; quote it") from error


def _one_sentence(error: ValidationError) -> str:
    """The first of pydantic's complaints as one sentence, with the field's own description as the mend."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "config"
    if first["type"] == "extra_forbidden":
        model: Any = Config
        for part in first["loc"][:-1]:
            if isinstance(part, int):  # of a list of sections, which the step before has come to
                continue
            annotation = model.model_fields[part].annotation
            model = next(iter(get_args(annotation)), annotation)  # the section of `Section | None`
        return f"config field {where!r} does not exist; its section knows {', '.join(model.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    value = f" = {first['input']!r}" if isinstance(first["input"], str | int | float | bool) else ""
    return f"config field {where!r}{value}: {message}{more}"
