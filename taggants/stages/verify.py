"""Stage: queries suspects with the keys and certifies their answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from taggants.detection import Certificate, Registration, certify, software_versions
from taggants.errors import InputError
from taggants.reporting.progress import say
from taggants.run import Run, read_registration, registration_paths
from taggants.stages.asking import ask, ask_keys
from taggants.stages.questions import read_signing, registration_of
from taggants.storage import encode_json
from taggants.suspects import Owner, Suspect, check_suspect, question_evidence


def verify(run: Run, suspect: Suspect, *, label_map: str | None = None) -> Certificate:
    """Queries one suspect with every key, certifies the answer under the run's registration and files the certificate.

    Certificates are never written over: `certificates/<suspect>.json` holds the first of a suspect, `<suspect>-2.json` the
    second, and so on. A test that repeats an earlier one with the same outcome returns that one's certificate.

    Args:
        label_map: how the suspect's classes are those of the keys, as of `taggants.stages.asking.ask`; None: they are the same.

    Raises:
        InputError: the registration was changed, or the suspect has another number of classes or answers in no known form.
    """
    registration = checked_registration(run)
    check_suspect(suspect, registration, with_label_map=label_map is not None)
    labels = run.keys.labels
    recorded: dict[str, Any] = {}
    try:
        if registration.question is None:
            answers = ask_keys(run, registration, suspect)
            answers.check_usable()
            evidence = answers.evidence(labels)
        else:
            recorded["signing"], references = read_signing(run, registration)
            asked = ask(run, registration, suspect, references=references, label_map=label_map)
            answers, labels = asked.answers, labels[: asked.num_keys]
            evidence = question_evidence(registration.question, answers, references, labels, asked.label_map)
            recorded |= {
                "answers_sha256": asked.sha256,
                "covers": asked.covers,
                "label_map": asked.label_map,
                "num_left_out": len(labels) - len(evidence.ranks),
                "num_refused": answers.num_unusable,
                "look": len(run.root.list("certificates")) + 1,
            }
    except InputError as error:
        raise InputError(f"suspect {suspect.name!r}: {error}") from error
    if answers.num_unusable:
        say(
            f"verify: {answers.num_unusable} of {answers.num_images} answers of {suspect.name} hold NaN or are refusals: "
            "they never count for the owner"
        )
    certificate = certify(
        evidence,
        registration,
        suspect=suspect.name,
        suspect_sha256=suspect.sha256,
        created_at=datetime.now(UTC),
        software=software_versions(),
        **recorded,
    )
    content = encode_json(certificate.to_json())
    for path in _paths(suspect.name):
        if run.root.create_bytes(path, content):
            return certificate
        earlier = _filed(run, path)
        if earlier is not None and earlier.says_the_same_as(certificate):
            return earlier
    raise AssertionError("paths never end")


def owner_of(run: Run) -> Owner:
    """Returns what suspects need to know of the dataset that the keys belong to."""
    channels, image_size = run.model_size
    return Owner(run.registration.num_classes, (channels, image_size, image_size), run.index.class_names)


def verify_all(
    run: Run,
    suspects: Sequence[Suspect],
    *,
    label_map: str | None = None,
    on_refused: Callable[[InputError], object] | None = None,
) -> list[Certificate]:
    """Certifies each suspect.

    Args:
        label_map: of all of them, as in `verify`.
        on_refused: told why a suspect cannot be tested, and the others are; None: that is raised.

    Raises:
        InputError: as `verify`, or two suspects share a name, under which the certificates are filed.
    """
    names = [suspect.name for suspect in suspects]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"two suspects are named {name!r} after their folders; put them into folders of different names"
            )
    registration = checked_registration(run)
    certificates = []
    for suspect in suspects:
        try:
            check_suspect(suspect, registration, with_label_map=label_map is not None)
            certificates.append(verify(run, suspect, label_map=label_map))
        except InputError as error:
            if on_refused is None:
                raise
            on_refused(error)
    return certificates


def checked_registration(run: Run) -> Registration:
    """Returns the registration of the run folder, compared with keys, data, configuration and, once there is one, plan.

    Raises:
        InputError: there is none, or it is not the one that the run was crafted under.
    """
    registration = read_registration(run)
    expected = registration_of(run, registration.number)
    if run.keys.commitment != registration.keys_commitment:
        raise InputError(
            f"keys {run.config.keys.name!r} are not those registered in {run.root.uri}; use the key file it was crafted with"
        )
    for field in fields(registration):
        found, wanted = getattr(registration, field.name), getattr(expected, field.name)
        if found != wanted:
            raise InputError(
                f"{run.root.uri_of(registration_paths(run)[-1])} has {field.name} = {found!r} but the run's data and "
                f"configuration say {wanted!r}, so it was changed; restore the registration that was published"
            )
    if run.root.exists("plan.json"):
        plan = run.folder.read_plan()
        of_plan = (plan.config_hash, plan.keys_commitment, plan.dataset_fingerprint)
        if of_plan != (run.config.hash, registration.keys_commitment, registration.dataset_fingerprint):
            raise InputError(
                f"{run.root.uri_of('plan.json')} is of another configuration, other keys or other data than the registration "
                "beside it; restore both"
            )
    return registration


def certificate_path(run: Run, certificate: Certificate) -> str:
    """Returns where in the run folder `verify` filed a certificate.

    Raises:
        InputError: it is not there.
    """
    for path in _paths(certificate.suspect):
        if not run.root.exists(path):
            raise InputError(f"{run.root.uri} holds no such certificate of {certificate.suspect!r}; verify it again")
        if _filed(run, path) == certificate:
            return path
    raise AssertionError("paths never end")


def _paths(suspect: str) -> itertools.chain[str]:
    numbered = (f"certificates/{suspect}-{number}.json" for number in itertools.count(2))
    return itertools.chain([f"certificates/{suspect}.json"], numbered)


def _filed(run: Run, path: str) -> Certificate | None:
    """The certificate of a file; None if it is none, or was changed."""
    try:
        return Certificate.from_text(run.root.read_bytes(path))
    except InputError:
        return None
