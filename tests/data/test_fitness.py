from __future__ import annotations

import io
import re
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taggants.data import open_source
from taggants.data.fitness import fit_in_words, fitness_of, problem_of
from taggants.data.image_codec import encode_png
from taggants.data.source import ImageSource
from taggants.storage import Root

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 9, 12), dtype=np.uint8)


def encoded(image_format: str, mode: str = "RGB", size: tuple[int, int] | None = None, **options: Any) -> bytes:
    picture = Image.fromarray(PIXELS.transpose(1, 2, 0)).convert(mode)
    sink = io.BytesIO()
    (picture if size is None else picture.resize(size)).save(sink, image_format, **options)
    return sink.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_chunk(name: bytes, body: bytes, before: bytes) -> bytes:
    png = encode_png(PIXELS)
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    at = png.index(before) - 4
    return png[:at] + chunk + png[at:]


def mpo() -> bytes:
    sink = io.BytesIO()
    picture = Image.fromarray(PIXELS.transpose(1, 2, 0))
    picture.save(sink, "MPO", save_all=True, append_images=[picture])
    return sink.getvalue()


def sixteen_bits() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(PIXELS[0].astype(np.uint16) * 256).save(sink, "PNG")
    return sink.getvalue()


UNFIT = {
    "CMYK": (encoded("JPEG", "CMYK"), r"a JPEG with 4 colour components \(CMYK or YCCK\)"),
    "MPO": (mpo(), r"a JPEG of several pictures \(MPO\)"),
    "RGB JPEG": (encoded("JPEG", keep_rgb=True), "a JPEG that stores RGB itself, not YCbCr"),
    "narrow 4:2:0": (
        encoded("JPEG", size=(4, 16), subsampling="4:2:0"),
        "a JPEG with subsampled chroma less than 5 px",
    ),
    "palette": (encoded("PNG", "P"), "PNG with a palette, interlacing or 16 bits"),
    "1 bit": (encoded("PNG", "1"), "PNG with a palette, interlacing or 16 bits"),
    "16 bits": (sixteen_bits(), "PNG with a palette, interlacing or 16 bits"),
    "animated": (with_chunk(b"acTL", bytes(8), b"IDAT"), "an animated PNG"),
    "grey PNG": (encode_png(PIXELS[:1]), "a greyscale PNG but data.channels = 3"),
    "WebP": (encoded("WEBP"), "WEBP"),
    "GIF": (encoded("GIF"), "GIF"),
    "damaged": (b"\x89PNG not quite", r"the image cannot be decoded"),
}
FIT = {
    "PNG": encode_png(PIXELS),
    "JPEG": encoded("JPEG"),
    "RGBA": encoded("PNG", "RGBA"),
    "progressive": encoded("JPEG", progressive=True),
    "grey JPEG": encoded("JPEG", "L"),
    "narrow 4:4:4": encoded("JPEG", size=(4, 16), subsampling="4:4:4"),
    "long header": encoded("JPEG", icc_profile=bytes(50_000)),  # longer than what is read at first
    "many texts": with_chunk(b"tEXt", b"a\0" + bytes(50_000), b"IDAT"),
    "turned": encoded("JPEG", exif=turned(6)),
    "turned PNG": encoded("PNG", exif=turned(3)),
    "upright": encoded("JPEG", exif=turned(1)),
}


def source_of(layout: str, images: list[bytes], folder: Path) -> ImageSource:
    """The images with label 0, and as many good ones with label 1."""
    root = Root(str(folder))
    if layout == "imagefolder":
        for i, data in enumerate(images):
            root.write_bytes(f"a/{i:03d}.jpg", data)
        root.write_bytes("b/0.png", FIT["PNG"])
    elif layout == "webdataset":
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for i, data in enumerate([*images, FIT["PNG"]]):
                for suffix, content in (("jpg", data), ("cls", b"01"[i == len(images) :][:1])):
                    member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        root.write_bytes("a.tar", sink.getvalue())
    else:
        import pyarrow as pa

        cells = [{"bytes": data, "path": ""} for data in [*images, FIT["PNG"]]]
        root.write_table("a.parquet", pa.table({"image": cells, "label": [0] * len(images) + [1]}), row_group_size=4)
    return open_source(layout, root, "", channels=3)


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_signed_is_said_in_words(name: str) -> None:
    data, reason = UNFIT[name]
    problem = problem_of(data, 3)
    assert problem is not None
    assert re.match(reason, problem), problem


