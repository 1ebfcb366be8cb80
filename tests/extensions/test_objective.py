"""An objective from outside: one function and one registration, from the configuration to a certificate."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import cosine_similarity

from taggants.alignment import OBJECTIVES, alignment, alignment_direction
from taggants.alignment.gradients import inner
from taggants.config import load_config
from taggants.errors import InputError
from tests.jobs.running import exit_code, settings_in


def inner_product(key, signing):
    return inner(key, signing), [part.clone() for part in key]


OBJECTIVES.register("inner_product", inner_product)


def test_a_registered_objective_is_crafted_exported_and_verified(tmp_path):
    by_objective = {}
    for objective in ("cosine", "inner_product"):
        folder = tmp_path / objective
        settings = settings_in(
            folder,
            f"crafting.objective={objective}",
            "keys.demonstration=true",
            "keys.name=demonstration",
            "crafting.num_restarts=2",
            "evaluation.num_victims=1",
        )
        assert exit_code("craft", settings) == 0
        (run,) = (path.parent for path in (folder / "runs").glob("*/plan.json"))
        assert json.loads((run / "config.json").read_text())["config"]["crafting"]["objective"] == objective
        assert len(list((run / "certificates").glob("victim-0-*.json"))) == 1
        manifest = json.loads((run / "signed" / "manifest.json").read_text())
        by_objective[objective] = manifest["fingerprint"]
        (checkpoint,) = (folder / "runs" / "models").glob("victim-0-*/model.safetensors")
        assert exit_code("verify", [*settings, f"verify.suspects=[{checkpoint}]"]) == 0
    assert by_objective["cosine"] != by_objective["inner_product"]


def test_an_unknown_objective_is_bad_input_that_lists_the_known():
    with pytest.raises(InputError, match="objective 'sine' does not exist; use one of cosine"):
        load_config(None, ["crafting.objective=sine"])


@pytest.mark.parametrize("name", ["cosine", "inner_product"])
def test_the_direction_is_the_derivative_of_the_value(name):
    """Against autograd through one flat vector."""
    generator = torch.Generator().manual_seed(0)
    key, signing = ([torch.randn(s, generator=generator).double() for s in ((3, 4), (5,))] for _ in range(2))
    flat_key = torch.cat([part.flatten() for part in key])
    flat = torch.cat([part.flatten() for part in signing]).requires_grad_(True)
    expected = cosine_similarity(flat_key, flat, dim=0) if name == "cosine" else flat_key @ flat
    value, direction = OBJECTIVES[name](key, signing)
    torch.testing.assert_close(value, expected.detach())
    (by_signing,) = torch.autograd.grad(expected, [flat])
    torch.testing.assert_close(torch.cat([part.flatten() for part in direction]), by_signing)


def test_inner_products_of_a_device_equal_those_of_the_cpu(monkeypatch):
    """The path of a GPU, taken on the CPU: other sums, and weights in both memory layouts."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3, 3, 3), (6, 4, 1, 1), (7,), (5, 7))

    def drawn():
        parts = [torch.randn(shape, generator=generator) for shape in shapes]
        return [part.to(memory_format=torch.channels_last) if part.ndim == 4 else part for part in parts]

    key, signing = drawn(), drawn()
    expected = alignment(key, signing), *alignment_direction(key, signing)
    monkeypatch.setattr("taggants.alignment.gradients.adds_by_tensor", lambda first: False)
    torch.testing.assert_close((alignment(key, signing), *alignment_direction(key, signing)), expected)
