"""The dataset layouts by name. Another one is a `Layout`, registered under its name from anywhere (`plugins`)."""

from __future__ import annotations

from taggants.data.layouts.image_folder import ImageFolderLayout
from taggants.data.layouts.layout import LAYOUTS, Layout, Sample, layout_of
from taggants.data.layouts.parquet.layout import ParquetLayout
from taggants.data.layouts.webdataset.layout import WebDatasetLayout

__all__ = ["LAYOUTS", "Layout", "Sample", "layout_of"]

LAYOUTS.register("parquet", ParquetLayout())
LAYOUTS.register("imagefolder", ImageFolderLayout())
LAYOUTS.register("webdataset", WebDatasetLayout())
