"""The one configuration tree: its fields, its YAML, its hash.

A run is one frozen `Config`. What decides the signed bytes and the registration is hashed, and the hash names the run folder;
where and on how many workers it runs, and how it is evaluated, is not.
"""

from taggants.config.commands import ExecutionConfig, ExportConfig, OutputConfig, TrainJobConfig, VerifyConfig
from taggants.config.crafting import CraftingConfig
from taggants.config.fields import Section, named_in
from taggants.config.file import config_from_tree, load_config, load_run_config
from taggants.config.signing import DataConfig, DetectionConfig, KeysConfig, SigningConfig
from taggants.config.sweep import SweepConfig, SweptVictim
from taggants.config.training import EvaluationConfig, SurrogateConfig, TrainingConfig
from taggants.config.tree import Config

__all__ = [
    "Config",
    "CraftingConfig",
    "DataConfig",
    "DetectionConfig",
    "EvaluationConfig",
    "ExecutionConfig",
    "ExportConfig",
    "KeysConfig",
    "OutputConfig",
    "Section",
    "SigningConfig",
    "SurrogateConfig",
    "SweepConfig",
    "SweptVictim",
    "TrainJobConfig",
    "TrainingConfig",
    "VerifyConfig",
    "config_from_tree",
    "load_config",
    "load_run_config",
    "named_in",
]
