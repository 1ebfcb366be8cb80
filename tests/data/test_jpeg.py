from __future__ import annotations

import contextlib
import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from taggants.data.image_codec import decode_image
from taggants.data.jpeg import encode_jpeg_like, jpeg_layout, without_scans
from taggants.errors import InputError

SUBSAMPLING = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}


def picture(shape: tuple[int, int, int] = (3, 37, 45), seed: int = 0) -> np.ndarray:
    """A smooth image with texture, uint8 [C, H, W]."""
    rng = np.random.default_rng(seed)
    waves = np.cumsum(np.cumsum(rng.normal(0, 1, shape), axis=1), axis=2)
    return np.clip(128 + waves + rng.normal(0, 8, shape), 0, 255).astype(np.uint8)


def pillow_jpeg(image: np.ndarray, **options: Any) -> bytes:
    sink = io.BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels).save(sink, "JPEG", **options)
    return sink.getvalue()


def segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """Markers and bodies up to the first scan, and that as the last: a reader of our own for tests."""
    found, at = [], 2
    while True:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4])
        if marker == 0xDA:
            return [*found, (marker, jpeg[at:])]
        found.append((marker, jpeg[at + 4 : at + 2 + length]))
        at += 2 + length


def joined(parts: list[tuple[int, bytes]]) -> bytes:
    bodies = [
        body if marker == 0xDA else struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in parts
    ]
    return b"\xff\xd8" + b"".join(bodies)


def metadata() -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return {"exif": exif, "icc_profile": b"profile" * 50, "comment": b"by hand", "dpi": (300, 72)}


