"""The published schemas are those of the code, and take what the code takes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from taggants.claims.schemas import schemas
from tests.claims.tampering import leaves, with_value
from tests.claims.test_golden import GOLDEN

PUBLISHED = Path(__file__).parents[2] / "docs" / "schemas"
FILES = {
    **{f"{name}.json": name for name in ("registration-1", "registration-2", "signing-1", "certificate-2")},
    **{f"{name}.json": name for name in ("certificate-3", "keys-commitment-1")},
    "disclosure-1-keys.json": "disclosure-1",
    "disclosure-1-secret.json": "disclosure-1",
}


def test_the_published_schemas_are_up_to_date() -> None:
    """`python -m taggants.claims.schemas docs/schemas` writes them."""
    found = {path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in PUBLISHED.iterdir()}
    assert found == schemas()


@pytest.mark.parametrize("file", FILES)
def test_a_golden_file_fits_its_schema_and_no_other_form_does(file: str) -> None:
    schema, content = schemas()[FILES[file]], json.loads((GOLDEN / file).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(content)
    for name in content:
        assert not validator.is_valid({key: value for key, value in content.items() if key != name})
    assert not validator.is_valid({**content, "more": 1})
    # Only a field of free form takes a list instead of its value.
    loose = [path for path, _ in leaves(content) if validator.is_valid(with_value(content, path, [{}]))]
    assert all(path[0] in ("spec",) for path in loose), loose
    others = {name: other for name, other in schemas().items() if name != FILES[file]}
    assert not any(jsonschema.Draft202012Validator(other).is_valid(content) for other in others.values())


def test_fields_are_described() -> None:
    registration = schemas()["registration-2"]["properties"]
    assert registration["alpha"]["description"].startswith("level of the test")
    assert registration["question"]["properties"]["top_m"]["description"].startswith("no rank behind this counts")
