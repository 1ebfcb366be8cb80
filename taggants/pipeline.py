"""The stages of a run, in the order in which a job calls them; each reads what is done and does the rest.

data -> keys -> surrogate -> plan -> craft -> export -> train victims and controls -> verify.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from taggants.augmentation import MixAugment
from taggants.config import Config, TrainingConfig
from taggants.contact_sheet import draw_contact_sheet, draw_keys
from taggants.crafting.driver import DriveResult, drive
from taggants.crafting.events import Pool
from taggants.crafting.inline_pool import InlinePool
from taggants.crafting.reuse import CraftedShards, shard_addresses
from taggants.crafting.settings import hardware_of, optimisation_of, perception_of
from taggants.crafting.shard import (
    Companions,
    CraftingJob,
    CraftingWorker,
    SignedSet,
    read_lpips,
    read_signed_table,
)
from taggants.crafting.status import Status, watching
from taggants.data.source import ImageSource
from taggants.detection import Certificate, certify, key_ranks, software_versions
from taggants.errors import FailedShards, InputError
from taggants.export import ExportManifest, check_originals, export_dataset, read_signed
from taggants.keys import Registration, create_key_file, derive_keys
from taggants.manifest import Plan, Shard
from taggants.perceptual import ImageQuality, image_quality
from taggants.perturbation import epsilon_levels
from taggants.progress import say, stage
from taggants.run import Run, model_spec, read_registration, signing_size
from taggants.signing import check_capacity, random_priorities, signing_sets
from taggants.storage import Root, encode_json
from taggants.suspects import CheckpointSuspect, Suspect, check_classes
from taggants.training.loop import EpochReport, Optimiser
from taggants.training.ray_trainer import (
    TrainedModel,
    TrainingJob,
    find_initial_weights,
    run_training,
    run_trainings,
)
from taggants.training.recipes import Recipe, hash_seed
from taggants.training.scoring import Candidates, Scores, ScoringJob, ScoringPass, candidate_scores, score_here

_NUM_COMPANIONS = 256

DEMONSTRATION_SECRET = hashlib.sha256(b"Data Taggants demonstration secret: public, so worthless as evidence").digest()


def prepare_keys(run: Run) -> Registration:
    """Creates the key file unless it exists, draws its picture beside it, and registers the test in the run folder.

    Raises:
        InputError: a class is too small for its keys, the key file holds the public demonstration secret and should not
            (or the reverse), or the run folder holds another registration.
    """
    keys = run.config.keys
    path = f"{keys.name}.json"
    if not run.keys_root.exists(path):
        secret = DEMONSTRATION_SECRET if keys.demonstration else None
        try:
            create_key_file(run.keys_root, path, run.key_spec, secret)
        except InputError:
            if not run.keys_root.exists(path):
                raise
            # else another driver drew it meanwhile: its keys are the keys
    is_public = run.keys.commitment == derive_keys(DEMONSTRATION_SECRET, run.key_spec).commitment
    if is_public != keys.demonstration:
        found = "the public demonstration secret" if is_public else "a secret of its own"
        raise InputError(
            f"key file {run.keys_root.uri_of(path)} holds {found} but keys.demonstration = {str(keys.demonstration).lower()}; "
            "choose another keys.name"
        )
    names = run.index.class_names
    texts = [names[label] if names else str(label) for label in run.keys.labels]
    run.keys_root.write_bytes(f"{keys.name}.png", draw_keys(run.keys.images, texts), private=True)
    # After the keys are drawn and kept: drawing until they fit would leave labels that are not i.i.d. uniform.
    check_capacity(run.index.labels, run.keys.labels, signing_size(run))
    return _register(run)


def _register(run: Run) -> Registration:
    """Writes the registration of keys that are there, or finds the same one."""
    keys, detection = run.config.keys, run.config.detection
    registration = Registration(
        keys_commitment=run.keys.commitment,
        num_keys=keys.num_keys,
        num_classes=run.index.num_classes,
        dataset_fingerprint=run.index.fingerprint,
        statistic=detection.statistic,
        top_k=detection.top_k,
        alpha=detection.alpha,
    )
    created = run.root.create_bytes("registration.json", encode_json(registration.to_json()))
    earlier = registration if created else read_registration(run)
    if earlier != registration:
        # Before there is a plan nothing is signed: an image was mended since, and the run may start again.
        is_new_start = earlier.keys_commitment == registration.keys_commitment and not run.root.exists("plan.json")
        if not is_new_start:
            raise InputError(
                f"run folder {run.root.uri} is registered for other keys or data; use those, or another output.root or "
                "keys.name"
            )
        run.root.write_bytes("registration.json", encode_json(registration.to_json()))
    return registration


def training_job(
    run: Run,
    name: str,
    training: TrainingConfig,
    source: ImageSource,
    fingerprint: str,
    seed: int,
    keep_epochs: tuple[int, ...] = (),
) -> TrainingJob:
    """Returns the training of a model of that name.

    Raises:
        InputError: there is no checkpoint at `training.init_from`.
    """
    recipe = Recipe(training.recipe, training.crop_padding, training.flip, run.index.num_classes)
    return TrainingJob(
        name=name,
        spec=model_spec(run, training),
        recipe=recipe,
        optimiser=Optimiser(
            training.num_epochs,
            training.batch_size,
            training.learning_rate,
            training.weight_decay,
            training.optimiser or recipe.parts.optimiser,
            training.gradient_clip or recipe.parts.clip_norm,
        ),
        seed=seed,
        train_source=source,
        test_source=run.sources[1],
        train_fingerprint=fingerprint,
        test_fingerprint=run.sources[1].index().fingerprint,
        num_threads=training.num_threads,
        num_workers=training.num_workers,
        precision=training.precision,
        channels_last=training.channels_last,
        device=training.device,
        keep_epochs=keep_epochs,
        image_size=run.config.data.image_size,
        initial=None if training.init_from is None else find_initial_weights(training.init_from),
        ema_decay=training.ema_decay,
        compile=training.compile,
        loader=training.loader,
        num_readers=training.num_readers,
    )


def _train(run: Run, job: TrainingJob) -> TrainedModel:
    """Trains, resumes or finds the model; see `run_training`."""
    epochs: list[int] = []
    with stage(f"train {job.name}", job.optimiser.num_epochs, "epochs") as advance:

        def show(report: EpochReport) -> None:
            epochs.append(report.epoch)
            advance(report.epoch + 1, f"loss {report.loss:.3f}")

        trained = run_training(job, run.models, show)
    found = not epochs and job.num_workers == 0
    effort = "found done" if found else f"{trained.num_epochs} epochs in {trained.seconds:.0f} s"
    say(f"train {job.name}: accuracy {trained.accuracy:.4f}, {effort}")
    return trained


def train_surrogates(run: Run) -> list[TrainedModel]:
    """Trains the configured surrogates, of other seeds than every victim: on the clean data, or, with
    `surrogate.retrainings`, on the signed data of the same run with one retraining less, which is crafted first (Sleeper Agent,
    Souri et al., NeurIPS 2022, section 3).

    Raises:
        FailedShards: of a run with fewer retrainings.
    """
    earlier = _run_before_retraining(run)
    if earlier is None:
        source, fingerprint = run.sources[0], run.index.fingerprint
    else:
        fingerprint = _sign_before_retraining(earlier).fingerprint
        source = run.sources[0].at(earlier.root.child("signed"))
    jobs = [
        training_job(
            run,
            f"surrogate-{index}",
            training,
            source,
            fingerprint,
            hash_seed(run.config.seed, 0, index),
            tuple(sorted({max(1, round(p * training.num_epochs)) for p in run.config.surrogate.checkpoints[:-1]})),
        )
        for index, training in enumerate(run.config.surrogate.trainings)
    ]
    return [_train(run, job) for job in jobs]


def _run_before_retraining(run: Run) -> Run | None:
    """The same run with one retraining less: a run folder of its own, also for somebody who asks for just that."""
    surrogate = run.config.surrogate
    if surrogate.retrainings == 0:
        return None
    fewer = surrogate.model_copy(update={"retrainings": surrogate.retrainings - 1})
    earlier = Run(run.config.model_copy(update={"surrogate": fewer}))
    earlier.sources = run.sources  # hashed already
    return earlier


def _sign_before_retraining(run: Run) -> ExportManifest:
    """Crafts and exports a run whose signed data the next surrogates learn from."""
    say(f"retrain: on the data signed with {run.config.surrogate.retrainings} retrainings, in {run.root.uri}")
    run.write_config()
    _register(run)
    surrogates = train_surrogates(run)
    plan = make_plan(run, surrogates)
    drive = craft(run, plan, surrogates)
    if drive.failed:
        shard, reason = sorted(drive.failed.items())[0]
        raise FailedShards(
            f"shard {shard} of run {run.root.uri} failed for good: {reason}; mend the cause and start again"
        )
    return export(run, plan).manifest


def make_plan(run: Run, surrogates: Sequence[TrainedModel]) -> Plan:
    """Chooses the signing sets, cuts them into shards of one key each and registers the plan in the run folder.

    Raises:
        InputError: the run folder holds another plan.
    """
    config = run.config
    first = run
    while (earlier := _run_before_retraining(first)) is not None:
        first = earlier
    # Retrained surrogates have learnt the signed images: by their scores others would be signed every time.
    clean = surrogates if first is run else train_surrogates(first)
    sets = signing_sets(run.index.labels, run.keys.labels, signing_size(run), _priorities(run, clean))
    check_originals(run.sources[0], np.sort(np.concatenate(sets)).tolist())
    shards = tuple(
        Shard(index, index, tuple(int(i) for i in ids), seed=hash_seed(config.seed, 1, index))
        for index, ids in enumerate(sets)
    )
    ensemble = hashlib.sha256("".join(sha256 for _, sha256 in _checkpoints(surrogates)).encode()).hexdigest()
    plan = Plan(config.hash, run.index.fingerprint, run.keys.commitment, ensemble, shards)
    run.folder.register_plan(plan)
    return plan


def _priorities(run: Run, surrogates: Sequence[TrainedModel]) -> NDArray[np.floating]:
    """Higher for images to sign first; scores are means over the surrogates."""
    config = run.config
    selection = config.signing.selection
    if selection == "random":
        return random_priorities(run.index.num_rows, hash_seed(config.seed, 2))
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
        return candidate_scores(
            job, labels, classes, store, _scoring_pass(config), lambda num_done: advance(num_done, "")
        )


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


def _checkpoints(surrogates: Sequence[TrainedModel]) -> tuple[tuple[str, str], ...]:
    """Path and SHA-256 of everything that is crafted on."""
    return tuple(checkpoint for surrogate in surrogates for checkpoint in surrogate.checkpoints)


def _companions(run: Run, plan: Plan) -> Companions | None:
    """Unsigned images, drawn at random by the run's seed, that signed ones are mixed with."""
    share = run.config.crafting.mixing
    if share == 0:
        return None
    signed = {sample_id for shard in plan.shards for sample_id in shard.sample_ids}
    order = np.random.default_rng([run.config.seed, 4]).permutation(run.index.num_rows)
    chosen = [int(i) for i in order[: _NUM_COMPANIONS + len(signed)] if int(i) not in signed][:_NUM_COMPANIONS]
    if not chosen:
        raise InputError("crafting.mixing needs images that are not signed; lower the budget or set it to 0")
    mix = MixAugment(run.index.num_classes, probability=share)
    return Companions(mix, tuple(chosen), tuple(int(run.index.labels[i]) for i in chosen))


