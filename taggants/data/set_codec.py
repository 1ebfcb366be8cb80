"""The codec of a signing set, from the files that its images come in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from taggants.data.fitness import NARROWEST_PX
from taggants.data.image_codec import is_jpeg, replaceable_shape
from taggants.data.jpeg import JpegLayout, jpeg_layout
from taggants.errors import InputError
from taggants.perturbation.codec import Codec, GroupedCodec, JpegCodec, LosslessCodec


def codec_for(encoded: Sequence[bytes]) -> Codec:
    """Returns: what the files do to signed images that replace theirs: one codec per way of storing, PNG and each kind
    of JPEG (chroma sampling, greyscale or colour), combined where there are several. It is on the CPU.

    Args:
        encoded: at least one file, as the dataset holds it, in the order of the signing set.

    Raises:
        InputError: a file is neither a plain PNG nor a JPEG that `encode_jpeg_like` can imitate, or it is a JPEG with
            subsampled chroma less than 5 pixels wide; the sentence gives its place in `encoded`.
    """
    assert encoded, "a signing set holds at least one image"
    layouts = [_layout(i, data) for i, data in enumerate(encoded)]
    members: dict[tuple[object, ...], list[int]] = {}
    for i, layout in enumerate(layouts):
        kind = (layout.channels, layout.sampling) if isinstance(layout, JpegLayout) else ()
        members.setdefault(kind, []).append(i)
    codecs = tuple(_codec([layouts[i] for i in places]) for places in members.values())
    if members.keys() == {()} and len(set(layouts)) == 1:
        return LosslessCodec()  # they fill the canvas
    if len(codecs) == 1:
        return codecs[0]
    return GroupedCodec(codecs, tuple(torch.tensor(places) for places in members.values()))


def _layout(place: int, data: bytes) -> JpegLayout | tuple[int, int]:
    """Returns: the layout of a JPEG; height and width of a PNG."""
    try:
        layout = jpeg_layout(data) if is_jpeg(data) else replaceable_shape(data)[1:]
    except InputError as error:
        raise InputError(f"Image {place} of the signing set: {error}") from None
    # libjpeg upsamples those in another way.
    if isinstance(layout, JpegLayout) and layout.sampling[0][0] > 1 and layout.width < NARROWEST_PX:
        raise InputError(
            f"Image {place} of the signing set is {layout.width} px wide; sign images of {NARROWEST_PX} px or more."
        )
    return layout


def _codec(layouts: Sequence[JpegLayout | tuple[int, int]]) -> Codec:
    """Returns: the codec of files that are stored in one way."""
    jpegs = [layout for layout in layouts if isinstance(layout, JpegLayout)]
    if not jpegs:
        return LosslessCodec(torch.tensor(layouts))
    return JpegCodec(
        tables=torch.stack([torch.from_numpy(layout.quantisation) for layout in jpegs]),
        sampling=jpegs[0].sampling[0],
        sizes=torch.tensor([[layout.height, layout.width] for layout in jpegs]),
    )
