"""The baselines against torchvision's own networks and the papers' figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn
from toy import CLASSES, toy_faces

from fertools.models.baselines import END_SIZES, Baseline, BaselineConfig, BaselineName
from fertools.models.fusions import FUSIONS
from fertools.models.registry import build
from fertools.models.weights import ModelMetadata, load_network, save_network
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.recipes import RECIPES, AugmentConfig, TrainConfig
from fertools.training.trainer import Trainer

NAMES = get_args(BaselineName)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def baseline(name: BaselineName) -> Baseline:
    torch.manual_seed(0)
    return Baseline(BaselineConfig(name, end_size=END_SIZES[name]))


@pytest.mark.parametrize("name", NAMES)
def test_images_to_logits_over_maps_of_the_end_size(name: BaselineName) -> None:
    net = baseline(name)
    x = torch.randn(2, 1, 48, 48)
    assert net(x).shape == (2, 7)
    assert net.features(x).shape[2:] == (END_SIZES[name], END_SIZES[name])
    assert Baseline(BaselineConfig(name, classes=3, end_size=END_SIZES[name]))(x).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "peer", "stem", "last"),
    [  # the original's parameters, those of its first layer's kernels, and those of its classifier
        ("resnet18", tv.resnet18, (3 * 64 * 7**2, 1 * 64 * 3**2), lambda net: net.fc),
        ("vgg11", tv.vgg11_bn, (3 * 64 * 3**2, 1 * 64 * 3**2), lambda net: net.classifier),
        ("mobilenet_v3_small", tv.mobilenet_v3_small, (3 * 16 * 3**2, 1 * 16 * 3**2), lambda net: net.classifier),
        ("shufflenet_v2", tv.shufflenet_v2_x1_0, (3 * 24 * 3**2, 1 * 24 * 3**2), lambda net: net.fc),
        ("efficientnet_b0", tv.efficientnet_b0, (3 * 32 * 3**2, 1 * 32 * 3**2), lambda net: net.classifier),
    ],
)
def test_parameters_are_torchvisions_but_for_the_first_and_the_last_layer(
    name: BaselineName, peer: type, stem: tuple[int, int], last: object
) -> None:
    original = peer()
    net = baseline(name)
    linear = net.head[-1]
    assert isinstance(linear, nn.Linear)
    wanted = parameters(original) - stem[0] + stem[1] - parameters(last(original)) + (linear.in_features + 1) * 7  # type: ignore[operator]
    assert parameters(net) == wanted


def test_resnet18_is_torchvisions_with_the_strides_of_its_first_two_layers_removed() -> None:
    """The same network written out: stem and pool at stride 1, then torchvision's own four stages."""
    net, peer = baseline("resnet18").eval(), tv.resnet18()
    ours = list(net.features.children())
    peer.conv1 = nn.Conv2d(1, 64, 3, stride=1, padding=1, bias=False)
    peer.maxpool = nn.MaxPool2d(3, 1, 1)
    for mine, theirs in zip(ours, list(peer.children())[:-2], strict=True):
        theirs.load_state_dict(mine.state_dict())
    peer.fc = net.head[-1]
    x = torch.randn(2, 1, 48, 48)
    torch.testing.assert_close(net(x), peer.eval()(x))


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("resnet18", 2),
        ("vgg11", 1),
        ("mobilenet_v3_small", 2),
        ("shufflenet_v2", 2),
        ("efficientnet_b0", 2),
        ("vgg13", 0),
        ("mini_xception", 0),
    ],
)
def test_the_first_strides_are_removed_and_no_others(name: BaselineName, removed: int) -> None:
    """48 pixels at the end size are a factor of 8 or 16; the originals reduce by 32, or by 16 if made for 48."""
    halvings = {"vgg13": 4, "mini_xception": 4}.get(name, 5)
    assert halvings - removed == {6: 3, 3: 4}[END_SIZES[name]]
    sizes = [48]

    def note(module: nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        sizes.append(out.shape[-1])

    net = baseline(name)
    for module in net.features.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            module.register_forward_hook(note)
    net.eval()(torch.zeros(1, 1, 48, 48))
    assert len([size for size in set(sizes) if size >= END_SIZES[name]]) == halvings - removed + 1
    strided = [m for m in net.features.modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d))]
    if removed:
        first = next(m for m in strided if m.kernel_size not in (1, (1, 1)))
        assert first.stride in (1, (1, 1))


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_trains_a_step(name: BaselineName, tmp_path: Path) -> None:
    config = TrainConfig(
        epochs=1, network=BaselineConfig(name, end_size=END_SIZES[name]), batch_size=8, learning_rate=0.01
    )
    trainer = Trainer.from_config(config, toy_faces(36), tmp_path, device="cpu")
    before = {name: p.detach().clone() for name, p in trainer.net.named_parameters()}
    trainer.net.train()
    trainer.step(torch.arange(8))
    assert np.isfinite(trainer.progress.loss_sum)
    still = [name for name, p in trainer.net.named_parameters() if torch.equal(p, before[name])]
    assert not still


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_comes_back_from_its_file(name: BaselineName, tmp_path: Path) -> None:
    net = baseline(name).eval()
    path = tmp_path / "model.safetensors"
    save_network(path, net, ModelMetadata(net.config, CLASSES, 120.0, 60.0))
    again, metadata = load_network(path)
    assert metadata.network == net.config
    x = torch.randn(2, 1, 48, 48)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_each_under_one_protocol(name: BaselineName) -> None:
    config = RECIPES[f"{name.replace('_', '-')}-fer2013"]
    assert config.network == BaselineConfig(name, end_size=END_SIZES[name])
    paper = RECIPES["multiscale-fer2013"]
    assert dataclasses.replace(config, network=paper.network) == paper
    assert paper.augment != AugmentConfig()


def test_mini_xception_has_its_own_end_size() -> None:
    with pytest.raises(ValueError, match="BaselineConfig: end_size=6 does not fit mini_xception"):
        BaselineConfig("mini_xception")
    with pytest.raises(ValueError, match="end_size=4 is not one of 3, 6"):
        BaselineConfig("resnet18", end_size=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_registry_builds_every_variant(fusion: str) -> None:
    net = build(NetworkConfig(width=2, units=1, fusion=fusion))  # type: ignore[arg-type]
    assert isinstance(net, MultiScaleFusionNet)
    assert {type(module) for module in net.fuse_ends} == {FUSIONS[fusion]}
    F.cross_entropy(net(torch.randn(4, 1, 48, 48)), torch.arange(4)).backward()


def test_the_registry_knows_every_choice_of_the_config() -> None:
    with pytest.raises(ValueError, match="fusion='multiply' is not one of " + ", ".join(FUSIONS)):
        NetworkConfig(fusion="multiply")  # type: ignore[arg-type]