def craft(run: Run, plan: Plan, surrogates: Sequence[TrainedModel]) -> DriveResult:
    """Crafts, on the configured pool, every shard that is not committed yet and that no earlier run has crafted."""
    config = run.config
    job = CraftingJob(
        run=run.root,
        models=run.models,
        plan_hash=plan.plan_hash,
        source=run.sources[0],
        image_size=run.model_size[1],
        surrogates=_checkpoints(surrogates),
        optimisation=optimisation_of(config, run.model_size[1]),
        hardware=hardware_of(config.crafting),
        perception=perception_of(config.crafting),
        companions=_companions(run, plan),
        key_images=run.keys.images,
        key_labels=run.keys.labels,
    )
    addresses = shard_addresses(job, run.index.fingerprint, run.keys.ids, plan.shards)
    execution = config.execution
    per_image = job.optimisation.sample_steps_per_image(len(job.surrogates))
    with stage("craft", len(plan.shards), "shards") as advance:
        show_metrics = _ray_metrics(config)

        def show(status: Status) -> None:
            advance(status.num_done, _status_note(status))
            show_metrics(status)

        threads = torch.get_num_threads()
        try:
            with watching(run.root, per_image, show) as watch:
                return drive(
                    plan,
                    run.folder,
                    _pool(config, job),
                    max_failures=execution.max_failures,
                    max_losses=execution.max_losses,
                    earlier=CraftedShards(Root(config.output.root), config.hash, addresses),
                    on_progress=watch,
                )
        finally:
            torch.set_num_threads(threads)  # an inline worker sets its own


