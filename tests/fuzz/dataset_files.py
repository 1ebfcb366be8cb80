"""Files of datasets and models: images, tars, Parquet, checkpoints."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.kind import Kind


def _with_checksums(png: bytes) -> bytes:
    changed, start = bytearray(png), 8
    while start + 12 <= len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        changed[end - 4 : end] = zlib.crc32(changed[start + 4 : end - 4]).to_bytes(4, "big") if end <= len(png) else b""
        start = end
    return bytes(changed)


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 20), dtype=np.uint8)


def _encoded(image_format: str, mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(_pixels().transpose(1, 2, 0)).convert(mode).save(sink, image_format, **options)
    return sink.getvalue()


def _pngs() -> list[bytes]:
    return [
        _encoded("PNG"),
        _encoded("PNG", "L"),
        _encoded("PNG", "P"),
        _encoded("PNG", dpi=(72, 72), icc_profile=b"p" * 99),
    ]


def _jpegs() -> list[bytes]:
    return [
        _encoded("JPEG"),
        _encoded("JPEG", progressive=True),
        _encoded("JPEG", "L", optimize=True),
        _encoded("JPEG", subsampling="4:2:0", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        _encoded("JPEG", "CMYK"),
    ]


def _read_image(data: bytes, folder: Path) -> object:
    from taggants.data.fitness import problem_of
    from taggants.data.image_codec import decode_image
    from taggants.data.signed_images import ImageStorage, Replacement, is_replaced, replaced

    for channels in (1, 3):
        decode_image(data, channels)
    if problem_of(data, None) is None:
        pixels = 255 - decode_image(data)
        for storage in (ImageStorage(), ImageStorage(reencodes_png=True, strips_credentials=True)):
            new = Replacement(pixels, storage)
            is_replaced(data, replaced(data, new), new)
    return None


def _tars() -> list[bytes]:
    found = []
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tar_format) as tar:
            for i in range(3):
                for suffix, content in (("png", _pngs()[0]), ("cls", b"%d" % i), ("json", b'{"label": 1, "x": [[]]}')):
                    member = tarfile.TarInfo(
                        f"{'long' * (20 if tar_format == tarfile.USTAR_FORMAT else 40) if i == 2 else 'a'}{i}.{suffix}"
                    )
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        found.append(sink.getvalue())
    return found


def _parquets() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    cells = [{"bytes": data, "path": "x"} for data in _pngs() * 3]
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c", "d"], "_type": "ClassLabel"}}
    table = pa.table({"image": cells, "label": [0, 1, 2, 3] * 3, "tags": [["a"], []] * 6})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for options in (
        {},
        {"use_dictionary": False, "write_page_index": True, "compression": "zstd"},
        {"data_page_version": "2.0", "row_group_size": 5, "compression": "none"},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"data_page_size": 50, "write_batch_size": 2, "write_page_checksum": True, "compression": "gzip"},
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        found.append(sink.getvalue())
    return found


def read_dataset(layout_name: str, suffix: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from taggants.data import open_source
        from taggants.data.fitness import fitness_of
        from taggants.data.layouts import layout_of
        from taggants.data.signed_images import ImageStorage, Replacement
        from taggants.storage import Root

        root = Root(str(folder))
        root.write_bytes(f"a{suffix}", data)
        source = open_source(layout_name, root, "", channels=3)
        source.index()
        layout = layout_of(source)
        layout.check_rewritable(source, f"a{suffix}")
        fit = np.flatnonzero(fitness_of(source).is_fit).tolist()
        for sample_id in fit[:1]:
            image = source.read_sized([sample_id])[0]
            rows = {sample_id: Replacement(255 - image, ImageStorage(hashes="recompute"))}
            with (folder / "out").open("wb") as sink:
                for _ in layout.rewrite(source, f"a{suffix}", rows, sink):
                    pass
        return None

    return read


def _checkpoints() -> list[bytes]:
    from taggants.models import ModelSpec, build_model, checkpoint_bytes

    spec = ModelSpec("cnn", num_classes=4, channels=1, image_size=8)
    return [checkpoint_bytes(build_model(spec, 0), spec)]


def _read_checkpoint(data: bytes, folder: Path) -> object:
    from taggants.models.checkpoints import model_from_checkpoint

    return model_from_checkpoint(data, "a.safetensors")


FILES: dict[str, Kind] = {
    "png": Kind(_pngs, _read_image, repair=_with_checksums),
    "jpeg": Kind(_jpegs, _read_image),
    "tar": Kind(_tars, read_dataset("webdataset", ".tar")),
    "parquet": Kind(_parquets, read_dataset("parquet", ".parquet")),
    "safetensors": Kind(_checkpoints, _read_checkpoint),
}
