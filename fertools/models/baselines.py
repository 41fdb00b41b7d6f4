"""The networks that the paper's is compared with: a practitioner's first choices, trained from scratch.

From torchvision: ResNet-18 (He et al. 2016), VGG-11 with batch norm (Simonyan and Zisserman 2015),
MobileNetV3-Small (Howard et al. 2019), ShuffleNetV2 (Ma et al. 2018), EfficientNet-B0 (Tan and Le 2019).
From the literature on expressions: the VGG-13 of Barsoum et al. (2016) and mini-Xception
(Arriaga et al. 2017).

Most were made for larger images. One rule adapts them: the first strides are removed, as many as it
takes for the last feature maps to be ``end_size`` pixels wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fertools import IMAGE_SIZE
from fertools.config import Config, Range

BaselineName = Literal[
    "resnet18", "vgg11", "mobilenet_v3_small", "shufflenet_v2", "efficientnet_b0", "vgg13", "mini_xception"
]


@dataclass(frozen=True)
class BaselineConfig(Config):
    """Everything that decides the shape of a :class:`Baseline`."""

    name: BaselineName
    classes: Annotated[int, Range(2, 1000)] = 7
    end_size: Literal[3, 6] = 6  # of the last feature maps, in pixels; the paper's network ends on 6 as well
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.5  # before the last layer

    def check(self) -> None:
        if self.name == "mini_xception" and self.end_size != 3:
            self.refuse("end_size", "does not fit mini_xception, which is made for 48 pixels and ends on 3")


END_SIZES: dict[BaselineName, Literal[3, 6]] = {  # what each is compared at
    "resnet18": 6,
    "vgg11": 3,
    "mobilenet_v3_small": 6,
    "shufflenet_v2": 6,
    "efficientnet_b0": 6,
    "vgg13": 3,
    "mini_xception": 3,
}


class Baseline(nn.Module):
    """A named network for gray images: (N, 1, 48, 48) to logits (N, classes).

    >>> import torch
    >>> Baseline(BaselineConfig("vgg13"))(torch.zeros(2, 1, 48, 48)).shape
    torch.Size([2, 7])
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        self.features, channels = FEATURES[config.name]()
        _remove_strides(self.features, config.end_size)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(channels, config.classes)
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, 48, 48) -> (N, classes)
        return self.head(self.features(x))


def _resnet18() -> tuple[nn.Module, int]:
    from torchvision.models import resnet18

    net = resnet18()
    net.conv1 = nn.Conv2d(1, 64, 3, stride=2, padding=1, bias=False)  # 7x7 was for 224 pixels
    return nn.Sequential(*list(net.children())[:-2]), 512


def _vgg11() -> tuple[nn.Module, int]:
    from torchvision.models import vgg11_bn

    return _gray(vgg11_bn().features), 512


def _mobilenet_v3_small() -> tuple[nn.Module, int]:
    from torchvision.models import mobilenet_v3_small

    return _gray(mobilenet_v3_small().features), 576


def _shufflenet_v2() -> tuple[nn.Module, int]:
    from torchvision.models import shufflenet_v2_x1_0

    return _gray(nn.Sequential(*list(shufflenet_v2_x1_0().children())[:-1])), 1024


def _efficientnet_b0() -> tuple[nn.Module, int]:
    from torchvision.models import efficientnet_b0

    return _gray(efficientnet_b0().features), 1280


def _vgg13() -> tuple[nn.Module, int]:
    """Barsoum et al. 2016, section 3.1: four blocks with a dropout of 0.25 after each.

    Ours adds batch norm, and has average pooling where theirs has two hidden layers of 1024.
    """
    layers: list[nn.Module] = []
    channels = 1
    for width, convs in ((64, 2), (128, 2), (256, 3), (256, 3)):
        for _ in range(convs):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers += [nn.MaxPool2d(2), nn.Dropout(0.25)]
    return nn.Sequential(*layers), channels


class _XceptionBlock(nn.Module):
    """Two depthwise separable convolutions and a pool, plus a shortcut: a 1x1 convolution with stride 2."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()

        def separable(source: int) -> list[nn.Module]:
            depthwise = nn.Conv2d(source, source, 3, padding=1, groups=source, bias=False)
            return [depthwise, nn.Conv2d(source, out, 1, bias=False), nn.BatchNorm2d(out)]

        self.body = nn.Sequential(*separable(channels), nn.ReLU(), *separable(out), nn.MaxPool2d(3, 2, 1))
        self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C', H/2, W/2)
        # As a stride of 2 in the 1x1 convolution, whose backward pass writes out of bounds in oneDNN
        # (PyTorch 2.14, CPU, fp32, channels last).
        return self.body(x) + self.shortcut(x[:, :, ::2, ::2])


def _mini_xception() -> tuple[nn.Module, int]:
    """Arriaga et al. 2017, figure 5, with the widths of their published code."""
    stem = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    stem += [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    blocks = [_XceptionBlock(a, b) for a, b in ((8, 16), (16, 32), (32, 64), (64, 128))]
    return nn.Sequential(*stem, *blocks), 128


FEATURES = {
    "resnet18": _resnet18,
    "vgg11": _vgg11,
    "mobilenet_v3_small": _mobilenet_v3_small,
    "shufflenet_v2": _shufflenet_v2,
    "efficientnet_b0": _efficientnet_b0,
    "vgg13": _vgg13,
    "mini_xception": _mini_xception,
}


def _gray(features: nn.Module) -> nn.Module:
    """The same layers, but the first convolution takes one channel instead of three."""
    conv = next(module for module in features.modules() if isinstance(module, nn.Conv2d))
    conv.in_channels = 1
    conv.weight = nn.Parameter(torch.empty_like(conv.weight[:, :1]))
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision draws it
    return features


def _remove_strides(features: nn.Module, end_size: int) -> None:
    """Sets the first strides to 1, one layer after another, until 48 pixels end on ``end_size``."""
    strided = [m for m in features.modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d)) and m.stride in (2, (2, 2))]
    for module in strided:
        was_training = features.training
        with torch.no_grad():
            size = features.eval()(torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE)).shape[-1]
        features.train(was_training)
        if size >= end_size:
            return
        if isinstance(module, nn.MaxPool2d):  # 2x2 at stride 1 would cut the map, so the pool becomes 3x3
            module.kernel_size, module.stride, module.padding = 3, 1, 1
        else:
            module.stride = (1, 1)