def _status_note(status: Status) -> str:
    """What the terminal says of a run beside done shards, rate and ETA."""
    parts = [f"{len(status.running)} running"]
    if status.quarantined:
        parts.append(f"{len(status.quarantined)} failed")
    if status.mean_alignment is not None:
        parts.append(f"alignment {status.mean_alignment:.3f}")
    if status.sample_steps_per_s_recent is not None:
        parts.append(f"{status.sample_steps_per_s_recent:.3g} sample-steps/s")
    return ", ".join(parts)


def _ray_metrics(config: Config) -> Callable[[Status], None]:
    """Shows a status as Ray's metrics; nothing without Ray."""
    if config.execution.pool == "inline":
        return lambda status: None
    from taggants.crafting.ray_metrics import RayMetrics

    return RayMetrics(config.hash).show


def _pool(config: Config, job: CraftingJob) -> Pool:
    execution = config.execution
    make_worker = partial(CraftingWorker, job)
    if execution.pool == "inline":
        return InlinePool(make_worker())
    from taggants.crafting.ray_pool import RayPool

    return RayPool(
        make_worker,
        num_workers=execution.num_workers,
        num_cpus=execution.num_cpus,
        num_gpus=execution.num_gpus,
        max_shard_seconds=execution.max_shard_seconds,
    )


