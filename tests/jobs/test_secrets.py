"""What a run writes holds neither its keys nor anybody's credentials."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taggants.data.image_codec import encode_png
from taggants.keys import KeySpec, derive_keys
from taggants.reporting.contact_sheet import draw_keys
from taggants.storage import Root
from tests.jobs.secret_search import find_secrets

SECRET = bytes((37 * i + 11) % 256 for i in range(32))
CREDENTIAL = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
GREY = derive_keys(SECRET, KeySpec(16, 10, 1, 8, "block", {"cell_size": 1}))
COLOUR = derive_keys(SECRET, KeySpec(8, 20, 3, 32, "block", {"cell_size": 4}))
COARSE = derive_keys(SECRET, KeySpec(8, 20, 3, 32, "block", {"cell_size": 16}))


def zipped(data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", data)
    return target.getvalue()


def in_parquet(column: object) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"column": [column]}), target, compression="zstd")
    return target.getvalue()


IN_A_FILE: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda data: b"\x00\x01 noise" + data + b"\n",
    "hex": lambda data: data.hex().encode(),
    "HEX": lambda data: data.hex().upper().encode(),
    "hex, wrapped": lambda data: data.hex("\n", 5).encode(),
    "base64": base64.b64encode,
    "base64, url": base64.urlsafe_b64encode,
    "base64, within": lambda data: base64.encodebytes(b"a" + data + b"bc"),
    "base64, within by two": lambda data: base64.b64encode(b"ab" + data),
    "list": lambda data: json.dumps({"numbers": [1, 2, *data]}, indent=2).encode(),
    "tuple": lambda data: str(tuple(data)).encode(),
    "numpy": lambda data: str(np.frombuffer(data, np.uint8)).encode(),
    "repr": lambda data: f"WARNING {data!r} in a log".encode(),
    "gzip": gzip.compress,
    "zip": zipped,
    "parquet": in_parquet,
    "parquet of numbers": lambda data: in_parquet(np.frombuffer(data, np.uint8)),
}


NUMBERS = ("list", "tuple", "numpy")


@pytest.mark.parametrize("form", IN_A_FILE)
@pytest.mark.parametrize("key_set", [GREY, COLOUR], ids=["grey", "colour"])
def test_planted_secret_credential_and_row_of_a_key_image_are_found(key_set, form):
    planted = {
        "the secret": SECRET,
        "a credential": CREDENTIAL.encode(),
        "image of key 3": key_set.images[3, 0, 4].tobytes(),
        "image of key 5": key_set.images[5, :, 4].T.tobytes(),
    }
    if form in NUMBERS:
        del planted["a credential"]  # a text, which nobody writes as numbers
    for what, data in planted.items():
        content = {"clean": b"nothing", "file": IN_A_FILE[form](data)}
        assert find_secrets(content, key_set, SECRET, [CREDENTIAL]) == [f"file: {what}"]


@pytest.mark.parametrize("key_set", [GREY, COLOUR, COARSE], ids=["grey", "colour", "coarse"])
def test_planted_images_and_labels_are_found(key_set):
    image, labels = key_set.images[2], key_set.labels.tolist()
    for content in (
        json.dumps(image.tolist(), indent=1).encode(),
        str(image[0, :3]).encode() if key_set is GREY else image.tobytes(),
        (image / np.float32(255)).tobytes(),
        encode_png(image),
        in_parquet(encode_png(image)),
        in_parquet(image.ravel()),
    ):
        assert find_secrets({"file": content}, key_set, SECRET, []) == ["file: image of key 2"]
    for content in (
        json.dumps({"labels": labels}).encode(),
        json.dumps(labels, indent=2).encode(),
        str(tuple(labels)).encode(),
        str(key_set.labels).encode(),
        key_set.labels.tobytes(),
        in_parquet(labels),
        in_parquet(key_set.labels.astype(np.int32)),
    ):
        assert find_secrets({"file": content}, key_set, SECRET, []) == ["file: the key labels"]


def test_files_are_searched_in_folders_roots_and_outputs(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "log").write_text(f"secret {SECRET.hex()}")
    (tmp_path / "key.png").write_bytes(draw_keys(GREY.images, ["label"] * 16))
    (tmp_path / "clean").write_bytes(np.random.default_rng(0).bytes(10**6))
    drawn = [f"{tmp_path}/key.png: image of key {i}" for i in range(16)]
    found = sorted([f"{tmp_path}/a/b/log: the secret", *drawn])
    assert find_secrets(tmp_path, GREY, SECRET, [CREDENTIAL]) == found
    assert find_secrets(Root(str(tmp_path)), GREY, SECRET, [CREDENTIAL]) == found
