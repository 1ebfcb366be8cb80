"""Which ReLUs are open and which pixel each max-pooling takes: recorded at the base point of a finite difference, and replayed
where it moves the weights.

Autograd differentiates a ReLU network on the linear piece that it is on. A finite step of the weights crosses from piece to
piece and sees kinks that the derivative does not have: on a trained CNN its cosine with the exact pixel gradient was 0.69 at
best. With the pattern replayed the moved network stays on its piece, and the difference tends to autograd's derivative (cosine
0.993 in float32, 0.986 in bfloat16; benchmarks/finite_step.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

ActivationPattern = tuple[Tensor, ...]
"""One for each gate in the order of the forward pass: bfloat16, above 0 where a ReLU's input is; int64, what a pooling takes.

A ReLU's output in bfloat16, which keeps float32's range, says it all. Making bools took a CPU 5 times as long as the ReLU itself,
and selecting by them 15 times.
"""


class _Tape:
    """What all gates of a model share."""

    def __init__(self) -> None:
        self.mode: Literal["off", "record", "replay"] = "off"
        self.entries: list[Tensor] = []
        self.position = 0

    def next_entry(self) -> Tensor:
        self.position += 1
        return self.entries[self.position - 1]


class _Gate(nn.Module):
    """Computes what the module that it replaces does, unless it is told which of its inputs to let through."""

    def __init__(self, tape: _Tape) -> None:
        super().__init__()
        self.tape = tape


class _LetThrough(torch.autograd.Function):
    """The inputs where the pattern is above 0, else 0; a function of its own so that backward holds bfloat16 only."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, pattern: Tensor) -> Tensor:
        ctx.save_for_backward(pattern)
        return _where_positive(pattern, inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor, None]:
        return _where_positive(ctx.saved_tensors[0], by_output), None


def _where_positive(pattern: Tensor, values: Tensor) -> Tensor:
    kept: Tensor = torch.ops.aten.threshold_backward(values, pattern.to(values.dtype), 0)
    return kept


class GatedReLU(_Gate):
    def __init__(self, tape: _Tape, inplace: bool) -> None:
        super().__init__(tape)
        self._inplace = inplace

    def forward(self, inputs: Tensor) -> Tensor:
        if self.tape.mode == "replay":
            let_through: Tensor = _LetThrough.apply(inputs, self.tape.next_entry())
            return let_through
        outputs = relu(inputs, inplace=self._inplace)
        if self.tape.mode == "record":
            self.tape.entries.append(outputs.detach().to(torch.bfloat16))
        return outputs


class GatedMaxPool2d(_Gate):
    def __init__(self, tape: _Tape, pooling: nn.MaxPool2d) -> None:
        super().__init__(tape)
        self._options = {
            name: getattr(pooling, name) for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        }

    def forward(self, inputs: Tensor) -> Tensor:
        if self.tape.mode == "replay":
            indices = self.tape.next_entry()
            return inputs.flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape)
        pooled, indices = max_pool2d(inputs, **self._options, return_indices=True)
        if self.tape.mode == "record":
            self.tape.entries.append(indices)
        return pooled


def gate_kinks(model: nn.Module) -> None:
    """Puts gates in place of every `nn.ReLU` and `nn.MaxPool2d` within the model; without a pattern they compute the same.

    What is called as a function (torch.relu) is not seen and keeps its kinks.
    """
    tape = _Tape()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.ReLU:
                setattr(parent, name, GatedReLU(tape, child.inplace))
            elif type(child) is nn.MaxPool2d and not child.return_indices:
                setattr(parent, name, GatedMaxPool2d(tape, child))


def has_gates(model: nn.Module) -> bool:
    """Returns whether the model has a pattern to record."""
    return any(isinstance(module, _Gate) for module in model.modules())


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Tensor]]:
    """Yields the pattern of the one forward pass within, filled in as it runs; empty for a model without gates."""
    tape = _tape_of(model)
    entries: list[Tensor] = []
    tape.mode, tape.entries = "record", entries
    try:
        yield entries
    finally:
        tape.mode, tape.entries = "off", []


@contextmanager
def replayed(model: nn.Module, pattern: ActivationPattern) -> Iterator[None]:
    """The one forward pass within, and its backward pass, keep to the pattern; an empty one changes nothing."""
    if not pattern:
        yield
        return
    tape = _tape_of(model)
    tape.mode, tape.entries, tape.position = "replay", list(pattern), 0
    try:
        yield
        assert tape.position == len(pattern), "another forward pass than the recorded one"
    finally:
        tape.mode, tape.entries, tape.position = "off", [], 0


def _tape_of(model: nn.Module) -> _Tape:
    return next((module.tape for module in model.modules() if isinstance(module, _Gate)), _Tape())
