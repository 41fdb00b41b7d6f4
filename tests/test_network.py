"""The network against the paper's equations, written out a second time."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate
from torch import Tensor, nn

from fertools.models.fusions import FUSIONS
from fertools.models.registry import build
from fertools.models.resampling import Resample, resampling_matrix
from fertools.network import (
    BasicFeatureExtractionUnit,
    FeatureExtractionModule,
    FeatureFusionModule,
    MultiScaleFusionNet,
    NetworkConfig,
    halvings,
)

SMALL = NetworkConfig(width=4)


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic away from its special starting value (1, 0)."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) * 0.5 + 0.2
    return module.eval()


# --- The equations in NumPy and SciPy, one image (C, H, W) at a time ---


def conv(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    weight = layer.weight.detach().numpy().astype(np.float64)
    out = np.stack(
        [sum(correlate(plane, k, mode="constant") for plane, k in zip(x, kernel, strict=True)) for kernel in weight]
    )
    return out if layer.bias is None else out + layer.bias.detach().numpy()[:, None, None]


def normalize(x: np.ndarray, norm: nn.BatchNorm2d, first: int = 0) -> np.ndarray:
    rows = slice(first, first + len(x))
    mean, var, weight, bias = (
        t.detach().numpy()[rows, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / np.sqrt(var + norm.eps) * weight + bias


def bfeu(m: np.ndarray, unit: BasicFeatureExtractionUnit, order: str = "before", call: int = 0) -> np.ndarray:
    """Equations 2 to 4, with the normalization where ``order`` says."""
    q, first = [], 0
    for layer in unit.convs:
        x = conv(m, layer)
        if order == "before":
            x = normalize(x, unit.norm.calls[call], first)
        x = np.maximum(x, 0)
        if order == "after":
            x = normalize(x, unit.norm.calls[call], first)
        q.append(x)
        first += len(x)
    return conv(np.concatenate(q), unit.proj)


def fem(f: np.ndarray, module: FeatureExtractionModule, call: int = 0) -> np.ndarray:
    """Equation 1 and the 2x2 max-pooling."""
    x = f
    for unit in module.units:
        x = bfeu(x, unit, call=call)
    x = x + f
    c, h, w = x.shape
    return x.reshape(c, h // 2, 2, w // 2, 2).max((2, 4))


def ffm(f1: np.ndarray, f2: np.ndarray, module: FeatureFusionModule, sigmoid: bool) -> np.ndarray:
    """Equation 5."""
    w1, w2, w3 = module.w.detach().numpy().astype(np.float64)
    out = w1 * f1 + w2 * f2 + w3 * conv(np.concatenate([f1, f2]), module.proj)
    return 1 / (1 + np.exp(-out)) if sigmoid else out


def fusion_module(channels: int, config: NetworkConfig) -> FeatureFusionModule:
    return FUSIONS[config.fusion](channels, config)


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernels", [(5, 3), (3,), (5,)])
@pytest.mark.parametrize("order", ["before", "after", "none"])
def test_bfeu_is_equations_2_to_4(kernels: tuple[int, ...], order: str) -> None:
    config = dataclasses.replace(SMALL, kernels=kernels, norm=order)
    unit = randomized(BasicFeatureExtractionUnit(4, config))
    x = images(1, 4, 9, 9)
    assert [layer.kernel_size for layer in unit.convs] == [(k, k) for k in kernels]
    np.testing.assert_allclose(unit(x)[0].detach(), bfeu(x[0].numpy(), unit, order), rtol=1e-4, atol=1e-4)


def test_fem_is_equation_1_and_a_max_pool() -> None:
    module = randomized(FeatureExtractionModule(4, SMALL))
    x = images(1, 4, 12, 12)
    assert len(module.units) == 3
    np.testing.assert_allclose(module(x)[0].detach(), fem(x[0].numpy(), module), rtol=1e-4, atol=1e-4)


def test_fem_without_residual_lacks_the_input() -> None:
    module = randomized(FeatureExtractionModule(4, SMALL))
    plain = randomized(FeatureExtractionModule(4, dataclasses.replace(SMALL, residual=False)))
    plain.load_state_dict(module.state_dict())
    x = torch.ones(1, 4, 12, 12)  # constant, so that max(y + 1) = max(y) + 1
    torch.testing.assert_close(module(x), plain(x) + 1)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_ffm_is_equation_5(sigmoid: bool) -> None:
    config = dataclasses.replace(SMALL, fusion_activation="sigmoid" if sigmoid else "identity")
    module = FeatureFusionModule(4, config)
    assert module.w.tolist() == [1, 1, 1]
    randomized(module)
    f1, f2 = images(1, 4, 6, 6), images(1, 4, 6, 6, seed=2)
    wanted = ffm(f1[0].numpy(), f2[0].numpy(), module, sigmoid)
    np.testing.assert_allclose(module(f1, f2)[0].detach(), wanted, rtol=1e-4, atol=1e-5)


def test_the_two_fusions_that_section_2_3_argues_against() -> None:
    f1, f2 = images(1, 4, 6, 6), images(1, 4, 6, 6, seed=2)
    add = fusion_module(4, dataclasses.replace(SMALL, fusion="add"))
    assert list(add.parameters()) == []
    torch.testing.assert_close(add(f1, f2), f1 + f2)
    concatenate = fusion_module(4, dataclasses.replace(SMALL, fusion="concatenate"))
    wanted = conv(torch.cat([f1, f2], 1)[0].numpy(), concatenate.proj)
    np.testing.assert_allclose(concatenate(f1, f2)[0].detach(), wanted, rtol=1e-4, atol=1e-5)


def test_weights_per_channel_are_equation_5_for_each_channel() -> None:
    module = fusion_module(4, dataclasses.replace(SMALL, fusion="per-channel"))
    randomized(module)
    w1, w2, w3 = module.w.detach().numpy()  # each (C, 1, 1)
    assert w1.shape == (4, 1, 1)
    f1, f2 = images(2, 4, 6, 6), images(2, 4, 6, 6, seed=2)
    for a, b, found in zip(f1.numpy(), f2.numpy(), module(f1, f2).detach(), strict=True):
        wanted = w1 * a + w2 * b + w3 * conv(np.concatenate([a, b]), module.proj)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [4, 20])  # the gate's middle has 4 and 5 numbers
def test_excited_weights_are_the_formula_of_the_docstring(width: int) -> None:
    module = fusion_module(width, NetworkConfig(width=width, fusion="excite"))
    randomized(module)
    u, v = module.gate[1], module.gate[3]
    assert len(u.weight) == max(4, width // 4)
    f1, f2 = images(2, width, 6, 6), images(2, width, 6, 6, seed=2)
    f2[1] *= 3  # another image, other weights
    for a, b, found in zip(f1.numpy(), f2.numpy(), module(f1, f2).detach(), strict=True):
        both = np.concatenate([a, b])
        inner = conv(both.mean((1, 2), keepdims=True), u)
        inner = inner / (1 + np.exp(-inner))
        gates = 2 / (1 + np.exp(-conv(inner, v)))  # (3C, 1, 1)
        terms = np.stack([a, b, conv(both, module.proj)])
        w = module.w.detach().numpy()[:, None, None, None] * gates.reshape(3, width, 1, 1)
        np.testing.assert_allclose(found, (w * terms).sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", ["per-channel", "excite"])
def test_fusions_beyond_the_paper_start_as_equation_5(fusion: str) -> None:
    plain = FeatureFusionModule(8, NetworkConfig(width=8))
    module = fusion_module(8, NetworkConfig(width=8, fusion=fusion))
    module.proj.load_state_dict(plain.proj.state_dict())
    f1, f2 = images(3, 8, 6, 6), images(3, 8, 6, 6, seed=2)
    torch.testing.assert_close(module(f1, f2), plain(f1, f2))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(f1.bfloat16(), f2.bfloat16()).dtype == torch.bfloat16


def test_drop_path_lets_an_image_pass_by_the_residual_alone() -> None:
    """In training every image is pool(F), with probability p, or else pool(F + R(F) / (1 - p))."""
    config = dataclasses.replace(SMALL, norm="none")  # no statistics of a batch: every image by itself
    plain = FeatureExtractionModule(4, config)
    randomized(plain)
    module = FeatureExtractionModule(4, dataclasses.replace(config, drop_path=0.25))
    module.load_state_dict(plain.state_dict())
    x = images(1, 4, 6, 6)
    r = plain.units[2](plain.units[1](plain.units[0](x)))
    past, through = F.max_pool2d(x, 2)[0], F.max_pool2d(x + r / 0.75, 2)[0]
    torch.manual_seed(0)
    found = module.train()(x.expand(2000, -1, -1, -1))
    dropped = torch.isclose(found, past, atol=1e-5).all(3).all(2).all(1)
    torch.testing.assert_close(found[~dropped], through.expand(int((~dropped).sum()), -1, -1, -1))
    assert 0.22 < dropped.float().mean() < 0.28
    torch.testing.assert_close(module.eval()(x), plain(x))


def test_sigmoid_after_normalization_is_normalized() -> None:
    config = dataclasses.replace(SMALL, fusion_activation="sigmoid", fusion_norm="after")
    out = FeatureFusionModule(4, config).train()(images(8, 4, 6, 6), images(8, 4, 6, 6, seed=2))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    config = dataclasses.replace(SMALL, fusion_activation="sigmoid", fusion_norm="before")
    out = FeatureFusionModule(4, config).train()(images(8, 4, 6, 6), images(8, 4, 6, 6, seed=2))
    assert 0 < out.min() < out.max() < 1


# --- Resampling ---


@pytest.mark.parametrize("size", [12, 24, 96, 192])
@pytest.mark.parametrize("kind", ["bicubic", "bilinear", "nearest"])
def test_resampling_equals_interpolate_in_value_and_gradient(size: int, kind: str) -> None:
    x = images(2, 3, 48, 48).double().requires_grad_()
    ours = Resample(48, size, kind).double()(x)
    options = {} if kind == "nearest" else {"align_corners": False}
    theirs = F.interpolate(x, size=(size, size), mode=kind, **options)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    direction = images(*ours.shape, seed=3).double()
    (mine,) = torch.autograd.grad(ours, x, direction)
    (peer,) = torch.autograd.grad(theirs, x, direction)
    torch.testing.assert_close(mine, peer, atol=1e-5, rtol=0)


def test_resampling_keeps_a_constant_and_mirrors_with_the_image() -> None:
    for size in (24, 96):
        a = resampling_matrix(48, size)
        torch.testing.assert_close(a.sum(1), torch.ones(size))
        torch.testing.assert_close(a, a.flip(0, 1))


# --- The whole network ---


def test_forward_is_the_drawing() -> None:
    """Figure 1 as our reading draws it, module by module, without the network's own loop."""
    net = randomized(MultiScaleFusionNet(SMALL))
    for p in net.parameters():
        p.data *= 0.3  # keeps the sums of four modules in float32's comfortable range
    x = images(1, 1, 48, 48)

    def down_up(planes: np.ndarray, size: int) -> np.ndarray:
        mode = {"mode": "bicubic", "align_corners": False}
        return F.interpolate(torch.from_numpy(planes)[None], size=(size, size), **mode)[0].numpy()

    stem = np.maximum(normalize(conv(x[0].numpy(), net.stem[0]), net.stem[1]), 0)
    extract = {size: net.extract[str(size)][0] for size in (96, 48, 24, 12)}
    middle, bottom = net.fuse[1], net.fuse[2]

    def fuse(f1: np.ndarray, f2: np.ndarray, module: FeatureFusionModule) -> np.ndarray:
        return ffm(f1, f2, module, sigmoid=False)

    top24 = down_up(stem, 24)
    top12 = fem(top24, extract[24], call=0)
    top6 = fem(top12, extract[12], call=0)
    middle24 = fuse(fem(stem, extract[48], call=0), top24, middle["24"])
    middle12 = fuse(fem(middle24, extract[24], call=1), top12, middle["12"])
    middle6 = fem(middle12, extract[12], call=1)
    bottom48 = fuse(fem(down_up(stem, 96), extract[96], call=0), stem, bottom["48"])
    bottom24 = fuse(fem(bottom48, extract[48], call=1), middle24, bottom["24"])
    bottom12 = fuse(fem(bottom24, extract[24], call=2), middle12, bottom["12"])
    bottom6 = fem(bottom12, extract[12], call=2)
    end = fuse(fuse(bottom6, top6, net.fuse_ends[0]), middle6, net.fuse_ends[1])
    first, last = net.head[1], net.head[5]
    hidden = np.maximum(first.weight.detach().numpy() @ end.ravel() + first.bias.detach().numpy(), 0)
    wanted = last.weight.detach().numpy() @ hidden + last.bias.detach().numpy()
    np.testing.assert_allclose(net(x)[0].detach(), wanted, rtol=1e-3)


