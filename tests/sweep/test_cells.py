from pathlib import Path

import pytest
import yaml

from taggants.config import Config, load_config
from taggants.errors import InputError
from taggants.sweep.cells import crafted_together, distinct_runs, expand, sweep_hash
from taggants.sweep.stages import Sweep

AXES = (
    "sweep.num_keys=[4, 8]",
    "sweep.images_per_key=[1, 3]",
    "sweep.epsilons=[16/255, 64/255]",
    "sweep.engines=[one_sided, central]",
    "sweep.surrogates=[cnn, cnn_wide]",
    "sweep.victims=[{model: cnn}, {model: timm/resnet18, recipe: strong}]",
)


def test_cells_are_all_combinations_and_their_settings_make_them(tmp_path: Path) -> None:
    config = load_config(None, [*AXES, "sweep.num_victims=5", "surrogate.architectures=[cnn_wide]"])
    cells = expand(config)
    assert len({cell.name for cell in cells}) == len(cells) == 2**6
    assert len({cell.config.hash for cell in cells}) == 2**5  # the victim is no part of a run
    assert "k8-m3-e16-central-on-cnn-timm-resnet18-strong" in {cell.name for cell in cells}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for cell in cells:
        assert load_config(str(file), cell.settings) == cell.config
    chosen = next(cell.config for cell in cells if cell.name == "k8-m3-e16-central-on-cnn-timm-resnet18-strong")
    assert (chosen.keys.num_keys, chosen.signing.images_per_key) == (8, 3)
    assert (chosen.crafting.epsilon, chosen.crafting.engine) == (16 / 255, "central")
    assert [training.model for training in chosen.surrogate.trainings] == ["cnn"]
    assert (chosen.evaluation.training.model, chosen.evaluation.training.recipe) == ("timm/resnet18", "strong")
    assert chosen.evaluation.num_victims == 5


def test_empty_axes_take_the_configured_value() -> None:
    [cell] = expand(Config())
    assert (cell.name, cell.config.hash) == ("k16", Config().hash)
    budgeted = load_config(None, ["signing={budget: 0.05}", "sweep.num_keys=[4]"])
    assert expand(budgeted)[0].config.signing.budget == 0.05
    swept = load_config(None, ["signing={budget: 0.05}", "sweep.images_per_key=[2]"])
    assert expand(swept)[0].config.signing.images_per_key == 2


def test_cells_that_differ_in_keys_and_victims_alone_are_crafted_together_most_keys_first() -> None:
    cells = expand(load_config(None, AXES))
    groups = crafted_together(cells)
    assert len(groups) == 2**4
    assert sorted(cell.name for group in groups for cell in group) == sorted(cell.name for cell in cells)
    for group in groups:
        assert [cell.config.keys.num_keys for cell in group] == [8, 8, 4, 4]
        assert len({cell.config.crafting.epsilon for cell in group}) == 1
    runs = distinct_runs(cells)
    assert len(runs) == 2**5
    assert [cell.config.keys.num_keys for cell in runs] == [8] * 16 + [4] * 16


def test_cells_whose_surrogates_learn_from_their_signed_data_share_no_shard() -> None:
    cells = expand(load_config(None, ["sweep.num_keys=[4, 8]", "surrogate.retrainings=1"]))
    assert [[cell.name for cell in group] for group in crafted_together(cells)] == [["k4"], ["k8"]]


def test_names_stay_distinct_where_spelling_would_not() -> None:
    cells = expand(load_config(None, ["sweep.victims=[{model: timm/a-b}, {model: timm/a/b}]"]))
    assert len({cell.name for cell in cells}) == 2
    assert all("/" not in cell.name for cell in cells)


def test_hash_names_what_decides_the_cells() -> None:
    def hash_with(*settings: str) -> str:
        return sweep_hash(expand(load_config(None, ["sweep.num_keys=[4, 8]", *settings])))

    base = hash_with()
    same = ("sweep.num_keys=[8, 4]", "sweep.alphas=[0.5]", "sweep.wanted_power=0.5", "sweep.max_concurrent_trials=1")
    for setting in (*same, "sweep.stop_after=1", "sweep.loggers=[]", "keys.num_keys=3", "output.root=elsewhere"):
        assert hash_with(setting) == base
    others = ("sweep.num_keys=[4]", "sweep.num_victims=4", "sweep.num_controls=4", "sweep.stop_hopeless=true")
    for setting in (*others, "seed=1", "evaluation.training.num_epochs=2", "crafting.num_steps=2"):
        assert hash_with(setting) != base


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sweep.num_keys=[4, 4]"], r"sweep\.num_keys names a value twice"),
        (
            ["sweep.victims=[{modell: cnn}]"],
            r"'sweep\.victims\.0\.modell' does not exist; did you mean 'sweep\.victims\.model'\? `taggants config",
        ),
        (["sweep.victims=[{recipe: fine-tune}]"], "cell k16-cnn-fine-tune of the sweep .* needs init_from"),
        (
            ["sweep.engines=[jvp]", "crafting={compile: true, engine: central}"],
            "cell k16-jvp .* crafting.compile needs",
        ),
        (["evaluation.training.num_workers=2"], "trains each model in one process"),
    ],
)
def test_bad_sweeps_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sweep(load_config(None, settings))
