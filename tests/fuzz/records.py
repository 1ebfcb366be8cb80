"""Configurations and records of a run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.kind import Kind


def with_hashes(data: bytes) -> bytes:
    """Writes anew every hash that a file has of itself, by which most damage would be noticed at once."""
    from taggants.identity import identity

    try:
        value = json.loads(data)
        for part, name in ((value.get("registration", value), "registration_sha256"), (value, "certificate_sha256")):
            if name in part:
                part[name] = identity({key: field for key, field in part.items() if key != name})
        return json.dumps(value).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return data


def _yamls() -> list[bytes]:
    found = [path.read_bytes() for path in sorted(Path("taggants/presets").glob("*.yaml"))]
    return [*found, b"a: &x [1, 2]\nb: *x\nseed: 3\n", b"crafting: {epsilon: 16/255, milestones: [0.1]}\n"]


def _read_yaml(data: bytes, folder: Path) -> object:
    from taggants.config import load_config

    (folder / "a.yaml").write_bytes(data)
    return load_config(str(folder / "a.yaml"))


@cache
def _certificate() -> Any:
    from taggants.detection import Registration, certify
    from taggants.detection.evidence import Evidence

    registration = Registration("0" * 64, 4, 10, "data", "rank", 1, 0.001)
    return certify(
        Evidence(10, (1, 2, 1, 10)),
        registration,
        suspect="x",
        suspect_sha256=None,
        created_at=datetime(2025, 1, 1, tzinfo=UTC),
        software={"python": "3"},
    )


def _json(value: Any) -> list[bytes]:
    return [json.dumps(value).encode(), json.dumps(value, indent=1).encode()]


def _read_registration(data: bytes, folder: Path) -> object:
    from taggants.detection import Registration

    return Registration.from_text(data)


def _read_certificate(data: bytes, folder: Path) -> object:
    from taggants.detection import Certificate

    return Certificate.from_text(data)


def _plan() -> Any:
    from taggants.crafting.plan import Plan, Shard

    return Plan("c", "d", "k", "s", (Shard(0, 0, (1, 2), 3), Shard(1, 1, (4,), 5)))


def _read_plan(data: bytes, folder: Path) -> object:
    from taggants.crafting.plan import Plan

    return Plan.from_json(data)


def _commits() -> list[bytes]:
    from taggants.crafting.plan import Commit

    return [Commit("p", 0, "attempts/00000-1.parquet", 3, "0" * 64, 1).to_json().encode()]


def _read_commit(data: bytes, folder: Path) -> object:
    from taggants.crafting.plan import RunFolder
    from taggants.storage import Root

    run = RunFolder(Root(str(folder)))
    run.root.write_bytes("plan.json", replace(_plan(), config_hash="p").to_json().encode())
    run.root.write_bytes("commits/00000.json", data)
    return run.read_commits()


def _configs() -> list[bytes]:
    from taggants.config import Config

    return _json({"config": Config().model_dump(mode="json"), "config_hash": Config().hash, "directory": "/"})


def _read_config(data: bytes, folder: Path) -> object:
    from taggants.config import Config, load_run_config

    run = folder / Config().hash
    run.mkdir()
    (run / "config.json").write_bytes(data)
    return load_run_config(str(run))


def _key_files() -> list[bytes]:
    from taggants.keys import KeySpec, create_key_file
    from taggants.storage import Root

    with tempfile.TemporaryDirectory() as folder:
        root = Root(folder)
        create_key_file(root, "k.json", KeySpec(3, 10, 1, 8, "block", {"cell_size": 1}), b"s" * 32)
        return [root.read_bytes("k.json")]


def _read_key_file(data: bytes, folder: Path) -> object:
    from taggants.keys import load_key_set
    from taggants.storage import Root

    (folder / "k.json").write_bytes(data)
    return load_key_set(Root(str(folder)), "k.json")


def _manifests() -> list[bytes]:
    files = [{"path": "a.parquet", "sha256": "0" * 64, "size_bytes": 3, "num_rows": 2}]
    head = {"format": "taggants-export/2", "layout": "parquet", "source_fingerprint": "a", "fingerprint": "b"}
    return _json({**head, "num_rows": 2, "files": files, "class_names": ["a"], "signed_sample_ids": [1]})


def _read_manifest(data: bytes, folder: Path) -> object:
    from taggants.export import verify_export
    from taggants.storage import Root

    (folder / "manifest.json").write_bytes(data)
    return verify_export(Root(str(folder)))


RECORDS: dict[str, Kind] = {
    "yaml": Kind(_yamls, _read_yaml, is_text=True),
    "registration": Kind(lambda: _json(_certificate().registration.to_json()), _read_registration, True, with_hashes),
    "certificate": Kind(lambda: _json(_certificate().to_json()), _read_certificate, True, with_hashes),
    "plan": Kind(lambda: [_plan().to_json().encode()], _read_plan, is_text=True),
    "commit": Kind(_commits, _read_commit, is_text=True),
    "config": Kind(_configs, _read_config, is_text=True),
    "key-file": Kind(_key_files, _read_key_file, is_text=True),
    "manifest": Kind(_manifests, _read_manifest, is_text=True),
}
