"""Pictures for people: taggants next to their originals, and the keys."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from taggants.errors import InputError
from taggants.perturbation import psnr_db
from taggants.text import one_line

MAX_COLUMNS = 12
_MIN_TILE = 96  # pixels
_GAP = 12
_MARGIN = 24
_FONT_SIZE = 15
_LONGEST_CAPTION = 60  # characters
_BACKGROUND = (250, 250, 248)
_INK = (32, 32, 32)
_FRAME = (190, 190, 186)


def draw_contact_sheet(
    originals: NDArray[np.uint8],
    signed: NDArray[np.uint8],
    captions: Sequence[str],
    *,
    amplification: int = 8,
) -> bytes:
    """Draws one column per taggant: original, signed image, and their difference, amplified around mid grey.

    Args:
        originals: uint8 [n, C, H, W], C 1 or 3. The first 12 are shown; the figures in the footer are over all.
        signed: uint8 of the same shape.
        captions: one per taggant, cut to the column's width.
        amplification: the difference tile is 127 + amplification * (signed - original), clipped to 0..255.

    Returns: a PNG. Its footer gives the largest |difference| in levels of 255 and the peak signal-to-noise ratio in dB,
    10 log10(255^2 / mean squared difference).

    Raises:
        InputError: shapes or the number of captions differ, or there are no images.
    """
    _check_images(originals, captions)
    if signed.shape != originals.shape or signed.dtype != np.uint8:
        raise InputError(
            f"The signed images are {signed.dtype} {signed.shape}; give uint8 {originals.shape} like the originals."
        )
    difference = signed.astype(np.int64) - originals
    amplified = np.clip(127 + amplification * difference, 0, 255).astype(np.uint8)
    shown = slice(MAX_COLUMNS)
    rows = [
        _Row(originals[shown], "original", [one_line(caption, _LONGEST_CAPTION) for caption in captions[shown]]),
        _Row(signed[shown], "signed"),
        _Row(amplified[shown], f"difference x{amplification}"),
    ]
    num_shown = min(len(originals), MAX_COLUMNS)
    count = f"taggants: {len(originals)}" + (f" ({num_shown} shown)" if num_shown < len(originals) else "")
    psnr = psnr_db(int((difference**2).sum()), difference.size)
    shown_psnr = "infinite" if math.isinf(psnr) else f"{psnr:.1f}"
    return _draw(rows, f"{count}, max |difference| {abs(difference).max()} of 255 levels, PSNR {shown_psnr} dB")


def draw_keys(images: NDArray[np.uint8], labels_text: Sequence[str]) -> bytes:
    """Draws all keys in a grid, each with the caption "key 0 -> label". The result is as secret as the keys.

    Args:
        images: uint8 [num_keys, C, H, W], C 1 or 3.
        labels_text: one label per key.

    Returns: a PNG.

    Raises:
        InputError: the number of labels differs from the number of keys, or there are none.
    """
    _check_images(images, labels_text)
    captions = [f"key {i} -> {one_line(text, _LONGEST_CAPTION)}" for i, text in enumerate(labels_text)]
    num_columns = min(len(images), max(5, math.ceil(math.sqrt(len(images)))))
    starts = range(0, len(images), num_columns)
    return _draw([_Row(images[i : i + num_columns], captions=captions[i : i + num_columns]) for i in starts])


@dataclass(frozen=True)
class _Row:
    images: NDArray[np.uint8]  # [n, C, H, W]
    heading: str = ""
    captions: Sequence[str] = ()


def _draw(rows: Sequence[_Row], footer: str = "") -> bytes:
    """Returns: a PNG of the rows, headings at the left, captions above their tiles, and the footer below."""
    font = ImageFont.load_default(size=_FONT_SIZE)
    line = _FONT_SIZE + 8
    height, width = rows[0].images.shape[2:]
    factor = max(1, math.ceil(_MIN_TILE / min(height, width)))
    tile_height, tile_width = height * factor, width * factor
    # A caption may be wider than its tile, within reason.
    caption_width = max((font.getlength(text) for row in rows for text in row.captions), default=0)
    column_width = max(tile_width, min(math.ceil(caption_width), 2 * _MIN_TILE)) + _GAP
    heading_width = max(math.ceil(font.getlength(row.heading)) for row in rows)
    left = _MARGIN + (heading_width + _GAP if heading_width else 0)
    right = left + max(len(row.images) for row in rows) * column_width - _GAP
    row_heights = [tile_height + _GAP + (line if row.captions else 0) for row in rows]
    bottom = _MARGIN + sum(row_heights) + (line if footer else -_GAP)
    sheet_width = max(right, _MARGIN + math.ceil(font.getlength(footer))) + _MARGIN
    sheet = Image.new("RGB", (sheet_width, bottom + _MARGIN), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, row_height in zip(rows, row_heights, strict=True):
        tile_top = top + (line if row.captions else 0)
        pen.text((_MARGIN, tile_top + tile_height / 2), row.heading, _INK, font, anchor="lm")
        for column, image in enumerate(row.images):
            x = left + column * column_width
            if row.captions:
                pen.text(
                    (x, tile_top - 6), _cut(row.captions[column], font, column_width - _GAP), _INK, font, anchor="ls"
                )
            pen.rectangle((x - 1, tile_top - 1, x + tile_width, tile_top + tile_height), outline=_FRAME)
            sheet.paste(_picture(image).resize((tile_width, tile_height), Image.Resampling.NEAREST), (x, tile_top))
        top += row_height
    pen.text((_MARGIN, top + line / 2), footer, _INK, font, anchor="lm")
    sink = io.BytesIO()
    sheet.save(sink, format="PNG")
    return sink.getvalue()


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    channels_last = np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))  # a grey channel becomes three
    return Image.fromarray(np.ascontiguousarray(channels_last))


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _check_images(images: NDArray[np.uint8], texts: Sequence[str]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"The images are {images.dtype} {images.shape}; give uint8 [n, C, H, W] with C 1 or 3 and n >= 1."
        )
    if len(texts) != len(images):
        raise InputError(f"There are {len(texts)} captions for {len(images)} images; give one for each.")
