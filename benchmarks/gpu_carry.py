"""Builds the folder to take along to a machine without a registry, and prints the command to run there.

    python benchmarks/gpu_carry.py --cifar100 $TAGGANTS_DATA/cifar100 [--to carry]

carry/wheels: pydantic, rich and hypothesis with what they need, for Python 3.12; torch, torchvision, timm, pyarrow, safetensors,
torchmetrics, scikit-learn, scipy, jinja2, pyyaml and pytest are taken to be there. carry/data/cifar100_40.parquet: the first
40 classes of CIFAR-100 whole. Together 50 MiB, and at most 64: pixels are stored as differences (see `packed`), which zstd
packs tighter than PNG does (2.0 against 2.2 kB an image; plain pixels 2.9).
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

NUM_CLASSES = 40
PACKAGES = ("pydantic", "rich", "hypothesis")
MOST_BYTES = 64 * 2**20
COMMAND = """python3 -m pip install --quiet --no-index --find-links {carry}/wheels --target /tmp/carried {packages} \\
    && PYTHONPATH=/tmp/carried python3 benchmarks/gpu.py --data {carry}/data --out "$OUT\""""


def packed(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 [N, 3, H, W] of uint8 [N, H, W, 3]: red and blue less green, then each pixel less its left neighbour."""
    planes = pixels.transpose(0, 3, 1, 2)
    planes = np.stack([planes[:, 0] - planes[:, 1], planes[:, 1], planes[:, 2] - planes[:, 1]], axis=1)
    return np.diff(planes, axis=3, prepend=np.zeros_like(planes[..., :1]))


def unpacked(planes: np.ndarray) -> np.ndarray:
    """Returns the pixels that `packed` took."""
    planes = np.cumsum(planes, axis=3, dtype=np.uint8)
    planes = np.stack([planes[:, 0] + planes[:, 1], planes[:, 1], planes[:, 2] + planes[:, 1]], axis=1)
    return planes.transpose(0, 2, 3, 1)


def pack_classes(source: Path, target: Path) -> None:
    """source: folder of train.parquet and test.parquet as the Hugging Face hub has them."""
    parts = []
    for split in ("train", "test"):
        table = pq.read_table(source / f"{split}.parquet")
        table = table.filter(pc.less(table["label"], NUM_CLASSES))
        files = [image["bytes"] for image in table["image"].to_pylist()]
        planes = packed(np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]))
        columns = {
            "split": [split] * len(files),
            "label": table["label"].cast(pa.int64()),
            "pixels": [p.tobytes() for p in planes],
        }
        parts.append(pa.table(columns))
    target.parent.mkdir(parents=True, exist_ok=True)
    options = {"compression": "zstd", "compression_level": 12, "use_dictionary": ["split", "label"]}
    pq.write_table(pa.concat_tables(parts), target, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar100", required=True, help="folder of train.parquet and test.parquet")
    parser.add_argument("--to", default="carry", help="a folder that git ignores")
    given = parser.parse_args()
    carry = Path(given.to)
    wheels = ["--dest", str(carry / "wheels"), "--python-version", "3.12", "--only-binary=:all:", *PACKAGES]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wheels], check=True)
    pack_classes(Path(given.cifar100), carry / "data" / "cifar100_40.parquet")
    size = sum(file.stat().st_size for file in carry.rglob("*") if file.is_file())
    print(f"{carry}: {size / 2**20:.1f} MiB")
    if size > MOST_BYTES:
        sys.exit(f"{size} bytes are more than the {MOST_BYTES} that can be taken along; leave classes out")
    print(
        f"Take the working tree and {carry} along, then run there:\n\n{COMMAND.format(carry=carry, packages=' '.join(PACKAGES))}"
    )


if __name__ == "__main__":
    main()
