"""How a person names a suspect: by a short text, or by a description file of the kind and its fields.

A description file is YAML or JSON, `kind: onnx`, `path: model.onnx` and so on; its fields are those of the kind's schema. A
relative path in it starts at the folder of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from taggants import __version__
from taggants.errors import InputError
from taggants.identity import identity
from taggants.limits import MOST_TEXT_BYTES
from taggants.registry import Registry
from taggants.schema import expand_variables, one_sentence, read_yaml
from taggants.storage import Root
from taggants.suspects.answers import Suspect
from taggants.suspects.best_labels import BestLabels

_SUFFIXES = (".yaml", ".yml", ".json")


def _from_the_folder(value: str, info: ValidationInfo) -> str:
    path = str(expand_variables(value))
    folder = (info.context or {}).get("folder")
    is_whole = folder is None or "://" in path or path.startswith("~") or os.path.isabs(path)
    return path if is_whole else f"{folder}/{path}"


FileUri = Annotated[str, AfterValidator(_from_the_folder)]
"""A path or s3:// URI; $NAME is expanded, and a relative path starts at the folder of the description file."""


@dataclass(frozen=True)
class Owner:
    """What the keys say of the dataset they belong to. image_shape: (channels, height, width) of the queries."""

    num_classes: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None


class SuspectDescription(BaseModel):
    """What is said of a suspect, to open it. Each kind adds fields of its own, and says in `open` what they mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str | None = Field(None, description="for the certificate and its file; null: after the file, and its hash")
    class_names: tuple[str, ...] | None = Field(None, description="names of its classes, in the order of its scores")
    top_m: int | None = Field(
        None, ge=1, description="use its best m labels alone, as an interface would give them; null: all scores"
    )

    def open(self, owner: Owner) -> Suspect:
        """Returns the suspect, named after what it is read from.

        owner: whose classes a suspect has that cannot tell its own.

        Raises:
            InputError: it cannot be opened.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SuspectKind:
    """One kind of suspects.

    Attributes:
        schema: the fields of its descriptions, and what opens them.
        form: the text that names one, for people, such as "path of a model.onnx"; None: only a description does.
        fields_of: returns the fields that a text of this form gives; None if the text has another form. Looks at the text alone.
    """

    schema: type[SuspectDescription]
    form: str | None = None
    fields_of: Callable[[str], dict[str, Any] | None] = lambda text: None


SUSPECT_KINDS: Final[Registry[SuspectKind]] = Registry("suspect kind")


def describe_suspect(named: str | Mapping[str, Any]) -> SuspectDescription:
    """Returns the description that a text, the path of a description file or a mapping of fields gives; opens nothing.

    A text is read by the first kind whose form it has.

    Raises:
        InputError: no kind knows the text, the file is none, or a field is unknown or outside its range.
    """
    if not isinstance(named, str):
        return _description(named, "the description", None)
    if named.endswith(_SUFFIXES):
        root, file = Root.of_file(named)
        uri = root.uri_of(file)
        if root.size_bytes(file) > MOST_TEXT_BYTES:
            raise InputError(
                f"suspect description {uri} is longer than {MOST_TEXT_BYTES} bytes; give a short YAML file"
            )
        try:
            tree = read_yaml(root.read_bytes(file).decode())
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(f"suspect description {uri} is not YAML: {' '.join(str(error).split())}") from None
        return _description(tree, uri, root.uri)
    for name, kind in SUSPECT_KINDS.items():
        fields = kind.fields_of(named)
        if fields is not None:
            return _description({"kind": name, **fields}, repr(named), None)
    forms = "; ".join(kind.form for kind in SUSPECT_KINDS.values() if kind.form is not None)
    raise InputError(
        f"suspect {named!r} is not in a known form; write one of: {forms}; or the path of a description file (.yaml) with "
        f"`kind`: {', '.join(SUSPECT_KINDS)}; or test any model in Python: taggants.verify(run, predict)"
    )


def open_suspect(named: str | Mapping[str, Any], owner: Owner) -> Suspect:
    """Returns the suspect that a text, the path of a description file or a mapping of fields names.

    Its `identity` is a hash of all that is known to decide its answers, which are kept under it (`taggants.stages.asking`).

    Raises:
        InputError: it is in no known form, or the suspect cannot be opened.
    """
    description = describe_suspect(named)
    suspect = description.open(owner)
    if description.name is not None:
        suspect.name = description.name
    if description.class_names is not None:
        if len(description.class_names) != suspect.num_classes:
            raise InputError(
                f"class_names names {len(description.class_names)} classes but suspect {suspect.name!r} has "
                f"{suspect.num_classes}; name all of them, in the order of its scores"
            )
        suspect.class_names = description.class_names
    known = getattr(suspect, "identity", None)
    if known is None and suspect.sha256 is not None:
        content = description.model_dump(mode="json") | {"sha256": suspect.sha256, "version": __version__}
        known = identity(content)
    asked = suspect if description.top_m is None else BestLabels(suspect, description.top_m)
    asked.identity = known  # type: ignore[attr-defined]  # optional: suspects without one are asked anew each time
    return asked


def _description(fields: Any, what: str, folder: str | None) -> SuspectDescription:
    if not isinstance(fields, Mapping) or not isinstance(fields.get("kind"), str):
        raise InputError(
            f"{what} describes no suspect; write `kind: ` and one of {', '.join(SUSPECT_KINDS)}, then its fields"
        )
    kind = fields["kind"]
    schema = SUSPECT_KINDS.find(kind).schema
    given = {name: value for name, value in fields.items() if name != "kind"}
    try:
        return schema.model_validate(given, context={"folder": folder})
    except ValidationError as error:
        sentence = one_sentence(error, schema, f"{kind} field")
        raise InputError(f"{what}: {sentence}") from None
