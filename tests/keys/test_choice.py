"""Keys chosen out of a pool: the rule, and keys that are the same ones as without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from taggants.errors import InputError
from taggants.keys import Choice, KeySpec, create_key_file, derive_keys, farthest_points, load_key_set
from taggants.storage import Root

SECRET = bytes(range(32))
SPEC = KeySpec(3, 10, 1, 8, "block", {"cell_size": 1})
CHOICE = Choice(9, ("ab" * 32,), (0, 7, 2, 5))


def cosines_of(points: np.ndarray) -> np.ndarray:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit @ unit.T


def test_the_next_is_always_the_farthest_over_the_worst_network() -> None:
    random = np.random.default_rng(0)
    cosines = np.stack([cosines_of(random.normal(size=(30, 4))) for _ in range(2)])
    chosen = farthest_points(cosines, 8)
    assert chosen[0] == 0
    assert len(set(chosen)) == 8
    worst = np.rint(1000 * cosines.max(axis=0))
    for count in range(1, 8):
        before, left = list(chosen[:count]), [i for i in range(30) if i not in chosen[:count]]
        nearest = [worst[i, before].max() for i in left]
        assert worst[chosen[count], before].max() == min(nearest)
        assert chosen[count] == left[int(np.argmin(nearest))]  # the first of equals
    assert farthest_points(cosines, 3) == chosen[:3]
    assert sorted(farthest_points(cosines, 30)) == list(range(30))


def test_it_separates_better_than_the_first_ones() -> None:
    cosines = cosines_of(np.random.default_rng(1).normal(size=(200, 6)))[None]
    pairs = np.triu_indices(6, 1)
    chosen = farthest_points(cosines, 6)
    assert cosines[0][np.ix_(chosen, chosen)][pairs].max() < cosines[0][:6, :6][pairs].max() - 0.2


def test_a_chosen_key_is_the_candidate_with_its_label_and_id() -> None:
    candidates = derive_keys(SECRET, replace(SPEC, num_keys=9))
    keys = derive_keys(SECRET, replace(SPEC, choice=CHOICE))
    for place, index in enumerate((0, 7, 2)):
        assert np.array_equal(keys.images[place], candidates.images[index])
        assert keys.labels[place] == candidates.labels[index]
        assert (keys.ids[place], keys.salts[place]) == (candidates.ids[index], candidates.salts[index])
    others = [
        derive_keys(SECRET, replace(SPEC, choice=c))
        for c in (None, replace(CHOICE, networks=()), replace(CHOICE, pool=8))
    ]
    assert len({keys.commitment, *(other.commitment for other in others)}) == 4  # how they were chosen is bound as well


def test_a_choice_is_kept_in_the_key_file(tmp_path: Any) -> None:
    root = Root(str(tmp_path))

    def choose(secret: bytes, spec: KeySpec) -> KeySpec:
        assert (secret, spec) == (SECRET, SPEC)
        return replace(spec, choice=CHOICE)

    made = create_key_file(root, "keys.json", SPEC, SECRET, choose)
    assert made.spec.choice == CHOICE
    loaded = load_key_set(root, "keys.json")
    assert (loaded.spec, loaded.commitment) == (made.spec, made.commitment)
    fewer = load_key_set(root, "keys.json", 2)
    assert np.array_equal(fewer.images, made.images[:2])
    assert KeySpec.from_json(made.spec.to_json()) == made.spec
    assert "choice" not in SPEC.to_json()


@pytest.mark.parametrize(
    ("field", "value"), [("pool", 7), ("networks", ["x"]), ("indices", [0, 0, 1]), ("indices", [0, 1])]
)
def test_a_choice_that_cannot_be_is_refused(field: str, value: object) -> None:
    content = {**SPEC.to_json(), "choice": {**CHOICE.to_json(), field: value}}
    with pytest.raises(InputError):
        KeySpec.from_json(content)
    for choice in (None, [], {"pool": 9}, {**CHOICE.to_json(), "networks": "x"}):
        with pytest.raises(InputError, match="choice"):
            KeySpec.from_json({**SPEC.to_json(), "choice": choice})
