"""A trained network as an equivalent one that predicts faster: fewer layers, nothing kept for a backward pass.

In evaluation mode, batch normalization multiplies each channel by a constant and adds another one. A
convolution next to it can do that with other weights (Jacob et al. 2018, section 3.2). Likewise, eq. 5
with constant weights is one 1x1 convolution. On a CPU, half of the time of a forward pass went into these
layers, which do almost no arithmetic but read and write all feature maps.

    fast = fuse(net)
    fast(x)  # as net(x) in evaluation mode, up to rounding
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights, fuse_linear_bn_eval

from fertools.models.baselines import Baseline
from fertools.models.fusions import ConcatenateFusion, PerChannelFusion
from fertools.network import (
    BasicFeatureExtractionUnit,
    FeatureExtractionModule,
    FeatureFusionModule,
    MultiScaleFusionNet,
    NetworkConfig,
)

CHUNK = 16  # images per pass on a CPU: their feature maps stay in the cache from one layer to the next


class FusedNetwork(nn.Module):
    """What :func:`fuse` returns: images (N, 1, 48, 48) to logits (N, classes), both float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net.to(dtype).to(memory_format=torch.channels_last)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, 48, 48) -> (N, classes)
        chunks = x.to(self.dtype).split(CHUNK if x.device.type == "cpu" else len(x))
        return torch.cat([self.net(chunk) for chunk in chunks]).float()


def fuse(net: nn.Module, dtype: torch.dtype = torch.float32) -> FusedNetwork:
    """An equivalent of a trained network for inference only; ``net`` itself stays as it is.

    Batch norm is folded into the convolutions and linear layers of :class:`MultiScaleFusionNet` and of
    every :class:`Baseline`; eq. 5 becomes one convolution. Another network is copied unchanged. Memory is
    channels-last.

    Args:
        net: takes (N, 1, 48, 48), gives logits (N, classes); in training or evaluation mode.
        dtype: of the weights and feature maps. With ``torch.float32`` the logits differ from ``net``'s by
            rounding errors. ``torch.bfloat16`` is about twice as fast on a processor with bf16 arithmetic
            (:func:`fertools.hardware.computes_bf16`) and changes the label of a few images in
            a thousand, where two classes are nearly equally probable.

    >>> from fertools.network import NetworkConfig
    >>> net = MultiScaleFusionNet(NetworkConfig(width=4, units=1, hidden=8))
    >>> x = torch.rand(2, 1, 48, 48)
    >>> bool(torch.allclose(fuse(net)(x), net.eval()(x), atol=1e-5))
    True
    """
    fused = copy.deepcopy(net).eval().double()  # the products of weights are rounded once, at the end
    with torch.no_grad():
        if isinstance(fused, MultiScaleFusionNet):
            _fuse_ours(fused)
        elif isinstance(fused, Baseline):
            from torch.fx.experimental import optimization

            fused = optimization.fuse(fused, inplace=True)
    return FusedNetwork(fused, dtype).eval().requires_grad_(False)


def _fuse_ours(net: MultiScaleFusionNet) -> None:
    net.stem, net.head = _fuse_sequential(net.stem), _fuse_sequential(net.head)
    for module in net.modules():
        if isinstance(module, FeatureExtractionModule):
            module.units = nn.ModuleList(_FusedUnit(cast(BasicFeatureExtractionUnit, unit)) for unit in module.units)
    for sizes in net.fuse:
        for size, module in cast(nn.ModuleDict, sizes).items():
            cast(nn.ModuleDict, sizes)[size] = _fuse_fusion(cast(FeatureFusionModule, module), net.config)
    ends = [cast(FeatureFusionModule, module) for module in net.fuse_ends]
    net.fuse_ends = nn.ModuleList(_fuse_fusion(module, net.config) for module in ends)