def parameters_by_hand(c: int, hidden: int = 256, classes: int = 7, m: int = 3, calls: int = 9) -> int:
    """The default network's parameters: shared convolutions count once, norms once per call."""
    unit = 25 * c * c + 9 * c * c + (2 * c * c + c)  # eq. 2, 3, 4; only the 1x1 has a bias
    shared = 4 * m * unit  # map sizes 96, 48, 24, 12
    norms = calls * m * 2 * (2 * c)  # calls: 1 at 96, 2 at 48, 3 at 24, 3 at 12
    fusions = 7 * (2 * c * c + c + 3)  # 2 in the middle branch, 3 in the bottom one, 2 at the end
    stem = 9 * c + 2 * c
    head = (36 * c * hidden + hidden) + (hidden * classes + classes)
    return shared + norms + fusions + stem + head


def macs_by_hand(c: int, hidden: int = 256, classes: int = 7, m: int = 3) -> int:
    """Multiply-adds of an image: of convolutions, the fully connected layers and the resampling."""
    pixels = 96**2 + 2 * 48**2 + 3 * 24**2 + 3 * 12**2
    units = m * pixels * 36 * c * c
    fusions = (48**2 + 2 * 24**2 + 2 * 12**2 + 2 * 6**2) * 2 * c * c
    resampling = c * (24 * 48 * 48 + 24 * 48 * 24) + c * (96 * 48 * 48 + 96 * 48 * 96)
    return units + fusions + resampling + 48**2 * 9 * c + 36 * c * hidden + hidden * classes


