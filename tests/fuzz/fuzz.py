"""Damaged files of every kind that other people pass on: each is read or refused by an InputError, within 10 s and 2 GiB.

    python -m tests.fuzz.fuzz [--count 2000] [--seed 0] [KIND ...]

Each kind is worked on in a process of its own, limited in memory (2 GiB beyond what its imports take), which is ended
when one file takes longer. A failure prints the number of the file: `--only NUMBER KIND` repeats it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import resource
import select
import signal
import subprocess
import sys
import tarfile
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from taggants.errors import InputError

MOST_BYTES = 2 * 2**30
MOST_SECONDS = 10.0
_LARGE = (0, 1, 7, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


@dataclass(frozen=True)
class Kind:
    """A kind of file: whole ones to start from, and what reads one, which may raise InputError alone."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]
    is_text: bool = False
    repair: Callable[[bytes], bytes] | None = None  # of checksums, by which most damage would be noticed at once


def _with_checksums(png: bytes) -> bytes:
    changed, start = bytearray(png), 8
    while start + 12 <= len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        changed[end - 4 : end] = zlib.crc32(changed[start + 4 : end - 4]).to_bytes(4, "big") if end <= len(png) else b""
        start = end
    return bytes(changed)


def _with_hash(data: bytes) -> bytes:
    from taggants.identity import identity

    try:
        value = json.loads(data)
        registration = value.get("registration", value)
        content = {name: field for name, field in registration.items() if name != "registration_sha256"}
        registration["registration_sha256"] = identity(content)
        return json.dumps(value).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return data


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 20), dtype=np.uint8)


