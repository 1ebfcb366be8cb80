from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from taggants.data.image_codec import encode_like, encode_png
from taggants.data.layouts.webdataset.source import WebDataset
from taggants.export import (
    export_dataset,
)
from taggants.storage import Root
from tests.export.datasets import BAD, pixels, tar_of


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_the_one_that_tarfile_writes_of_the_signed_images(
    destination: Root, tmp_path: Path, tar_format: int
) -> None:
    """Byte for byte: headers, their order and checksums, padding, and zeros at the end."""
    root = Root(str(tmp_path / "source"))
    header = {"format": tar_format, "uname": "somebody", "gname": "staff", "gid": 7, "mode": 0o640}
    # 19 blocks of members: the larger image needs another record.
    small, large = encode_png(BAD), encode_png(pixels(1, (3, 60, 60))[0])
    members = [("a/k.png", small), ("a/k.cls", b"1"), ("b.png", large), ("b.cls", b"0")]
    for size in (1, 2000, 6000):
        root.write_bytes("x.tar", tar_of([*members, ("c.txt", bytes(size))], **header))
        source = WebDataset(root, ("x.tar",))
        image = np.zeros((3, 60, 60), dtype=np.uint8)
        export_dataset(source, {1: image}, destination.child(str(size)))
        assert source.index().labels.tolist() == [1, 0]
        expected = [*members[:2], ("b.png", encode_like(image, like=large)), members[3], ("c.txt", bytes(size))]
        assert destination.read_bytes(f"{size}/x.tar") == tar_of(expected, **header)


def test_a_tar_with_another_ending_keeps_it(destination: Root, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "source"))
    members = [("b.png", encode_png(BAD)), ("b.cls", b"0")]
    whole = tar_of(members)
    root.write_bytes("x.tar", whole[: 4 * 512] + bytes(1024))  # two blocks of zeros, as Go's archive/tar writes it
    export_dataset(WebDataset(root, ("x.tar",)), {0: BAD}, destination)
    assert destination.read_bytes("x.tar") == root.read_bytes("x.tar")
