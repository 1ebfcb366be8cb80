"""JPEG at the byte level: what a file fixes besides its pixels, and new pixels in a file that is otherwise the same.

Pillow writes the entropy-coded data; headers, tables and metadata are the original's own bytes. Markers and segments
after ITU-T T.81 (B.1 to B.2), colour spaces as libjpeg guesses them.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from taggants.errors import InputError

SIGNATURE = b"\xff\xd8\xff"
_APP0, _APP2, _APP11, _APP14 = 0xE0, 0xE2, 0xEB, 0xEE
_DHT, _DNL, _DRI, _DQT, _EOI, _SOI, _SOS = 0xC4, 0xDC, 0xDD, 0xDB, 0xD9, 0xD8, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = frozenset({0xC0, 0xC1}), frozenset({0xC2})
_PILLOW_SUBSAMPLING = {(1, 1): 0, (2, 1): 1, (2, 2): 2}
# The order in which a table's 64 values are stored (T.81, figure A.6), as indices of the 8x8 matrix.
_ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
_UNSUPPORTED = "sign another image or convert this one to a baseline or progressive 8-bit YCbCr or greyscale JPEG."


@dataclass(frozen=True, eq=False)
class JpegLayout:
    """What a JPEG fixes besides its pixels.

    Attributes:
        height, width: in pixels.
        channels: 1 (greyscale) or 3 (YCbCr).
        quantisation: int64 [channels, 8, 8], the table of each component; row is vertical, column horizontal frequency.
        sampling: per component the sampling factors (horizontal, vertical). A single component's are (1, 1): there they
            mean nothing (T.81, A.2.2).
        is_progressive: spectral selection and successive approximation over several scans.
        has_standard_huffman_tables: the tables are those of T.81, annex K.3, not made for this image. Never if
            progressive.
        restart_interval: minimum coded units between restart markers; 0 if there are none.
        component_ids: the names of the components in the frame, 0 to 255.
    """

    height: int
    width: int
    channels: int
    quantisation: NDArray[np.int64]
    sampling: tuple[tuple[int, int], ...]
    is_progressive: bool
    has_standard_huffman_tables: bool
    restart_interval: int
    component_ids: tuple[int, ...]


@dataclass(frozen=True)
class _Segment:
    """One segment of a file. `data` is all of it with marker and fill bytes, for SOS with the scan, for EOI with what
    trails the image; `body` is what follows the length field, without a scan."""

    marker: int
    body: bytes
    data: bytes


def jpeg_layout(data: bytes, *, only_headers: bool = False) -> JpegLayout:
    """Reads the headers of a JPEG that `encode_jpeg_like` can imitate.

    only_headers: look at nothing behind the header of the first scan; the data may end there.

    Raises:
        InputError: it is none: CMYK, YCCK or RGB colours, 12 bits, arithmetic, lossless or hierarchical coding, several
            sequential scans, chroma sampling other than 4:4:4, 4:2:2 or 4:2:0, several pictures, or damaged.
    """
    return _layout(_segments(data, only_headers=only_headers))


def encode_jpeg_like(image: NDArray[np.uint8], like: bytes) -> bytes:
    """Encodes an image into a JPEG that differs from another in the entropy-coded data alone.

    Quantisation tables, sampling, mode, restart interval and every other segment (density, EXIF, colour profile,
    comments) are the bytes of `like`, in its order. Huffman tables: standard ones stay; others are made anew for the
    image, as libjpeg makes them, and are grouped into segments as before. A progressive file gets the scans of libjpeg's
    default script, which those of another encoder may differ from.

    Args:
        image: uint8 [C, H, W], of the channels and size of `like`.
        like: the JPEG whose pixels are replaced.

    Returns: the JPEG, a function of the arguments and the versions of Pillow and its libjpeg alone.

    Raises:
        InputError: as `jpeg_layout`.
    """
    old = _segments(like)
    layout = _layout(old)
    assert image.dtype == np.uint8, image.dtype
    assert image.shape == (layout.channels, layout.height, layout.width), (image.shape, layout)
    new = _segments(_encode(image, layout))
    first_scan = next(i for i, segment in enumerate(new) if segment.marker == _SOS)
    first_tables = [segment for segment in new[:first_scan] if segment.marker == _DHT]
    scans = b"".join(
        _with_component_ids(segment, layout.component_ids) if segment.marker == _SOS else segment.data
        for segment in new[first_scan:]
        if segment.marker in (_SOS, _DHT)
    )
    old_tables = [segment for segment in old if segment.marker == _DHT]
    if layout.has_standard_huffman_tables:
        tables = [segment.data for segment in old_tables]
    else:
        tables = [b""] * len(old_tables) if layout.is_progressive else _regrouped(first_tables, old_tables)
        if not any(tables):
            tables = [b"".join(segment.data for segment in first_tables), *tables[1:]]
    parts = []
    for segment in old:
        if segment.marker == _DHT:
            parts.append(tables.pop(0))
        elif segment.marker == _SOS:
            parts.append(scans)
            scans = b""  # they all take the place of the first
        else:
            parts.append(segment.data)
    return b"".join(parts)


def without_scans(data: bytes) -> bytes:
    """Returns: all of a JPEG but its Huffman tables and scans: what `encode_jpeg_like` must not change.

    Raises:
        InputError: it is damaged.
    """
    return b"".join(segment.data for segment in _segments(data) if segment.marker not in (_DHT, _SOS))


def without_credentials_in_jpeg(data: bytes) -> bytes:
    """Returns: a JPEG without the JUMBF boxes of ISO 19566-5 in APP11, in which C2PA keeps content credentials.

    Raises:
        InputError: it is damaged.
    """
    if b"\xff\xeb" not in data:
        return data
    segments = _segments(data)
    return b"".join(s.data for s in segments if not (s.marker == _APP11 and s.body.startswith(b"JP")))


def _layout(segments: list[_Segment]) -> JpegLayout:
    # The sequence is checked first: what follows relies on one frame that precedes the first scan.
    frames = [segment for segment in segments if segment.marker in _FRAMES]
    markers = [segment.marker for segment in segments]
    if len(frames) != 1 or _SOS not in markers or markers.index(frames[0].marker) > markers.index(_SOS):
        raise InputError("the JPEG is damaged or hierarchical; replace it.")
    (frame,) = frames
    try:
        precision, height, width, num_components = struct.unpack_from(">BHHB", frame.body)
        components = [tuple(frame.body[6 + 3 * i : 9 + 3 * i]) for i in range(num_components)]
        ids, factors, table_ids = zip(*components, strict=True)
        tables = _quantisation_tables(segments)
        quantisation = np.stack([tables[table_id] for table_id in table_ids])
        restart = [struct.unpack(">H", segment.body)[0] for segment in segments if segment.marker == _DRI]
    except (KeyError, ValueError, struct.error):
        raise InputError("the JPEG has damaged headers; replace it.") from None
    sampling = tuple((factor >> 4, factor & 15) for factor in factors) if num_components > 1 else ((1, 1),)
    problem = _problem(segments, frame, precision, height * width, ids, sampling)
    if problem is not None:
        raise InputError(f"the image is {problem}; {_UNSUPPORTED}")
    is_progressive = frame.marker in _PROGRESSIVE
    huffman = {key: table for segment in segments if segment.marker == _DHT for key, table in _huffman_tables(segment)}
    needed = {key: table for key, table in _standard_huffman_tables().items() if key & 15 < min(num_components, 2)}
    return JpegLayout(
        height=height,
        width=width,
        channels=num_components,
        quantisation=quantisation,
        sampling=sampling,
        is_progressive=is_progressive,
        has_standard_huffman_tables=not is_progressive and huffman == needed,
        restart_interval=restart[-1] if restart else 0,
        component_ids=ids,
    )


def _problem(
    segments: list[_Segment],
    frame: _Segment,
    precision: int,
    num_pixels: int,
    ids: tuple[int, ...],
    sampling: tuple[tuple[int, int], ...],
) -> str | None:
    """Returns: why Pillow cannot write a like file, in words that follow "is"; None if it can."""
    markers = [segment.marker for segment in segments]
    first_scan = markers.index(_SOS)
    if frame.marker not in _SEQUENTIAL | _PROGRESSIVE:
        return "a lossless, differential or arithmetic-coded JPEG"
    if precision != 8:
        return f"a JPEG with {precision} bits per channel"
    if len(ids) not in (1, 3):
        return f"a JPEG with {len(ids)} colour components (CMYK or YCCK)"
    if len(ids) == 3 and not _is_ycbcr(segments, ids):
        return "a JPEG that stores RGB itself, not YCbCr"
    if len(ids) == 3 and (sampling[0] not in _PILLOW_SUBSAMPLING or sampling[1:] != ((1, 1), (1, 1))):
        return f"a JPEG with sampling factors {sampling}"
    if frame.marker in _SEQUENTIAL and markers.count(_SOS) != 1:
        return "a sequential JPEG with several scans"
    if not num_pixels or set(markers[first_scan:]) - {_SOS, _DHT, _EOI}:
        return "a JPEG with headers between or after its scans"
    if any(segment.marker == _APP2 and segment.body.startswith(b"MPF\0") for segment in segments):
        return "a JPEG of several pictures (MPO)"
    return None


def _is_ycbcr(segments: list[_Segment], ids: tuple[int, ...]) -> bool:
    # default_decompress_parms of libjpeg: JFIF decides, then Adobe's transform, then the components' names.
    if any(segment.marker == _APP0 and segment.body.startswith(b"JFIF\0") for segment in segments):
        return True
    adobe = [segment.body for segment in segments if segment.marker == _APP14 and segment.body.startswith(b"Adobe")]
    if adobe and len(adobe[-1]) >= 12:
        return adobe[-1][11] != 0
    return ids != tuple(b"RGB")


def _segments(data: bytes, *, only_headers: bool = False) -> list[_Segment]:
    if not data.startswith(SIGNATURE):
        raise InputError("the image is not a JPEG; give a JPEG.")
    segments = [_Segment(_SOI, b"", data[:2])]
    start = 2
    while segments[-1].marker != _EOI:
        at = start
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        marker, length = data[at + 1 : at + 2], int.from_bytes(data[at + 2 : at + 4])
        if data[at : at + 1] != b"\xff" or not marker or (marker[0] != _EOI and not 2 <= length <= len(data) - at - 2):
            raise InputError("the JPEG is damaged or incomplete; replace it.")
        if marker[0] == _EOI:
            segments.append(_Segment(_EOI, b"", data[start:]))
            break
        end = at + 2 + length
        body = data[at + 4 : end]
        if marker[0] == _SOS:
            if only_headers:
                segments.append(_Segment(_SOS, body, b""))
                break
            end = _end_of_scan(data, end)
        segments.append(_Segment(marker[0], body, data[start:end]))
        start = end
    return segments


def _end_of_scan(data: bytes, start: int) -> int:
    """Returns: where the next marker begins that is no restart marker; the end of the data if none does."""
    while True:
        start = data.find(b"\xff", start)
        if start < 0 or start + 1 >= len(data):
            return len(data)
        follower = data[start + 1]
        if follower not in (0x00, 0xFF) and not 0xD0 <= follower <= 0xD7:
            return start
        start += 1 if follower == 0xFF else 2


def _quantisation_tables(segments: list[_Segment]) -> dict[int, NDArray[np.int64]]:
    tables = {}
    for segment in segments:
        body = segment.body if segment.marker == _DQT else b""
        while body:
            size = 128 if body[0] >> 4 else 64
            table = np.zeros(64, np.int64)
            table[_ZIGZAG] = np.frombuffer(body[1 : 1 + size], ">u2" if size == 128 else np.uint8, count=64)
            tables[body[0] & 15] = table.reshape(8, 8)
            body = body[1 + size :]
    return tables


def _huffman_tables(segment: _Segment) -> Iterator[tuple[int, bytes]]:
    """Yields: class and id of each table of a DHT segment in one byte, and its code lengths and symbols."""
    body = segment.body
    while body:
        size = 17 + sum(body[1:17])
        yield body[0], body[1:size]
        body = body[size:]


def _regrouped(tables: list[_Segment], old: list[_Segment]) -> list[bytes]:
    """Returns: DHT segments that hold `tables` in the order and grouping of `old`; empty ones if those are others."""
    new = {key: table for segment in tables for key, table in _huffman_tables(segment)}
    groups = [[key for key, _ in _huffman_tables(segment)] for segment in old]
    if sorted(key for group in groups for key in group) != sorted(new):
        return [b""] * len(old)
    bodies = [b"".join(bytes([key]) + new[key] for key in group) for group in groups]
    return [struct.pack(">BBH", 0xFF, _DHT, 2 + len(body)) + body for body in bodies]


def _with_component_ids(scan: _Segment, ids: tuple[int, ...]) -> bytes:
    """Returns: an SOS segment that Pillow wrote, with scan, for components of other names than 1, 2, 3."""
    header = bytearray(scan.data)
    for i in range(scan.body[0]):
        at = 5 + 2 * i  # after the marker, the length and the number of components
        header[at] = ids[header[at] - 1]
    return bytes(header)


def _encode(image: NDArray[np.uint8], layout: JpegLayout) -> bytes:
    sink = io.BytesIO()
    pixels = image[0] if layout.channels == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        sink,
        "JPEG",
        qtables=[table.reshape(-1).tolist() for table in layout.quantisation],
        subsampling=_PILLOW_SUBSAMPLING[layout.sampling[0]],
        progressive=layout.is_progressive,
        optimize=not layout.has_standard_huffman_tables,
        restart_marker_blocks=layout.restart_interval,
    )
    return sink.getvalue()


@cache
def _standard_huffman_tables() -> dict[int, bytes]:
    # Those that libjpeg writes unless asked to optimise are T.81's, tables K.3 to K.6.
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, "JPEG")
    return {
        key: table
        for segment in _segments(sink.getvalue())
        if segment.marker == _DHT
        for key, table in _huffman_tables(segment)
    }
