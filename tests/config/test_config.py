from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from taggants.config import Config, Section, load_config
from taggants.errors import InputError

CONFIGS = Path(__file__).parents[2] / "taggants" / "presets"


def test_defaults_are_the_digits_preset():
    assert load_config(str(CONFIGS / "digits.yaml")) == Config()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_preset_loads_and_its_head_names_command_hardware_time_and_result(path, monkeypatch):
    monkeypatch.setenv("TAGGANTS_DATA", "/data")
    load_config(str(path))
    head = path.read_text().split("\n\n")[0]
    for word in ("Command", "Hardware", "Time", "Result"):
        assert f"# {word}" in head


def test_fractions_environment_and_settings_are_read(monkeypatch, tmp_path):
    monkeypatch.setenv("SOMEWHERE", "/data")
    file = tmp_path / "c.yaml"
    file.write_text("data: {source: parquet, root: $SOMEWHERE/cifar, channels: 3}\ncrafting: {epsilon: 16/255}\n")
    config = load_config(str(file), ["crafting.num_steps=5", "signing.images_per_key=null", "signing.budget=1/100"])
    assert config.crafting.epsilon == 16 / 255
    assert config.data.root == "/data/cifar"
    assert config.crafting.num_steps == 5
    assert config.signing.budget == 0.01


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "crafting.epsilom=0.1",
            "'crafting.epsilom' does not exist; did you mean 'epsilon'? its section knows epsilon,",
        ),
        ("crafting.epsilon=16", "'crafting.epsilon' = 16: pixels are in [0, 1]; write 16/255 for 16 of 255 levels"),
        ("sweep.epsilons=[8/255, 16]", "'sweep.epsilons.1' = 16: pixels are in [0, 1]; write 16/255"),
        ("crafting={epsilon: 0.1, epsilon: 0.2}", "the value is not YAML"),
        ("craft.epsilon=0.1", "'craft' does not exist; did you mean 'crafting'? its section knows seed, data,"),
        (
            "crafting.epsilon=300/255",
            "'crafting.epsilon' = '300/255' must be less than or equal to 1",
        ),
        ("crafting.epsilon=0", "greater than or equal to 0.0039"),
        ("crafting.epsilon=1/0", "unable to parse"),
        (f"crafting.epsilon={10**400}/255", "unable to parse"),
        ("signing={budget: 0.1, images_per_key: 5}", "exactly one of signing.budget and signing.images_per_key"),
        ("data.source=parquet", "data.root is required with data.source=parquet"),
        ("data={source: imagefolder}", "data.root is required with data.source=imagefolder"),
        ("data.root=/somewhere", "data.root must be null with data.source=digits"),
        ("data.source=torchvision", "data.dataset is required with data.source=torchvision"),
        ("data.dataset=CIFAR10", "data.dataset must be null with data.source=digits"),
        ("data={source: torchvision, dataset: CIFAR10, root: 's3://b/c'}", "data.root must be a local folder"),
        ("data={source: webdataset, root: /w, num_classes: 5}", "subsets are made of Parquet files only"),
        ("data={source: imagefolder, root: /w, images_per_class: 5}", "subsets are made of Parquet files only"),
        ("data.image_size=0", "greater than or equal to 1"),
        ("execution.max_shard_seconds=0", "greater than 0"),
        ("keys.name=../x", "should match pattern"),
        ("data.root=$NOT_SET_ANYWHERE/x", "names an environment variable that is not set"),
        ("seed", "must read section.field=value"),
        ("seed.x.y=1", "'seed' is a value, not a section"),
        ("keys=[", "the value is not YAML"),
        ("crafting=", "'crafting' is a section: set one of its fields, such as crafting.FIELD=VALUE"),
        ("crafting=3", "'crafting' = 3 is a section"),
    ],
)
def test_bad_settings_are_one_sentence_that_names_field_and_fix(setting, sentence):
    with pytest.raises(InputError) as caught:
        load_config(None, ["seed=0", setting])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "a: [", "- 1\n- 2\n", b"\xff\xfe"])
def test_bad_files_are_refused(tmp_path, content):
    file = tmp_path / "c.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"config file .*c\.yaml"):
        load_config(str(file))


def test_numbers_and_lists_may_be_written_short():
    config = load_config(
        None,
        ["crafting.step_size=1e-1", "surrogate.num_epochs=1e2", "sweep.num_keys=8", "verify.suspects=a.safetensors"],
    )
    assert (config.crafting.step_size, config.surrogate.num_epochs) == (0.1, 100)
    assert config.sweep.num_keys == (8,)
    assert config.verify.suspects == ("a.safetensors",)
    assert load_config(None, ["sweep.victims={model: cnn_wide}"]).sweep.victims[0].model == "cnn_wide"


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("crafting: {num_steps: 5}\nkeys: {num_keys: 3}\ncrafting: {num_views: 1}\n")
    with pytest.raises(InputError, match=r"'crafting' is set twice; leave one .*line 1"):
        load_config(str(file))


def test_hash_speaks_of_what_decides_the_signed_bytes_only():
    base = load_config(None)
    for same in (
        "execution.pool=inline",
        "output.root=/elsewhere",
        "evaluation.num_victims=9",
        "train.index=2",
        "keys.root=/k",
        "execution.max_shard_seconds=60",
    ):
        assert load_config(None, [same]).hash == base.hash
    for other in (
        "seed=1",
        "keys.num_keys=3",
        "crafting.microbatch=5",
        "detection.alpha=0.01",
        "surrogate.num_epochs=2",
        "data.image_size=16",
    ):
        assert load_config(None, [other]).hash != base.hash


def test_resolved_config_reads_back_as_itself(tmp_path):
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(Config().model_dump(mode="json")))
    assert load_config(str(file)) == Config()


def test_config_json_of_a_run_is_a_config_file(tmp_path):
    config = load_config(None, ["seed=3"])
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": config.model_dump(mode="json"), "config_hash": config.hash, "versions": {}}))
    assert load_config(str(file)) == config


def test_every_field_is_described():
    def fields(model: type[Section], prefix: str = ""):
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from fields(inner, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", field.description

    assert [name for name, description in fields(Config) if not description] == []


def test_settings_change_one_of_two_sections_that_a_yaml_alias_makes_equal(tmp_path):
    path = tmp_path / "aliased.yaml"
    path.write_text("surrogate: &recipe {num_epochs: 3}\nevaluation: {training: *recipe}\n")
    config = load_config(str(path), ["evaluation.training.num_epochs=5", "evaluation.training.model=cnn_wide"])
    assert (config.evaluation.training.num_epochs, config.surrogate.num_epochs) == (5, 3)
    assert (config.evaluation.training.model, config.surrogate.model) == ("cnn_wide", "cnn")
