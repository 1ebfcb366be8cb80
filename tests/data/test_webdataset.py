from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from taggants.data.image_codec import encode_png
from taggants.data.layouts.webdataset.layout import WebDatasetLayout
from taggants.data.layouts.webdataset.source import WebDataset
from taggants.data.source import dataset_fingerprint
from taggants.errors import InputError
from taggants.storage import Root

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 4, 4), dtype=np.uint8)
PNG = [encode_png(image) for image in IMAGES]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def tar_of(*members: tuple[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tar_format) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def source_of(root: Root, *members: tuple[str, bytes], **options: int) -> WebDataset:
    root.write_bytes("0.tar", tar_of(*members, **options))
    return WebDataset(root)


def test_labels_from_cls_and_json(root: Root) -> None:
    source = source_of(
        root,
        ("a.png", PNG[0]),
        ("a.cls", b"3"),
        ("b.json", b'{"label": 1, "url": "x"}'),
        ("b.png", PNG[1]),
        ("c.json", b'{"label": 9}'),  # the .cls comes first
        ("c.png", PNG[2]),
        ("c.cls", b" 2\n"),
        ("d.json", b'{"caption": "x"}'),
        ("d.PNG", PNG[3]),
        ("d.cls", b"0"),
    )
    assert source.index().labels.tolist() == [3, 1, 2, 0]
    assert source.index().num_classes == 4
    assert np.array_equal(source.read_images([3, 0]), IMAGES[[3, 0]])


def test_order_and_fingerprint(root: Root) -> None:
    tars = [
        tar_of(("b.png", PNG[0]), ("b.cls", b"0"), ("a.png", PNG[1]), ("a.cls", b"1")),
        tar_of(("x.png", PNG[2]), ("x.cls", b"2")),
    ]
    for name, data in (("train-10.tar", tars[0]), ("train-9.tar", tars[1]), ("val.tar", tars[1]), ("train.txt", b"")):
        root.write_bytes(name, data)
    source = WebDataset(root, "train")
    index = source.index()
    assert (index.files, index.file_offsets, index.labels.tolist()) == (
        ("train-10.tar", "train-9.tar"),
        (0, 2, 3),
        [0, 1, 2],
    )
    hashes = [hashlib.sha256(data).hexdigest() for data in tars]
    assert index.fingerprint == dataset_fingerprint([("train-10.tar", hashes[0], 2), ("train-9.tar", hashes[1], 1)])
    for sample_id in range(3):
        file_index, start, size = source.locate(sample_id)
        assert tars[file_index][start : start + size] == PNG[sample_id]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_keys_in_every_format(root: Root, tar_format: int) -> None:
    folder = "f" * 90 if tar_format == tarfile.USTAR_FORMAT else "é" * 150
    source = source_of(
        root,
        (f"{folder}/k.png", PNG[0]),
        (f"{folder}/k.cls", b"0"),
        ("k.png", PNG[1]),
        ("k.cls", b"1"),
        tar_format=tar_format,
    )
    assert np.array_equal(source.read_all()[0], IMAGES[:2])


def test_other_members_are_skipped(root: Root) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "d.png"), (tarfile.SYMTYPE, "link.png")):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
        for name, content in (
            ("README", b"x"),
            ("._a.png", b"x"),
            ("a.seg.png", b"x"),
            ("a.png", PNG[0]),
            ("a.cls", b"0"),
            ("t.txt", b""),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    root.write_bytes("0.tar", sink.getvalue())
    assert WebDataset(root).read_encoded([0]) == [PNG[0]]
    assert WebDataset(root).num_rows == 1


def test_images_are_read_by_range_alone(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    filler = bytes(10**6)
    source = source_of(
        root, ("a.png", PNG[0]), ("a.cls", b"0"), ("b.png", filler), ("b.cls", b"1"), ("c.png", PNG[2]), ("c.cls", b"0")
    )
    source.index()
    opened = []

    class Recorded:
        def __init__(self, handle: pa.NativeFile) -> None:
            self.handle, self.num_bytes = handle, 0

        def __enter__(self) -> Recorded:
            opened.append(self)
            return self

        def __exit__(self, *_: object) -> None:
            self.handle.close()

        def read_at(self, size: int, start: int) -> bytes:
            self.num_bytes += size
            return bytes(self.handle.read_at(size, start))

    original = Root.open_input
    monkeypatch.setattr(Root, "open_input", lambda self, path: Recorded(original(self, path)))
    assert source.read_encoded([2, 0, 2]) == [PNG[2], PNG[0], PNG[2]]
    assert [handle.num_bytes for handle in opened] == [len(PNG[0]) + len(PNG[2])]


def test_every_cut_is_noticed(root: Root) -> None:
    whole = tar_of(("a.png", PNG[0]), ("a.cls", b"0"), ("b.png", PNG[1]), ("b.cls", b"1"))
    end = len(whole.rstrip(b"\0"))
    end += -end % 512  # where the last member ends; zeros follow
    cuts = {*range(0, end + 1, 512), *range(100, end, 512), end + 511}
    for cut in sorted(cuts):
        root.write_bytes("0.tar", whole[:cut])
        with pytest.raises(InputError, match=r"0\.tar is damaged, cut off or not an uncompressed tar"):
            WebDataset(root).index()
    root.write_bytes("0.tar", whole[: end + 512])
    assert WebDataset(root).index().num_rows == 2


@pytest.mark.parametrize("data", [b"", b"hello, this is no tar" * 99, b"\x1f\x8b\x08" + bytes(2000)])
def test_what_is_no_tar(root: Root, data: bytes) -> None:
    root.write_bytes("0.tar", data)
    with pytest.raises(InputError, match=r"0\.tar is damaged"):
        WebDataset(root).index()


def test_a_broken_header_does_not_hide_what_follows(root: Root) -> None:
    data = bytearray(tar_of(("a.png", PNG[0]), ("a.cls", b"0"), ("b.png", PNG[1]), ("b.cls", b"1")))
    second = data.index(b"b.png")
    data[second + 1] ^= 1
    root.write_bytes("0.tar", bytes(data))
    with pytest.raises(InputError, match=r"0\.tar is damaged"):
        WebDataset(root).index()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("x/a.png", PNG[0]), ("x/a.cls", b"0"), ("x/a.png", PNG[1])], r"Key 'x/a' of .*0\.tar has two images"),
        ([("a.png", PNG[0]), ("a.cls", b"0"), ("a.jpg", PNG[1])], r"Key 'a' of .*0\.tar has two images"),
        ([("a.png", PNG[0]), ("a.cls", b"0"), ("a.cls", b"0")], r"'a\.cls' is in .*0\.tar twice"),
        ([("a.png", PNG[0]), ("a.cls", b"0"), ("b.png", PNG[1])], r"Key 'b' of .*0\.tar has an image but no label"),
        ([("a.png", PNG[0]), ("a.json", b'{"text": "x"}')], r"Key 'a' of .* no label"),
        ([("a.png", PNG[0]), ("a.cls", b"0"), ("b.cls", b"1")], r"Key 'b' of .*0\.tar has a label but no image"),
        ([("a.png", PNG[0]), ("a.cls", b"cat")], r"'a\.cls' of .* has the label b'cat'; labels are integers from 0"),
        ([("a.png", PNG[0]), ("a.cls", b"-1")], r"the label b'-1'"),
        ([("a.png", PNG[0]), ("a.cls", b"")], r"the label b''"),
        ([("a.png", PNG[0]), ("a.cls", b"9" * 5000)], r"'a\.cls' of .* has the label"),
        ([("a.png", PNG[0]), ("a.cls", b"4294967296")], r"the label 4294967296"),
        ([("a.png", PNG[0]), ("a.json", b'{"label": true}')], r"the label True"),
        ([("a.png", PNG[0]), ("a.json", b'{"label": "3"}')], r"the label '3'"),
        ([("a.png", PNG[0]), ("a.json", b'{"label":')], r"'a\.json' of .* is not valid JSON"),
        ([("notes.txt", b"x")], r"has no images; give tars"),
    ],
)
def test_bad_members_are_named(root: Root, members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        source_of(root, *members).index()


def test_a_tar_that_changed_since_it_was_indexed(root: Root) -> None:
    source = source_of(root, ("a.png", PNG[0]), ("a.cls", b"0"))
    source.index()
    root.write_bytes("0.tar", b"")
    with pytest.raises(InputError, match=r"Image 0 of .*0\.tar .* is cut off; the tar changed"):
        source.read_images([0])


def header_of(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_huge_extended_header_is_refused_unread(root: Root, kind: bytes) -> None:
    root.write_bytes("0.tar", header_of("x", 3 * 2**30, kind) + bytes(2**20))
    with pytest.raises(InputError, match=r"0\.tar is damaged, cut off or not an uncompressed tar"):
        WebDataset(root).index()


@pytest.mark.parametrize(
    ("name", "size"), [("a.cls", 3 * 2**30), ("a.json", 2**20 + 1), ("a.png", 5 * 2**30), ("a.png", -5)]
)
def test_a_huge_member_is_refused_unread(root: Root, name: str, size: int) -> None:
    root.write_bytes("0.tar", header_of(name, size) + bytes(2**10))
    with pytest.raises(InputError, match=rf"'{name}' of .*0\.tar has -?\d+ bytes; the most are|is damaged"):
        WebDataset(root).index()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[" * 1_000_000, "is not valid JSON"),
        ("a.json", b'{"label": 1000000000000}', "has the label 1000000000000; labels are integers from 0 to 999999"),
        ("a.cls", b"1000000000000", "has the label 1000000000000"),
    ],
)
def test_absurd_labels_are_named(root: Root, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        source_of(root, ("a.png", PNG[0]), (name, content)).index()


def test_keys_with_dots_are_counted(root: Root) -> None:
    png = b"png"
    source = source_of(root, ("a.png", png), ("a.cls", b"0"), ("b.1.png", png), ("b.1.cls", b"0"), ("a.txt", b"cat"))
    assert source.num_rows == 1
    assert source.skipped == {".png behind a further dot": 1}
    assert source.extras == (".*.cls", ".*.png", ".txt")


def test_a_tar_that_once_lost_images_without_a_word(cases: Path) -> None:
    source = WebDataset(Root(str(cases)), ("dots_in_some_keys.tar",))
    assert source.num_rows == 20
    assert sum(source.skipped.values()) == 4


@pytest.mark.parametrize("name", ["a.png", "a.txt"])
def test_a_member_that_says_it_is_longer_than_the_tar_takes_no_time(root: Root, name: str) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size, member.pax_headers = 3, {"size": str(10**15)}
        tar.addfile(member, io.BytesIO(b"abc"))
    root.write_bytes("0.tar", sink.getvalue())
    with pytest.raises(InputError, match=r"0.tar.* (is damaged, cut off or not|has 1000000000000000 bytes)"):
        WebDataset(root).index()
    assert WebDatasetLayout().hash_and_count(root, "0.tar")[0] == hashlib.sha256(sink.getvalue()).hexdigest()
