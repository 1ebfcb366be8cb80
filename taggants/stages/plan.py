"""Stage: which images carry which key, cut into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from taggants.config import Config
from taggants.crafting.plan import Plan, Shard
from taggants.crafting.selection import drawn_from_top, random_priorities, signing_sets
from taggants.data.fitness import problem_of
from taggants.data.image_codec import replaceable_shape
from taggants.export import image_storage_of, originals_of
from taggants.keys import KeySet
from taggants.limits import MOST_CANVAS_BYTES
from taggants.reporting.progress import say, stage
from taggants.run import Run, signing_size
from taggants.seeds import hash_seed
from taggants.stages.crafting_settings import storage_policy_of
from taggants.stages.model_training import all_checkpoints
from taggants.storage import Root
from taggants.text import one_line
from taggants.training.job import TrainedModel
from taggants.training.scoring import Candidates, Scores, ScoringJob, ScoringPass, candidate_scores, score_here


def make_plan(
    run: Run, surrogates: Sequence[TrainedModel], clean_surrogates: Sequence[TrainedModel] | None = None
) -> Plan:
    """Chooses the signing sets, cuts them into shards of one key each and registers the plan in the run folder.

    surrogates: what will be crafted on. clean_surrogates: those by whose scores images are chosen, where the surrogates have
    learnt signed data: by the scores of those others would be signed every time. None: the same.

    Raises:
        InputError: the run folder holds another plan.
    """
    config = run.config
    priorities = _priorities(run, surrogates if clean_surrogates is None else clean_surrogates)
    sets = _fit_signing_sets(run, priorities)
    signed = np.sort(np.concatenate(sets)).tolist()
    image_storage_of(
        run.sources[0], signed, storage_policy_of(config), run.sources[0].layout
    )  # before the work of crafting
    shards = tuple(
        Shard(index, index, tuple(int(i) for i in ids), seed=hash_seed(config.seed, 1, index))
        for index, ids in enumerate(sets)
    )
    ensemble = hashlib.sha256("".join(sha256 for _, sha256 in all_checkpoints(surrogates)).encode()).hexdigest()
    plan = Plan(config.hash, run.index.fingerprint, run.keys.commitment, ensemble, shards)
    run.folder.register_plan(plan)
    return plan


def _fit_signing_sets(run: Run, priorities: NDArray[np.floating]) -> list[NDArray[np.int64]]:
    """Chooses the signing sets from the images that can be signed; what their headers do not show leaves them here."""
    fitness, labels, source = run.fitness, run.index.labels, run.sources[0]
    is_fit = fitness.is_fit.copy()
    shapes: dict[int, tuple[int, int]] = {}
    while True:
        sets = signing_sets(labels, run.keys.labels, signing_size(run), priorities, is_fit, fitness.is_turned)
        unread = sorted({int(i) for ids in sets for i in ids} - shapes.keys())
        problems = {}
        for sample_id, original in originals_of(source, unread):
            problem = problem_of(original, source.channels)
            if problem is not None:
                problems[sample_id] = problem
            else:
                shapes[sample_id] = replaceable_shape(original)[1:]
        for ids in sets if not problems else ():
            heights, widths = zip(*(shapes[int(i)] for i in ids), strict=True)
            if len(ids) * (source.channels or 3) * max(heights) * max(widths) > MOST_CANVAS_BYTES:
                longest = max(ids, key=lambda i: (max(shapes[int(i)]), i))
                problems[int(longest)] = "too long for one canvas with the others of its signing set"
        if not problems:
            break
        for sample_id, problem in problems.items():
            say(f"plan: {one_line(source.place_of(sample_id))} is {problem}; another image is signed")
            is_fit[sample_id] = False
    num_turned = int(fitness.is_turned[np.concatenate(sets)].sum())
    if num_turned:
        say(
            f"plan: {num_turned} of {sum(map(len, sets))} images to sign have an EXIF orientation, since their classes have "
            "no others left: models trained by a reader that turns them may not be recognised by their keys"
        )
    return sets


def _priorities(run: Run, surrogates: Sequence[TrainedModel]) -> NDArray[np.floating]:
    """Higher for images to sign first; scores are means over the surrogates."""
    config = run.config
    selection = config.signing.selection
    if selection == "random":
        return random_priorities(run.index.num_rows, selection_seed(run.keys, config.seed))
    job = ScoringJob(
        models=run.models,
        surrogates=tuple((surrogate.path, surrogate.sha256) for surrogate in surrogates),
        source=run.sources[0],
        dataset_fingerprint=run.index.fingerprint,
        image_size=config.data.image_size,
        function=selection,
        device=config.crafting.device,
        num_threads=config.crafting.num_threads,  # scores decide the plan: the same sums every time
    )
    labels, classes = run.index.labels, run.keys.labels
    store = Root(config.output.root).child("scores")
    with stage("score candidates", int(np.isin(labels, classes).sum()), "images") as advance:
        scores = candidate_scores(
            job, labels, classes, store, _scoring_pass(config), lambda num_done: advance(num_done, "")
        )
    if config.signing.pool is None:
        return scores
    return drawn_from_top(scores, labels, config.signing.pool, selection_seed(run.keys, config.seed))


def selection_seed(keys: KeySet, seed: int) -> int:
    """Returns the seed of 256 bits by which images are chosen at random: from the secret, by way of the first key's id, so
    that nobody else can repeat the choice; the same for more keys of one secret."""
    digest = hashlib.sha256(b"taggants/v1/selection" + bytes.fromhex(keys.ids[0]) + seed.to_bytes(8, "big"))
    return int.from_bytes(digest.digest(), "big")


def _scoring_pass(config: Config) -> ScoringPass:
    if config.execution.pool == "inline":
        return score_here

    def score(job: ScoringJob, windows: Sequence[Candidates]) -> Iterable[Scores]:
        # Actors would take longer to start; and where they have GPUs, this process may have none.
        if len(windows) == 1 and job.device == "cpu":
            return score_here(job, windows)
        from taggants.training.scoring_pool import score_on_ray

        execution = config.execution
        return score_on_ray(
            job,
            windows,
            num_workers=execution.num_workers,
            num_cpus=execution.num_cpus,
            num_gpus=execution.num_gpus,
        )

    return score
