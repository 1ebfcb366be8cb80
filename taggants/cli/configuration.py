"""The arguments that say which run a command is about, and the configuration they give."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from taggants.errors import InputError

if TYPE_CHECKING:
    from taggants.config import Config

_PRESETS = files("taggants") / "presets"
_WRITTEN_BY_INIT = "taggants.yaml"


def add_config_arguments(parser: argparse.ArgumentParser, *, run_folder: bool = False) -> None:
    """run_folder: the command takes the folder of a run, too."""
    if run_folder:
        parser.add_argument(
            "run_folder",
            metavar="RUN",
            nargs="?",
            help="folder of a run, which knows its configuration, a path or s3:// URI; or a YAML file, as --config",
        )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="FILE", help="YAML file, as `taggants init` writes; without: the digits")
    source.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(preset_names())}")
    parser.add_argument(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        action="append",
        default=[],
        help="sets one field, for example --set crafting.epsilon=16/255; may be repeated; `taggants config` lists the fields",
    )


def preset_names() -> list[str]:
    """Returns the names of the configurations that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _PRESETS.iterdir() if file.name.endswith(".yaml"))


def preset_path(name: str) -> str:
    """Returns the path of a preset's file.

    Raises:
        InputError: there is no preset of that name.
    """
    if name not in preset_names():
        raise InputError(f"preset {name!r} does not exist; use one of {', '.join(preset_names())}")
    return str(_PRESETS / f"{name}.yaml")


def read_config(given: argparse.Namespace, fields: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Returns the configuration that the arguments of `add_config_arguments` name, and prints in its form from now on.

    fields: what arguments of the command's own say, by dotted field, after those of --set; None: the argument was not given.

    Raises:
        InputError: as `load_config` and `load_run_config`; or a run folder and a file are given.
    """
    from taggants.config import load_config, load_run_config
    from taggants.reporting.progress import write_json_lines

    run_folder = getattr(given, "run_folder", None)
    if run_folder is not None and run_folder.endswith((".yaml", ".yml")):
        given.config, run_folder = run_folder, None
    settings = given.set + [f"{field}={json.dumps(value)}" for field, value in fields.items() if value is not None]
    path = given.config if given.preset is None else preset_path(given.preset)
    if run_folder is not None and path is not None:
        raise InputError(f"run folder {run_folder} knows its configuration; leave --config and --preset out")
    if run_folder is None and path is None and os.path.exists(_WRITTEN_BY_INIT):
        raise InputError(
            f"no configuration is given, and {_WRITTEN_BY_INIT} is here; add --config {_WRITTEN_BY_INIT}, or --preset digits for "
            "the digits"
        )
    config = load_config(path, settings) if run_folder is None else load_run_config(run_folder, settings)
    write_json_lines(config.output.log == "json")
    _warn_of_temporary_folder(config)
    return config


def _warn_of_temporary_folder(config: Config) -> None:
    """A submitted job runs in Ray's copy of the working directory, which Ray deletes in its own time."""
    for field, root in (("output.root", config.output.root), ("keys.root", config.keys.root)):
        if "_ray_pkg_" in os.getcwd() and "://" not in root and not os.path.isabs(root):
            print(
                f"WARNING {field} = {root} lies in Ray's temporary copy of the working directory and goes with it; give an "
                "absolute path or s3:// prefix that every node reaches",
                file=sys.stderr,
            )
