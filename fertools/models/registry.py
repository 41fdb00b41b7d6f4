"""Any network that can be trained here, built from its configuration alone."""

from __future__ import annotations

from torch import nn

from fertools.models.baselines import Baseline, BaselineConfig
from fertools.models.fusions import FUSIONS
from fertools.network import MultiScaleFusionNet, NetworkConfig

AnyNetworkConfig = NetworkConfig | BaselineConfig


def build(config: AnyNetworkConfig) -> nn.Module:
    """The network that ``config`` describes, with random weights: (N, 1, 48, 48) to logits (N, classes).

    >>> type(build(BaselineConfig("vgg13"))).__name__
    'Baseline'
    >>> build(NetworkConfig(fusion="add", width=8)).config.fusion
    'add'
    """
    if isinstance(config, BaselineConfig):
        return Baseline(config)
    return MultiScaleFusionNet(config, fusion=FUSIONS[config.fusion])
