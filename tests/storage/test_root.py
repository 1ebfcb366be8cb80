from __future__ import annotations

import hashlib
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taggants.errors import InputError
from taggants.storage import Root, s3


def test_what_was_written_is_read(root: Root) -> None:
    root.write_bytes("a/b.bin", b"\x00old")
    root.write_bytes("a/b.bin", b"\x00new")
    assert root.read_bytes("a/b.bin") == b"\x00new"
    assert root.size_bytes("a/b.bin") == 4
    assert root.sha256("a/b.bin") == hashlib.sha256(b"\x00new").hexdigest()


def test_empty_file(root: Root) -> None:
    root.write_bytes("empty", b"")
    assert root.read_bytes("empty") == b""
    assert root.exists("empty")


def test_create_is_exclusive(root: Root) -> None:
    assert root.create_bytes("commits/1.json", b"first")
    assert not root.create_bytes("commits/1.json", b"second")
    assert root.read_bytes("commits/1.json") == b"first"
    assert root.list() == ["commits/1.json"]


def test_of_racing_creators_exactly_one_wins_and_its_bytes_stay(root: Root) -> None:
    for race in range(2):
        barrier = threading.Barrier(6)

        def create(creator: int, path: str = f"race/{race}", barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return root.create_bytes(path, bytes([creator]) * 1000)

        with ThreadPoolExecutor(6) as threads:
            won = list(threads.map(create, range(6)))
        assert sum(won) == 1
        assert root.read_bytes(f"race/{race}") == bytes([won.index(True)]) * 1000


def test_readers_see_the_old_bytes_or_the_new_never_a_part(root: Root) -> None:
    versions = [bytes([version]) * 300_000 for version in range(8)]
    root.write_bytes("file", versions[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(root.read_bytes("file"))

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        for version in versions:
            root.write_bytes("file", version)
        stop.set()
        for reader in readers:
            reader.result()
    assert seen <= set(versions)


def test_json_is_canonical_text(root: Root) -> None:
    root.write_json("a.json", {"b": [1, 2.5], "a": None})
    assert root.read_json("a.json") == {"a": None, "b": [1, 2.5]}
    assert root.read_bytes("a.json") == b'{\n "a": null,\n "b": [\n  1,\n  2.5\n ]\n}\n'


def test_half_a_json_file_is_refused_by_name(root: Root) -> None:
    root.write_bytes("half.json", b'{"a": 1')
    with pytest.raises(InputError, match=r"half\.json is not valid JSON"):
        root.read_json("half.json")


def test_table_round_trip_and_column_choice(root: Root) -> None:
    table = pa.table({"sample_id": pa.array([3, 1], pa.int64()), "image": pa.array([b"\xff\x00", None], pa.binary())})
    root.write_table("t.parquet", table, compression="zstd")
    assert root.read_table("t.parquet").equals(table)
    assert root.read_table("t.parquet", columns=["image"]).equals(table.select(["image"]))
    with root.open_input("t.parquet") as source:
        assert pq.ParquetFile(source).metadata.row_group(0).column(0).compression == "ZSTD"
    with pytest.raises(InputError, match=r"no column 'label'; name one of: sample_id, image"):
        root.read_table("t.parquet", columns=["label"])


def test_half_a_table_is_refused_by_name(root: Root) -> None:
    root.write_table("t.parquet", pa.table({"a": list(range(100))}))
    root.write_bytes("t.parquet", root.read_bytes("t.parquet")[:-20])
    with pytest.raises(InputError, match=r"t\.parquet is damaged or not a complete Parquet file"):
        root.read_table("t.parquet")


def test_open_input_reads_at_random(root: Root) -> None:
    root.write_bytes("file", bytes(range(256)))
    with root.open_input("file") as source:
        source.seek(200)
        assert source.read(3) == bytes([200, 201, 202])
        assert source.size() == 256


def test_list_is_recursive_sorted_and_from_the_root(root: Root) -> None:
    assert root.list() == []
    assert root.list("nowhere") == []
    for path in ["b", "a/2", "a/10", "a/c/d", "ab"]:
        root.write_bytes(path, b"x")
    assert root.list() == ["a/10", "a/2", "a/c/d", "ab", "b"]
    assert root.list("a") == ["a/10", "a/2", "a/c/d"]
    assert root.child("a").list() == ["10", "2", "c/d"]
    assert root.list("b") == []


def test_exists_is_for_files(root: Root) -> None:
    root.write_bytes("a/b", b"x")
    assert root.exists("a/b")
    assert not root.exists("a")
    assert not root.exists("a/b/c")
    assert not root.exists("c")


def test_delete(root: Root) -> None:
    root.write_bytes("a/b", b"x")
    root.delete("a/b")
    root.delete("a/b")
    assert root.list() == []


def test_missing_file_is_named_in_full(root: Root) -> None:
    calls: list[Callable[[str], object]] = [root.read_bytes, root.read_json, root.read_table, root.open_input]
    for call in [*calls, root.size_bytes, root.sha256]:
        with pytest.raises(InputError) as refusal:
            call("no/such")
        assert f"{root.uri}/no/such does not exist" in str(refusal.value)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a/..", "", ".", "a\0b"])
def test_paths_outside_the_root_are_refused(root: Root, path: str) -> None:
    with pytest.raises(InputError, match="names nothing inside"):
        root.read_bytes(path)
    with pytest.raises(InputError, match="names nothing inside"):
        root.write_bytes(path, b"")
    with pytest.raises(InputError, match="names nothing inside"):
        root.child(path)


def test_copy_within_and_across_roots(root: Root, tmp_path: Path) -> None:
    other = Root(str(tmp_path / "other"))
    data = bytes(range(256)) * 40_000  # more than one part of a multipart upload
    root.write_bytes("from", data)
    root.copy("from", root, "x/to")
    root.copy("from", other, "to")
    other.copy("to", root, "back")
    assert root.read_bytes("x/to") == other.read_bytes("to") == root.read_bytes("back") == data
    with pytest.raises(InputError, match="missing does not exist"):
        root.copy("missing", other, "nothing")
    assert other.list() == ["to"]


def test_a_file_appears_when_its_block_ends(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 5 * 2**20)
    data = os.urandom(12 * 2**20 + 5)
    root.write_bytes("a/file", b"old")
    with root.writing("a/file") as sink:
        for start in range(0, len(data), 700_001):
            sink.write(data[start : start + 700_001])
        assert root.read_bytes("a/file") == b"old"
        assert root.list() == ["a/file"]
    assert root.read_bytes("a/file") == data
    assert root.sizes() == {"a/file": len(data)}
    with root.writing("empty"):
        pass
    assert root.read_bytes("empty") == b""


@pytest.mark.parametrize("size_bytes", [10, 12 * 2**20])
def test_a_block_that_raises_publishes_nothing(root: Root, monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 5 * 2**20)
    root.write_bytes("file", b"old")

    def broken(path: str) -> None:
        with root.writing(path) as sink:
            sink.write(bytes(size_bytes))
            raise RuntimeError("the work failed")

    for path in ("file", "new"):
        with pytest.raises(RuntimeError, match="the work failed"):
            broken(path)
    assert root.read_bytes("file") == b"old"
    assert root.list() == ["file"]


def test_a_parquet_writer_that_is_broken_off_publishes_nothing(root: Root) -> None:
    # Its own sink would: its `with` block writes the footer of half a file (apache/arrow issue 40502).
    table = pa.table({"a": list(range(100))})

    def broken() -> None:
        with root.writing("t.parquet") as sink, pq.ParquetWriter(sink, table.schema) as writer:
            writer.write_table(table)
            raise RuntimeError("the work failed")

    with pytest.raises(RuntimeError, match="the work failed"):
        broken()
    assert root.list() == []


def test_checking_whether_files_can_be_written_leaves_none(root: Root) -> None:
    root.check_writable()
    assert root.list() == []


def test_sizes_are_those_of_the_files_below_a_folder(root: Root) -> None:
    assert root.sizes() == {}
    for path, size_bytes in {"b": 3, "a/2": 0, "a/c/d": 5}.items():
        root.write_bytes(path, bytes(size_bytes))
    assert list(root.sizes().items()) == [("a/2", 0), ("a/c/d", 5), ("b", 3)]
    assert root.sizes("a") == {"a/2": 0, "a/c/d": 5}


def test_a_version_changes_with_every_write_of_other_bytes(root: Root) -> None:
    root.write_bytes("a", b"one")
    version = root.version("a")
    assert root.version("a") == version
    assert root.read_bytes("a") == b"one"
    assert root.version("a") == version
    root.write_bytes("a", b"two")
    assert root.version("a") != version
    with pytest.raises(InputError, match="does not exist"):
        root.version("b")


def test_root_pickles_as_its_uri_after_use(root: Root) -> None:
    root.write_bytes("a", b"x")
    root.read_bytes("a")
    pickled = pickle.dumps(root)
    assert b"testsecret" not in pickled
    assert b"testkey" not in pickled
    assert pickled == pickle.dumps(Root(root.uri))
    again = pickle.loads(pickled)
    assert again == root
    assert again.read_bytes("a") == b"x"
    assert "testsecret" not in repr(root)


# Its uri.


def test_relative_and_home_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = Root("runs/../data/")
    assert root.uri == str(tmp_path / "data")
    monkeypatch.chdir("/")
    assert root == Root(str(tmp_path / "data"))
    assert Root("~/data").uri == str(tmp_path / "home" / "data")


@pytest.mark.parametrize("uri", ["", "s3://", "s3:///prefix", "gs://bucket", "https://host/x", "s3://bucket/a/../.."])
def test_unusable_uris_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="s3://bucket/prefix"):
        Root(uri)


@pytest.mark.parametrize("uri", ["s3://id:hush@bucket/x", "s3://bucket/x?secret_key=hush"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(InputError) as refusal:
        Root(uri)
    assert "hush" not in str(refusal.value)


def test_s3_uri_is_brought_to_one_form() -> None:
    assert Root("s3://bucket//a/b/") == Root("s3://bucket/a").child("b")
    assert Root("s3://bucket/").uri == "s3://bucket"


def test_a_text_that_no_file_system_can_hold_is_no_path(root: Root) -> None:
    for path in ("a\ud800", "a\0"):
        with pytest.raises(InputError, match="names nothing inside"):
            root.exists(path)
    with pytest.raises(InputError, match="lone surrogate"):
        Root("/tmp/a\ud800")


def test_times_of_change_are_put_in_order(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    for name in ("c", "a", "b"):
        root.write_bytes(name, name.encode())
        time.sleep(0.01)  # the clock of a file system has steps of up to 10 ms

    def times() -> list[tuple[int, int]]:
        return [((tmp_path / name).stat().st_ctime_ns, (tmp_path / name).stat().st_mtime_ns) for name in "abc"]

    before = times()
    assert [ctime for ctime, _ in before] != sorted(ctime for ctime, _ in before)
    root.settle("abc")
    assert [ctime for ctime, _ in times()] == sorted(ctime for ctime, _ in times())
    assert [mtime for _, mtime in times()] == [mtime for _, mtime in before]
