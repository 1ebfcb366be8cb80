"""Data Taggants at scale: sign an image dataset so that models trained on it can be recognised from outside."""

__version__ = "0.1.0"