def _fuse_sequential(layers: nn.Sequential) -> nn.Sequential:
    """The same layers, with each batch norm in the layer in front of it."""
    fused: list[nn.Module] = []
    for layer in layers:
        last = fused[-1] if fused else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
            fused[-1] = fuse_conv_bn_eval(last, layer)
        elif isinstance(layer, nn.BatchNorm1d) and isinstance(last, nn.Linear):
            fused[-1] = fuse_linear_bn_eval(last, layer)
        else:
            fused.append(layer)
    return nn.Sequential(*fused)


class _FusedUnit(nn.Module):
    """A :class:`BasicFeatureExtractionUnit` with convolutions of its own for each call, without norms."""

    def __init__(self, unit: BasicFeatureExtractionUnit) -> None:
        super().__init__()
        convs = [cast(nn.Conv2d, conv) for conv in unit.convs]
        self.convs = nn.ModuleList([unit.convs])
        self.projs = nn.ModuleList([unit.proj])
        if unit.norm is None:
            return
        norms = [cast(nn.BatchNorm2d, norm) for norm in unit.norm.calls]
        if unit.norm_first:
            channels = unit.proj.out_channels
            self.convs = nn.ModuleList(
                nn.ModuleList(_fold(conv, norm, i * channels) for i, conv in enumerate(convs)) for norm in norms
            )
        else:
            self.projs = nn.ModuleList(_fold_behind(norm, unit.proj) for norm in norms)

    def forward(self, x: Tensor, call: int = 0) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
        convs = cast(nn.ModuleList, self.convs[call if len(self.convs) > 1 else 0])
        proj = self.projs[call if len(self.projs) > 1 else 0]
        return proj(torch.cat([conv(x).relu_() for conv in convs], 1))


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d, start: int) -> nn.Conv2d:
    """``conv`` followed by the channels of ``norm`` that begin at ``start``, as one convolution."""
    own = slice(start, start + conv.out_channels)
    mean, var = cast(Tensor, norm.running_mean)[own], cast(Tensor, norm.running_var)[own]
    folded = copy.deepcopy(conv)
    folded.weight, folded.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, var, norm.eps, norm.weight[own], norm.bias[own]
    )
    return folded


def _fold_behind(norm: nn.BatchNorm2d, proj: nn.Conv2d) -> nn.Conv2d:
    """``norm`` followed by a 1x1 convolution, as one convolution."""
    factor = norm.weight / (cast(Tensor, norm.running_var) + norm.eps).sqrt()
    shift = norm.bias - cast(Tensor, norm.running_mean) * factor
    folded = copy.deepcopy(proj)
    folded.bias = nn.Parameter(cast(Tensor, proj.bias) + proj.weight.flatten(1) @ shift)
    folded.weight = nn.Parameter(proj.weight * factor[:, None, None])
    return folded


def _fuse_fusion(module: FeatureFusionModule, config: NetworkConfig) -> FeatureFusionModule:
    """Eq. 5 as ``C1x1([F1, F2])``: F1 and F2 themselves are part of the convolution, on its diagonals.

    Only where the weights are the same for every image; another fusion comes back as it is.
    """
    if type(module) not in (FeatureFusionModule, PerChannelFusion):
        return module
    channels = module.proj.out_channels
    fused = ConcatenateFusion(channels, config).eval()
    w1, w2, w3 = module.w.reshape(3, -1).expand(3, channels)  # a scalar for each channel
    own = torch.cat([w1.diag(), w2.diag()], 1)[:, :, None, None]  # (C, 2C, 1, 1)
    fused.proj.weight = nn.Parameter(w3[:, None, None, None] * module.proj.weight + own)
    fused.proj.bias = nn.Parameter(w3 * cast(Tensor, module.proj.bias))
    # fusion_norm="before" puts a norm between the sum and its activation: behind the convolution now.
    proj, *activation = _fuse_sequential(nn.Sequential(fused.proj, *cast(nn.Sequential, module.activation)))
    fused.proj, fused.activation = cast(nn.Conv2d, proj), nn.Sequential(*activation)
    return fused