OPTIONS = [
    {},
    {"quality": 30, "subsampling": "4:4:4"},
    {"quality": 95, "subsampling": "4:2:2", "optimize": True},
    {"progressive": True, "subsampling": "4:2:0"},
    {"progressive": True, "quality": 100, "subsampling": "4:4:4", **metadata()},
    {"restart_marker_blocks": 2, **metadata()},
    {"restart_marker_blocks": 3, "progressive": True},
    {"qtables": [list(range(1, 65)), list(range(2, 66)), list(range(3, 67))], "optimize": True},
    {"qtables": [list(range(200, 264))] * 2},  # values of 16 bits
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_pixels_give_the_same_file(channels: int, options: dict[str, Any]) -> None:
    # Pillow wrote the original from the image itself, so every byte is known.
    image = picture()[:channels]
    original = pillow_jpeg(image, **options)
    assert encode_jpeg_like(image, like=original) == original


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", OPTIONS)
def test_other_pixels_change_the_scan_alone(channels: int, options: dict[str, Any]) -> None:
    original = pillow_jpeg(picture()[:channels], **options)
    image = picture(seed=1)[:channels]
    replaced = encode_jpeg_like(image, like=original)
    assert replaced != original
    assert without_scans(replaced) == without_scans(original)
    assert [marker for marker, _ in segments(replaced)] == [marker for marker, _ in segments(original)]
    # The outside reference: the image as Pillow writes it when told the same.
    assert np.array_equal(decode_image(replaced), decode_image(pillow_jpeg(image, **options)))
    with Image.open(io.BytesIO(original)) as old, Image.open(io.BytesIO(replaced)) as new:
        assert (new.format, new.mode, new.size, new.info, new.quantization) == (
            ("JPEG", old.mode, old.size, old.info, old.quantization)
        )


@pytest.mark.parametrize("name", SUBSAMPLING)
def test_layout_is_what_pillow_reads(name: str) -> None:
    original = pillow_jpeg(picture(), quality=40, subsampling=name, restart_marker_blocks=7)
    layout = jpeg_layout(original)
    assert (layout.channels, layout.height, layout.width) == (3, 37, 45)
    assert layout.sampling == (SUBSAMPLING[name], (1, 1), (1, 1))
    assert (layout.restart_interval, layout.is_progressive) == (7, False)
    with Image.open(io.BytesIO(original)) as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        luma, chroma = (image.quantization[i] for i in (0, 1))
    assert [table.reshape(-1).tolist() for table in layout.quantisation] == [luma, chroma, chroma]


def test_huffman_tables_are_standard_or_made_for_the_image() -> None:
    for channels in (1, 3):
        image = picture()[:channels]
        assert jpeg_layout(pillow_jpeg(image)).has_standard_huffman_tables
        assert not jpeg_layout(pillow_jpeg(image, optimize=True)).has_standard_huffman_tables
        assert not jpeg_layout(pillow_jpeg(image, progressive=True)).has_standard_huffman_tables


@pytest.mark.parametrize("optimize", [False, True])
def test_the_grouping_of_huffman_tables_is_kept(optimize: bool) -> None:
    # As Photoshop writes them: in one segment, DC before AC, before the frame.
    image = picture()
    parts = segments(pillow_jpeg(image, optimize=optimize))
    tables = sorted(body for marker, body in parts if marker == 0xC4)
    rest = [part for part in parts if part[0] != 0xC4]
    frame = [marker for marker, _ in rest].index(0xC0)
    original = joined([*rest[:frame], (0xC4, b"".join(tables)), *rest[frame:]])
    assert encode_jpeg_like(image, like=original) == original
    replaced = encode_jpeg_like(picture(seed=1), like=original)
    assert [marker for marker, _ in segments(replaced)] == [marker for marker, _ in segments(original)]
    assert decode_image(replaced).tolist() == decode_image(pillow_jpeg(picture(seed=1))).tolist()


def test_one_huffman_table_for_all_components_becomes_two() -> None:
    image = picture()
    parts = segments(pillow_jpeg(image))
    luma_only = [part for part in parts if part[0] != 0xC4 or part[1][0] in (0x00, 0x10)]
    original = joined(luma_only)
    assert not jpeg_layout(original).has_standard_huffman_tables
    replaced = encode_jpeg_like(image, like=original)
    assert decode_image(replaced).tolist() == decode_image(pillow_jpeg(image)).tolist()


@pytest.mark.parametrize("progressive", [False, True])
def test_components_keep_their_names(progressive: bool) -> None:
    image = picture()
    original = bytearray(pillow_jpeg(image, progressive=progressive))
    frame = original.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    for i in range(3):
        original[frame + 10 + 3 * i] = i  # 0, 1, 2 as some cameras have it
    replaced = encode_jpeg_like(image, like=bytes(original))
    assert without_scans(replaced) == without_scans(bytes(original))
    assert decode_image(replaced).tolist() == decode_image(pillow_jpeg(image, progressive=progressive)).tolist()


def test_fill_bytes_and_what_trails_the_image_stay() -> None:
    image = picture()
    plain = pillow_jpeg(image)
    at = plain.index(b"\xff\xdb")
    original = plain[:at] + b"\xff\xff" + plain[at:] + b"trailing"
    assert encode_jpeg_like(image, like=original) == original


def test_the_sampling_factors_of_grey_mean_nothing() -> None:
    image = picture((1, 20, 20))
    original = bytearray(pillow_jpeg(image))
    original[original.index(b"\xff\xc0") + 11] = 0x22
    assert jpeg_layout(bytes(original)).sampling == ((1, 1),)
    assert encode_jpeg_like(image, like=bytes(original)) == bytes(original)


def frame_changed(at: int, value: int) -> bytes:
    """A JPEG with one byte of its frame header changed; -1 is the marker, 0 the precision."""
    original = bytearray(pillow_jpeg(picture()))
    start = original.index(b"\xff\xc0")
    original[start + (1 if at == -1 else 4 + at)] = value
    return bytes(original)


def cmyk() -> bytes:
    sink = io.BytesIO()
    Image.new("CMYK", (9, 9)).save(sink, "JPEG")
    return sink.getvalue()


def without_jfif(jpeg: bytes) -> bytes:
    return joined([part for part in segments(jpeg) if part[0] != 0xE0])


def several_pictures() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (9, 9)).save(sink, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (cmyk(), r"4 colour components \(CMYK or YCCK\)"),
        (pillow_jpeg(picture(), keep_rgb=True), "stores RGB itself"),
        (frame_changed(0, 12), "12 bits per channel"),
        (frame_changed(-1, 0xC3), "lossless, differential or arithmetic"),
        (frame_changed(-1, 0xC9), "lossless, differential or arithmetic"),
        (frame_changed(7, 0x12), r"sampling factors \(\(1, 2\), \(1, 1\), \(1, 1\)\)"),
        (frame_changed(8, 3), "damaged headers"),
        (frame_changed(1, 0)[:-2] + b"\xff\xdc\0\x04\0\x25\xff\xd9", "headers between or after its scans"),
        (pillow_jpeg(picture())[:-2] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\xff\xd9", "several scans"),
        (several_pictures(), "several pictures"),
        (pillow_jpeg(picture())[:-2], "damaged or incomplete"),
        (pillow_jpeg(picture())[:60], "damaged or incomplete"),
        (b"\xff\xd8\xff\xd9", "damaged or hierarchical"),
        (b"no JPEG", "is not a JPEG"),
    ],
)
def test_other_jpegs_are_refused_in_one_sentence(data: bytes, message: str) -> None:
    for function in (jpeg_layout, lambda jpeg: encode_jpeg_like(picture(), like=jpeg)):
        with pytest.raises(InputError, match=message):
            function(data)


