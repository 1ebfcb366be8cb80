"""Stage: the secret keys and the registration of the test.

The key file is drawn once and kept; the registration in the run folder fixes keys, data, statistic and alpha.
"""

from __future__ import annotations

from typing import Final

from taggants.crafting.selection import check_capacity
from taggants.detection import Registration
from taggants.errors import InputError
from taggants.keys import KeysCommitment, commit_to_keys, create_key_file, derive_keys, draw_labels
from taggants.keys.derivation import DEMONSTRATION_SECRET
from taggants.reporting.contact_sheet import draw_keys
from taggants.reporting.progress import say
from taggants.run import Run, read_registration, registration_paths, signing_size
from taggants.stages.key_choice import chooser_of
from taggants.stages.questions import registration_of
from taggants.storage import encode_json

COMMITMENT_PATH: Final = "commitment.json"


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
            create_key_file(run.keys_root, path, run.key_spec, secret, chooser_of(run))
        except InputError:
            if not run.keys_root.exists(path):
                raise
            # else another driver drew it meanwhile: its keys are the keys
    public = derive_keys(DEMONSTRATION_SECRET, run.keys.spec, run.keys.randomness)
    is_public = run.keys.commitment == public.commitment
    if is_public != keys.demonstration:
        found = "the public demonstration secret" if is_public else "a secret of its own"
        raise InputError(
            f"key file {run.keys_root.uri_of(path)} holds {found} but keys.demonstration = {str(keys.demonstration).lower()}; "
            "choose another keys.name"
        )
    # After the keys are drawn and kept: drawing until they fit would leave labels that are not i.i.d. uniform.
    check_capacity(run.index.labels[run.fitness.is_fit], run.keys.labels, signing_size(run))
    registration = register(run)
    names = run.index.class_names  # of the registered data: others must not change the picture
    texts = [names[label] if names else str(label) for label in run.keys.labels]
    run.keys_root.write_bytes(f"{keys.name}.png", draw_keys(run.keys.images, texts), private=True)
    return registration


def commit_keys(run: Run, source: str, round_: str) -> KeysCommitment:
    """Draws the secret unless there is one, and writes the commitment to it into the run folder: to be published before the
    source gives out the value of the round.

    Raises:
        InputError: keys.demonstration is set, or the key file or the run folder is committed to another round, or to nothing.
    """
    keys = run.config.keys
    if keys.demonstration:
        raise InputError("keys.demonstration is true, and a public secret cannot be committed to; set it to false")
    path = f"{keys.name}.json"
    choose = None if run.keys_root.exists(path) else chooser_of(run)
    commitment = commit_to_keys(run.keys_root, path, run.key_spec, source, round_, choose)
    content = encode_json(commitment.to_json())
    if not run.root.create_bytes(COMMITMENT_PATH, content) and run.root.read_bytes(COMMITMENT_PATH) != content:
        raise InputError(
            f"{run.root.uri_of(COMMITMENT_PATH)} commits to another secret or round; use those keys, or another output.root"
        )
    return commitment


def draw_keys_labels(run: Run, value: str) -> Registration:
    """Draws the labels from the secret and the public value, and registers the test as `prepare_keys` does.

    Raises:
        InputError: there is no commitment, or the labels were drawn from another value.
    """
    path = f"{run.config.keys.name}.json"
    if not run.keys_root.exists(path):
        raise InputError(f"{run.keys_root.uri_of(path)} does not exist; commit to keys first: taggants keys commit")
    draw_labels(run.keys_root, path, value)
    return prepare_keys(run)


def register(run: Run) -> Registration:
    """Writes the registration of keys that are there, or finds the same one.

    Raises:
        InputError: the run folder holds another one. If only the data changed since and nothing is planned yet, the owner may
            state that it is void: then the new one lies beside it. None is ever written over.
    """
    registration = registration_of(run)
    content = encode_json(registration.to_json())
    if not registration_paths(run) and run.root.create_bytes("registration.json", content):
        return registration
    earlier = read_registration(run)
    if earlier == registration:
        return registration
    if earlier.keys_commitment != registration.keys_commitment or run.root.exists("plan.json"):
        raise InputError(
            f"run folder {run.root.uri} is registered for other keys or data; use those, or another output.root or "
            "keys.name"
        )
    paths, void = registration_paths(run), earlier.registration_sha256
    if void not in run.config.output.void_registrations:
        raise InputError(
            f"the data changed since {run.root.uri_of(paths[-1])} was written; restore them, or, if that registration is to be "
            f"void (say so where it was published), set output.void_registrations=[{void}]"
        )
    path = f"registration-{len(paths) + 1}.json"
    if not run.root.create_bytes(path, content) and read_registration(run) != registration:
        raise InputError(f"another driver registered other data in {run.root.uri}; start again with one driver")
    say(f"test    registration {void} in {paths[-1]} is VOID, since the data changed; the new one is {path}")
    return registration
