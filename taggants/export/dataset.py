"""Writes the whole signed dataset, checks it, and says so in a manifest."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from taggants.data.layouts import LAYOUTS, layout_of
from taggants.data.signed_images import Signed
from taggants.data.source import ImageSource
from taggants.errors import InputError
from taggants.export.conversion import convert
from taggants.export.image_storage import DEFAULT, StoragePolicy, image_storage_of
from taggants.export.manifest import (
    MANIFEST_PATH,
    ExportedFile,
    ExportManifest,
    fingerprint_of,
    read_manifest,
    verify_export,
    write_manifest,
)
from taggants.export.originals import check_signed
from taggants.export.rewriting import check_complete, refuse_unsigned_files, write_files
from taggants.identity import canonical_json
from taggants.storage import Root
from taggants.storage.root import CLAIM_PATH


def export_dataset(
    source: ImageSource,
    signed: Signed,
    destination: Root,
    *,
    layout: str | None = None,
    private: bool = False,
    policy: StoragePolicy = DEFAULT,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExportManifest:
    """Writes a dataset with its signed images in place of the originals, reads every file back, then writes the manifest.

    In the layout of the source, file names, row order, schema, row groups, codecs, tar headers and metadata are the
    source's, and files without signed rows are copied byte for byte, by the server from S3 to S3. In another layout the
    encoded images and labels are kept and their files are new, see `conversion`. Either way a signed image is PNG or JPEG
    as the original, which it equals in all but the pixels (and Huffman tables made for them). The bytes are a function of
    the arguments and the versions of Pillow and pyarrow alone. Running it again finishes a broken-off export, whose right
    files stay, and only verifies a complete one. In memory are row groups, pieces and what the manifest lists, never a
    whole file (but up to 256 MiB of images of one in another layout).

    Args:
        source: the dataset.
        signed: by sample id the signed image, uint8 [C, H, W], of the shape that `source` reads. One with three
            channels that replaces a greyscale image has to be grey, and is stored in one channel. A mapping that reads
            images when asked, from several threads, keeps them out of memory.
        destination: the folder to write, without other files.
        layout: a name in `LAYOUTS`; None for that of the source.
        private: list the signed sample ids in the manifest, and let only the owner read that (mode 0600, local only).
        policy: how images may be stored, so that signed ones do not stand out.
        on_progress: called with (rows done, all rows) after each row group, copied file or few images.

    Returns: the manifest.

    Raises:
        InputError: before anything is written: there is no such layout, there are no signed images, a sample id is
            unknown, a shape differs, an original is neither a plain PNG nor a plain JPEG (`replaceable_shape`), or the
            destination cannot be written, is or lies in the source, or holds another dataset, the unsigned one or other
            files, or another export is being written there.
        RuntimeError: a file written does not read back as intended; there is no manifest then.
    """
    new_name = layout or source.layout
    LAYOUTS.find(new_name)
    _refuse_source(source, destination)
    if not destination.exists(MANIFEST_PATH):
        destination.check_writable()
    check_signed(source, signed)
    write = functools.partial(_export, source, signed, destination, new_name, private, policy, on_progress)
    if destination.exists(MANIFEST_PATH):
        return write()
    with destination.claimed(_content_of(source, signed, new_name, policy)):
        return write()


def _content_of(source: ImageSource, signed: Signed, layout: str, policy: StoragePolicy) -> str:
    """A hash of all that decides the bytes of an export."""
    digest = hashlib.sha256(canonical_json([source.index().fingerprint, layout, dataclasses.astuple(policy)]))
    for sample_id in sorted(signed):
        image = signed[sample_id]
        digest.update(canonical_json([int(sample_id), *image.shape]) + image.tobytes())
    return digest.hexdigest()


def _export(
    source: ImageSource,
    signed: Signed,
    destination: Root,
    new_name: str,
    private: bool,
    policy: StoragePolicy,
    on_progress: Callable[[int, int], None] | None,
) -> ExportManifest:
    old_layout, new_layout = layout_of(source), LAYOUTS.find(new_name)
    is_complete = destination.exists(MANIFEST_PATH)
    advance = _counter(source.num_rows, on_progress)
    source_fingerprint = source.index().fingerprint
    storage = image_storage_of(source, sorted(int(i) for i in signed), policy, new_name)
    class_names = source.index().class_names if new_layout is not old_layout else None
    files: tuple[ExportedFile, ...]
    if is_complete:
        complete = _verify_same(source, destination, new_name, source_fingerprint)
        files = complete.files
    if new_layout is old_layout:

        def own_names() -> set[str]:
            return {name for name, _ in old_layout.files(source)}

        if is_complete:
            # Unsigned originals beside it, say, would be read as a part of it.
            _refuse_other_files(destination, own_names)
            check_complete(source, signed, storage, destination, files)
        else:
            _refuse_other_files(destination, own_names)
            refuse_unsigned_files(source, signed, destination)
            files = write_files(source, signed, storage, destination, advance)
    else:
        new_layout.check_can_hold(source.index())
        if is_complete:
            _refuse_other_files(destination, lambda: {file.path for file in files})
            if convert(source, signed, storage, destination, new_layout, advance, only_hash=True) != files:
                raise InputError(
                    f"{destination.uri} holds an export with other signed images or of other versions of Pillow or "
                    "pyarrow; give an empty folder."
                )
        else:
            # Before the names are known: a broken-off conversion left only files of its own kind.
            _refuse_other_files(
                destination, lambda: {path for path in destination.list() if new_layout.is_new_file(path)}
            )
            files = convert(source, signed, storage, destination, new_layout, advance)
            _refuse_other_files(destination, lambda: {file.path for file in files})
    manifest = ExportManifest(
        layout=new_name,
        source_fingerprint=source_fingerprint,
        fingerprint=fingerprint_of(files),
        num_rows=sum(file.num_rows for file in files),
        files=files,
        class_names=class_names,
        written_anew=storage.of_all_rows,
        signed_sample_ids=tuple(sorted(int(i) for i in signed)) if private else None,
    )
    destination.remove_leftovers("")
    if not is_complete:
        destination.settle(file.path for file in files)
    # A complete export keeps its manifest, unless it is to become public or private now.
    if not is_complete or manifest != complete:
        write_manifest(destination, manifest, private=private)
    return manifest


def read_signed(source: ImageSource, destination: Root, sample_ids: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Reads signed images from a complete export as anyone who has the dataset reads them.

    Args:
        source: the dataset that was exported.
        destination: the folder that it was exported to, in the layout of the source.

    Returns: by sample id uint8 [C, H, W], decoded as `source` decodes; the images may differ in size.

    Raises:
        InputError: the export is not complete or of another layout, or a sample id is unknown.
    """
    layout = read_manifest(destination).layout
    if layout != source.layout:
        raise InputError(
            f"{destination.uri} is an export as {layout}, not as {source.layout}; give one in the source's layout."
        )
    images = source.at(destination).read_sized(sample_ids)
    return {int(sample_id): image for sample_id, image in zip(sample_ids, images, strict=True)}


