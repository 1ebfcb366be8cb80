"""The precision and memory layout that a model computes in."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from taggants.alignment import gate_kinks
from taggants.alignment.convolutions import speed_up_convolutions

DTYPE_OF_PRECISION = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
"""By the names in the configuration; tf32 is float32 with a global setting of matrix products."""


class Precision(nn.Module):
    """A model that computes in another precision and memory layout, and answers in float32.

    Its weights stay float32, so gradients by them and by the pixels accumulate and arrive in float32.
    dtype: torch.float32 or torch.bfloat16, of matrix products and convolutions. channels_last: layout of images and weights;
    changes speed and rounding only. is_first_order: the model will be differentiated once only, so kernels without a second
    derivative may be used, and finite differences need its ReLUs behind gates. is_compiled: without gates, since each would
    be compiled anew at each of its places in the pattern.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        *,
        channels_last: bool,
        is_first_order: bool = False,
        is_compiled: bool = False,
    ) -> None:
        super().__init__()
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self._format)
        if is_first_order:
            speed_up_convolutions(self.model)
            if not is_compiled:
                gate_kinks(self.model)
        on_cpu = next(model.parameters()).device.type == "cpu"
        if dtype == torch.bfloat16 and on_cpu:
            # The CPU's fused attention takes 1.5 times as long there (ViT-tiny, forward and backward).
            for module in model.modules():
                if isinstance(module, timm.layers.Attention):
                    module.fused_attn = False
        self._dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        lowered = self._dtype != torch.float32
        # No cache: gradients of gradients and exchanged weights must not meet casts of other weights.
        with torch.autocast(images.device.type, dtype=self._dtype, enabled=lowered, cache_enabled=False):
            scores: Tensor = self.model(images.contiguous(memory_format=self._format))
        return scores.to(torch.float32) if lowered else scores


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for matrix products in bfloat16: without them it is slower than float32."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an earlier version of torch, which does not tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last on ARM
