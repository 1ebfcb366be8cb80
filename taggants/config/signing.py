"""Sections on what is signed with what: the dataset, the keys, the signing sets and the registered test."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from taggants.config.fields import FractionOf, Section, Uri, named_in
from taggants.data.layouts import LAYOUTS
from taggants.data.prepared import PREPARED
from taggants.detection.question import MAX_NUM_REFERENCES
from taggants.detection.statistics import STATISTICS
from taggants.errors import InputError, did_you_mean
from taggants.keys.choice import MAX_POOL
from taggants.keys.families import KEY_FAMILIES
from taggants.training.recipes import RECIPES


def _file_name(name: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise InputError("only letters, digits, - and _ make its name; choose another")
    return name


class DataConfig(Section):
    """The dataset to sign."""

    source: Annotated[str, named_in(PREPARED, LAYOUTS)] = Field(
        "digits",
        description="digits: scikit-learn's; torchvision: a dataset that it downloads; parquet: files in Hugging Face's layout; "
        "imagefolder: one folder per class; webdataset: tars",
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
        description="test split under root, in the same forms, used for accuracies only; null: there is none, and accuracies are "
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
        prepared = PREPARED.get(self.source)
        of_source = f"with data.source={self.source}"
        if prepared is None and self.root is None:
            raise ValueError(f"data.root is required {of_source}")
        if prepared is not None and prepared.root == "none" and self.root is not None:
            raise ValueError(f"data.root must be null {of_source}")
        if prepared is not None and "://" in (self.root or ""):
            raise ValueError(f"data.root must be a local folder or null {of_source}")
        has_datasets = prepared is not None and prepared.has_datasets
        if (self.dataset is None) == has_datasets:
            raise ValueError(f"data.dataset {'is required' if has_datasets else 'must be null'} {of_source}")
        if prepared is not None and self.test is None:
            raise ValueError(f"data.test must not be null {of_source}, which has a test split")
        is_subset = self.num_classes is not None or self.images_per_class is not None
        if is_subset and prepared is None and not LAYOUTS[self.source].has_subsets:
            raise ValueError(
                f"data.num_classes and data.images_per_class must be null {of_source}: subsets are made of Parquet files "
                "only; leave files out of a copy instead"
            )
        return self


class KeysConfig(Section):
    """The secret keys. The key file lies under a root of its own, apart from every run folder.

    Beside the fields declared here it has those of the key family's own parameters, such as `cell_size`.
    """

    model_config = ConfigDict(extra="allow")

    root: Uri = Field("secrets", description="private folder; the key file in it has mode 0600")
    name: Annotated[str, AfterValidator(_file_name)] = Field(
        "digits", description="file name of the key file, without .json"
    )
    num_keys: int = Field(
        16,
        ge=1,
        le=1_000,
        description="number of keys; the more there are, the smaller a share of hits gives the same p-value",
    )
    family: Annotated[str, named_in(KEY_FAMILIES)] = Field(
        "block",
        description="; ".join(f"{name}: {family.description}" for name, family in KEY_FAMILIES.items()),
    )
    pool: int | None = Field(
        None,
        ge=1,
        le=MAX_POOL,
        description="number of candidates, of which those that `networks` tell apart best become the keys; null: the first ones",
    )
    networks: tuple[Uri, ...] = Field(
        (),
        description="model.safetensors of clean models, such as controls of `taggants train`, that choose from the pool",
    )
    demonstration: bool = Field(
        False,
        description="derive the secret from a public sentence: repeatable, but anybody can forge; never for a real dataset",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_parameters(cls, values: Any) -> Any:
        family = values.get("family", cls.model_fields["family"].default) if isinstance(values, dict) else None
        if not isinstance(family, str) or family not in KEY_FAMILIES:
            return values  # which the schema refuses
        return {name: parameter.default for name, parameter in KEY_FAMILIES[family].parameters.items()} | values

    @model_validator(mode="after")
    def _pool_and_networks(self) -> KeysConfig:
        if (self.pool is None) != (not self.networks):
            raise ValueError("keys.pool and keys.networks go together: set both, or leave both out")
        if self.pool is not None and self.pool < self.num_keys:
            raise ValueError(f"keys.pool is {self.pool} but must be at least keys.num_keys, {self.num_keys}")
        return self

    @model_validator(mode="after")
    def _parameters_of_the_family(self) -> KeysConfig:
        family = KEY_FAMILIES.find(self.family)
        fields = [*type(self).model_fields, *family.parameters]
        for name in self.parameters:
            if name not in fields:
                raise InputError(
                    f"{name!r} does not exist with family {self.family}; {did_you_mean(name, fields)}`taggants config keys` "
                    "lists the section"
                )
        family.check(self.family, self.parameters)
        return self

    @classmethod
    def further_fields(cls) -> dict[str, FieldInfo]:
        named: dict[str, FieldInfo] = {}
        for family_name, family in KEY_FAMILIES.items():
            for name, parameter in family.parameters.items():
                families = f"{named[name].description}, {family_name}" if name in named else ""
                description = families or f"{parameter.description}; of family {family_name}"
                field: Any = Field(parameter.default, ge=parameter.low, le=parameter.high, description=description)
                field.annotation = int
                named[name] = field
        return named

    @property
    def parameters(self) -> dict[str, int]:
        """The parameters of the key family, by name."""
        return dict(self.model_extra or {})


class SigningConfig(Section):
    """The signing sets. Exactly one of budget and images_per_key is set."""

    budget: FractionOf | None = Field(None, gt=0, le=1, description="fraction of the training set that may be signed")
    images_per_key: int | None = Field(None, ge=1, description="number of images that carry each key")
    selection: Literal["random", "gradient_norm", "loss"] = Field(
        "gradient_norm",
        description="images of largest surrogate gradient norm or loss (Witches' Brew, Sleeper Agent), or random ones",
    )

    pool: FractionOf | None = Field(
        None,
        gt=0,
        le=1,
        description="draw the images by the secret from this top fraction of each class by norm or loss, so that whoever "
        "trains a like model cannot guess them; null: take the very top",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> SigningConfig:
        if (self.budget is None) == (self.images_per_key is None):
            raise ValueError("set exactly one of signing.budget and signing.images_per_key; the other must be null")
        return self


class ReferenceKind(Section):
    """A kind of model that suspects are compared with; all else is as in the surrogate section."""

    model: str | None = Field(None, description="as surrogate.model; null: the surrogate's")
    patch_size: int | None = Field(None, ge=1, le=1024, description="of that model; null: its own")
    recipe: Annotated[str, named_in(RECIPES)] | None = Field(None, description="null: the surrogate's")

    @property
    def fields(self) -> dict[str, Any]:
        """What differs from the surrogate section."""
        named = {} if self.model is None else {"model": self.model, "patch_size": self.patch_size}
        return named if self.recipe is None else named | {"recipe": self.recipe}

    @model_validator(mode="after")
    def _patches_are_of_a_model(self) -> ReferenceKind:
        if self.model is None and self.patch_size is not None:
            raise ValueError(f"patch_size is {self.patch_size} but no model is named; name the model, too")
        return self


class QuestionConfig(Section):
    """Which images a suspect is shown for each key, and what its answers are compared with; null: the key's image alone.

    The references are the surrogates that were trained on clean data, and models that are trained for this alone. Each is taken
    off a suspect's answers as far as it explains them, so take models of the kinds that others may train.
    """

    num_covers: int = Field(
        64,
        ge=0,
        le=10_000,
        description="at most so many images of the test split, balanced over classes, that each key is laid over",
    )
    amplitudes: tuple[Annotated[FractionOf, Field(ge=1 / 256, le=1)], ...] = Field(
        (1 / 8, 1 / 4, 1 / 2),
        description="of the overlays cover + a (key - 127.5), in whole 256ths; each weighs as much as the key's own image",
    )
    bare_key: bool = Field(True, description="ask the key's image itself, too; without it no query is noise")
    top_m: int | None = Field(None, ge=1, description="ranks behind this count alike; null: all ranks count")
    num_references: int = Field(
        1,
        ge=0,
        le=MAX_NUM_REFERENCES,
        description="clean models that are trained as references beside the surrogates",
    )
    kinds: tuple[ReferenceKind, ...] = Field(
        (), max_length=MAX_NUM_REFERENCES, description="of these models, in turn; empty: those of the surrogates"
    )
    references: tuple[Uri, ...] = Field(
        (),
        max_length=64,
        description="models of others that suspects are compared with, too, such as public ones that are older than the keys: as "
        "surrogate.weights names them",
    )

    @model_validator(mode="after")
    def _every_kind_is_trained(self) -> QuestionConfig:
        if len(self.kinds) > self.num_references:
            raise ValueError(
                f"kinds has {len(self.kinds)} entries but num_references is {self.num_references}; set it to "
                f"{len(self.kinds)} or more"
            )
        return self

    @model_validator(mode="after")
    def _asks_something(self) -> QuestionConfig:
        if not self.num_covers and not self.bare_key:
            raise ValueError("num_covers is 0 and bare_key false, so nothing is asked; set one of them")
        if self.num_covers and not self.amplitudes:
            raise ValueError("amplitudes must not be empty with num_covers above 0")
        levels = [amplitude * 256 for amplitude in self.amplitudes]
        if any(level != round(level) for level in levels) or len(set(levels)) != len(levels):
            raise ValueError(f"amplitudes are {list(self.amplitudes)} but must be several whole 256ths, such as 1/8")
        return self


class DetectionConfig(Section):
    """The test, fixed before any suspect is queried and written into the public registration."""

    statistic: Annotated[str, named_in(STATISTICS)] = Field("question", description="whose exact p-value decides")
    top_k: int = Field(1, ge=1, description="a hit is a key label within the suspect's top k")
    alpha: float = Field(1e-3, gt=0, lt=1, description="a suspect with p <= alpha is detected")
    num_suspects: int = Field(
        1,
        ge=1,
        le=10_000,
        description="suspects that alpha is spent on; the level of one test is alpha over suspects and looks",
    )
    num_looks: int = Field(1, ge=1, le=10_000, description="tests of each suspect that alpha is spent on")
    question: QuestionConfig | None = Field(
        QuestionConfig(),
        description="what is asked about each key beside its own image; null: nothing, and no model is compared with",
    )

    @model_validator(mode="after")
    def _table_for_the_statistic(self) -> DetectionConfig:
        if STATISTICS.find(self.statistic).needs == "table" and self.question is None:
            raise ValueError(
                f"detection.statistic={self.statistic} needs a question; leave detection.question out, or set statistic to rank"
            )
        if self.question is None and (self.num_suspects, self.num_looks) != (1, 1):
            raise ValueError(
                "detection.num_suspects and num_looks can be registered with a question alone; set fields of detection.question, "
                "such as num_covers: 64, or leave them out"
            )
        return self
