from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from taggants.data.layouts.parquet.source import ParquetSource
from taggants.storage import Root
from tests.export.datasets import CODECS, NUM_ROWS, encoded, pixels, write


@pytest.fixture
def source(tmp_path: Path) -> ParquetSource:
    root = Root(str(tmp_path / "source"))
    for i, (name, num_rows) in enumerate(NUM_ROWS.items()):
        # Compressed as Pillow would not: a re-encoded row is seen.
        images = [encoded(image, "PNG", compress_level=1) for image in pixels(num_rows, seed=i)]
        write(root, name, images, row_group_size=3, compression=CODECS, use_dictionary=["label"])
    return ParquetSource(root, "")


@pytest.fixture
def destination(tmp_path: Path) -> Root:
    return Root(str(tmp_path / "export"))


@pytest.fixture
def signed() -> dict[int, np.ndarray]:
    return dict(zip([13, 2, 0, 6], pixels(4, seed=9), strict=True))  # files a and c/d