def _encoded(image_format: str, mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(_pixels().transpose(1, 2, 0)).convert(mode).save(sink, image_format, **options)
    return sink.getvalue()


def _pngs() -> list[bytes]:
    return [
        _encoded("PNG"),
        _encoded("PNG", "L"),
        _encoded("PNG", "P"),
        _encoded("PNG", dpi=(72, 72), icc_profile=b"p" * 99),
    ]


def _jpegs() -> list[bytes]:
    return [
        _encoded("JPEG"),
        _encoded("JPEG", progressive=True),
        _encoded("JPEG", "L", optimize=True),
        _encoded("JPEG", subsampling="4:2:0", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        _encoded("JPEG", "CMYK"),
    ]


def _read_image(data: bytes, folder: Path) -> object:
    from taggants.data.fitness import problem_of
    from taggants.data.image_codec import decode_image
    from taggants.data.signed_images import ImageStorage, Replacement, is_replaced, replaced

    for channels in (1, 3):
        decode_image(data, channels)
    if problem_of(data, None) is None:
        pixels = 255 - decode_image(data)
        for storage in (ImageStorage(), ImageStorage(reencodes_png=True, strips_credentials=True)):
            new = Replacement(pixels, storage)
            is_replaced(data, replaced(data, new), new)
    return None


def _tars() -> list[bytes]:
    found = []
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tar_format) as tar:
            for i in range(3):
                for suffix, content in (("png", _pngs()[0]), ("cls", b"%d" % i), ("json", b'{"label": 1, "x": [[]]}')):
                    member = tarfile.TarInfo(
                        f"{'long' * (20 if tar_format == tarfile.USTAR_FORMAT else 40) if i == 2 else 'a'}{i}.{suffix}"
                    )
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        found.append(sink.getvalue())
    return found


def _parquets() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    cells = [{"bytes": data, "path": "x"} for data in _pngs() * 3]
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c", "d"], "_type": "ClassLabel"}}
    table = pa.table({"image": cells, "label": [0, 1, 2, 3] * 3, "tags": [["a"], []] * 6})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for options in (
        {},
        {"use_dictionary": False, "write_page_index": True, "compression": "zstd"},
        {"data_page_version": "2.0", "row_group_size": 5, "compression": "none"},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"data_page_size": 50, "write_batch_size": 2, "write_page_checksum": True, "compression": "gzip"},
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        found.append(sink.getvalue())
    return found


def _read_dataset(layout_name: str, suffix: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from taggants.data import open_source
        from taggants.data.fitness import fitness_of
        from taggants.data.layouts import layout_of
        from taggants.data.signed_images import ImageStorage, Replacement
        from taggants.storage import Root

        root = Root(str(folder))
        root.write_bytes(f"a{suffix}", data)
        source = open_source(layout_name, root, "", channels=3)
        source.index()
        layout = layout_of(source)
        layout.check_rewritable(source, f"a{suffix}")
        fit = np.flatnonzero(fitness_of(source).is_fit).tolist()
        for sample_id in fit[:1]:
            image = source.read_sized([sample_id])[0]
            rows = {sample_id: Replacement(255 - image, ImageStorage(hashes="recompute"))}
            with (folder / "out").open("wb") as sink:
                for _ in layout.rewrite(source, f"a{suffix}", rows, sink):
                    pass
        return None

    return read


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


def _checkpoints() -> list[bytes]:
    from taggants.models import ModelSpec, build_model, checkpoint_bytes

    spec = ModelSpec("cnn", num_classes=4, channels=1, image_size=8)
    return [checkpoint_bytes(build_model(spec, 0), spec)]


def _read_checkpoint(data: bytes, folder: Path) -> object:
    from taggants.models.checkpoints import model_from_checkpoint

    return model_from_checkpoint(data, "a.safetensors")


KINDS: dict[str, Kind] = {
    "png": Kind(_pngs, _read_image, repair=_with_checksums),
    "jpeg": Kind(_jpegs, _read_image),
    "tar": Kind(_tars, _read_dataset("webdataset", ".tar")),
    "parquet": Kind(_parquets, _read_dataset("parquet", ".parquet")),
    "yaml": Kind(_yamls, _read_yaml, is_text=True),
    "registration": Kind(lambda: _json(_certificate().registration.to_json()), _read_registration, True, _with_hash),
    "certificate": Kind(lambda: _json(_certificate().to_json()), _read_certificate, True, _with_hash),
    "plan": Kind(lambda: [_plan().to_json().encode()], _read_plan, is_text=True),
    "commit": Kind(_commits, _read_commit, is_text=True),
    "config": Kind(_configs, _read_config, is_text=True),
    "key-file": Kind(_key_files, _read_key_file, is_text=True),
    "manifest": Kind(_manifests, _read_manifest, is_text=True),
    "safetensors": Kind(_checkpoints, _read_checkpoint),
}


def mutated(data: bytes, draw: random.Random, *, is_text: bool) -> bytes:
    """Returns the bytes with one to five changes."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        draw.choice(_TEXT_CHANGES if is_text and draw.random() < 0.95 else _CHANGES)(changed, draw)
    return bytes(changed)


def _place(data: bytearray, draw: random.Random) -> int:
    """Headers and footers are where most is decided."""
    end = max(len(data) - 1, 0)
    return draw.choice([draw.randint(0, end), draw.randint(0, min(end, 600)), end - draw.randint(0, min(end, 600))])


def _flip(data: bytearray, draw: random.Random) -> None:
    if data:
        data[_place(data, draw)] ^= 1 << draw.randrange(8)


def _set(data: bytearray, draw: random.Random) -> None:
    if data:
        data[_place(data, draw)] = draw.choice([0, 1, 127, 128, 254, 255, draw.randrange(256)])


def _number(data: bytearray, draw: random.Random) -> None:
    size, at = draw.choice([2, 4, 8]), _place(data, draw)
    value = draw.choice(_LARGE) % 256**size
    data[at : at + size] = value.to_bytes(size, draw.choice(["little", "big"]))


def _delete(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    del data[at : at + draw.choice([1, 2, 16, 512, len(data)])]


def _insert(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = draw.randbytes(draw.choice([1, 4, 64]))


def _repeat(data: bytearray, draw: random.Random) -> None:
    start, at = _place(data, draw), _place(data, draw)
    data[at:at] = data[start : start + draw.choice([4, 64, 512])]


_CHANGES = (_flip, _flip, _set, _number, _delete, _insert, _repeat)


def _token(data: bytearray, draw: random.Random) -> None:
    """Puts another value in the place of a number or word."""
    tokens = rb'"[^"]*"|-?[0-9.]+|null|true' + (b"" if data.startswith(b"{") else rb"|[A-Za-z_]+")
    found = [token for token in re.finditer(rb"(?:%b)(\s*:)?" % tokens, data) if not token[1] or draw.random() < 0.1]
    if found:
        token = draw.choice(found)
        start, end = token.start(), token.end() if not token[1] else token.start(1)
        values = [
            *(b'-1 0 1 2 1e9 1e999 -0.0 null true [] {} NaN [[1]] {"a":1} 1.5 -7'.split(b" ")),
            *(str(value).encode() for value in (10**6, 10**12, 2**63, 10**400)),
            b'"\\u0000"',
            b'"\\ud800"',
            b'"' + b"x" * 300 + b'"',
            draw.choice(found)[0].rstrip(b": "),
        ]
        data[start:end] = draw.choice(values)


def _nest(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = draw.choice(
        [b"[", b'{"a":', b"- ", b"? ", b"&a ", b"*a", b"!!python/object:os.system "]
    ) * draw.choice([1, 50, 20_000])


_TEXT_CHANGES = (*[_token] * 12, _nest, _repeat, _delete)


def case(kind: str, seed: int, number: int) -> bytes:
    """Returns the file of a number, a function of the arguments."""
    draw = random.Random(f"{kind} {seed} {number}")
    data = mutated(draw.choice(_seeds(kind)), draw, is_text=KINDS[kind].is_text)
    repair = KINDS[kind].repair
    return data if repair is None or draw.random() < 0.3 else repair(data)


@cache
def _seeds(kind: str) -> list[bytes]:
    return KINDS[kind].seeds()


def failure_of(kind: str, data: bytes) -> str | None:
    """Returns the traceback of an exception other than InputError."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            KINDS[kind].read(data, Path(folder))
        except InputError:
            return None
        except BaseException:
            return traceback.format_exc()
    return None


def _work(kind: str, seed: int, numbers: range) -> None:
    """Tells each number before and after it, on stdout."""
    import warnings

    for data in _seeds(kind):
        failure = failure_of(kind, data)  # imports what reading needs
        assert failure is None, failure
    warnings.simplefilter("ignore")  # which Pillow gives for what it reads all the same
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
    for number in numbers:
        print(json.dumps([number]), flush=True)
        print(json.dumps([number, failure_of(kind, case(kind, seed, number))]), flush=True)


def failures(kind: str, seed: int, count: int) -> Iterator[tuple[int, str]]:
    """Yields the number of each file that was neither read nor refused, and why."""
    first = 0
    while first < count:
        command = [sys.executable, "-m", "tests.fuzz.fuzz", kind, f"--seed={seed}", f"--work={first}:{count}"]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process,
        ):
            assert process.stdout is not None
            begun, done = first - 1, first - 1
            while done < count - 1:
                wait_s = 300 if begun < first else MOST_SECONDS  # imports first
                if not select.select([process.stdout], [], [], wait_s)[0]:
                    yield begun, f"it took more than {MOST_SECONDS:g} s"
                    break
                line = process.stdout.readline()
                if not line:
                    errors.seek(0)
                    yield begun, f"the process died: {errors.read().decode(errors='replace')[-2000:]}"
                    break
                told = json.loads(line)
                begun = told[0]
                if len(told) == 2:
                    done = begun
                    if told[1] is not None:
                        yield begun, told[1]
            if done < count - 1:
                os.killpg(process.pid, signal.SIGKILL)
        first = begun + 1 if begun >= first else count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--count", type=int, default=2000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="repeat one number")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        first, count = map(int, given.work.split(":"))
        _work(given.kinds[0], given.seed, range(first, count))
        return 0
    num_failures = 0
    for kind in given.kinds or KINDS:
        if given.only is not None:
            print(failure_of(kind, case(kind, given.seed, given.only)) or "read or refused")
            continue
        found = list(failures(kind, given.seed, given.count))
        num_failures += len(found)
        print(f"{kind:<14}{given.count} files, {len(found)} failures", flush=True)
        for number, reason in found[:20]:
            print(f"  {number}: {reason.strip()[-1500:]}", flush=True)
    return 1 if num_failures else 0


if __name__ == "__main__":
    sys.exit(main())
