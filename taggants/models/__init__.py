"""Surrogates and victims by name, the precision they compute in, and their checkpoints."""

from taggants.models.adaptation import Adaptation
from taggants.models.architectures import (
    MODEL_SOURCES,
    InputNormalisation,
    ModelSource,
    ModelSpec,
    build_model,
    check_model,
    options_of,
)
from taggants.models.checkpoints import checkpoint_bytes, model_from_checkpoint
from taggants.models.precision import DTYPE_OF_PRECISION, Precision, cpu_has_bfloat16
from taggants.models.small_images import SmallImageModels

__all__ = [
    "DTYPE_OF_PRECISION",
    "MODEL_SOURCES",
    "Adaptation",
    "InputNormalisation",
    "ModelSource",
    "ModelSpec",
    "Precision",
    "SmallImageModels",
    "build_model",
    "check_model",
    "checkpoint_bytes",
    "cpu_has_bfloat16",
    "model_from_checkpoint",
    "options_of",
]
