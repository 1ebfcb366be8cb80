"""The whole configuration and its hash."""

from __future__ import annotations

from pydantic import Field, ValidationError, model_validator

from taggants.config.commands import ExecutionConfig, ExportConfig, OutputConfig, TrainJobConfig, VerifyConfig
from taggants.config.crafting import CraftingConfig
from taggants.config.fields import Section
from taggants.config.signing import DataConfig, DetectionConfig, KeysConfig, ReferenceKind, SigningConfig
from taggants.config.sweep import SweepConfig
from taggants.config.training import EvaluationConfig, SurrogateConfig, TrainingConfig
from taggants.detection.question import MAX_NUM_REFERENCES
from taggants.identity import identity


class Config(Section):
    """One run."""

    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of the surrogate, the signing sets and the crafting; never of the keys"
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
                "crafting.device=cuda needs execution.num_gpus above 0 (a fraction will do): "
                "Ray hides GPUs from actors that ask for none"
            )
        return self

    @model_validator(mode="after")
    def _ray_loads_where_ray_runs(self) -> Config:
        for name, training in (("surrogate", self.surrogate), ("evaluation.training", self.evaluation.training)):
            if training.loader == "ray" and self.execution.pool == "inline":
                raise ValueError(f"{name}.loader=ray needs execution.pool=ray; loader torch needs no Ray")
        return self

    @model_validator(mode="after")
    def _retrains_what_is_crafted_on(self) -> Config:
        if self.surrogate.retrainings and not self.crafting.optimised_share:
            raise ValueError(
                f"crafting.method={self.crafting.method} crafts on no surrogate, so surrogate.retrainings must be 0"
            )
        return self

    @model_validator(mode="after")
    def _asks_something(self) -> Config:
        question = self.detection.question
        if question is not None and not question.bare_key and self.data.test is None:
            raise ValueError(
                "data.test is null, so there are no covers, and detection.question.bare_key is false: nothing is asked; set "
                "bare_key to true, or name a test split"
            )
        return self

    @model_validator(mode="after")
    def _references_can_be_trained(self) -> Config:
        question = self.detection.question
        if question is None:
            return self
        number = self.num_compared
        if number > MAX_NUM_REFERENCES:
            raise ValueError(
                f"suspects would be compared with {number} models (surrogate.num_models, detection.question.references and "
                f"num_references) but may be with {MAX_NUM_REFERENCES}; take fewer"
            )
        for kind in question.kinds:
            described = f"detection.question.kinds has {kind.fields}"
            if kind.model is None and self.surrogate.architectures:
                raise ValueError(f"{described}, but surrogate.architectures names several; name the model of each kind")
            if kind.model not in (None, self.surrogate.model) and self.surrogate.init_from is not None:
                raise ValueError(
                    f"{described}, but surrogate.init_from holds weights of {self.surrogate.model}; leave one of them out"
                )
            try:
                self._training_of(kind)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"{described}, which cannot be trained: {reason}") from error
        return self

    @property
    def surrogate_trainings(self) -> tuple[TrainingConfig, ...]:
        """One training section for each surrogate that is needed: to craft on, or to choose images by. None else."""
        is_needed = self.crafting.optimised_share > 0 or self.signing.selection != "random"
        return self.surrogate.trainings if is_needed else ()

    @property
    def num_compared(self) -> int:
        """With how many models the question compares suspects; 0 without a question."""
        question = self.detection.question
        if question is None:
            return 0
        return len(self.surrogate_trainings) + len(question.references) + question.num_references

    @property
    def reference_trainings(self) -> tuple[TrainingConfig, ...]:
        """One training section for each model that is trained only for suspects to be compared with it."""
        question = self.detection.question
        if question is None:
            return ()
        kinds = tuple(map(self._training_of, question.kinds)) or self.surrogate.trainings
        return tuple(kinds[index % len(kinds)] for index in range(question.num_references))

    def _training_of(self, kind: ReferenceKind) -> TrainingConfig:
        shared = {name: getattr(self.surrogate, name) for name in TrainingConfig.model_fields}
        return TrainingConfig(**shared | kind.fields)

    @property
    def hash(self) -> str:
        """16 hex digits over the sections that decide the signed bytes and the registration; names the run folder."""
        sections = {"seed", "data", "keys", "signing", "surrogate", "crafting", "detection"}
        where = {"root"}  # where data and keys lie is not what they are: the registration holds that
        without = {"data": where, "keys": where | {"networks"}, "surrogate": set(self.surrogate.immaterial_fields)}
        decisive = self.model_dump(mode="json", include=sections, exclude=without)
        return identity(decisive)[:16]