def test_the_colour_space_is_guessed_as_libjpeg_does() -> None:
    # Without JFIF and Adobe segments, the components' names decide.
    original = without_jfif(pillow_jpeg(picture()))
    assert jpeg_layout(original).channels == 3
    frame = original.index(b"\xff\xc0")
    named = bytearray(original)
    for i, name in enumerate(b"RGB"):
        named[frame + 10 + 3 * i] = name
    with pytest.raises(InputError, match="stores RGB itself"):
        jpeg_layout(bytes(named))
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    assert jpeg_layout(original[:2] + adobe + b"\1" + original[2:]).channels == 3
    with pytest.raises(InputError, match="stores RGB itself"):
        jpeg_layout(original[:2] + adobe + b"\0" + original[2:])
    # What is read as YCbCr here and as RGB there would have other colours.
    for jpeg in (original, original[:2] + adobe + b"\1" + original[2:]):
        assert decode_image(jpeg).tolist() == decode_image(pillow_jpeg(picture())).tolist()


@given(
    jpeg=st.sampled_from([pillow_jpeg(picture(), restart_marker_blocks=2), pillow_jpeg(picture(), progressive=True)]),
    data=st.data(),
)
def test_damage_never_raises_anything_else(jpeg: bytes, data: st.DataObject) -> None:
    headers = jpeg.index(b"\xff\xda") + 14
    damaged = bytearray(jpeg)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(2, headers))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        jpeg_layout(bytes(damaged[: data.draw(st.integers(headers, len(jpeg)))]))


def test_real_jpegs_keep_all_but_their_scans(real_data: Path) -> None:
    with tarfile.open(real_data / "imagenet_sample.tar") as archive:
        members = [member for member in archive if member.name.endswith(".JPEG")]
        originals = [archive.extractfile(member).read() for member in members]
    tiny = pq.ParquetFile(real_data / "tiny_imagenet20" / "val.parquet").read_row_group(0, columns=["image"])
    originals += [row["image"]["bytes"] for row in tiny.slice(0, 100).to_pylist()]
    num_other_markers = 0
    ratios, errors = [], []
    for original in originals:
        image = decode_image(original)
        replaced = encode_jpeg_like(image, like=original)
        assert without_scans(replaced) == without_scans(original)
        errors.append(np.abs(decode_image(replaced).astype(np.int64) - image).mean())
        ratios.append(len(replaced) / len(original))
        old, new = jpeg_layout(original), jpeg_layout(replaced)
        assert new.has_standard_huffman_tables == old.has_standard_huffman_tables
        num_other_markers += [m for m, _ in segments(replaced)] != [m for m, _ in segments(original)]
    # Coding again with the same tables is nearly idempotent: 0.1 levels, and 0.4 for those of Tiny-ImageNet. With the
    # tables transposed, to give an example, it is 2.5 and 5.5.
    assert np.mean(errors[:144]) < 0.2
    assert np.mean(errors[144:]) < 0.6
    # A progressive file of an encoder with another scan script: ours begins with other Huffman tables.
    assert num_other_markers <= 3
    assert min(ratios) > 0.94
    assert max(ratios) < 1.04
    assert np.median(ratios) == pytest.approx(1, abs=0.005)
