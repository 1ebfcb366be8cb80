"""Parquet files in the Hugging Face layout: reading them, and writing them."""
