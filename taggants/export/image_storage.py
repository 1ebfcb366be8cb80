"""How an export has to store images so that signed ones do not stand out; found out from the source, before any crafting."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from taggants.data.fitness import problem_of
from taggants.data.image_codec import (
    common_png_settings,
    decode_image,
    is_jpeg,
    plain_png_shape,
    png_setting,
    without_credentials,
)
from taggants.data.layouts import layout_of
from taggants.data.layouts.layout import FILE_NAME
from taggants.data.signed_images import ImageStorage
from taggants.data.source import ImageSource, SampleError
from taggants.data.stored_hashes import HashPolicy, algorithm_in, facts_in, hashes_of
from taggants.errors import InputError
from taggants.export.originals import originals_of

_NUM_PLACES, _NEIGHBOURS = 6, 10
_NUM_HASHED = 16
_LOOKED_AT_BYTES = 8 * 2**20  # encoded; to find a setting takes tens of trials


@dataclass(frozen=True)
class StoragePolicy:
    """What the owner allows, so that signed images do not stand out.

    Attributes:
        png: store signed PNG as the encoder of their originals would ("like_original", refused where it cannot be found
            out), write all PNG of the dataset anew ("reencode_all"), or the former where it works and else the latter.
        hashes, credentials: what becomes of stored hashes of images and of content credentials (C2PA).
    """

    png: Literal["auto", "like_original", "reencode_all"] = "auto"
    hashes: HashPolicy = "refuse"
    credentials: Literal["refuse", "strip"] = "refuse"


DEFAULT = StoragePolicy()
PNG_WRITTEN_ANEW = (
    "some PNG are of an encoder that cannot be imitated; if one of them is signed, the export writes all PNG anew, with the "
    "same pixels, or signed ones would stand out"
)


def image_storage_of(
    source: ImageSource, sample_ids: Sequence[int] | None, policy: StoragePolicy, layout: str
) -> ImageStorage:
    """Returns: how an export with those signed images has to store them; a function of the source and the arguments.

    Args:
        sample_ids: of the signed images; None while they are not chosen, for some over the whole source.
        layout: of the export; in another than the source's, nothing that lies beside the images is kept.

    Raises:
        InputError: they would stand out, and `policy` does not allow what would help; the sentence names it.
    """
    spread = _spread(source)
    settings = common_png_settings(spread.values())
    sample_ids = sorted(spread) if sample_ids is None else sample_ids
    reencodes = policy.png == "reencode_all"
    strips = False
    for sample_id, original in itertools.chain(spread.items(), originals_of(source, sample_ids)):
        if not strips and without_credentials(original) != original:
            if policy.credentials == "refuse":
                raise InputError(
                    f"{source.place_of(sample_id)} has content credentials (C2PA), which signed images would fail; set "
                    "export.credentials=strip to remove them from all images."
                )
            strips = True
    for sample_id, original in originals_of(source, sample_ids if not reencodes else ()):
        if is_jpeg(original) or plain_png_shape(original) is None or png_setting(original, settings) is not None:
            continue
        if policy.png == "like_original":
            raise InputError(
                f"{source.place_of(sample_id)} is PNG of an encoder that cannot be imitated, so it would stand out; set "
                "export.png=auto to write all PNG anew with the same pixels."
            )
        reencodes = True
        break
    first = _first_images(source) if layout == source.layout else []
    _refuse_stored_facts(source, first)
    place = _stored_hash(first)
    if place is not None:
        where, algorithm, sample_id = place
        if where == FILE_NAME or policy.hashes == "refuse":
            fix = "set export.hashes to recompute or strip"
            if where == FILE_NAME:
                fix = "name the images otherwise, or export in another layout"
            raise InputError(
                f"{where} of {source.place_of(sample_id)} holds the image's {algorithm}, which signed images would fail; "
                f"{fix}."
            )
    return ImageStorage(settings, reencodes, strips, policy.hashes if place is not None else "refuse")


def _spread(source: ImageSource) -> dict[int, bytes]:
    """Returns: by sample id some images over the whole source, of few MiB: neighbours, which lie in the same files. Those
    that cannot be signed do not count."""
    chosen: dict[int, bytes] = {}
    starts = np.unique(np.linspace(0, max(source.num_rows - _NEIGHBOURS, 0), _NUM_PLACES, dtype=np.int64))
    for start in starts.tolist():
        size = 0
        for sample_id, data in _readable(source, range(start, min(start + _NEIGHBOURS, source.num_rows))):
            if _is_fit(data, source.channels):
                chosen[sample_id] = data
            size += len(data)
            if size > _LOOKED_AT_BYTES // _NUM_PLACES:
                break
    return chosen


def _is_fit(data: bytes, channels: int | None) -> bool:
    try:
        return problem_of(data, channels) is None and (is_jpeg(data) or decode_image(data, channels) is not None)
    except InputError:
        return False


def _readable(source: ImageSource, sample_ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Yields: sample id and image of the rows that hold one."""
    try:
        yield from zip(sample_ids, source.read_encoded(sample_ids), strict=True)
    except SampleError:
        for sample_id in sample_ids:
            with contextlib.suppress(SampleError):
                yield sample_id, source.read_encoded([sample_id])[0]


def _first_images(source: ImageSource) -> list[tuple[int, bytes, Mapping[str, Any]]]:
    """Returns: sample id, image and what lies beside it, of the first rows that hold one."""
    images = list(_readable(source, range(min(_NUM_HASHED, source.num_rows))))
    beside = layout_of(source).companions(source, [sample_id for sample_id, _ in images])
    return [(*image, places) for image, places in zip(images, beside, strict=True)]


def _refuse_stored_facts(source: ImageSource, first: Sequence[tuple[int, bytes, Mapping[str, Any]]]) -> None:
    """Raises:
    InputError: a size or checksum of the image stands beside each of the first ones that can be signed.
    """
    fit = [image for image in first if _is_fit(image[1], source.channels)]
    common: dict[tuple[str, str], str] | None = None
    for _, data, places in fit:
        facts = {
            (place, field): fact for place, value in places.items() for field, fact in facts_in(value, data).items()
        }
        common = facts if common is None else dict(common.items() & facts.items())
    for (place, field), fact in common.items() if common and len(fit) > 1 else ():
        raise InputError(
            f"{place}{f', field {field[1:]},' if field else ''} of {source.place_of(fit[0][0])} holds the image's {fact}, "
            "which signed images would fail; remove it from the dataset, or export in another layout."
        )


def _stored_hash(first: Sequence[tuple[int, bytes, Mapping[str, Any]]]) -> tuple[str, str, int] | None:
    """Returns: place, algorithm and sample id of the first hash beside one of the first images; None if there is none."""
    for sample_id, data, places in first:
        hashes = hashes_of(data)
        for place, value in places.items():
            algorithm = algorithm_in(value, hashes)
            if algorithm is not None:
                return place, algorithm, sample_id
    return None
