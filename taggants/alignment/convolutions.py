"""Convolutions on CPUs whose gradients are matrix products.

Depthwise ones on small maps: libraries compute the weights' gradient 5 to 30 times slower than a dense product of the same maps
takes (oneDNN on one core: 58 ms against 11 ms for 100 images of 40 x 16 x 16, 31 ms against 0.5 ms for 160 x 4 x 4), and in
ConvNeXt it is a third of a crafting step. Here the outer product of input and output pixels is summed over the images, channel by
channel, and the entries that one tap of the kernel joins are added up.

Ones whose kernel tiles the map (pointwise, patch embeddings, ConvNeXt's downsampling): a product of patches and weights, whose
gradients take oneDNN up to 8 times as long as the products do (bfloat16, one core, 100 images: 8.1 ms against 1.3 ms for 320 to
1,280 channels on 2 x 2, 15.7 ms against 1.9 ms for patches of 8 px out of 64).

Ones that leave at most four pixels, as a ResNet's last stages do on 32 px: a product of what the kernel sees and those of its
weights that see anything. oneDNN takes up to 9 times as long, and half of a training step (bfloat16, one core, 64 images, both
passes: 77 ms against 8.5 ms for 512 to 512 channels, 3 x 3 on 1 x 1; 31 ms against 10 ms for 256 to 512 from 2 x 2, stride 2).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

_MOST_PIXELS = 256
"""Depthwise, maps above this keep the library's gradient: the outer product grows with the square of the number of pixels."""

_MOST_PIXELS_OF_POINTWISE = 64
"""Above, the library's gradient of pointwise convolutions is as fast."""

_MOST_PIXELS_LEFT = 4
"""Largest output map that is done as a matrix product; above, the library is as fast, on 4 x 4 twice as fast."""


@lru_cache(maxsize=64)
def _taps(height: int, width: int, kernel: int, device: str) -> tuple[Tensor, Tensor]:
    """Which pairs of an input pixel (slow index) and an output pixel a tap joins.

    Returns int64 [P], the pairs that any tap joins, and float32 [P, kernel^2], 1 where it is that tap.
    """
    rows, columns = torch.arange(height), torch.arange(width)
    tap_row = rows[:, None] - rows[None, :] + kernel // 2  # [input row, output row]
    tap_column = columns[:, None] - columns[None, :] + kernel // 2
    row_inside = (tap_row >= 0) & (tap_row < kernel)
    column_inside = (tap_column >= 0) & (tap_column < kernel)
    tap = tap_row[:, None, :, None] * kernel + tap_column[None, :, None, :]  # [input row, column, output row, column]
    inside = (row_inside[:, None, :, None] & column_inside[None, :, None, :]).flatten()
    of_pair = tap.flatten()[inside][:, None] == torch.arange(kernel * kernel)
    return inside.nonzero()[:, 0].to(device), of_pair.to(device=device, dtype=torch.float32)


