"""Stage: queries suspects with the keys and certifies their answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from taggants.detection import Certificate, certify, key_ranks, software_versions
from taggants.errors import InputError
from taggants.run import Run, read_registration
from taggants.suspects import Suspect, check_classes


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
