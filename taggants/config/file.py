"""A configuration from a file, settings or the folder of a run."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from taggants.config.messages import one_sentence
from taggants.config.tree import Config
from taggants.errors import InputError
from taggants.schema import read_yaml
from taggants.storage import Root


def load_config(path: str | None, settings: Sequence[str] = ()) -> Config:
    """Returns the configuration of a YAML (or JSON) file with `section.field=value` settings on top; defaults without a file.

    Raises:
        InputError: no such file, not YAML, an unknown field, or a value outside its range; the sentence names the field.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = read_yaml(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"config file {path!r} cannot be read ({error}); give the path of a YAML file") from error
        except yaml.YAMLError as error:
            raise InputError(f"config file {path!r} is not YAML: {' '.join(str(error).split())}") from error
        except (ValueError, RecursionError) as error:  # dates that do not exist, absurd nesting
            raise InputError(f"config file {path!r} holds a value that YAML cannot read ({error}); quote it") from error
        if isinstance(tree, dict) and {"config", "config_hash"} <= set(tree):
            tree = tree["config"]  # the config.json of a run
        if not isinstance(tree, dict):
            raise InputError(f"config file {path!r} must hold sections such as 'crafting:', not {type(tree).__name__}")
    return config_from_tree(tree, settings)


def load_run_config(run_folder: str, settings: Sequence[str] = ()) -> Config:
    """Returns the configuration of the run in a folder, as its config.json tells it, with the folder's place as output root.

    Relative roots of data and keys are looked for where the run was made, else in the working directory.

    Args:
        run_folder: path or s3:// URI.
        settings: on top, of fields that do not decide the signed bytes: where it runs, how it is evaluated.

    Raises:
        InputError: the folder is none of a run, was renamed or made by another version, or a setting makes another run.
    """
    root = Root(run_folder)
    if not root.exists("config.json"):
        raise InputError(f"{root.uri} is not a run folder: it has no config.json; give one that `taggants craft` made")
    record = root.read_json("config.json")
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("config"), dict)
        or not all(isinstance(record.get(field), str) for field in ("config_hash", "directory"))
    ):
        raise InputError(f"{root.uri_of('config.json')} is not what `taggants craft` writes; restore it")
    output_root, _, name = root.uri.rpartition("/")
    if name != record["config_hash"]:
        raise InputError(f"run folder {root.uri} was renamed; give it back its name {record['config_hash']}")
    config = config_from_tree(record["config"])
    if config.hash != name:
        raise InputError(
            f"{root.uri_of('config.json')} was edited, or made by another version of taggants, which its `versions` name; "
            "restore it, or use that version"
        )
    tree = config.model_dump(mode="json")
    tree["output"]["root"] = output_root or "/"
    for section in (tree["data"], tree["keys"], tree["evaluation"].get("probe") or {}):
        if section.get("root") is not None:
            section["root"] = _where_it_lies(section["root"], record["directory"])
    changed = config_from_tree(tree, settings)
    if changed.hash != name:
        for setting in settings:
            if config_from_tree(tree, [setting]).hash != name:
                raise InputError(
                    f"--set {setting!r} would make a different run than {root.uri}; start it with --config or --preset"
                )
    return changed


def _where_it_lies(root: str, directory: str) -> str:
    there = os.path.join(directory, os.path.expanduser(root))
    return there if "://" not in root and os.path.exists(there) else root


def config_from_tree(tree: dict[str, Any], settings: Sequence[str] = ()) -> Config:
    """Returns the configuration of sections of fields with `section.field=value` settings on top.

    Raises:
        InputError: an unknown field, or a value outside its range; the sentence names the field.
    """
    tree = dict(tree)
    for setting in settings:
        _apply(tree, setting)
    _import_plugins(tree.get("plugins"))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(one_sentence(error)) from None


def _import_plugins(names: Any) -> None:
    """Imports the modules that register extensions, before the tables are read; other values are left to the schema."""
    for name in [names] if isinstance(names, str) else names if isinstance(names, list | tuple) else ():
        try:
            importlib.import_module(str(name))
        except (Exception, SystemExit) as error:  # whatever somebody else's module does
            is_missing = isinstance(error, ModuleNotFoundError) and error.name == str(name).partition(".")[0]
            fix = (
                "install it, or add its folder to PYTHONPATH"
                if is_missing
                else f"fix it: python -c 'import {name}' says where"
            )
            raise InputError(
                f"plugins names the module {name!r}, which cannot be imported ({_one_line(error)}); {fix}"
            ) from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ImportError | InputError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _apply(tree: dict[str, Any], setting: str) -> None:
    field, equals, value = setting.partition("=")
    if not equals or not field:
        raise InputError(f"--set {setting!r} must read section.field=value, for example crafting.epsilon=16/255")
    *sections, name = field.strip().split(".")
    branch = tree
    for section in sections:
        inner = branch.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {setting!r}: {section!r} is a value, not a section")
        branch[section] = branch = dict(inner)  # a copy: a YAML alias makes one section of two
    try:
        branch[name] = read_yaml(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = getattr(error, "problem", None) or error
        raise InputError(f"--set {setting!r}: the value is not YAML ({reason}); quote it") from error