@pytest.mark.parametrize("width", [4, 16, 32, 64])
def test_parameter_count_is_the_formula(width: int) -> None:
    net = MultiScaleFusionNet(NetworkConfig(width=width))
    assert sum(p.numel() for p in net.parameters()) == parameters_by_hand(width)


@pytest.mark.parametrize("width", [4, 16])
def test_operation_count_is_the_formula(width: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = MultiScaleFusionNet(NetworkConfig(width=width)).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.zeros(1, 1, 48, 48))
    assert counter.get_total_flops() == 2 * macs_by_hand(width)
    if width == 16:
        assert macs_by_hand(width) == pytest.approx(0.45e9, rel=0.05)


def calls_of(net: MultiScaleFusionNet, kind: type) -> list[tuple[int, int]]:
    """(size in, size out) of every call of a kind of module, in order."""
    seen: list[tuple[int, int]] = []
    for module in net.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda m, args, out: seen.append((args[0].shape[-1], out.shape[-1])))
    net.eval()(torch.zeros(1, 1, 48, 48))
    return seen


def test_branches_have_2_3_and_4_modules_and_2_and_3_fusions() -> None:
    net = MultiScaleFusionNet(SMALL)
    down = {size: (size, size // 2) for size in (96, 48, 24, 12)}
    top = [down[24], down[12]]
    middle = [down[48], *top]
    bottom = [down[96], *middle]
    assert calls_of(net, FeatureExtractionModule) == top + middle + bottom
    fusions = [(24, 24), (12, 12)] + [(48, 48), (24, 24), (12, 12)] + [(6, 6), (6, 6)]
    assert calls_of(MultiScaleFusionNet(SMALL), FeatureFusionModule) == fusions


@pytest.mark.parametrize("scales", [(48,), (24, 48), (12, 24, 48), (48, 96)])
def test_fewer_branches_and_other_scales(scales: tuple[int, ...]) -> None:
    net = MultiScaleFusionNet(dataclasses.replace(SMALL, scales=scales))
    assert len(calls_of(net, FeatureExtractionModule)) == sum(len(halvings(s)) for s in scales)
    assert net(torch.zeros(2, 1, 48, 48)).shape == (2, 7)


def test_a_width_per_map_size() -> None:
    net = MultiScaleFusionNet(NetworkConfig(width=(2, 4, 6, 8)))
    seen: list[tuple[int, ...]] = []
    for module in net.extract.values():
        module[0].register_forward_hook(lambda m, args, out: seen.append((*args[0].shape[1:3], *out.shape[1:3])))
    assert net(torch.zeros(2, 1, 48, 48)).shape == (2, 7)
    assert set(seen) == {(2, 96, 4, 48), (4, 48, 6, 24), (6, 24, 8, 12), (8, 12, 8, 6)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fusion_activation": "sigmoid", "fusion_norm": "before"},
        {"recursive": False},
        {"norm_per_call": False, "norm": "after", "head_norm": True},
        {"width": (2, 3, 4, 5)},
        {"fusion": "per-channel"},
        {"fusion": "excite", "drop_path": 0.1},
    ],
)
def test_a_gradient_reaches_every_parameter(changes: dict) -> None:
    torch.manual_seed(0)
    net = build(dataclasses.replace(SMALL, dropout=0.0, **changes))
    for name, p in net.named_parameters():
        if name.endswith("gate.3.weight"):  # starts at 0, where nothing reaches the layer below
            nn.init.normal_(p)
    F.cross_entropy(net(images(16, 1, 48, 48)), torch.arange(16) % 7).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


def test_recursion_shares_the_convolutions_and_not_the_norms() -> None:
    shared = MultiScaleFusionNet(SMALL)
    own = MultiScaleFusionNet(dataclasses.replace(SMALL, recursive=False))
    assert [len(modules) for modules in shared.extract.values()] == [1, 1, 1, 1]
    assert [len(modules) for modules in own.extract.values()] == [1, 2, 3, 3]
    storages = {p.data_ptr() for p in own.parameters()}
    assert len(storages) == len(list(own.parameters()))
    unit = 36 * 16 + 4  # convolutions of a unit at width 4
    count = [sum(p.numel() for p in net.parameters()) for net in (shared, own)]
    assert count[1] - count[0] == (9 - 4) * 3 * unit

    # One storage serves the three branches: a change of it reaches all of them.
    seen: list[int] = []
    weight = shared.extract["12"][0].units[0].convs[0]
    weight.register_forward_hook(lambda m, args, out: seen.append(m.weight.data_ptr()))
    shared.eval()(torch.zeros(1, 1, 48, 48))
    assert seen == [weight.weight.data_ptr()] * 3
    assert [len(u.norm.calls) for m in shared.extract.values() for u in m[0].units[:1]] == [1, 2, 3, 3]


def test_each_call_updates_its_own_statistics() -> None:
    net = MultiScaleFusionNet(SMALL).train()
    net(images(4, 1, 48, 48))
    calls = net.extract["12"][0].units[0].norm.calls
    assert [int(norm.num_batches_tracked) for norm in calls] == [1, 1, 1]
    assert not torch.equal(calls[0].running_mean, calls[1].running_mean)
    one = MultiScaleFusionNet(dataclasses.replace(SMALL, norm_per_call=False)).train()
    one(images(4, 1, 48, 48))
    assert [int(n.num_batches_tracked) for n in one.extract["12"][0].units[0].norm.calls] == [3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", 1),
        ("width", 0),
        ("width", (4, 4)),
        ("scales", ()),
        ("scales", (96, 48, 24)),
        ("scales", (20, 48)),
        ("units", 0),
        ("kernels", ()),
        ("kernels", (4,)),
        ("kernels", (3, 3)),
        ("norm", "sometimes"),
        ("fusion", "multiply"),
        ("fusion_activation", "tanh"),
        ("fusion_norm", "after"),  # after an activation that is not there
        ("resampling", "area"),
        ("hidden", 0),
        ("dropout", 1.0),
        ("drop_path", 1.0),
        ("drop_path", -0.1),
    ],
)
def test_contradictions_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"NetworkConfig: {field}="):
        NetworkConfig(**{field: value})


