"""Explanations against slow and plain ways to the same numbers, and against what must hold of them."""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from toy import CLASSES, toy_faces

from fertools.errors import MissingExtraError
from fertools.evaluation import plots
from fertools.inference import explanations as module
from fertools.inference.explanations import (
    Examples,
    branch_contributions,
    examples,
    explain,
    features,
    fusion_fractions,
    integrated_gradients,
    occlusion,
    score_of,
    shapley,
)
from fertools.inference.predictor import Predictor
from fertools.models.baselines import BaselineConfig
from fertools.models.registry import build
from fertools.models.weights import ModelMetadata
from fertools.network import FeatureFusionModule, MultiScaleFusionNet, NetworkConfig

THREE = NetworkConfig(width=(4, 5, 6), scales=(12, 24, 48), units=1, hidden=24)


def predictor_of(config: NetworkConfig) -> Predictor:
    """An untrained network, with fusion weights as if trained."""
    torch.manual_seed(1)
    net = build(config)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, FeatureFusionModule) and config.fusion not in ("add", "concatenate"):
                part.w.copy_(torch.randn(part.w.shape))
    return Predictor(net, ModelMetadata(config, CLASSES, mean=120.0, std=60.0, temperature=0.7), device="cpu")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_of(THREE)


@pytest.fixture
def face() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (48, 48), dtype=np.uint8)


@pytest.fixture
def x(face: np.ndarray) -> Tensor:
    return ((torch.from_numpy(face).float() - 120) / 60)[None, None]


def log_odds(predictor: Predictor, face: np.ndarray, label: str) -> float:
    """From the probabilities that the predictor itself gives."""
    p = predictor.classify(face[None])[0].astype(float)[CLASSES.index(label)]
    return float(np.log(p / (1 - p)))


def test_the_score_is_the_log_odds_of_the_calibrated_probability(predictor: Predictor, face: np.ndarray) -> None:
    gray = np.full((48, 48), 120, np.uint8)  # the mean of the training images
    for label in ("anger", "happy", "neutral"):
        found = explain(predictor, face, label)
        assert found.label == label
        assert found.score == pytest.approx(log_odds(predictor, face, label), abs=1e-4)
        assert found.baseline == pytest.approx(log_odds(predictor, gray, label), abs=1e-4)


def test_parts_add_up_to_the_whole(predictor: Predictor, face: np.ndarray) -> None:
    found = explain(predictor, face)
    assert found.label == max(found.probabilities, key=lambda name: found.probabilities[name])
    whole = found.score - found.baseline
    assert abs(whole) > 1e-3
    assert found.attributions.sum() == pytest.approx(whole, rel=0.02)  # completeness; the rest is the integral's
    assert sum(found.branches.values()) == pytest.approx(whole, abs=1e-5)
    assert list(found.branches) == [12, 24, 48]


def test_integrated_gradients_are_the_integral_along_the_path(predictor: Predictor, x: Tensor) -> None:
    score = score_of(predictor, "happy")
    total = torch.zeros_like(x)
    steps = 200
    for i in range(steps):  # the midpoint rule
        point = (x * (i + 0.5) / steps).requires_grad_()
        total += torch.autograd.grad(score(point).sum(), point)[0]
    wanted = (x * total / steps)[0, 0].numpy()
    found = integrated_gradients(score, x)
    assert found.shape == (48, 48)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99
    assert np.abs(found - wanted).sum() < 0.1 * np.abs(wanted).sum()


def test_integrated_gradients_of_a_linear_score_are_exact(x: Tensor) -> None:
    w = torch.randn(48, 48, generator=torch.Generator().manual_seed(0))
    found = integrated_gradients(lambda images: (images[:, 0] * w).sum((1, 2)), x, steps=3)
    np.testing.assert_allclose(found, (w * x[0, 0]).numpy(), rtol=1e-4, atol=1e-6)


def test_occlusion_is_the_mean_fall_over_the_windows_of_a_pixel(predictor: Predictor, x: Tensor) -> None:
    score = score_of(predictor, "fear")
    falls, windows = np.zeros((48, 48)), np.zeros((48, 48))
    with torch.no_grad():
        for top in range(0, 41, 4):
            for left in range(0, 41, 4):
                covered = x.clone()
                covered[..., top : top + 8, left : left + 8] = 0
                where = np.s_[top : top + 8, left : left + 8]
                falls[where] += float(score(x) - score(covered))
                windows[where] += 1
    np.testing.assert_allclose(occlusion(score, x), falls / windows, atol=1e-5)


