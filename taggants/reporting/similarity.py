"""A picture of how alike keys look to a network."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MIN_TILE, _MOST_TILES = 32, 40
_GAP = 2
_LOW, _MIDDLE, _HIGH = np.array([[33, 102, 172], [247, 247, 247], [178, 24, 43]])  # blue, white, red
_BACKGROUND = (250, 250, 248)


def draw_similarity(keys: NDArray[np.uint8], cosines: NDArray[np.floating]) -> bytes:
    """Returns a PNG: the keys along the top and the left edge, and between them the cosine of each pair, from blue (-1) over
    white (0) to red (1). The first 40 keys; as secret as they are.

    Args:
        keys: uint8 [N, C, S, S], C 1 or 3. cosines: [N, N], in [-1, 1].
    """
    keys, cosines = keys[:_MOST_TILES], np.asarray(cosines)[:_MOST_TILES, :_MOST_TILES]
    factor = math.ceil(_MIN_TILE / keys.shape[-1])
    tile = keys.shape[-1] * factor
    step = tile + _GAP
    side = (len(keys) + 1) * step + _GAP
    sheet = np.full((side, side, 3), _BACKGROUND, dtype=np.uint8)

    def paste(row: int, column: int, pixels: NDArray[np.uint8]) -> None:
        sheet[_GAP + row * step :, _GAP + column * step :][:tile, :tile] = pixels

    for index, key in enumerate(keys):
        picture = (
            np.broadcast_to(key.transpose(1, 2, 0), (*key.shape[1:], 3)).repeat(factor, axis=0).repeat(factor, axis=1)
        )
        paste(0, index + 1, picture)
        paste(index + 1, 0, picture)
    for (row, column), cosine in np.ndenumerate(cosines):
        end, share = (_HIGH, cosine) if cosine >= 0 else (_LOW, -cosine)
        colour = np.rint(_MIDDLE + np.clip(share, 0, 1) * (end - _MIDDLE)).astype(np.uint8)
        paste(row + 1, column + 1, np.broadcast_to(colour, (tile, tile, 3)))
    sink = io.BytesIO()
    Image.fromarray(sheet).save(sink, format="PNG")
    return sink.getvalue()
