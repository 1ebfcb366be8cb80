"""What a configuration asks for, counted, and what of it is found done. Creates no key and writes nothing into a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taggants.config import TrainingConfig
from taggants.crafting.selection import check_class_sizes
from taggants.data.source import DatasetIndex
from taggants.run import Run, signing_size
from taggants.stages.crafting_settings import optimisation_of
from taggants.stages.evaluate import suspect_job
from taggants.stages.model_training import surrogate_jobs
from taggants.stages.questions import reference_jobs
from taggants.storage import Root
from taggants.training.given import GivenModel
from taggants.training.job import TrainingJob


@dataclass(frozen=True)
class Training:
    """A model to train. images: of its training split. is_done: found finished; a victim is only known once signed data are."""

    name: str
    model: str
    epochs: int
    images: int
    is_done: bool


@dataclass(frozen=True)
class Work:
    """What one run does, in the order in which it does it.

    run: uri of its folder. images_per_class: fewest and most. unfit: how many images cannot be signed, by
    reason. turned: how many have an EXIF orientation. skipped: files left out by their names.
    signed_share: of the training images, in [0, 1].
    candidates: images that are scored for the signing sets, expected over the draw of the key labels; 0 for random ones.
    crafted_surrogates: checkpoints that are crafted on. rounds: craftings, 1 and one for each retraining.
    sample_steps: gradients of one augmented image on one surrogate, over all shards of all rounds.
    has_keys, is_registered, is_exported, shards_done: what is found. Of a run with retrainings its last round.
    """

    run: str
    images: int
    test_images: int
    classes: int
    images_per_class: tuple[int, int]
    unfit: Mapping[str, int]
    turned: int
    skipped: Mapping[str, int]
    image_size: tuple[int, int]
    keys: int
    images_per_key: int
    signed_share: float
    candidates: int
    trainings: tuple[Training, ...]
    crafted_surrogates: int
    rounds: int
    shards: int
    sample_steps: int
    has_keys: bool
    is_registered: bool
    is_exported: bool
    shards_done: int

    @property
    def is_done(self) -> bool:
        return self.is_exported and all(training.is_done for training in self.trainings)

    @property
    def sample_steps_left(self) -> int:
        if self.is_exported:
            return 0
        return round(self.sample_steps * (1 - self.shards_done / (self.shards * self.rounds)))


def work_of(run: Run) -> Work:
    """Returns what the run will do; the dataset is hashed only where there may be something done to find.

    Without hashes the run has no fingerprint and serves for estimates only.

    Raises:
        InputError: the dataset cannot be read, or a class is too small for a key.
    """
    config = run.config
    may_find = run.root.exists("config.json") or bool(Root(config.output.root).list("models"))
    if not may_find:
        run.index = _index_without_hashes(run)
    labels, num_classes = run.index.labels, run.index.num_classes
    check_class_sizes(labels, num_classes, signing_size(run), run.fitness.is_fit)
    images_per_class = np.bincount(labels, minlength=num_classes)
    num_keys, per_key = config.keys.num_keys, signing_size(run)
    hit = 1 - (1 - 1 / num_classes) ** num_keys  # probability that a class is drawn for a key
    surrogates = config.surrogate
    rounds = 1 + surrogates.retrainings
    share = config.crafting.optimised_share
    crafted_on = config.surrogate_trainings if share else ()
    crafted = sum(len({max(1, round(p * t.num_epochs)) for p in surrogates.checkpoints}) for t in crafted_on)
    optimisation = optimisation_of(config, run.model_size[1])
    commits = run.folder.read_commits() if run.root.exists("plan.json") else {}
    return Work(
        run=run.root.uri,
        images=len(labels),
        test_images=run.sources[1].num_rows,
        classes=num_classes,
        images_per_class=(int(images_per_class.min()), int(images_per_class.max())),
        unfit=run.fitness.reasons,
        turned=int(run.fitness.is_turned.sum()),
        skipped=run.sources[0].skipped,
        image_size=run.model_size,
        keys=num_keys,
        images_per_key=per_key,
        signed_share=num_keys * per_key / len(labels),
        candidates=0 if config.signing.selection == "random" else round(hit * len(labels)),
        trainings=tuple(_trainings(run, may_find)),
        crafted_surrogates=crafted,
        rounds=rounds,
        shards=num_keys,
        sample_steps=rounds * num_keys * round(share * per_key) * optimisation.sample_steps_per_image(crafted),
        has_keys=run.keys_root.exists(f"{config.keys.name}.json"),
        is_registered=run.root.exists("registration.json"),
        is_exported=run.root.exists("signed/manifest.json"),
        shards_done=len(commits),
    )


def _index_without_hashes(run: Run) -> DatasetIndex:
    """Nothing that is found done can match its fingerprint."""
    source = run.sources[0]
    labels, names = source.labels(), source.class_names()
    return DatasetIndex(labels, (), (0, len(labels)), len(names) if names else int(labels.max()) + 1, names, "")


def _trainings(run: Run, may_find: bool) -> list[Training]:
    config, evaluation = run.config, run.config.evaluation
    found: list[Training] = []

    def add(name: str, training: TrainingConfig, job: TrainingJob | GivenModel | None) -> None:
        is_done = job is not None and run.models.exists(f"{job.folder}/result.json")
        found.append(Training(name, training.model, training.num_epochs, run.index.num_rows, is_done))

    first = run
    while first.before_retraining is not None:
        first = first.before_retraining
    jobs = surrogate_jobs(first) if may_find else []
    for round_index in range(1 + config.surrogate.retrainings):
        for index, training in enumerate(config.surrogate_trainings):
            if index in run.given_surrogates:
                continue
            name = f"surrogate-{index}" + (f", retrained {round_index}" if round_index else "")
            add(name, training, jobs[index] if jobs and not round_index else None)
    trainings = config.reference_trainings
    references = reference_jobs(run)[-len(trainings) :] if may_find and trainings else []
    for index, training in enumerate(trainings):
        add(f"reference-{index}", training, references[index] if references else None)
    is_exported = run.root.exists("signed/manifest.json")
    for role, count, is_known in (
        ("victim", evaluation.num_victims, is_exported),
        ("control", evaluation.num_controls, may_find),
    ):
        for index in range(count):
            add(f"{role}-{index}", evaluation.training, suspect_job(run, role, index) if is_known else None)
    return found
