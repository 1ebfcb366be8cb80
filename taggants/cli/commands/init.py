"""Looks at a folder of images and writes a configuration for it, with the reason for each value.

For example: taggants init /data/flowers
The folder, or s3:// prefix, holds Parquet files, tars, or one folder of PNG or JPEG images for each class. Nothing is changed
there; of the images only a few are opened.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from taggants.errors import InputError

if TYPE_CHECKING:
    from taggants.suggestion import Suggestion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a path or s3:// URI")
    parser.add_argument(
        "--output", metavar="FILE", default="taggants.yaml", help="default: taggants.yaml; never overwritten"
    )
    parser.add_argument(
        "--train", metavar="NAME", help="the training split, if the names of files and folders do not tell"
    )
    parser.add_argument("--test", metavar="NAME", help="the test split, likewise")
    parser.add_argument("--image-column", metavar="NAME", help="of Parquet files, if several may be it")
    parser.add_argument("--label-column", metavar="NAME", help="likewise")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where models are trained; default: cpu"
    )
    parser.add_argument(
        "--strength",
        metavar="NAME",
        help="how photographs are signed: quiet, balanced or strong, see docs/sign.md; default: strong",
    )


def run(given: argparse.Namespace) -> int:
    from taggants.config import Config
    from taggants.data.inspection import inspect_dataset
    from taggants.estimation.doubts import doubts, record, wanted_of
    from taggants.models import cpu_has_bfloat16
    from taggants.reporting import summaries
    from taggants.reporting.progress import say
    from taggants.storage import Root
    from taggants.suggestion import suggest

    root, name = Root.of_file(given.output)
    if root.exists(name):
        raise InputError(f"{root.uri_of(name)} already exists; choose another --output")
    inspection = inspect_dataset(
        given.folder,
        train=given.train,
        test=given.test,
        image_column=given.image_column,
        label_column=given.label_column,
    )
    say(summaries.inspected(inspection))
    suggestion = suggest(inspection, device=given.device, strength=given.strength, bfloat16=cpu_has_bfloat16())
    config = Config.model_validate(suggestion.tree)
    root.create_bytes(name, commented_yaml(suggestion).encode())
    size, per_key = config.data.image_size or inspection.one_size, config.signing.images_per_key
    assert size is not None, "suggested where the images are of several sizes"
    assert per_key is not None, "always suggested"
    wanted = wanted_of(config, inspection.num_images, inspection.num_classes, size, per_key)
    say(summaries.prospects(record(wanted), doubts(wanted)))
    say(summaries.config_written(given.output))
    return 0


def commented_yaml(suggestion: Suggestion) -> str:
    """Returns the suggestion as a configuration file; each field with its reason, or else what it means."""
    from taggants.config import Config

    tree = {section: dict(fields) for section, fields in suggestion.tree.items()}
    victims = tree["evaluation"].pop("training")
    assert victims == tree["surrogate"], "a suggestion trains victims as its surrogate"
    lines = [
        "# Suggested values: starting points that nobody has measured on this dataset. `taggants config` lists all fields."
    ]
    for section, fields in tree.items():
        anchor = " &recipe" if section == "surrogate" else ""
        lines += ["", f"{section}:{anchor}"]
        model: Any = Config.model_fields[section].annotation
        lines += _fields(section, fields, suggestion.reasons, model)
    lines.append(
        "  training: *recipe  # victims and controls as the surrogate; use what you expect others to train, if you know it"
    )
    return "\n".join(lines) + "\n"


def _fields(section: str, fields: Mapping[str, Any], reasons: Mapping[str, str], model: Any) -> Iterator[str]:
    import yaml

    fields_of = model.model_fields | model.further_fields()
    for name, value in fields.items():
        if isinstance(value, Mapping):
            comment = reasons.get(f"{section}.{name}") or fields_of[name].description
            yield from textwrap.wrap(comment, 115, initial_indent="  # ", subsequent_indent="  # ")
            yield f"  {name}:"
            for part, content in value.items():
                written = yaml.safe_dump(content, width=2**30, default_flow_style=True).splitlines()[0]
                yield f"    {part}: {written}"
            continue
        is_plain = not isinstance(value, str) or value.isprintable()
        dumped = yaml.safe_dump(value, width=2**30, allow_unicode=True, default_flow_style=True)
        written = dumped.splitlines()[0] if is_plain else json.dumps(value)
        field = f"  {name}: {written}"
        comment = reasons.get(f"{section}.{name}") or fields_of[name].description
        if len(field) + len(comment) > 115:
            yield from textwrap.wrap(comment, 115, initial_indent="  # ", subsequent_indent="  # ")
            yield field
        else:
            yield f"{field}  # {comment}"