def _counter(num_rows: int, on_progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """Returns: what threads call with the number of rows they did."""
    lock = threading.Lock()
    done = 0

    def advance(num_done: int) -> None:
        nonlocal done
        with lock:
            done += num_done
            if on_progress is not None:
                on_progress(done, num_rows)

    return advance


def _verify_same(source: ImageSource, destination: Root, layout: str, source_fingerprint: str) -> ExportManifest:
    manifest = read_manifest(destination)
    if manifest.source_fingerprint != source_fingerprint:
        raise InputError(
            f"{destination.uri} holds an export of the dataset {manifest.source_fingerprint}, not of "
            f"{source_fingerprint}; give an empty folder."
        )
    if manifest.layout != layout:
        raise InputError(
            f"{destination.uri} holds an export as {manifest.layout}, not as {layout}; give an empty folder."
        )
    return verify_export(destination)


def _refuse_source(source: ImageSource, destination: Root) -> None:
    folder = layout_of(source).folder_of(source)
    is_inside = bool(folder) and f"{_real(destination.uri)}/".startswith(f"{_real(folder)}/")
    if is_inside or _real(destination.uri) == _real(source.root.uri):
        raise InputError(
            f"{destination.uri} is the folder of the source or lies in it, so its originals would be lost or mixed with "
            "signed images; give an empty folder elsewhere."
        )


def _real(uri: str) -> str:
    return uri if "://" in uri else os.path.realpath(uri)


def _refuse_other_files(destination: Root, own_names: Callable[[], set[str]]) -> None:
    # The manifest is no other file: where there was none, another driver may just have finished the same export.
    present = set(destination.list()) - {MANIFEST_PATH, CLAIM_PATH}
    others = sorted(present - own_names()) if present else []
    if others:
        raise InputError(
            f"{destination.uri_of(others[0])} is not part of this export; delete it, or give an empty folder."
        )
