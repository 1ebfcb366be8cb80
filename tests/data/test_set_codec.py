from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taggants.data.image_codec import decode_image, encode_like, encode_png, replaceable_shape
from taggants.data.set_codec import codec_for
from taggants.errors import InputError
from taggants.perturbation import to_uint8
from taggants.perturbation.codec import GroupedCodec, JpegCodec, LosslessCodec


def picture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def jpeg(shape: tuple[int, int, int], seed: int = 0, **options: Any) -> bytes:
    sink = io.BytesIO()
    pixels = picture(shape, seed)
    Image.fromarray(pixels[0] if shape[0] == 1 else pixels.transpose(1, 2, 0).copy()).save(sink, "JPEG", **options)
    return sink.getvalue()


def check(encoded: list[bytes]) -> None:
    """Stores changed images in place of the files and compares what the codec predicted with what Pillow then reads."""
    codec = codec_for(encoded)
    originals = [decode_image(data, 3) for data in encoded]
    height, width = np.max([image.shape[1:] for image in originals], axis=0)
    canvas = torch.zeros(len(encoded), 3, height, width)
    rng = np.random.default_rng(1)
    for place, image in zip(canvas, originals, strict=True):
        change = rng.integers(-16, 17, image.shape)
        changed = torch.from_numpy(np.clip(image + change, 0, 255)) / 255
        place[:, : image.shape[1], : image.shape[2]] = changed
    rows = slice(0, len(encoded))
    stored, seen = codec.to_stored(canvas, rows).numpy(), to_uint8(codec(canvas, rows)).numpy()
    for data, to_store, predicted in zip(encoded, stored, seen, strict=True):
        num_channels, height, width = replaceable_shape(data)
        read = decode_image(encode_like(to_store[:num_channels, :height, :width], like=data), 3)
        assert np.array_equal(predicted[:, :height, :width], read)


def test_png_needs_rounding_only() -> None:
    codec = codec_for([encode_png(picture((3, 5, 6), seed)) for seed in range(3)])
    assert isinstance(codec, LosslessCodec)
    assert codec.sizes is None
    codec = codec_for([encode_png(picture((3, 5, 6))), encode_png(picture((3, 7, 6)))])
    assert isinstance(codec, LosslessCodec)
    assert codec.sizes is not None
    assert codec.sizes.tolist() == [[5, 6], [7, 6]]


def test_jpegs_of_one_kind_have_one_codec() -> None:
    encoded = [jpeg((3, 20, 30), quality=50), jpeg((3, 9, 17), 1, quality=90, progressive=True)]
    codec = codec_for(encoded)
    assert isinstance(codec, JpegCodec)
    assert codec.sampling == (2, 2)
    assert codec.sizes.tolist() == [[20, 30], [9, 17]]
    assert codec.tables.shape == (2, 3, 8, 8)
    check(encoded)


def test_any_mixture_is_stored_as_predicted() -> None:
    encoded = [
        jpeg((3, 20, 30), 0, quality=50),
        encode_png(picture((3, 11, 12), 1)),
        jpeg((1, 20, 30), 2, quality=80),
        jpeg((3, 8, 8), 3, subsampling="4:4:4", optimize=True),
        jpeg((3, 20, 30), 4, quality=95),
        jpeg((3, 31, 33), 5, subsampling="4:2:2"),
        jpeg((1, 7, 1), 6),
    ]
    codec = codec_for(encoded)
    assert isinstance(codec, GroupedCodec)
    assert [members.tolist() for members in codec.members] == [[0, 4], [1], [2, 6], [3], [5]]
    check([data for data in encoded if replaceable_shape(data)[0] == 3])
    check(encoded)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nothing", "Image 1 of the signing set: the image cannot be decoded"),
        (jpeg((3, 9, 4)), "Image 1 of the signing set is 4 px wide; sign images of 5 px or more"),
        (jpeg((3, 9, 9))[:-2], "Image 1 of the signing set: the JPEG is damaged"),
        (encode_png(picture((3, 9, 9)))[:20], "Image 1 of the signing set: the image cannot be decoded"),
    ],
)
def test_what_cannot_be_signed_is_named(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        codec_for([jpeg((3, 9, 9)), data])


def test_real_jpegs_are_stored_as_predicted(real_data: Path) -> None:
    with tarfile.open(real_data / "imagenet_sample.tar") as archive:
        members = [member for member in archive if member.name.endswith(".JPEG")]
        encoded = [archive.extractfile(member).read() for member in members]
    small = [data for data in encoded if max(replaceable_shape(data)[1:]) <= 450]
    assert len(small) > 10
    check(small)
