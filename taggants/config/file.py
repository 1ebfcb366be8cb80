"""A configuration from a file and settings."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from taggants.config.messages import one_sentence
from taggants.config.tree import Config
from taggants.errors import InputError


def load_config(path: str | None, settings: Sequence[str] = ()) -> Config:
    """Returns the configuration of a YAML (or JSON) file with `section.field=value` settings on top; defaults without a file.

    Raises:
        InputError: no such file, not YAML, an unknown field, or a value outside its range; the sentence names the field.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"config file {path!r} cannot be read ({error}); give the path of a YAML file") from error
        except yaml.YAMLError as error:
            raise InputError(f"config file {path!r} is not YAML ({' '.join(str(error).split())}); mend it") from error
        except (ValueError, RecursionError) as error:  # dates that do not exist, absurd nesting
            raise InputError(f"config file {path!r} holds a value that YAML cannot read ({error}); quote it") from error
        if isinstance(tree, dict) and {"config", "config_hash"} <= set(tree):
            tree = tree["config"]  # the config.json of a run
        if not isinstance(tree, dict):
            raise InputError(f"config file {path!r} must hold sections such as 'crafting:', not {type(tree).__name__}")
    for setting in settings:
        _apply(tree, setting)
    _import_plugins(tree.get("plugins"))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(one_sentence(error)) from None


def _import_plugins(names: Any) -> None:
    """Imports the modules that register extensions, before the tables are read; other values are left to the schema."""
    for name in names if isinstance(names, list | tuple) else ():
        try:
            importlib.import_module(str(name))
        except (ImportError, TypeError, ValueError) as error:
            raise InputError(
                f"plugins names the module {name!r}, which cannot be imported ({error}); install it, or add its folder to "
                "PYTHONPATH"
            ) from error


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
        branch[name] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--set {setting!r}: the value is not YAML; quote it") from error
