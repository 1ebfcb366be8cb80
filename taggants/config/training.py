"""Sections on the models that are trained: surrogates, victims and controls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from taggants.config.fields import FractionOf, Section, Uri, named_in
from taggants.config.signing import DataConfig
from taggants.training.recipes import RECIPES


class TrainingConfig(Section):
    """How a surrogate, victim or control is trained."""

    model: str = Field(
        "cnn",
        description='"cnn" or "cnn_wide" (built in, no normalisation layers); small/convnext or small/vit (for images of 8 to '
        "128 px); or timm/NAME",
    )
    patch_size: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="side in px of the patches of timm's vision transformers, or of the stem of its ConvNeXts; null: the model's "
        "own, for larger images; other models have none, and pass it over",
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="highest rate of stochastic depth; not of the built-in models, which have none"
    )
    recipe: Annotated[str, named_in(RECIPES)] = Field(
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
    optimiser: Literal["adamw", "lamb", "sgd"] | None = Field(None, description="null: the recipe's")
    gradient_clip: float | None = Field(
        None, gt=0, description="largest norm of a step's gradient; null: the recipe's, if it has one"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="keep the moving average of the weights with this decay; null: the last weights"
    )
    compile: bool = Field(False, description="compile with torch.compile; pays off in long trainings")
    init_from: Uri | None = Field(
        None,
        description="model.safetensors to start from; a head with another number of classes is replaced; null: random",
    )

    loader: Literal["memory", "device", "torch", "ray"] = Field(
        "memory",
        description="where training images are: all in memory; all on the training device, which augments them too; or read "
        "from storage ahead of each step, by torch's DataLoader on the training machine or Ray Data on the whole cluster. The "
        "trained model is the same, but for the rounding of a GPU that augments",
    )
    num_readers: int = Field(2, ge=1, le=256, description="reading processes of a training process with loader torch")

    @property
    def immaterial_fields(self) -> frozenset[str]:
        """They change no model, so they are not hashed. A GPU that augments rounds otherwise than a CPU, and counts."""
        augments_on_gpu = self.loader == "device" and self.device != "cpu"
        return frozenset({"num_readers"} if augments_on_gpu else {"loader", "num_readers"})

    @model_validator(mode="after")
    def _loader_knows_the_recipe(self) -> TrainingConfig:
        if self.loader == "device" and RECIPES[self.recipe].policy is not None:
            raise ValueError(
                f"recipe {self.recipe} augments single images on the CPU, so loader device cannot; use loader memory or torch"
            )
        return self

    @model_validator(mode="after")
    def _fine_tunes_something(self) -> TrainingConfig:
        if self.recipe == "fine-tune" and self.init_from is None:
            raise ValueError(
                "recipe fine-tune needs init_from, the model.safetensors of another training to start from"
            )
        return self


class SurrogateConfig(TrainingConfig):
    """The owner's models that perturbations are crafted on. Several seeds transfer to unseen models better than one."""

    num_models: int = Field(1, ge=1, le=64, description="number of surrogates, each of another seed")
    architectures: tuple[str, ...] = Field(
        (), max_length=64, description="model of each surrogate, in turn; empty: all are `model`"
    )
    checkpoints: tuple[Annotated[FractionOf, Field(gt=0, le=1)], ...] = Field(
        (1.0,), min_length=1, max_length=64, description="fractions of the training after which a surrogate is kept"
    )

    weights: tuple[Uri | None, ...] = Field(
        (),
        max_length=64,
        description="of each surrogate that exists already and is not trained: a file of weights (.pth, .safetensors) of its "
        "architecture, timm/NAME, hf-hub:ORG/NAME or a description file .yaml; null trains that one; empty: all are trained",
    )
    retrainings: int = Field(
        0,
        ge=0,
        le=16,
        description="how often the surrogates are trained again, on the signed data so far, and the taggants crafted again on "
        "them (Sleeper Agent); each costs a crafting and the trainings again",
    )

    @model_validator(mode="after")
    def _distinct_checkpoints(self) -> SurrogateConfig:
        if list(self.checkpoints) != sorted(set(self.checkpoints)) or self.checkpoints[-1] != 1:
            raise ValueError("surrogate.checkpoints must increase and end with 1, for example [0.3, 1.0]")
        return self

    @model_validator(mode="after")
    def _every_architecture_is_trained(self) -> SurrogateConfig:
        if len(self.architectures) > self.num_models:
            raise ValueError(
                f"surrogate.architectures names {len(self.architectures)} models but surrogate.num_models is {self.num_models}; "
                f"set it to {len(self.architectures)} or more"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_not_trained(self) -> SurrogateConfig:
        if self.weights and len(self.weights) != self.num_models:
            raise ValueError(
                f"surrogate.weights names {len(self.weights)} models but surrogate.num_models is {self.num_models}; "
                "name one for each, or null for those to train"
            )
        if any(self.weights) and (self.retrainings or self.checkpoints != (1.0,)):
            raise ValueError("surrogate.weights are not trained; leave retrainings and checkpoints out")
        return self

    @property
    def trainings(self) -> tuple[TrainingConfig, ...]:
        """One training section for each surrogate."""
        shared = {name: getattr(self, name) for name in TrainingConfig.model_fields}
        names = self.architectures or (self.model,)
        return tuple(TrainingConfig(**shared | {"model": names[i % len(names)]}) for i in range(self.num_models))


class EvaluationConfig(Section):
    """The owner's own rehearsal: victims trained on the signed data, controls on the clean data. Not hashed."""

    num_victims: int = Field(3, ge=0, description="models trained on the signed data")
    num_controls: int = Field(3, ge=0, description="models of the same recipe and seeds trained on the clean data")
    training: TrainingConfig = TrainingConfig()
    gpus_per_model: FractionOf = Field(
        1.0,
        gt=0,
        le=1,
        description="GPUs of each reference, victim or control that Ray trains on device cuda beside others; 1/4: four on a GPU",
    )
    probe: DataConfig | None = Field(
        None,
        description="another dataset, for linear probes of the features by `taggants harm`; its channels must be the run's",
    )
