from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from taggants import __version__
from taggants.cli import main
from taggants.cli.commands import COMMANDS
from taggants.cli.configuration import preset_names, preset_path
from taggants.config import Config, DataConfig, load_config
from taggants.data.layouts import LAYOUTS
from taggants.data.prepared import PREPARED
from taggants.reporting.progress import write_json_lines
from tests.jobs.running import JOBS, TINY

HEAVY = ("torch", "ray", "boto3", "pyarrow", "scipy", "numpy", "sklearn", "timm", "pydantic", "rich", "yaml", "PIL")


def words_of(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code, capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    code, shown = words_of(capsys, command, "--help")
    assert code == 0
    assert COMMANDS[command].__doc__.splitlines()[0] in shown.out


def test_help_names_every_command_and_version_is_told(capsys):
    code, shown = words_of(capsys, "--help")
    assert code == 0
    assert all(re.search(rf"^    {command}\s", shown.out, re.MULTILINE) for command in COMMANDS)
    code, shown = words_of(capsys, "--version")
    assert (code, shown.out) == (0, f"taggants {__version__}\n")


@pytest.mark.parametrize(
    ("words", "limit_s"),
    [(["import taggants"], 0.5), (["--help"], 1.0), *([[command, "--help"], 1.0] for command in COMMANDS)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_import_load_nothing_heavy(words, limit_s):
    action = "import taggants" if words == ["import taggants"] else f"import taggants.cli; taggants.cli.main({words})"
    code = (
        "import json, sys, time\n"
        f"try:\n    {action}\nexcept SystemExit: pass\n"
        f"print(json.dumps([time.process_time(), [name for name in {HEAVY} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cpu_s, loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded == []
    assert cpu_s < limit_s


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["craff"], "invalid choice: 'craff'"),
        (["craft", "--epsilon", "1"], "unrecognised arguments: --epsilon"),
        (["craft", "--config", "a.yaml", "--preset", "digits"], "not allowed with argument"),
    ],
)
def test_words_that_no_command_takes_end_with_2(words, sentence, capsys):
    code, shown = words_of(capsys, *words)
    assert code == 2
    assert sentence in shown.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["craft", "--preset", "cifar1000"], "preset 'cifar1000' does not exist; use one of cifar10, cifar100,"),
        (["craft", "/no/run", "--preset", "digits"], "run folder /no/run knows its configuration; leave --config"),
        (["export", "/no/run", "--to", "x"], "/no/run is not a run folder: it has no config.json"),
        (["verify", "--preset", "digits", "x", "--set", "output.root=/no/runs"], "has no registration.json"),
        (["config", "crafing"], "section 'crafing' does not exist; did you mean 'crafting'?"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sentence in line


def test_presets_are_found_by_name():
    assert {"digits", "cifar100", "own_data"} <= set(preset_names())
    assert load_config(preset_path("digits")) == Config()


@pytest.mark.parametrize("job", sorted(path.stem for path in JOBS.glob("*.py")))
def test_every_job_is_its_command(job):
    done = subprocess.run([sys.executable, JOBS / f"{job}.py", "--help"], capture_output=True, text=True, check=True)
    assert f"taggants {job}" in done.stdout
    done = subprocess.run(
        [sys.executable, JOBS / f"{job}.py", "--set", "seed=x"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: config field 'seed' = 'x' must be an integer >= 0 and < 4294967296\n",
    )


def test_errors_are_json_where_the_log_is(tmp_path, capsys):
    words = [word for setting in (*TINY, "output.log=json") for word in ("--set", setting)]
    try:
        assert main(["train", *words, "--set", f"output.root={tmp_path}"]) == 2
    finally:
        write_json_lines(False)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "error"


def test_config_prints_every_field_with_its_range_default_and_meaning(capsys):
    assert main(["config", "crafting"]) == 0
    shown = capsys.readouterr().out
    assert "  epsilon: number >= 1/255 and <= 1; default 64/255\n      L-infinity bound" in shown
    assert "  mixing: number >= 0 and <= 1; default 0\n" in shown
    assert main(["config", "--markdown"]) == 0
    shown = capsys.readouterr().out
    for name, section in Config():
        if name not in ("seed", "plugins"):
            assert f"## `{name}`\n" in shown
            assert all(
                f"| `{field}` |" in shown
                for field in type(section).model_fields
                if field not in ("training", "probe", "victims", "question")
            )


def test_each_dataset_source_is_explained_in_the_order_of_its_names():
    explained = DataConfig.model_fields["source"].description
    of_tests = {"numbered"}  # of tests/jobs/test_new_layout.py, registered after the configuration was read
    names = [name for name in (*PREPARED, *LAYOUTS) if name not in of_tests]
    assert [part.partition(":")[0] for part in explained.split("; ")] == names


def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    def full(given):
        raise OSError(28, "No space left on device", "/runs/x")

    monkeypatch.setattr(COMMANDS["config"], "run", full)
    assert main(["config"]) == 2
    assert "the disk is full (/runs/x); make room, then run the same command again to go on" in capsys.readouterr().err
