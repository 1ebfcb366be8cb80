"""Suspects: models under test behind one protocol, and what people write to name one.

To add a kind, write two classes in a module of its own, here or in a plugin: one with the members of `Suspect`, and a
`SuspectDescription` whose fields are what a person says of such a suspect and whose `open` returns it. Then register a
`SuspectKind` of the latter. Answers can be read without torch, so modules that need it import it where they use it.
"""

from taggants.suspects.answers import Answers, Suspect, check_suspect, question_evidence
from taggants.suspects.answers_table import AnswersTableDescription
from taggants.suspects.callable_suspect import CallableSuspect
from taggants.suspects.checkpoint import CheckpointDescription, CheckpointSuspect
from taggants.suspects.description import (
    SUSPECT_KINDS,
    FileUri,
    Owner,
    SuspectDescription,
    SuspectKind,
    describe_suspect,
    open_suspect,
)
from taggants.suspects.http import HttpDescription
from taggants.suspects.hugging_face import HuggingFaceDescription, fields_of_hugging_face
from taggants.suspects.onnx_model import OnnxDescription
from taggants.suspects.preprocessing import Preprocessing
from taggants.suspects.program import TorchExportDescription, TorchScriptDescription
from taggants.suspects.state_dict import StateDictDescription, fields_of_state_dict
from taggants.suspects.surrogate_weights import load_weights
from taggants.suspects.timm_model import TimmDescription, fields_of_timm

__all__ = [
    "SUSPECT_KINDS",
    "Answers",
    "CallableSuspect",
    "CheckpointSuspect",
    "FileUri",
    "Owner",
    "Preprocessing",
    "Suspect",
    "SuspectDescription",
    "SuspectKind",
    "check_suspect",
    "describe_suspect",
    "load_weights",
    "open_suspect",
    "question_evidence",
]

SUSPECT_KINDS.register(
    "checkpoint",
    SuspectKind(
        CheckpointDescription,
        "path or s3:// URI of a model.safetensors that taggants trained",
        lambda text: {"path": text} if text.endswith(".safetensors") and fields_of_state_dict(text) is None else None,
    ),
)
SUSPECT_KINDS.register(
    "state-dict",
    SuspectKind(
        StateDictDescription,
        "ARCHITECTURE@PATH of a .pth or .safetensors, such as timm/resnet18@weights.pth",
        fields_of_state_dict,
    ),
)
SUSPECT_KINDS.register(
    "timm",
    SuspectKind(TimmDescription, "timm/NAME, hf-hub:ORG/NAME or local-dir:FOLDER of a timm model", fields_of_timm),
)
SUSPECT_KINDS.register(
    "table",
    SuspectKind(
        AnswersTableDescription,
        "path or s3:// URI of a table of answers to the images of `taggants keys export`, .csv or .parquet",
        lambda text: {"path": text} if text.endswith((".csv", ".parquet")) else None,
    ),
)
SUSPECT_KINDS.register("http", SuspectKind(HttpDescription))
SUSPECT_KINDS.register(
    "huggingface",
    SuspectKind(
        HuggingFaceDescription,
        "huggingface:ORG/NAME or huggingface:/FOLDER of an image-classification model",
        fields_of_hugging_face,
    ),
)
SUSPECT_KINDS.register(
    "onnx",
    SuspectKind(
        OnnxDescription,
        "path or s3:// URI of an .onnx",
        lambda text: {"path": text} if text.endswith(".onnx") else None,
    ),
)
SUSPECT_KINDS.register("torchscript", SuspectKind(TorchScriptDescription))
SUSPECT_KINDS.register("torch-export", SuspectKind(TorchExportDescription))
