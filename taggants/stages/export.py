"""Stage: writes and checks the dataset to publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from taggants.crafting.plan import Plan
from taggants.crafting.shard import SignedSet, read_lpips, read_signed_table
from taggants.errors import InputError
from taggants.export import ExportManifest, export_dataset, read_signed
from taggants.perturbation import epsilon_levels
from taggants.perturbation.perceptual import ImageQuality, image_quality
from taggants.reporting.contact_sheet import draw_contact_sheet
from taggants.reporting.progress import stage
from taggants.run import Run
from taggants.stages.crafting_settings import storage_policy_of
from taggants.storage import Root


@dataclass(frozen=True)
class ExportResult:
    """signed: the export. quality: of the taggants as read from it. largest_change: the same, in 8-bit levels; above epsilon only
    where JPEG was between. alignment, alignment_before: means over keys, in [-1, 1]; None where nothing was optimised."""

    signed: Root
    manifest: ExportManifest
    num_taggants: int
    quality: ImageQuality
    largest_change: int
    alignment: float | None
    alignment_before: float | None


def export(run: Run, plan: Plan) -> ExportResult:
    """Writes and checks `signed/`, the dataset to publish, and draws the contact sheet beside it."""
    sets = _read_signed_sets(run, plan)
    images = _images_in(sets)
    destination = run.root.child("signed")
    manifest = _write(run, images, destination, layout=None)
    ids = sorted(images)
    originals = run.sources[0].read_sized(ids)
    levels = max(_largest_change(original, images[i]) for original, i in zip(originals, ids, strict=True))
    assert levels <= epsilon_levels(run.config.crafting.epsilon), "a taggant left the epsilon ball"
    exported = read_signed(run.sources[0], destination, ids)
    signed = [exported[i] for i in ids]
    weights_uri = run.config.crafting.lpips_weights
    lpips = None if weights_uri is None else read_lpips(weights_uri)
    quality = image_quality(
        [torch.from_numpy(image) for image in originals], [torch.from_numpy(image) for image in signed], lpips
    )
    _draw_contact_sheet(run, plan, exported)
    return ExportResult(
        signed=destination,
        manifest=manifest,
        num_taggants=len(ids),
        quality=quality,
        largest_change=max(_largest_change(*pair) for pair in zip(originals, signed, strict=True)),
        alignment=_mean([s.alignment for s in sets]),
        alignment_before=_mean([s.alignment_before for s in sets]),
    )


@dataclass(frozen=True)
class ExportCopy:
    """left_out: columns or members of the source that the layout of the copy has no place for."""

    destination: Root
    manifest: ExportManifest
    num_signed: int
    left_out: tuple[str, ...]


def export_copy(run: Run) -> ExportCopy:
    """Writes and checks the signed dataset once more, at `export.destination` and in `export.layout`; crafts nothing.

    Raises:
        InputError: no destination is set, a shard is not crafted yet, or the dataset changed since.
    """
    settings, source = run.config.export, run.sources[0]
    if settings.destination is None:
        raise InputError("export.destination is not set; name an empty folder or s3:// prefix: --to FOLDER")
    destination = Root(settings.destination)
    if not run.root.exists("plan.json"):
        raise InputError(f"run folder {run.root.uri} has no plan; run `taggants craft` with this configuration first")
    plan = run.folder.read_plan()
    images = _images_in(_read_signed_sets(run, plan))
    if run.index.fingerprint != plan.dataset_fingerprint:
        raise InputError(f"the dataset in {source.root.uri} changed since it was signed; restore it")
    manifest = _write(run, images, destination, settings.layout)
    left_out = () if manifest.layout == source.layout else source.extras
    return ExportCopy(destination, manifest, len(images), tuple(left_out))


def _write(run: Run, images: Mapping[int, NDArray[np.uint8]], destination: Root, layout: str | None) -> ExportManifest:
    with stage("export", run.index.num_rows, "rows") as advance:
        return export_dataset(
            run.sources[0],
            images,
            destination,
            layout=layout,
            private=run.config.output.private_manifest,
            policy=storage_policy_of(run.config),
            on_progress=lambda done, total: advance(done, ""),
        )


def _images_in(sets: Sequence[SignedSet]) -> dict[int, NDArray[np.uint8]]:
    """By sample id."""
    return {sample_id: image for signed_set in sets for sample_id, image in signed_set.images.items()}


def _read_signed_sets(run: Run, plan: Plan) -> list[SignedSet]:
    """Returns the crafted sets of all shards in plan order, each checked against its commit.

    Raises:
        InputError: a shard is not committed, or its file differs from its commit.
    """
    commits = run.folder.read_commits()
    missing = [shard.index for shard in plan.shards if shard.index not in commits]
    if missing:
        raise InputError(
            f"shard {missing[0]} of run {run.root.uri} is not committed; run `taggants craft` again to finish it"
        )
    return [read_signed_table(run.folder.read_attempt(commits[shard.index])) for shard in plan.shards]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _largest_change(original: NDArray[np.uint8], signed: NDArray[np.uint8]) -> int:
    """In 8-bit levels."""
    return int(np.abs(original.astype(np.int16) - signed).max())


def _draw_contact_sheet(run: Run, plan: Plan, images: Mapping[int, NDArray[np.uint8]]) -> None:
    """One taggant of each of the first keys, in the order of the data: that of the keys would tell their labels."""
    shown = sorted([shard.sample_ids[0] for shard in plan.shards][:12])
    names = run.index.class_names
    labels = [int(run.index.labels[i]) for i in shown]
    captions = [names[label] if names else f"class {label}" for label in labels]
    originals, signed = run.sources[0].read_sized(shown), [images[i] for i in shown]
    # Cropped where they differ in size: resizing would shrink the differences that the sheet shows and measures.
    height, width = np.min([image.shape[1:] for image in originals], axis=0)
    sheet = draw_contact_sheet(_centres(originals, height, width), _centres(signed, height, width), captions)
    run.root.write_bytes("contact_sheet.png", sheet, private=True)  # shows signed images


def _centres(images: Sequence[NDArray[np.uint8]], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of each image, uint8 [n, C, height, width]."""
    starts = [((image.shape[1] - height) // 2, (image.shape[2] - width) // 2) for image in images]
    return np.stack(
        [image[:, top : top + height, left : left + width] for image, (top, left) in zip(images, starts, strict=True)]
    )
