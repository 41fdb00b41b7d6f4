"""The fused network against the plain one: every variant and every baseline, with statistics as if trained."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
import torch
from torch import nn

from fertools.inference.fusing import fuse
from fertools.models.baselines import END_SIZES, BaselineConfig, BaselineName
from fertools.models.registry import AnyNetworkConfig, build
from fertools.network import NetworkConfig

SMALL: dict[str, Any] = {"width": (4, 6), "scales": (12, 24), "units": 2, "hidden": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one branch": {"scales": (24,)},
    "one width": {"width": 5},
    "one kernel": {"kernels": (3,)},
    "not recursive": {"recursive": False},
    "shared norm": {"norm_per_call": False},
    "norm after": {"norm": "after"},
    "no norm": {"norm": "none"},
    "not residual": {"residual": False},
    "drop path": {"drop_path": 0.3},
    "per-channel": {"fusion": "per-channel"},
    "excite": {"fusion": "excite"},
    "add": {"fusion": "add"},
    "concatenate": {"fusion": "concatenate"},
    "sigmoid": {"fusion_activation": "sigmoid"},
    "sigmoid, norm before": {"fusion_activation": "sigmoid", "fusion_norm": "before"},
    "sigmoid, norm after": {"fusion_activation": "sigmoid", "fusion_norm": "after"},
    "norm of the sum": {"fusion_norm": "before"},
    "norm in the head": {"head_norm": True},
}
CONFIGS: dict[str, AnyNetworkConfig] = {name: NetworkConfig(**SMALL | fields) for name, fields in VARIANTS.items()}
CONFIGS |= {
    "three branches": NetworkConfig(width=4, units=1, hidden=8),
    **{name: BaselineConfig(name, end_size=END_SIZES[name]) for name in get_args(BaselineName)},
}


def as_if_trained(config: AnyNetworkConfig) -> nn.Module:
    """Random weights, and statistics and factors of the norms that differ by channel and by call."""
    torch.manual_seed(0)
    net = build(config)
    for name, parameter in net.named_parameters():
        if name.endswith(".w") or ".gate." in name:
            nn.init.normal_(parameter)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():  # one batch sets the statistics, so that the images differ up to the last layer
        net.train()(torch.randn(16, 1, 48, 48))
    return net.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_plain_network(name: str) -> None:
    net = as_if_trained(CONFIGS[name])
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(19, 1, 48, 48)  # more than one chunk, and not a multiple of it
    with torch.inference_mode():
        wanted = net(x)
        found = fuse(net)(x)
        scale = wanted.abs().max()
        assert (wanted - wanted.mean(0)).abs().max() > 1e-3 * scale  # the images differ, so that the next line can fail
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=1e-5)
        assert (fuse(net, torch.bfloat16)(x) - wanted).abs().max() < 0.2 * scale
    for key, value in net.state_dict().items():  # the network itself is untouched
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("no norm", "sigmoid, norm after")])
def test_no_norm_is_left(name: str) -> None:
    fused = fuse(as_if_trained(CONFIGS[name]))
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


def test_a_network_in_training_mode_is_fused_as_in_evaluation_mode() -> None:
    net = as_if_trained(CONFIGS["defaults"])
    x = torch.randn(3, 1, 48, 48)
    wanted = fuse(net)(x)
    torch.testing.assert_close(fuse(net.train())(x), wanted)
    assert net.training


def test_a_network_that_is_not_ours_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 46 * 46, 3)).eval()
    x = torch.randn(3, 1, 48, 48)
    torch.testing.assert_close(fuse(net)(x), net(x))
