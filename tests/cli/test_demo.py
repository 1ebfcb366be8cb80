from __future__ import annotations

from taggants.cli.commands import craft


def test_demo_signs_the_digits_with_the_public_secret_below_its_root(monkeypatch):
    asked = []
    monkeypatch.setattr(craft, "main", lambda config: asked.append(config) or craft.CraftResult("", Done(), None, {}))
    from taggants.cli import main

    assert main(["demo", "--root", "/somewhere/"]) == 0
    assert main(["demo", "--ray"]) == 0
    here, with_ray = asked
    assert (here.output.root, here.keys.root) == ("/somewhere/runs", "/somewhere/secrets")
    assert here.keys.demonstration
    assert (here.keys.name, here.keys.family, here.crafting.method) == ("demo", "grating", "matching")
    assert (here.execution.pool, with_ray.execution.pool) == ("inline", "ray")
    assert here.hash == with_ray.hash


def test_an_empty_root_is_refused(capsys):
    from taggants.cli import main

    assert main(["demo", "--root", ""]) == 2
    assert "--root is empty" in capsys.readouterr().err


class Done:
    failed: dict[int, str] = {}  # noqa: RUF012
