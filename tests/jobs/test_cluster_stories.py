"""Real datasets in a bucket, signed by a submitted job, and read again by readers that share no code with the project."""

from __future__ import annotations

import io
import json
import tarfile

import boto3.session
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image, JpegImagePlugin

from taggants.detection import Certificate
from taggants.keys import load_key_set
from taggants.storage import Root

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(600)]

CONFIGS = "taggants/presets"
EPSILON = 16


class Bucket:
    """The bucket as any S3 client sees it."""

    def __init__(self, server):
        self.name = server.bucket
        self.uri = f"s3://{server.bucket}"
        self._client = boto3.session.Session(server.access_key, server.secret_key, region_name="us-east-1").client(
            "s3", endpoint_url=server.endpoint_url
        )

    def put(self, key, data):
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def read(self, prefix):
        """Every object below a prefix that ends with "/", by the rest of its key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {
            key.removeprefix(prefix): self._client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys
        }


@pytest.fixture
def bucket(cluster):
    return Bucket(cluster.server)


def sign(cluster, bucket, tmp_path, preset, *settings):
    """Submits the preset as its head says. Returns: the files of the run folder by name, in which no secret is."""
    places = (f"output.root={bucket.uri}/{preset}/runs", f"keys.root={tmp_path / 'secrets'}")
    done = cluster.head.submit((*places, *settings), config=f"{CONFIGS}/{preset}.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    files = bucket.read(f"{preset}/runs/")
    [run] = {name.split("/")[0] for name in files if name.endswith("/plan.json")}
    terminal = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    name = preset.replace("_", "-")
    for place in (files, cluster.head.folder, cluster.head.written() | terminal):
        assert cluster.find_secrets(place, tmp_path / "secrets", name) == []
    return {name.removeprefix(f"{run}/"): data for name, data in files.items() if name.startswith(f"{run}/")}


def check_certificates(files, keys):
    registration = json.loads(files["registration.json"])
    certificates = [
        Certificate.from_json(json.loads(data)) for name, data in files.items() if name.startswith("certificates/")
    ]
    assert sorted(certificate.suspect.rpartition("-")[0] for certificate in certificates) == ["control-0", "victim-0"]
    for certificate in certificates:
        assert certificate.registration.to_json() == registration
        assert certificate.registration.keys_commitment == keys.commitment
        assert len(certificate.ranks) == len(keys.labels)


def pixels_before_jpeg(files):
    """uint8 [H, W, 3] by sample id, as workers left them."""
    commits = [json.loads(data) for name, data in files.items() if name.startswith("commits/")]
    tables = [pq.read_table(io.BytesIO(files[commit["path"]])) for commit in commits]
    rows = [row for table in tables for row in table.to_pylist()]
    return {
        row["sample_id"]: np.frombuffer(row["pixels"], np.uint8).reshape(row["shape"]).transpose(1, 2, 0)
        for row in rows
    }


def test_native_imagenet_in_a_bucket(cluster, bucket, tmp_path, real_data):
    originals = {}
    with tarfile.open(real_data / "imagenet_sample.tar") as tar:
        for member in sorted((m for m in tar if m.isfile()), key=lambda member: member.name):
            _, wnid, name = member.name.split("/")
            is_first = not any(path.startswith(f"test/{wnid}/") for path in originals)
            originals[f"{'test' if is_first else 'train'}/{wnid}/{name}"] = tar.extractfile(member).read()
    for path, data in originals.items():
        bucket.put(f"imagenet/{path}", data)

    short = ("surrogate.num_epochs=1", "evaluation.training.num_epochs=1", "crafting.num_steps=4")
    files = sign(cluster, bucket, tmp_path, "imagenet_sample", f"data.root={bucket.uri}/imagenet", *short)
    exported = {name.removeprefix("signed/"): data for name, data in files.items() if name.startswith("signed/")}
    train = {path: data for path, data in originals.items() if path.startswith("train/")}
    assert set(exported) == {*train, "manifest.json"}
    signed = [path for path in train if exported[path] != train[path]]
    keys = load_key_set(Root(str(tmp_path / "secrets")), "imagenet-sample.json")
    wnids = sorted({path.split("/")[1] for path in train})
    assert sorted(wnids.index(path.split("/")[1]) for path in signed) == sorted(keys.labels.tolist())
    handed_over = pixels_before_jpeg(files)
    for path in signed:
        before, after = (Image.open(io.BytesIO(data)) for data in (train[path], exported[path]))
        assert (after.format, after.mode, after.size) == ("JPEG", before.mode, before.size)
        assert after.quantization == before.quantization
        assert after.info == before.info
        # Epsilon holds for what the encoder was given; what readers get is that with JPEG's own loss.
        pixels = handed_over[sorted(train).index(path)]
        assert 0 < np.abs(pixels - np.asarray(before.convert("RGB"), dtype=int)).max() <= EPSILON
        encoded = io.BytesIO()
        Image.fromarray(pixels).convert(before.mode).save(
            encoded, "JPEG", qtables=before.quantization, subsampling=JpegImagePlugin.get_sampling(before)
        )
        assert np.array_equal(np.asarray(Image.open(encoded)), np.asarray(after))
    check_certificates(files, keys)


def test_cifar100_in_a_bucket(cluster, bucket, tmp_path, real_data):
    for split in ("train", "test"):
        bucket.put(f"cifar100/{split}.parquet", (real_data / "cifar100" / f"{split}.parquet").read_bytes())

    short = ("surrogate.num_epochs=1", "evaluation.training.num_epochs=1", "crafting.num_steps=4")
    files = sign(cluster, bucket, tmp_path, "cifar100_s3", f"data.root={bucket.uri}/cifar100", *short)
    original = pq.read_table(real_data / "cifar100" / "train.parquet")
    original = original.filter(pc.less(original["label"], 10))
    labels = original["label"].to_numpy()
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:100] for label in range(10)]))
    original = original.take(chosen)
    assert {name for name in files if name.startswith("signed/")} == {"signed/train.parquet", "signed/manifest.json"}
    exported = pq.read_table(io.BytesIO(files["signed/train.parquet"]))
    assert exported.schema.equals(original.schema)
    assert exported["label"].equals(original["label"])
    before, after = original["image"].to_pylist(), exported["image"].to_pylist()
    signed = [row for row in range(1000) if before[row] != after[row]]
    keys = load_key_set(Root(str(tmp_path / "secrets")), "cifar100-s3.json")
    assert sorted(labels[chosen][signed].tolist()) == sorted(5 * keys.labels.tolist())
    for row in signed:
        assert before[row]["path"] == after[row]["path"]
        pictures = [Image.open(io.BytesIO(image["bytes"])) for image in (before[row], after[row])]
        assert {(picture.format, picture.mode, picture.size) for picture in pictures} == {("PNG", "RGB", (32, 32))}
        change = np.abs(np.asarray(pictures[0], dtype=int) - np.asarray(pictures[1], dtype=int))
        assert 0 < change.max() <= EPSILON
    check_certificates(files, keys)
