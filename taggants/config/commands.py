"""Sections that change no signed byte: what single commands do, where the work runs and where results go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taggants.config.fields import Section, Uri, named_in
from taggants.data.layouts import LAYOUTS


class VerifyConfig(Section):
    """What `taggants verify` tests. Not hashed."""

    suspects: tuple[Uri, ...] = Field((), description="what to test: model.safetensors, description files and so on")
    label_map: Uri | None = Field(
        None,
        description="which of the suspect's classes are those of the keys: names (equal ones), fitted (on plain covers), or a "
        ".csv or .json file; null: the same, in the same order",
    )


class ExportConfig(Section):
    """How the signed dataset is written, and where `taggants export` writes it again. Not hashed."""

    layout: Annotated[str, named_in(LAYOUTS)] | None = Field(
        None, description="layout of the copy; null: that of the dataset, whose untouched files are copied as they are"
    )
    destination: Uri | None = Field(None, description="empty folder or s3:// prefix; required by `taggants export`")
    png: Literal["auto", "like_original", "reencode_all"] = Field(
        "auto",
        description="store signed PNG as the encoder of their originals would, write all PNG anew with the same pixels, or "
        "auto: the latter where an encoder cannot be imitated",
    )
    hashes: Literal["refuse", "recompute", "strip"] = Field(
        "refuse",
        description="hashes of images that the dataset stores beside them, which signed images would fail: refuse the dataset, "
        "recompute those of signed images, or write zeros for all",
    )
    credentials: Literal["refuse", "strip"] = Field(
        "refuse", description="content credentials (C2PA) in images: refuse the dataset, or remove them from all images"
    )


class TrainJobConfig(Section):
    """Which model `taggants train` trains. Not hashed."""

    role: Literal["victim", "control"] = Field(
        "victim", description="victim: on the signed export; control: on the clean source"
    )
    index: int = Field(0, ge=0, description="seed offset and name, as in victim-0")


class ExecutionConfig(Section):
    """Where the work runs. Never changes a result, so it is not hashed."""

    pool: Literal["inline", "ray"] = Field("ray", description="craft in this process, or by Ray actors")
    num_workers: int = Field(2, ge=1, description="crafting actors")
    num_cpus: float = Field(1, ge=0, description="logical CPUs of one actor")
    num_gpus: float = Field(0, ge=0, description="GPUs of one actor, may be a fraction")
    max_failures: int = Field(2, ge=1, description="attempts of a shard that fails by itself")
    max_losses: int = Field(5, ge=1, description="times a shard may be lost to dead workers; preemptions do not count")
    max_shard_seconds: float | None = Field(
        None, gt=0, description="a shard of a Ray actor that takes longer fails; null for no limit"
    )


class OutputConfig(Section):
    """Where results go."""

    root: Uri = Field("runs", description="folder or s3:// prefix that holds the run folders and prepared datasets")
    log: Literal["text", "json"] = Field(
        "text", description="what jobs print: lines for people, or one JSON object per line for log collectors"
    )
    void_registrations: tuple[str, ...] = Field(
        (),
        description="SHA-256 of registrations that the owner declares void, as the data changed since: only then does the run "
        "write a further one",
    )
    private_manifest: bool = Field(
        False, description="also list the signed rows in the export's manifest: keep such an export to yourself"
    )