def test_drop_path_needs_a_residual_to_pass_by() -> None:
    with pytest.raises(ValueError, match=r"NetworkConfig: drop_path=0.1 needs residual=True"):
        NetworkConfig(drop_path=0.1, residual=False)


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NetworkConfig().width = 3  # type: ignore[misc]


def test_the_class_itself_builds_only_the_papers_fusion() -> None:
    with pytest.raises(ValueError, match=r"fusion='add' is not the paper's: .*registry.build"):
        MultiScaleFusionNet(NetworkConfig(fusion="add"))


@pytest.mark.parametrize(("fusion", "n"), [("weighted", 7), ("per-channel", 7), ("excite", 7), ("concatenate", 0)])
def test_fusion_weights_and_nothing_else_ask_not_to_decay(fusion: str, n: int) -> None:
    net = build(dataclasses.replace(SMALL, fusion=fusion))
    assert isinstance(net, MultiScaleFusionNet)
    names = net.no_weight_decay()
    assert len(names) == n
    weights = {name for name, p in net.named_parameters() if len(p) == 3 and "fuse" in name}
    assert names == weights - {name for name in weights if "gate" in name}


def test_the_paper_needs_only_torch_and_numpy() -> None:
    """Importing the network is as fast as importing PyTorch."""
    code = "import torch, sys; before = set(sys.modules); import fertools.network; print(*(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "fertools.network" in found
    assert {name.partition(".")[0] for name in found} <= {"fertools", "numpy", *sys.stdlib_module_names}
