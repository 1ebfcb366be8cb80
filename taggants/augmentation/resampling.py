"""Linear image operations as matrices: out = rows @ image @ columns^T for each image.

A matrix product is differentiable, deterministic on every device, and batches over images with different windows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def resampling_matrices(
    start: Tensor,
    length: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    size_in: int,
    size_out: int,
    flip: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns the weights [N, size_out, size_in] of Pillow's antialiased bilinear resize along one axis; rows sum to 1.

    A triangle of half-width max(1, scale), scale = length / size_out, around the centre of each output pixel, cut to the
    readable pixels and normalised (Pillow, Resample.c, precompute_coeffs). With low = 0 and high = the image's size it
    is `Image.resize(box=...)`, which looks beyond the window; with the window's own bounds it is crop, then resize.

    Args:
        start, length: float64 [N], the window in pixels: 0 is the left edge of the first pixel. length > 0.
        low, high: int64 or float64 [N], first and one past last readable pixel; low <= start, start + length <= high <= size_in.
        flip: bool [N], images whose output is mirrored; None for none.
    """
    places = torch.arange(size_out, dtype=torch.float64, device=start.device).expand(len(start), size_out)
    if flip is not None:
        places = torch.where(flip[:, None], size_out - 1 - places, places)
    scale = length / size_out
    centres = start[:, None] + (places + 0.5) * scale[:, None] - 0.5  # [N, size_out]; pixel i has its centre at i
    # Whole pixels and the rest apart: then single precision is exact enough on large images too.
    whole = centres.floor()
    pixels = torch.arange(size_in, dtype=dtype, device=start.device)
    distances = (pixels - whole.to(dtype)[..., None]) - (centres - whole).to(dtype)[..., None]
    weights = (1 - distances.abs() / scale.clamp(min=1).to(dtype)[:, None, None]).clamp(min=0)
    weights = weights * ((pixels >= low[:, None]) & (pixels < high[:, None]))[:, None]
    return weights / weights.sum(dim=2, keepdim=True)


def blur_matrices(
    sigma: Tensor, sizes: Tensor, *, size_in: int, radius: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Returns [N, size_in, size_in]: Gaussian blur along one axis, the border pixel repeated beyond the image.

    The Gaussian is sampled at whole pixels up to `radius` and normalised, as by `scipy.ndimage.gaussian_filter(...,
    mode="nearest", radius=radius)`. Rows of the image sum to 1; pixels beyond an image's size are 0.

    Args:
        sigma: float64 [N], pixels, > 0. sizes: int64 [N], pixels of each image along the axis.
    """
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=sigma.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    # mass[n, m + radius + 1]: the weight of all offsets up to m; 0 before the first.
    mass = torch.nn.functional.pad(kernel.cumsum(dim=1), (1, 0))
    pixels = torch.arange(size_in, device=sigma.device)
    offset = pixels - pixels[:, None]  # [out, in]
    upto = mass[:, (offset + radius + 1).clamp(0, 2 * radius + 1)]  # [N, out, in]
    before = mass[:, (offset + radius).clamp(0, 2 * radius + 1)]
    last = (sizes - 1)[:, None, None]
    # The border pixel also gets the weight of all that lies beyond it.
    upto = torch.where(pixels == last, 1.0, upto)
    before = torch.where(pixels == 0, 0.0, before)
    inside = (pixels <= last) & (pixels[:, None] <= last)
    return torch.where(inside, upto - before, 0.0).to(dtype)


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns rows @ image @ columns^T for each image and channel.

    Args:
        images: float [N, C, H, W], finite everywhere. rows: [N, H', H]. columns: [N, W', W].

    Returns: [N, C, H', W'].
    """
    count, channels, height, width = images.shape
    narrow = images.reshape(count, channels * height, width) @ columns.mT
    return rows[:, None] @ narrow.reshape(count, channels, height, -1)
