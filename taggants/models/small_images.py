"""A ConvNeXt and a vision transformer for images of 8 to 128 px, whose namesakes in timm begin with patches made for 224 px.

Both see their first features through 3x3 convolutions with batch normalisation, the stem that Xiao et al., "Early
Convolutions Help Transformers See Better" (NeurIPS 2021, section 4), give to vision transformers; what that is worth says
benchmarks/results/small_images.md. The stem halves the image until its map is about as wide as the network is meant for, so that
one name serves images of all sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from taggants.errors import InputError
from taggants.models.architectures import MODEL_SOURCES, InputNormalisation, ModelSpec

_SMALLEST, _LARGEST = 8, 128
"""Sides in pixels: below, ConvNeXt's last stage would have no map; above, the models of timm fit."""


class SmallImageModels:
    """Made by timm's own classes, with stems of their own.

    convnext: ConvNeXt-atto (timm's depths 2, 2, 6, 2 and widths 40 to 320) behind a stem that leaves 16 x 16 of 32 or 64 px; 3.4
    million weights.
    vit: 6 layers of width 192 with 3 heads and hidden layers twice as wide, the mean of 8 x 8 tokens of 32 or 64 px; 1.9 million.
    """

    names = "small/convnext or small/vit for images of 8 to 128 px"

    def has(self, name: str) -> bool:
        return name in _NETWORKS

    def options(self, name: str) -> frozenset[str]:
        return frozenset({"drop_path"})

    def build(self, name: str, spec: ModelSpec) -> nn.Sequential:
        if not _SMALLEST <= spec.image_size <= _LARGEST:
            raise InputError(
                f"model 'small/{name}' takes images of {_SMALLEST} to {_LARGEST} px, not {spec.image_size}; "
                "choose timm/NAME for larger ones, cnn for smaller ones, or set the image_size of its weights"
            )
        normalisation = InputNormalisation([0.5] * spec.channels, [0.25] * spec.channels)
        return nn.Sequential(normalisation, _NETWORKS[name](spec))


def _convnext(spec: ModelSpec) -> nn.Module:
    width, num_halvings = 40, _halvings(spec.image_size, 16)
    network = ConvNeXt(
        in_chans=spec.channels,
        num_classes=spec.num_classes,
        depths=(2, 2, 6, 2),
        dims=(width, 2 * width, 4 * width, 8 * width),
        conv_mlp=True,
        drop_path_rate=spec.drop_path,
    )
    stem: list[nn.Module] = _convolution(spec.channels, width, stride=1)
    for _ in range(num_halvings):
        stem += [nn.ReLU(), *_convolution(width, width, stride=2)]
    network.stem = nn.Sequential(*stem)
    return network


def _vit(spec: ModelSpec) -> nn.Module:
    return VisionTransformer(
        img_size=spec.image_size,
        patch_size=2 ** max(1, _halvings(spec.image_size, 8)),
        in_chans=spec.channels,
        num_classes=spec.num_classes,
        global_pool="avg",
        class_token=False,
        embed_dim=192,
        depth=6,
        num_heads=3,
        mlp_ratio=2.0,
        drop_path_rate=spec.drop_path,
        embed_layer=ConvolutionalTokens,
    )


class ConvolutionalTokens(nn.Module):
    """Tokens [N, num_patches, embed_dim] of images [N, in_chans, img_size, img_size], in the place of timm's `PatchEmbed`.

    Each halving of the map doubles its channels, up to half of `embed_dim`. patch_size: 2 to the power of the number of halvings.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: object) -> None:
        super().__init__()  # the others say how images of other sizes are padded, which none are
        num_halvings = patch_size.bit_length() - 1
        layers, channels, side = [], in_chans, img_size
        for remaining in reversed(range(num_halvings)):
            width = max(1, embed_dim // 2 >> remaining)
            layers += [*_convolution(channels, width, stride=2), nn.ReLU()]
            channels, side = width, -(-side // 2)
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, embed_dim, 1))
        self.grid_size = (side, side)
        self.num_patches = side * side

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.layers(images)
        return tokens.flatten(2).transpose(1, 2)


def _convolution(channels: int, width: int, *, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width)]


def _halvings(image_size: int, side: int) -> int:
    """How often halving a map of `image_size` px brings it nearest to `side`, on a logarithmic scale; 0 where it is smaller."""
    return max(0, round(math.log2(image_size / side)))


_NETWORKS: dict[str, Callable[[ModelSpec], nn.Module]] = {"convnext": _convnext, "vit": _vit}

MODEL_SOURCES.register("small", SmallImageModels())