def read_signed_sets(run: Run, plan: Plan) -> list[SignedSet]:
    """Returns the crafted sets of all shards in plan order, each checked against its commit.

    Raises:
        InputError: a shard is not committed, or its file differs from its commit.
    """
    commits = run.folder.read_commits()
    missing = [shard.index for shard in plan.shards if shard.index not in commits]
    if missing:
        raise InputError(
            f"shard {missing[0]} of run {run.root.uri} is not committed; run jobs/craft.py again to finish it"
        )
    return [read_signed_table(run.folder.read_attempt(commits[shard.index])) for shard in plan.shards]


@dataclass(frozen=True)
class ExportResult:
    """signed: the export. quality: of the taggants as read from it. largest_change: the same, in 8-bit levels; above
    epsilon only where JPEG was between. alignment, alignment_before: means over keys, in [-1, 1]."""

    signed: Root
    manifest: ExportManifest
    num_taggants: int
    quality: ImageQuality
    largest_change: int
    alignment: float
    alignment_before: float


def export(run: Run, plan: Plan) -> ExportResult:
    """Writes and checks `signed/`, the dataset to publish, and draws the contact sheet beside it."""
    sets = read_signed_sets(run, plan)
    images: dict[int, NDArray[np.uint8]] = {}
    for signed_set in sets:
        images |= signed_set.images
    destination = run.root.child("signed")
    with stage("export", run.index.num_rows, "rows") as advance:
        manifest = export_dataset(
            run.sources[0],
            images,
            destination,
            private=run.config.output.private_manifest,
            on_progress=lambda done, total: advance(done, ""),
        )
    ids = sorted(images)
    originals = run.sources[0].read_sized(ids)
    levels = max(_largest_change(original, images[i]) for original, i in zip(originals, ids, strict=True))
    assert levels <= epsilon_levels(run.config.crafting.epsilon), "a taggant left the epsilon ball"
    exported = read_signed(run.sources[0], destination, ids)
    signed = [exported[i] for i in ids]
    weights_uri = run.config.crafting.lpips_weights
    lpips = None if weights_uri is None else read_lpips(weights_uri)
    quality = image_quality(
        [torch.from_numpy(image) for image in originals], [torch.from_numpy(image) for image in signed], lpips
    )
    _draw_contact_sheet(run, plan, exported)
    return ExportResult(
        signed=destination,
        manifest=manifest,
        num_taggants=len(ids),
        quality=quality,
        largest_change=max(_largest_change(*pair) for pair in zip(originals, signed, strict=True)),
        alignment=float(np.mean([s.alignment for s in sets])),
        alignment_before=float(np.mean([s.alignment_before for s in sets])),
    )


def _largest_change(original: NDArray[np.uint8], signed: NDArray[np.uint8]) -> int:
    """In 8-bit levels."""
    return int(np.abs(original.astype(np.int16) - signed).max())


def _draw_contact_sheet(run: Run, plan: Plan, images: Mapping[int, NDArray[np.uint8]]) -> None:
    """One taggant of each of the first keys, in the order of the data: that of the keys would tell their labels."""
    shown = sorted([shard.sample_ids[0] for shard in plan.shards][:12])
    names = run.index.class_names
    labels = [int(run.index.labels[i]) for i in shown]
    captions = [names[label] if names else f"class {label}" for label in labels]
    originals, signed = run.sources[0].read_sized(shown), [images[i] for i in shown]
    # Cropped where they differ in size: resizing would shrink the differences that the sheet shows and measures.
    height, width = np.min([image.shape[1:] for image in originals], axis=0)
    sheet = draw_contact_sheet(_centres(originals, height, width), _centres(signed, height, width), captions)
    run.root.write_bytes("contact_sheet.png", sheet)


