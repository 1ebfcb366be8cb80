from __future__ import annotations

import json
import re
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
            "'crafting.epsilom' does not exist; did you mean 'crafting.epsilon'? `taggants config crafting` lists its section",
        ),
        ("crafting.epsilon=16", "'crafting.epsilon' = 16: pixels are in [0, 1]; write 16/255 for 16 of 255 levels"),
        ("sweep.epsilons=[8/255, 16]", "'sweep.epsilons.1' = 16: pixels are in [0, 1]; write 16/255"),
        ("crafting={epsilon: 0.1, epsilon: 0.2}", "the value is not YAML"),
        (
            "detection.question.kinds=[{}, {model: cnn}]",
            "kinds has 2 entries but num_references is 1; set it to 2 or more",
        ),
        ("detection.question.kinds=[{patch_size: 4}]", "patch_size is 4 but no model is named; name the model, too"),
        (
            "detection.question.kinds=[{recipe: fine-tune}]",
            "kinds has {'recipe': 'fine-tune'}, which cannot be trained: recipe fine-tune needs init_from",
        ),
        ("detection.question.kinds=[{recipe: stronger}]", "recipe"),
        ("detection.question.num_references=17", "16"),
        ("surrogate.num_models=16", "config: suspects would be compared with 17 models"),
        ("craft.epsilon=0.1", "'craft' does not exist; did you mean 'crafting'? `taggants config` lists all fields"),
        ("epsilon=0.1", "'epsilon' does not exist; did you mean 'crafting.epsilon'? `taggants config` lists"),
        ("data.nothing=1", "'data.nothing' does not exist; `taggants config data` lists its section"),
        (
            "detection.question.num_cover=3",
            "did you mean 'detection.question.num_covers'? `taggants config detection.question` lists its section",
        ),
        (
            "keys.cel_size=2",
            "'cel_size' does not exist with family block; did you mean 'cell_size'? `taggants config keys`",
        ),
        (
            "crafting.epsilon=300/255",
            "'crafting.epsilon' = '300/255' must be a number >= 1/255 and <= 1",
        ),
        ("crafting.epsilon=0", "= 0 must be a number >= 1/255 and <= 1"),
        ("crafting.epsilon=1/0", "= '1/0' must be a number"),
        (f"crafting.epsilon={10**400}/255", f"= '1{'0' * 55}... must be a number"),
        ("signing={budget: 0.1, images_per_key: 5}", "exactly one of signing.budget and signing.images_per_key"),
        ("data.source=parquet", "data.root is required with data.source=parquet"),
        ("data={source: imagefolder}", "data.root is required with data.source=imagefolder"),
        ("data.root=/somewhere", "data.root must be null with data.source=digits"),
        ("data.source=torchvision", "data.dataset is required with data.source=torchvision"),
        ("data.dataset=CIFAR10", "data.dataset must be null with data.source=digits"),
        ("data={source: torchvision, dataset: CIFAR10, root: 's3://b/c'}", "data.root must be a local folder"),
        ("data={source: webdataset, root: /w, num_classes: 5}", "subsets are made of Parquet files only"),
        ("data={source: imagefolder, root: /w, images_per_class: 5}", "subsets are made of Parquet files only"),
        ("data.image_size=0", "must be an integer >= 1 or null"),
        ("execution.max_shard_seconds=0", "must be a number > 0 or null"),
        ("keys.name=../x", "'../x': only letters, digits, - and _ make its name"),
        ("seed=null", "'seed' = null must be an integer"),
        ("sweep.alphas=[]", "must be a list of numbers > 0 and < 1, at least 1 of them"),
        ("sweep.alphas=[0.1, 1]", "'sweep.alphas.1' = 1 must be a number > 0 and < 1"),
        ("execution={num_workers: 0, num_cpus: -1, num_gpus: x}", "an integer >= 1 (2 more fields are wrong)"),
        ("data.root=$NOT_SET_ANYWHERE/x", "names an environment variable that is not set"),
        ("seed", "must read section.field=value"),
        ("seed.x.y=1", "'seed' is a value, not a section"),
        ("keys=[", "the value is not YAML"),
        ("keys={1: 2}", "config field 'keys.1' is named by a value that is no word; `taggants config` lists"),
        ('keys={"\\ud800": 2}', "config field 'keys' has a name or text with a lone surrogate"),
        ("keys={.inf: 2}", "config field 'keys.inf' is named by a value that is no word"),
        ("crafting=", "'crafting' is a section: set one of its fields, such as crafting.FIELD=VALUE"),
        ("crafting=3", "'crafting' = 3 is a section"),
    ],
)
def test_bad_settings_are_one_sentence_that_names_field_and_fix(setting, sentence):
    with pytest.raises(InputError) as caught:
        load_config(None, ["seed=0", setting])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_sentence_is_pydantics():
    def places(prefix: str, section: type[Section]):
        for name, field in section.model_fields.items():
            yield f"{prefix}{name}"
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from places(f"{prefix}{name}.", inner)

    sentences = []
    for place in places("", Config):
        for value in ("x y", "-7", "7.5", "1e99", "null", "[]", "[[1]]", "{a: 1}", "true"):
            try:
                load_config(None, [f"{place}={value}"])
            except InputError as error:
                sentences.append(str(error))
    assert len(sentences) > 500
    foreign = re.compile("[Ii]nput should|parse|valid |ensure|should (have|match|be)|pydantic")
    assert [sentence for sentence in sentences if foreign.search(sentence)] == []


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("1 / 0", "(ZeroDivisionError: division by zero); fix it: python -c 'import faulty' says where"),
        ("def f(:", "(SyntaxError: invalid syntax (faulty.py, line 1)); fix it"),
        ("raise SystemExit(0)", "(SystemExit: 0); fix it"),
        ("raise RuntimeError('two\\nlines')", "(RuntimeError: two lines); fix it"),
        ("import not_there", "(No module named 'not_there'); fix it"),
        ("from taggants.errors import InputError\nraise InputError('taken')", "(taken); fix it"),
    ],
)
@pytest.mark.parametrize("setting", ["plugins=[faulty]", "plugins=faulty"])
def test_a_plugin_that_fails_at_import_is_named_with_its_error(source, sentence, setting, tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        load_config(None, [setting])
    assert "plugins names the module 'faulty', which cannot be imported " + sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_plugin_that_is_not_there_is_looked_for_in_pythonpath():
    with pytest.raises(
        InputError, match=r"'nobody\.s', .* \(No module named 'nobody'\); install it, or add its folder to"
    ):
        load_config(None, ["plugins=[nobody.s]"])


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


def test_references_are_as_the_surrogates_but_for_what_their_kinds_say():
    settings = [
        "surrogate={model: timm/vit_tiny_patch16_224, patch_size: 8, num_epochs: 3, num_models: 2, learning_rate: 1e-2}",
        "detection.question={num_references: 5}",
    ]
    same = load_config(None, settings).reference_trainings
    assert {(t.model, t.patch_size, t.num_epochs) for t in same} == {("timm/vit_tiny_patch16_224", 8, 3)}
    kinds = "detection.question.kinds=[{}, {recipe: strong}, {model: cnn}, {model: timm/convnext_atto, patch_size: 2}]"
    config = load_config(None, [*settings, kinds])
    assert Config.model_validate_json(config.model_dump_json()).reference_trainings == config.reference_trainings
    assert config.hash != load_config(None, settings).hash
    assert [(t.model, t.patch_size, t.recipe, t.learning_rate) for t in config.reference_trainings] == [
        ("timm/vit_tiny_patch16_224", 8, "simple", 0.01),
        ("timm/vit_tiny_patch16_224", 8, "strong", 0.01),
        ("cnn", None, "simple", 0.01),
        ("timm/convnext_atto", 2, "simple", 0.01),
        ("timm/vit_tiny_patch16_224", 8, "simple", 0.01),
    ]
    assert load_config(None, ["detection={statistic: rank, question: null}"]).reference_trainings == ()


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
