"""A suspect that is an ONNX file, answered by onnxruntime on the CPU.

A graph of ONNX names operators of a fixed list, none of which reaches a file or the network, so that opening one runs no
stranger's code; files that keep their tensors in other files, or call operators of other libraries, are refused. It may still
take long, or much memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from taggants.errors import InputError
from taggants.limits import MOST_CLASSES
from taggants.suspects.description import Owner
from taggants.suspects.naming import name_from, name_of_file
from taggants.suspects.preprocessing import Preprocessing
from taggants.suspects.program import ProgramDescription
from taggants.suspects.weights import read_file

_MOST_SIDE = 8192
_MOST_VALUES = 2**28  # of what is fed at once, 1 GiB


class OnnxDescription(ProgramDescription):
    """An ONNX model with one input of images [N, channels, size, size], float32 or float16."""

    output: str | None = Field(None, description="name of the output with the scores; null: the first one")

    def open(self, owner: Owner) -> OnnxSuspect:
        return OnnxSuspect(self, owner)


class OnnxSuspect:
    """An ONNX model; its own size is read off its input unless the description names it."""

    def __init__(self, description: OnnxDescription, owner: Owner) -> None:
        """Raises InputError: no such file, onnxruntime is not installed, or it takes no images."""
        data, digest, self._origin = read_file(description.path)
        self.sha256: str | None = digest
        self.name = name_from(name_of_file(description.path), digest)
        self.class_names = description.class_names
        self._session = _session(data, self._origin)
        inputs, outputs = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in ("tensor(float)", "tensor(float16)"):
            raise InputError(f"{self._origin} must have one input of float images [N, channels, size, size]")
        if description.output is not None and description.output not in outputs:
            raise InputError(f"{self._origin} has no output {description.output!r}; use one of {', '.join(outputs)}")
        self._input, self._output = inputs[0], description.output or outputs[0]
        batch, channels, height, width = (side if isinstance(side, int) else None for side in self._input.shape)
        if height != width or (height is not None and not 0 < height <= _MOST_SIDE):
            raise InputError(
                f"{self._origin} takes images of {height} x {width} px; square ones up to {_MOST_SIDE} are supported"
            )
        if channels not in (None, 1, 3):
            raise InputError(f"{self._origin} takes {channels} channels; images have 1 or 3")
        given = description.preprocessing(owner)
        self._preprocessing = Preprocessing(
            description.image_size or height, given.mean, given.std, description.channels or channels or given.channels
        )
        num_values = self._preprocessing.channels * (self._preprocessing.image_size or owner.image_shape[-1]) ** 2
        self._batch_size = batch or max(1, min(64, _MOST_VALUES // num_values))
        self._is_fixed = batch is not None
        if self._batch_size * num_values > _MOST_VALUES:
            raise InputError(
                f"{self._origin} takes {batch} images of {num_values} values at once, more than {_MOST_VALUES}; export it with a "
                "smaller batch"
            )
        self.num_classes = self.answers(np.zeros((2, *owner.image_shape), dtype=np.uint8)).shape[1]

    def answers(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Returns scores [N, num_classes].

        Raises:
            InputError: it does not take the images, or gives no scores.
        """
        size = self._batch_size
        return np.concatenate([self._scores(images[start : start + size]) for start in range(0, len(images), size)])

    def _scores(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        taken = self._preprocessing(images)
        if self._is_fixed:  # a fixed batch is filled with black images
            taken = np.concatenate([taken, np.zeros((self._batch_size - len(taken), *taken.shape[1:]), taken.dtype)])
        taken = taken.astype(np.float16 if self._input.type == "tensor(float16)" else np.float32)
        try:
            (scores,) = self._session.run([self._output], {self._input.name: taken})
        except Exception as error:  # onnxruntime's own classes, by kind of failure
            raise InputError(
                f"{self._origin} does not take images {list(taken.shape[1:])} ({' '.join(str(error).split())[:150]}); name its "
                "image_size and channels"
            ) from None
        if (
            not isinstance(scores, np.ndarray)
            or scores.ndim != 2
            or len(scores) != len(taken)
            or scores.dtype.kind != "f"
            or scores.shape[1] > MOST_CLASSES
        ):
            what = f"{list(scores.shape)} {scores.dtype}" if isinstance(scores, np.ndarray) else type(scores).__name__
            raise InputError(f"{self._origin} answers with {what}, not with float scores [N, classes]; name its output")
        return scores[: len(images)].astype(np.float64)


def _session(data: bytes, origin: str) -> Any:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise InputError("an ONNX suspect needs onnxruntime; pip install 'taggants[onnx]'") from None

    try:
        model = onnx.load_model_from_string(data)
        standard = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
        others = {opset.domain for opset in model.opset_import} - standard
    except Exception as error:  # protobuf's own, which has several classes
        raise InputError(f"{origin} is no ONNX file ({' '.join(str(error).split())[:120]}); export it again") from None
    if others:
        raise InputError(f"{origin} uses operators of {', '.join(sorted(others))}; only those of ONNX itself are run")
    if _names_files(model.graph, onnx.TensorProto.EXTERNAL) or any(
        _names_files(function, onnx.TensorProto.EXTERNAL) for function in model.functions
    ):
        raise InputError(f"{origin} keeps tensors in other files, which are not opened; save it as one file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:
        raise InputError(
            f"{origin} cannot be run by onnxruntime ({' '.join(str(error).split())[:150]}); export it again"
        ) from None


def _names_files(graph: Any, external: int) -> bool:
    """Whether a tensor of a graph, or of one inside it, lies in another file."""
    tensors = list(getattr(graph, "initializer", ()))
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            if any(_names_files(inner, external) for inner in (attribute.g, *attribute.graphs) if inner.node):
                return True
    tensors += [part for sparse in getattr(graph, "sparse_initializer", ()) for part in (sparse.values, sparse.indices)]
    return any(tensor.data_location == external for tensor in tensors)