def _centres(images: Sequence[NDArray[np.uint8]], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of each image, uint8 [n, C, height, width]."""
    starts = [((image.shape[1] - height) // 2, (image.shape[2] - width) // 2) for image in images]
    return np.stack(
        [image[:, top : top + height, left : left + width] for image, (top, left) in zip(images, starts, strict=True)]
    )


def suspect_job(run: Run, role: str, index: int) -> TrainingJob:
    """Returns the training of victim or control number `index`: same recipe and seed, signed or clean data.

    Raises:
        InputError: a victim's signed data are not exported yet.
    """
    seed = hash_seed(run.config.seed, 3, index)
    training = run.config.evaluation.training
    if role == "control":
        return training_job(run, f"control-{index}", training, run.sources[0], run.index.fingerprint, seed)
    fingerprint = run.signed_manifest.fingerprint
    source = run.sources[0].at(run.root.child("signed"))
    return training_job(run, f"victim-{index}", training, source, fingerprint, seed)


def train_suspect(run: Run, role: str, index: int) -> TrainedModel:
    """Trains victim or control number `index` of the owner's own evaluation."""
    return _train(run, suspect_job(run, role, index))


def train_suspects(run: Run) -> dict[str, list[TrainedModel]]:
    """Trains, resumes or finds the configured "victim"s and "control"s; side by side where Ray crafts, too.

    One after the other where one takes several workers, or leaves the other CPUs to Ray Data, which reads for it.
    """
    evaluation = run.config.evaluation
    counts = {"victim": evaluation.num_victims, "control": evaluation.num_controls}
    jobs = [suspect_job(run, role, index) for role, count in counts.items() for index in range(count)]
    training = evaluation.training
    if run.config.execution.pool == "inline" or training.num_workers > 0 or training.loader == "ray":
        trained = [_train(run, job) for job in jobs]
    else:
        with stage("train victims and controls", len(jobs), "models") as advance:
            trained = run_trainings(
                jobs, run.models, num_gpus=evaluation.gpus_per_model, on_trained=lambda done: advance(done, "")
            )
        for model in trained:
            say(
                f"train {model.name}: accuracy {model.accuracy:.4f}, {model.num_epochs} epochs in {model.seconds:.0f} s"
            )
    return {"victim": trained[: counts["victim"]], "control": trained[counts["victim"] :]}


def verify(run: Run, suspect: Suspect) -> Certificate:
    """Queries one suspect with every key, certifies the answer under the run's registration and writes the certificate.

    Raises:
        InputError: the suspect has another number of classes, or the keys are not the registered ones.
    """
    registration = read_registration(run)
    if run.keys.commitment != registration.keys_commitment:
        raise InputError(
            f"keys {run.config.keys.name!r} are not those registered in {run.root.uri}; use the key file it was crafted with"
        )
    check_classes(suspect, registration.num_classes)
    certificate = certify(
        key_ranks(suspect.scores(run.keys.images), run.keys.labels),
        suspect=suspect.name,
        suspect_sha256=suspect.sha256,
        keys_commitment=registration.keys_commitment,
        registration_sha256=registration.registration_sha256,
        dataset_fingerprint=registration.dataset_fingerprint,
        num_keys=registration.num_keys,
        num_classes=registration.num_classes,
        top_k=registration.top_k,
        alpha=registration.alpha,
        statistic=registration.statistic,
        created_at=datetime.now(UTC),
        software=software_versions(),
    )
    run.root.write_json(f"certificates/{suspect.name}.json", certificate.to_json())
    return certificate


def verify_all(run: Run, suspects: Sequence[Suspect]) -> list[Certificate]:
    """Certifies each suspect; all are checked before the first is queried.

    Raises:
        InputError: as `verify`, or two suspects share a name, under which the certificates are filed.
    """
    names = [suspect.name for suspect in suspects]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"two suspects are named {name!r} after their folders; put them into folders of different names"
            )
    registration = read_registration(run)
    for suspect in suspects:
        check_classes(suspect, registration.num_classes)
    return [verify(run, suspect) for suspect in suspects]


@dataclass(frozen=True)
class Rehearsed:
    """One model of the owner's own evaluation. accuracy: on the test split, in [0, 1]."""

    is_victim: bool
    accuracy: float
    certificate: Certificate


def rehearse(run: Run) -> dict[str, Rehearsed]:
    """Trains and tests the configured victims and controls; returns them by name, victims first."""
    rehearsal = {}
    for role, models in train_suspects(run).items():
        for trained in models:
            suspect = CheckpointSuspect(run.models.uri_of(trained.path), trained.path.partition("/")[0])
            rehearsal[trained.name] = Rehearsed(role == "victim", trained.accuracy, verify(run, suspect))
    return rehearsal