class _Depthwise(torch.autograd.Function):
    """Once differentiable: gradients of gradients and forward mode need the library's own convolution."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(images, weight)
        return nn.functional.conv2d(images, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        images, weight = ctx.saved_tensors
        by_images = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            padding = weight.shape[-1] // 2
            by_images = conv2d_input(images.shape, weight, by_output, padding=padding, groups=len(weight))  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            pairs = torch.bmm(_by_channel(images).transpose(1, 2), _by_channel(by_output))  # [C, input, output]
            joined, taps = _taps(*images.shape[2:], weight.shape[-1], str(images.device))
            dtype = torch.promote_types(pairs.dtype, taps.dtype)
            by_tap = pairs.flatten(1)[:, joined].to(dtype) @ taps.to(dtype)
            by_weight = by_tap.view_as(weight).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            by_bias = by_output.sum((0, 2, 3))
        return by_images, by_weight, by_bias


def _by_channel(images: Tensor) -> Tensor:
    """[N, C, H, W] -> [C, N, H W]."""
    return images.permute(1, 0, 2, 3).reshape(images.shape[1], images.shape[0], -1)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `nn.Conv2d` of stride 1 that keeps the map's size, with the fast gradient where the map is small."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if input.device.type != "cpu" or input[0, 0].numel() > _MOST_PIXELS or not weight.requires_grad:
            return super().forward(input)
        if torch.is_autocast_enabled(input.device.type):
            dtype = torch.get_autocast_dtype(input.device.type)
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        out: Tensor = _Depthwise.apply(input, weight, bias)
        return out


class TilingConv2d(nn.Conv2d):
    """A dense `nn.Conv2d` whose kernel is its stride, as a matrix product over the patches where that is faster."""

    def forward(self, input: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        rows, columns = input.shape[2] // kernel, input.shape[3] // kernel
        is_fast = kernel > 1 or rows * columns <= _MOST_PIXELS_OF_POINTWISE
        # The product wants each pixel's channels side by side.
        if not is_fast or input.device.type != "cpu" or not input.is_contiguous(memory_format=torch.channels_last):
            return super().forward(input)
        pixels = input[:, :, : rows * kernel, : columns * kernel].permute(0, 2, 3, 1)
        patches = pixels.reshape(len(input), rows, kernel, columns, kernel, -1).transpose(2, 3).flatten(3)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return nn.functional.linear(patches, weight, self.bias).permute(0, 3, 1, 2)


class FewPixelsConv2d(nn.Conv2d):
    """A dense `nn.Conv2d` with zero padding, as a matrix product where few pixels are left."""

    def forward(self, input: Tensor) -> Tensor:
        stride = self.stride[0]
        (rows, *row_taps), (columns, *column_taps) = (
            _seen(size, self.kernel_size[0], stride, int(self.padding[0])) for size in input.shape[2:]
        )
        is_fast = min(rows, columns) > 0 and rows * columns <= _MOST_PIXELS_LEFT
        # The product wants each pixel's channels side by side.
        if not is_fast or input.device.type != "cpu" or not input.is_contiguous(memory_format=torch.channels_last):
            return super().forward(input)
        pixels = nn.functional.pad(
            input.permute(0, 2, 3, 1),
            (0, 0, *self._around(column_taps, columns, input.shape[3]), *self._around(row_taps, rows, input.shape[2])),
        )
        patches = [
            pixels[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
            for i in range(row_taps[1] - row_taps[0])
            for j in range(column_taps[1] - column_taps[0])
        ]
        weight: Tensor = _SeenWeights.apply(self.weight, slice(*row_taps), slice(*column_taps))
        return nn.functional.linear(torch.cat(patches, -1), weight, self.bias).permute(0, 3, 1, 2)

    def _around(self, taps: list[int], count: int, size: int) -> tuple[int, int]:
        """Zeros before and after (below 0: pixels that no tap sees) so that the first of `taps` starts at the first pixel."""
        before = int(self.padding[0]) - taps[0]
        return before, (count - 1) * self.stride[0] + taps[1] - taps[0] - before - size


class _SeenWeights(torch.autograd.Function):
    """Those of some taps as a matrix [out, taps x in]. Their gradient comes in the layout of the weights, so that nothing has
    to copy it: at stages where weights are many and pixels few, such copies are a third of a step."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: slice, columns: slice) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.taps = rows, columns
        return weight[:, :, rows, columns].permute(0, 2, 3, 1).reshape(len(weight), -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_matrix: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        rows, columns = ctx.taps
        by_weight = torch.zeros_like(weight)
        seen = by_weight[:, :, rows, columns]
        seen.copy_(by_matrix.view(len(seen), *seen.shape[2:], -1).permute(0, 3, 1, 2))
        return by_weight, None, None


def _seen(size: int, kernel: int, stride: int, padding: int) -> tuple[int, int, int]:
    """Along one side: how many pixels come out, and the first and last + 1 tap that sees a pixel and not only zeros."""
    count = (size + 2 * padding - kernel) // stride + 1
    taps = [tap for tap in range(kernel) if any(0 <= i * stride - padding + tap < size for i in range(count))]
    return count, min(taps, default=0), max(taps, default=0) + 1


def speed_up_convolutions(model: nn.Module) -> None:
    """Gives the convolutions in `model` that allow it the fast gradients, in place.

    Parameters, their names and order stay. The model can then be differentiated once only, by reverse mode.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            if _is_plain_depthwise(module):
                module.__class__ = DepthwiseConv2d
            elif _tiles_the_map(module):
                module.__class__ = TilingConv2d
            elif _is_plain_dense(module):
                module.__class__ = FewPixelsConv2d


def _is_plain_depthwise(convolution: nn.Conv2d) -> bool:
    kernel = convolution.kernel_size[0]
    return (
        convolution.groups == convolution.in_channels == convolution.out_channels > 1
        and convolution.kernel_size == (kernel, kernel)
        and kernel % 2 == 1
        and convolution.stride == convolution.dilation == (1, 1)
        and convolution.padding in ((kernel // 2, kernel // 2), "same")
        and convolution.padding_mode == "zeros"
    )


def _tiles_the_map(convolution: nn.Conv2d) -> bool:
    kernel = convolution.kernel_size[0]
    return (
        convolution.groups == 1
        and convolution.kernel_size == convolution.stride == (kernel, kernel)
        and convolution.dilation == (1, 1)
        and convolution.padding in ((0, 0), "valid")
    )


def _is_plain_dense(convolution: nn.Conv2d) -> bool:
    kernel, stride, padding = convolution.kernel_size[0], convolution.stride[0], convolution.padding[0]
    return (
        convolution.groups == 1
        and convolution.kernel_size == (kernel, kernel)
        and convolution.stride == (stride, stride)
        and convolution.padding == (padding, padding)
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
    )