class Fixed(nn.Module):
    """Gives the same maps whatever comes."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, _: Tensor) -> Tensor:
        return self.maps


@pytest.mark.parametrize("config", [THREE, NetworkConfig(width=4, scales=(12, 24), units=1, fusion="add", hidden=8)])
def test_branches_get_their_mean_rise_over_all_orders(
    config: NetworkConfig, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictor_of(config)
    net, score = cast(MultiScaleFusionNet, predictor.net), score_of(predictor, "sad")
    found = branch_contributions(net, score, x)

    with torch.no_grad():
        seen = {key: part(net.stem(x)) for key, part in net.resample.items()}
        gray = {key: part(net.stem(torch.zeros_like(x))) for key, part in net.resample.items()}

        def value(open_eyes: set[int]) -> float:
            for scale in config.scales:
                net.resample[str(scale)] = Fixed((seen if scale in open_eyes else gray)[str(scale)])
            return float(score(x))

        orders = list(permutations(config.scales))
        rises = dict.fromkeys(config.scales, 0.0)
        for order in orders:
            for i, scale in enumerate(order):
                rises[scale] += (value(set(order[: i + 1])) - value(set(order[:i]))) / len(orders)
    assert found == pytest.approx(rises, abs=1e-5)


def test_shapley_values_of_the_glove_game() -> None:
    """Players 1 and 2 own a left glove each, player 3 a right one; a pair is worth 1 (Shapley 1953)."""
    sets = [frozenset(p for p in (1, 2, 3) if bits & (1 << (p - 1))) for bits in range(8)]
    worth = {some: float(3 in some and len(some) > 1) for some in sets}
    assert shapley((1, 2, 3), worth) == pytest.approx([1 / 6, 1 / 6, 2 / 3])


def test_fractions_of_a_fusion_by_hand() -> None:
    """Two channels of one pixel: F1 = (1, 2), F2 = (3, -1), and a 1x1 convolution that gives F1 + F2."""
    fusion = FeatureFusionModule(2, THREE)
    f1, f2 = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor([3.0, -1.0]).view(1, 2, 1, 1)
    with torch.no_grad():
        fusion.w.copy_(torch.tensor([2.0, -1.0, 0.5]))
        fusion.proj.weight.copy_(torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]).view(2, 4, 1, 1))
        fusion.proj.bias.zero_()
        # Terms (2, 4), (-3, 1), (2, 0.5); their sum S = (1, 5.5), <S, S> = 31.25.
        assert module._fractions(fusion, f1, f2) == pytest.approx((24 / 31.25, 2.5 / 31.25, 4.75 / 31.25))
        np.testing.assert_allclose(fusion(f1, f2).flatten(), [1, 5.5])


def test_every_fusion_is_named_and_its_fractions_add_up(predictor: Predictor, x: Tensor) -> None:
    found = fusion_fractions(predictor.net, x)
    # The drawing at the top of fertools/network.py, from branches 12, 24 and 48.
    where = [(f.scale, f.size, f.other) for f in found]
    assert where == [(24, 12, 12), (48, 24, 24), (48, 12, 24), (48, 6, 12), (48, 6, 24)]
    for fusion in found:
        assert sum(fusion.fractions) == pytest.approx(1, abs=1e-4)
    assert found[0].weights == pytest.approx(predictor.net.get_parameter("fuse.1.12.w").tolist())
    assert found[4].weights == pytest.approx(predictor.net.get_parameter("fuse_ends.1.w").tolist())
    assert not any(part._forward_hooks for part in predictor.net.modules())  # nothing is left behind


@pytest.mark.parametrize("fusion", ["per-channel", "excite"])
def test_fractions_of_fusions_beyond_the_paper(fusion: str, x: Tensor) -> None:
    net = cast(
        MultiScaleFusionNet, predictor_of(NetworkConfig(width=4, scales=(12, 24), units=1, fusion=fusion, hidden=8)).net
    )  # type: ignore[arg-type]
    if fusion == "excite":
        nn.init.normal_(net.get_parameter("fuse_ends.0.gate.3.weight"))
    sums: list[Tensor] = []
    pairs: list[tuple[Tensor, Tensor]] = []
    end = cast(FeatureFusionModule, net.fuse_ends[0])
    end.register_forward_pre_hook(lambda _, pair: pairs.append(pair))
    end.register_forward_hook(lambda _, pair, out: sums.append(out))
    *_, found = fusion_fractions(net, x)
    # w2 F2 is what the sum loses when its weight is 0.
    with torch.no_grad():
        mean = end.w[1].mean()
        if fusion == "excite":
            mean = end.w[1] * 2 * cast(nn.Module, end.gate)(torch.cat(pairs[0], 1))[0, 4:8].mean()
        end.w[1] = 0
        lost = sums[0] - end(*pairs[0])
    assert found.weights[1] == pytest.approx(mean.item(), rel=1e-5)
    assert found.fractions[1] == pytest.approx(((lost * sums[0]).sum() / (sums[0] ** 2).sum()).item(), rel=1e-3)
    assert sum(found.fractions) == pytest.approx(1, abs=1e-4)


def test_a_network_without_fusion_weights_has_no_fractions(x: Tensor) -> None:
    for fusion in ("add", "concatenate"):
        config = NetworkConfig(width=4, scales=(12, 24), units=1, fusion=fusion, hidden=8)  # type: ignore[arg-type]
        assert fusion_fractions(predictor_of(config).net, x) == ()


def test_the_last_layer_reads_the_logits_from_the_features(predictor: Predictor) -> None:
    images = toy_faces(72).images  # more than one batch
    found = features(predictor, images)
    assert found.shape == (72, 24)
    with torch.no_grad():
        logits = predictor.net(((torch.from_numpy(images).float() - 120) / 60)[:, None])
        last = predictor.net.head[-1]
        directions = ((logits - last.bias) @ torch.linalg.pinv(last.weight.T)).numpy()
        projector = (last.weight.T @ torch.linalg.pinv(last.weight.T)).numpy()  # the rest never reaches a logit
    inside = found @ projector.T
    cosine = (inside * directions).sum(1) / np.linalg.norm(inside, axis=1) / np.linalg.norm(directions, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_the_nearest_examples_are_those_of_scikit_learn(predictor: Predictor) -> None:
    faces = toy_faces(42)
    among = examples(predictor, faces, progress=False)
    found = explain(predictor, faces.images[11], among=among, nearest=4)
    distances, rows = (
        NearestNeighbors(n_neighbors=4, metric="cosine").fit(among.features).kneighbors(among.features[11:12])
    )
    assert found.nearest is not None
    np.testing.assert_array_equal(found.nearest.images, faces.images[rows[0]])
    np.testing.assert_array_equal(found.nearest.labels, faces.labels[rows[0]])
    np.testing.assert_allclose(found.similarities, 1 - distances[0], atol=1e-5)
    np.testing.assert_array_equal(found.nearest.images[0], faces.images[11])  # itself first


@pytest.mark.parametrize("n", [0, 3])
def test_the_figure_shows_every_part(predictor: Predictor, face: np.ndarray, n: int, tmp_path: Path) -> None:
    among: Examples | None = examples(predictor, toy_faces(24), progress=False) if n else None
    found = explain(predictor, face, "disgust", among, nearest=n)
    figure = plots.explanation(found)
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    drawn = [image for ax in figure.axes for image in ax.images]
    np.testing.assert_array_equal(drawn[0].get_array(), face)
    np.testing.assert_array_equal(drawn[1].get_array(), found.attributions)
    np.testing.assert_array_equal(drawn[2].get_array(), found.occlusion)
    assert len(drawn) == 3 + n
    bars = [[bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)] for ax in figure.axes if ax.patches]
    assert list(found.probabilities.values()) in bars
    assert list(found.branches.values()) in bars


@pytest.mark.parametrize(
    ("face", "label", "words"),
    [
        (np.zeros((48, 48)), None, r"uint8 of shape \(48, 48\), not float64 \(48, 48\)"),
        (np.zeros((1, 48, 48), np.uint8), None, r"uint8 of shape \(48, 48\), not uint8 \(1, 48, 48\)"),
        ("face.png", None, r"uint8 of shape \(48, 48\), not str"),
        (np.zeros((48, 48), np.uint8), "joy", "label must be one of anger, disgust, .*, not 'joy'"),
    ],
)
def test_wrong_calls_say_what_is_wanted(predictor: Predictor, face: np.ndarray, label: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        explain(predictor, face, label)


def test_a_network_without_branches_is_refused(face: np.ndarray, x: Tensor) -> None:
    config = BaselineConfig("mini_xception", end_size=3)
    predictor = Predictor(build(config), ModelMetadata(config, CLASSES, mean=120.0, std=60.0))
    with pytest.raises(ValueError, match="branches of a MultiScaleFusionNet; Baseline has none"):
        explain(predictor, face)
    with pytest.raises(ValueError, match="Baseline has none"):
        fusion_fractions(predictor.net, x)
    assert integrated_gradients(score_of(predictor, "happy"), x, steps=2).shape == (48, 48)  # needs no branches


def test_a_missing_captum_is_named_with_its_extra(
    predictor: Predictor, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    with pytest.raises(MissingExtraError, match=r"captum: pip install 'fertools\[explain\]'"):
        integrated_gradients(score_of(predictor, "happy"), x)