def png_of(width: int, height: int) -> bytes:
    """A PNG of that size by its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = encode_png(PIXELS)
    return (
        data[:8]
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        + data[33:]
    )


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [(0, 8, "the image cannot be decoded"), (30_000, 30_000, "30000 x 30000 px"), (2**31 - 1, 1, "1 x 2147483647 px")],
)
def test_images_without_pixels_or_with_too_many_leave_the_candidates(
    width: int, height: int, reason: str, tmp_path: Path
) -> None:
    data = png_of(width, height)
    assert str(problem_of(data, 3)).startswith(reason)
    assert not fitness_of(source_of("imagefolder", [data], tmp_path)).is_fit[0]


def test_transparency_can_be_signed_where_readers_drop_it() -> None:
    for mode, channels in (("RGBA", 3), ("LA", 1)):
        assert problem_of(encoded("PNG", mode), channels) is None
        assert (
            problem_of(encoded("PNG", mode), None) == "a PNG with transparency, which only data.channels = 1 or 3 reads"
        )
    assert problem_of(encoded("PNG", "LA"), 3) == "a greyscale PNG but data.channels = 3"


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet"])
def test_headers_tell_what_can_be_signed(layout: str, tmp_path: Path) -> None:
    images = [data for data, _ in UNFIT.values()] + list(FIT.values())
    source = source_of(layout, images, tmp_path)
    fitness = fitness_of(source)
    assert fitness.is_fit.tolist() == [False] * len(UNFIT) + [True] * (len(FIT) + 1)
    assert fitness.is_fit.tolist() == [
        problem_of(source.read_encoded([i])[0], 3) is None for i in range(source.num_rows)
    ]
    assert sum(fitness.reasons.values()) == len(UNFIT)
    assert fitness.reasons["PNG with a palette, interlacing or 16 bits"] == 3
    turned_ids = [len(UNFIT) + list(FIT).index(name) for name in ("turned", "turned PNG")]
    assert np.flatnonzero(fitness.is_turned).tolist() == turned_ids
    lines = fit_in_words(fitness, source.num_rows)
    assert lines[0].startswith("12 of 24 images cannot be signed and stay as they are: 3 PNG with a palette")
    assert "4 further reasons" in lines[0]
    assert lines[1].startswith("2 of 24 images have an EXIF orientation")


def test_colour_among_grey_is_left_out(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.write_bytes("a/0.png", FIT["PNG"])
    root.write_bytes("a/1.png", encode_png(PIXELS[:1]))
    root.write_bytes("a/2.jpg", FIT["JPEG"])
    fitness = fitness_of(open_source("imagefolder", root, "", channels=1))
    assert fitness.is_fit.tolist() == [False, True, False]
    assert list(fitness.reasons) == ["an RGB PNG but data.channels = 1", "an RGB JPEG but data.channels = 1"]


def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [encode_png(np.random.default_rng(i).integers(0, 256, (3, 200, 200), dtype=np.uint8)) for i in range(3)]
    for layout in ("imagefolder", "webdataset"):
        source = source_of(layout, images, tmp_path / layout)
        with monkeypatch.context() as patch:
            patch.setattr(type(source), "read_encoded", lambda self, ids: pytest.fail("a whole image was read"))
            assert fitness_of(source).is_fit.all()
        assert max(map(len, source.starts_in_order(1000))) == 1000


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cmyk.jpg", "a JPEG with 4 colour components (CMYK or YCCK)"),
        ("mpo.jpg", "a JPEG of several pictures (MPO)"),
        ("narrow_4x16.jpg", "a JPEG with subsampled chroma less than 5 px wide"),
        ("one_bit.png", "PNG with a palette, interlacing or 16 bits"),
        ("exif6.jpg", None),
    ],
)
def test_images_that_once_failed(name: str, problem: str | None, cases: Path, tmp_path: Path) -> None:
    data = (cases / name).read_bytes()
    assert problem_of(data, 3) == problem
    fitness = fitness_of(source_of("imagefolder", [data], tmp_path))
    assert (fitness.is_fit[0], fitness.is_turned[0]) == (problem is None, problem is None)
