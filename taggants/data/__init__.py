"""Image datasets as Parquet files: reading them, their index, the embedded digits, and subsets."""
