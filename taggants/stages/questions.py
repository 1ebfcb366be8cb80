"""What the stages share on the registered question: its covers, its references and their recorded answers."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from taggants.detection import Registration
from taggants.detection.question import AMPLITUDE_UNIT, Question, balanced_covers
from taggants.detection.registration import SigningRecord
from taggants.errors import InputError
from taggants.export import MANIFEST_PATH, read_manifest
from taggants.keys import registration_number
from taggants.reporting.progress import say
from taggants.run import Run, read_registration
from taggants.seeds import hash_seed
from taggants.stages.asking import answers_path, ask
from taggants.stages.model_training import surrogate_jobs, train_model, train_models, training_job
from taggants.storage import encode_json
from taggants.suspects import Answers, CheckpointSuspect
from taggants.suspects.recorded_answers import decode_answers
from taggants.training.given import GivenModel
from taggants.training.job import TrainingJob

SIGNING_PATH = "signing.json"


def registration_of(run: Run, number: int | None = None) -> Registration:
    """Returns the registration that keys, data and configuration of a run ask for, whatever its folder holds.

    number: among the registrations of its secret, if the key folder does not know it; None: it gets the next one there.

    Raises:
        InputError: the test split has too few images for the configured covers.
    """
    detection = run.config.detection
    question = question_of(run)
    with_question = question is not None
    registration = Registration(
        keys_commitment=run.keys.commitment,
        num_keys=run.config.keys.num_keys,
        num_classes=run.index.num_classes,
        dataset_fingerprint=run.index.fingerprint,
        statistic=detection.statistic,
        top_k=detection.top_k,
        alpha=detection.alpha,
        question=question,
        references=tuple(f"{job.name}-{job.identity}" for job in reference_jobs(run)),
        class_names=run.index.class_names if with_question else None,
        image_shape=(run.model_size[0], run.model_size[1], run.model_size[1]) if with_question else None,
        keys_root=run.keys.root if with_question else None,
        num_suspects=detection.num_suspects,
        num_looks=detection.num_looks,
        demonstration=with_question and run.config.keys.demonstration,
        randomness=run.keys.randomness if with_question else None,
    )
    if not with_question:
        return registration
    content = registration.registration_sha256
    counted = registration_number(run.keys_root, run.config.keys.name, content, claim=number is None) or number
    assert counted is not None, "claimed"
    return replace(registration, number=counted)


def question_of(run: Run) -> Question | None:
    """Returns the question that a run asks, None if it is the key images alone.

    Raises:
        InputError: the test split has too few images for the configured covers.
    """
    section = run.config.detection.question
    if section is None:
        return None
    covers = run.sources[1].index()
    num_covers = 0 if run.config.data.test is None else min(section.num_covers, covers.num_rows)
    amplitudes = tuple(sorted(round(a * AMPLITUDE_UNIT) for a in section.amplitudes)) if num_covers else ()
    # Each amplitude, and the bare key, weigh alike: the bare key as much as all covers of one amplitude.
    return Question(
        covers_fingerprint=covers.fingerprint if num_covers else "",
        cover_ids=balanced_covers(covers.labels, num_covers, run.index.num_classes) if num_covers else (),
        amplitudes=amplitudes,
        overlay_weights=(1,) * len(amplitudes),
        bare_shift=0,
        bare_weight=max(1, num_covers) if section.bare_key else 0,
        top_m=section.top_m or run.index.num_classes,
    )


def reference_jobs(run: Run) -> list[TrainingJob | GivenModel]:
    """Returns the models that suspects are compared with, none where there is no question: the clean surrogates, those of others
    that are named, then the models of `Config.reference_trainings`, of other seeds, `reference-0` and so on.
    """
    if run.config.detection.question is None:
        return []
    return [*surrogate_jobs(run), *run.given_references, *own_reference_jobs(run)]


def own_reference_jobs(run: Run) -> list[TrainingJob]:
    """Returns the models that are trained only for suspects to be compared with them, none where there is no question."""
    return [
        training_job(
            run,
            f"reference-{index}",
            training,
            run.sources[0],
            run.index.fingerprint,
            hash_seed(run.config.seed, 4, index),
        )
        for index, training in enumerate(run.config.reference_trainings)
    ]


def train_references(run: Run) -> None:
    """Trains several references of a question side by side where Ray crafts, too; one alone is left to `record_signing`."""
    jobs = own_reference_jobs(run)
    if run.config.execution.pool == "ray" and len(jobs) > 1 and not run.root.exists(SIGNING_PATH):
        train_models(run, jobs, "references")


def record_signing(run: Run) -> None:
    """Asks the references the registered question, and writes what came of it and the signed data's fingerprint.

    Does nothing where no question is registered, or where the record is there already.

    Raises:
        InputError: nothing was exported yet.
    """
    if run.config.detection.question is None or run.root.exists(SIGNING_PATH):
        return
    registration = read_registration(run)
    weights, answers = [], []
    for job in reference_jobs(run):
        trained = train_model(run, job)
        reference = CheckpointSuspect(run.models.uri_of(trained.path), job.name)
        weights.append(trained.sha256)
        answers.append(ask(run, registration, reference).sha256)
    record = SigningRecord(
        registration.registration_sha256, run.signed_manifest.fingerprint, tuple(weights), tuple(answers)
    )
    run.root.create_bytes(SIGNING_PATH, encode_json(record.to_json()))
    say(f"publish {run.root.uri_of(SIGNING_PATH)} with the data, or this number in it:\n        {record.sha256}")


def read_signing(run: Run, registration: Registration) -> tuple[SigningRecord, list[Answers]]:
    """Returns the record that completes a registration, and the references' answers.

    Raises:
        InputError: there is none, it is of another registration, recorded answers were changed, or it differs from the export
            or the references' weights where these are still there.
    """
    uri = run.root.uri_of(SIGNING_PATH)
    if not run.root.exists(SIGNING_PATH):
        raise InputError(
            f"{uri} is missing, which names the references' answers; run `taggants craft` again to write it"
        )
    try:
        record = SigningRecord.from_text(run.root.read_bytes(SIGNING_PATH))
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
    if record.registration_sha256 != registration.registration_sha256:
        raise InputError(f"{uri} completes another registration than the one beside it; restore both")
    if len(record.reference_answers) != len(registration.references):
        raise InputError(f"{uri} does not name the registered references; restore it")
    _check_signing(run, record)
    return record, [read_answers(run, registration, sha256) for sha256 in record.reference_answers]


def _check_signing(run: Run, record: SigningRecord) -> None:
    """Compares the record with the files that it is of, where they are still there."""
    uri, signed = run.root.uri_of(SIGNING_PATH), run.root.child("signed")
    if signed.exists(MANIFEST_PATH) and read_manifest(signed).fingerprint != record.signed_fingerprint:
        raise InputError(
            f"{uri} has another signed_fingerprint than {signed.uri_of(MANIFEST_PATH)}; restore the record"
        )
    for job, sha256 in zip(reference_jobs(run), record.reference_weights, strict=True):
        path = f"{job.folder}/model.safetensors"
        if run.models.exists(path) and run.models.sha256(path) != sha256:
            raise InputError(
                f"{uri} names other reference_weights than those of {run.models.uri_of(path)}; restore the record"
            )


def read_answers(run: Run, registration: Registration, sha256: str) -> Answers:
    """Returns recorded answers; InputError: the file is missing, damaged or was changed."""
    data = run.root.read_bytes(answers_path(sha256))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{run.root.uri_of(answers_path(sha256))} was changed after it was recorded; restore it")
    return decode_answers(data, registration.num_classes, registration.num_images)
