"""Other ways to fuse two branches than eq. 5: what section 2.3 argues against, and two ideas beyond the paper."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from fertools.network import FeatureFusionModule, NetworkConfig


class AddFusion(FeatureFusionModule):
    """``F1 + F2``, which section 2.3 argues against: it integrates all features equally. It has no parameters."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__(channels, config)
        del self.w, self.proj

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:  # two (N, C, H, W) -> (N, C, H, W)
        return self.activation(f1 + f2)


class ConcatenateFusion(FeatureFusionModule):
    """``C1x1([F1, F2])``, the other way that section 2.3 argues against."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__(channels, config)
        del self.w

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:  # two (N, C, H, W) -> (N, C, H, W)
        return self.activation(self.proj(torch.cat([f1, f2], 1)))


class PerChannelFusion(FeatureFusionModule):
    """Eq. 5 with a vector of C weights in place of each scalar. Beyond the paper."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__(channels, config)
        self.w = nn.Parameter(torch.ones(3, channels, 1, 1))

    def weights(self, f1: Tensor, f2: Tensor) -> Tensor:  # -> (3, C, 1, 1)
        return self.w.to(f1.dtype)  # unlike a single number, a vector in fp32 would turn bf16 maps into fp32


class ExcitedFusion(FeatureFusionModule):
    """Eq. 5 with a factor for each image and channel in front of its weights. Beyond the paper::

        Fo = w1 g1 F1 + w2 g2 F2 + w3 g3 Fm,   [g1, g2, g3] = 2 sigmoid(V silu(U mean[F1, F2]))

    The mean is over the pixels, as in squeeze-and-excitation (Hu et al. 2018). SiLU replaces their
    ReLU: of a few ReLUs, often none fires, and the gate never learns. U has C / 4 rows, at least 4.
    V and its bias start at 0, so g starts at 1 and the module starts as eq. 5 does.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__(channels, config)
        squeezed = max(channels // 4, 4)
        u, v = nn.Conv2d(2 * channels, squeezed, 1), nn.Conv2d(squeezed, 3 * channels, 1)
        nn.init.zeros_(v.weight)
        nn.init.zeros_(cast(Tensor, v.bias))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), u, nn.SiLU(), v, nn.Sigmoid())

    def weights(self, f1: Tensor, f2: Tensor) -> Tensor:  # -> (3, N, C, 1, 1)
        gate = self.gate(torch.cat([f1, f2], 1))  # (N, 3C, 1, 1)
        g = 2 * gate.unflatten(1, (3, -1)).transpose(0, 1)
        return self.w.to(f1.dtype).view(3, 1, 1, 1, 1) * g


FUSIONS: dict[str, type[FeatureFusionModule]] = {
    "weighted": FeatureFusionModule,
    "per-channel": PerChannelFusion,
    "excite": ExcitedFusion,
    "add": AddFusion,
    "concatenate": ConcatenateFusion,
}
