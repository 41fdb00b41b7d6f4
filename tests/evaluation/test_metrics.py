from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import nn
from torchvision.transforms import v2

from fertools.evaluation.calibration import (
    abstention_threshold,
    apply_temperature,
    fit_temperature,
    reliability,
    risk_coverage,
)
from fertools.evaluation.metrics import Metrics, evaluate, row_rates, wilson_interval
from fertools.evaluation.prediction import TTA, predict_log_proba
from fertools.network import MultiScaleFusionNet, NetworkConfig

CLASSES = ("anger", "happy", "sad", "neutral")
MEAN, STD = 129.5, 65.0


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (9, 48, 48), dtype=np.uint8)


@pytest.fixture
def net() -> nn.Sequential:
    """Sees every pixel with a weight of its own, so that no two crops look the same to it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48 * 48, 4))


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def some_probabilities(rng: np.random.Generator, n: int = 400, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * 2
    logits[np.arange(n), labels] += 1
    return softmax(logits), labels


# --- predict ----------------------------------------------------------------------------------


def test_predict_is_the_log_softmax_of_the_normalized_image(net: nn.Sequential, images: np.ndarray) -> None:
    weight, bias = (p.detach().numpy().astype(float) for p in net[2].parameters())
    x = (images.reshape(len(images), -1) - MEAN) / STD
    got = predict_log_proba(net, images, mean=MEAN, std=STD)
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.exp(got), softmax(x @ weight.T + bias), atol=1e-5)


@pytest.mark.parametrize("tta", ["flip", "ten-crop"])
def test_predict_averages_the_probabilities_of_torchvision_s_crops(
    net: nn.Sequential, images: np.ndarray, tta: TTA
) -> None:
    x = torch.from_numpy(images)[:, None]
    peers = {
        "flip": lambda x: (x, v2.functional.horizontal_flip(x)),
        "ten-crop": v2.Compose([v2.Pad(4, fill=0), v2.TenCrop(48)]),
    }
    net.eval()
    with torch.no_grad():
        wanted = torch.stack([net((crop - MEAN) / STD).softmax(1) for crop in peers[tta](x)]).mean(0)
    got = predict_log_proba(net, images, mean=MEAN, std=STD, tta=tta)
    np.testing.assert_allclose(np.exp(got), wanted, atol=1e-5)


@pytest.mark.parametrize("tta", ["flip", "ten-crop"])
def test_a_mirrored_image_gets_the_same_prediction(net: nn.Sequential, images: np.ndarray, tta: TTA) -> None:
    a, b = (predict_log_proba(net, i, mean=MEAN, std=STD, tta=tta) for i in (images, images[:, :, ::-1]))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_predict_gives_the_same_whatever_the_batch_and_the_container(images: np.ndarray) -> None:
    torch.manual_seed(0)
    net = MultiScaleFusionNet(NetworkConfig(width=2, units=1, hidden=8))
    whole = predict_log_proba(net, images, mean=MEAN, std=STD)
    frozen = images.copy()
    frozen.flags.writeable = False  # as a memory-mapped cache is
    np.testing.assert_allclose(predict_log_proba(net, frozen, mean=MEAN, std=STD, batch=4), whole, atol=1e-5)
    np.testing.assert_array_equal(predict_log_proba(net, torch.from_numpy(images), mean=MEAN, std=STD), whole)
    rough = predict_log_proba(net, images, mean=MEAN, std=STD, device="cpu", dtype=torch.bfloat16)
    assert rough.dtype == np.float32
    assert 0 < np.abs(np.exp(rough) - np.exp(whole)).max() < 0.05
    np.testing.assert_allclose(np.exp(rough).sum(1), 1, atol=1e-5)


def test_predict_leaves_each_module_in_its_mode_also_when_it_fails(net: nn.Sequential, images: np.ndarray) -> None:
    net.train()
    net[1].eval()
    first = predict_log_proba(net, images, mean=MEAN, std=STD)
    np.testing.assert_array_equal(predict_log_proba(net, images, mean=MEAN, std=STD), first)  # no dropout
    assert [m.training for m in net.modules()] == [True, True, False, True]
    net[2] = nn.Linear(3, 4)
    with pytest.raises(RuntimeError):
        predict_log_proba(net, images, mean=MEAN, std=STD)
    assert [m.training for m in net.modules()] == [True, True, False, True]


def test_predict_shows_progress_where_asked(
    net: nn.Sequential, images: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_log_proba(net, images, mean=MEAN, std=STD)
    assert "predict" not in capsys.readouterr().err
    predict_log_proba(net, images, mean=MEAN, std=STD, progress=True)
    assert "predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": np.zeros((2, 40, 48), np.uint8)}, r"shape \(N, 48, 48\), N > 0, not \(2, 40, 48\)"),
        ({"images": np.zeros((0, 48, 48), np.uint8)}, r"not \(0, 48, 48\)"),
        ({"images": np.zeros((2, 48, 48), np.float32)}, "uint8, 0 black to 255 white, not float32"),
        ({"images": torch.zeros(2, 48, 48)}, "not torch.float32"),
        ({"std": 0.0}, "std above 0"),
        ({"mean": math.nan}, "finite"),
        ({"tta": "five"}, "single-crop, flip, ten-crop, not 'five'"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_predict_refuses(net: nn.Sequential, images: np.ndarray, change: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"images": images, "mean": MEAN, "std": STD} | change
    with pytest.raises(ValueError, match=said):
        predict_log_proba(net, **arguments)


# --- evaluate ---------------------------------------------------------------------------------


def test_metrics_equal_their_definitions_and_scikit_learn_s(rng: np.random.Generator) -> None:
    p, y = some_probabilities(rng)
    got, predicted = evaluate(p, y, CLASSES), p.argmax(1)
    counts = np.zeros((4, 4), int)
    for t, q in zip(y, predicted, strict=True):
        counts[t, q] += 1
    assert got.confusion == counts.tolist()
    np.testing.assert_allclose(got.confusion_rates, sk.confusion_matrix(y, predicted, normalize="true"))
    assert got.n == 400
    assert got.accuracy == pytest.approx(sk.accuracy_score(y, predicted))
    assert got.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert got.negative_log_likelihood == pytest.approx(-np.log(p[np.arange(400), y]).mean())
    by_hand = sum((p[i, c] - (y[i] == c)) ** 2 for i in range(400) for c in range(4)) / 400
    assert got.brier == pytest.approx(by_hand)
    for c, name in enumerate(CLASSES):
        right, said, are = counts[c, c], counts[:, c].sum(), counts[c].sum()
        wanted = {
            "precision": right / said,
            "recall": right / are,
            "f1": 2 * right / (said + are),
            "support": are,
        }
        assert got.per_class[name] == pytest.approx(wanted)


def test_metrics_survive_json(rng: np.random.Generator) -> None:
    got = evaluate(*some_probabilities(rng), CLASSES)
    text = json.dumps(asdict(got), allow_nan=False)
    assert Metrics(**json.loads(text)) == got


def test_a_class_without_images_or_predictions_is_undefined_not_zero() -> None:
    p = np.array([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0.3, 0.7, 0, 0], [0.6, 0, 0.4, 0]])
    got = evaluate(p, np.array([0, 0, 1, 2]), CLASSES)
    assert got.per_class["sad"] == {"precision": None, "recall": 0, "f1": 0, "support": 1}
    assert got.per_class["neutral"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert got.balanced_accuracy == pytest.approx(2 / 3)  # over the three classes that occur
    assert np.isnan(got.confusion_rates[3]).all()
    assert not np.isnan(got.confusion_rates[:3]).any()
    json.dumps(asdict(got), allow_nan=False)


def test_certain_and_wrong_stays_finite() -> None:
    got = evaluate(np.eye(4), np.array([0, 1, 2, 0]), CLASSES)
    assert got.negative_log_likelihood == pytest.approx(36.04 / 4, rel=1e-3)
    assert got.brier == pytest.approx(0.5)
    assert got.calibration_error == pytest.approx(0.25)


def test_half_precision_is_near_enough_to_one(rng: np.random.Generator) -> None:
    p, y = some_probabilities(rng)
    half = evaluate(p.astype(np.float16), y, CLASSES)
    assert half.negative_log_likelihood == pytest.approx(evaluate(p, y, CLASSES).negative_log_likelihood, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"p": np.full(4, 0.25)}, r"shape \(N, classes\)"),
        ({"p": np.zeros((0, 4)), "y": np.zeros(0, int)}, "N > 0"),
        ({"y": np.zeros(2, int)}, r"labels of shape \(3,\), not \(2,\)"),
        ({"y": np.array([0.0, 1, 2])}, "whole numbers"),
        ({"y": np.array([0, 1, 4])}, "row 2 is 4; labels run from 0 to 3"),
        ({"y": np.array([0, -1, 2])}, "row 1 is -1"),
        ({"p": np.array([[0.25] * 4, [math.nan] * 4, [0.25] * 4])}, "row 1 is not finite"),
        ({"p": np.array([[0.25] * 4, [0.25] * 4, [0.3] * 4])}, "row 2 does not add up to 1"),
        ({"p": np.array([[0.25] * 4, [-0.5, 0.5, 0.5, 0.5], [0.25] * 4])}, "row 1 has values outside 0 to 1"),
        ({"p": np.log(np.full((3, 4), 0.25))}, "pass np.exp"),
        ({"classes": CLASSES[:3]}, "4 columns, but there are 3 classes"),
    ],
)
def test_evaluate_refuses(change: dict[str, Any], said: str) -> None:
    a: dict[str, Any] = {"p": np.full((3, 4), 0.25), "y": np.array([0, 1, 2]), "classes": CLASSES} | change
    with pytest.raises(ValueError, match=said):
        evaluate(a["p"], a["y"], a["classes"])


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_wilson_s(case: tuple[int, int]) -> None:
    k, n = case
    z, p = 1.959963984540054, k / n
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson_interval(k, n) == pytest.approx((center - half, center + half), abs=1e-9)


def test_row_rates() -> None:
    np.testing.assert_array_equal(row_rates([[3, 1], [0, 0]]), [[0.75, 0.25], [np.nan, np.nan]])


# --- calibration ------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20))
def test_calibration_error_is_the_slow_sum_over_the_bins(seed: int, n: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    p, y = some_probabilities(rng, n)
    p[0] = [0, 0, 1, 0]  # exactly on the last edge
    total = 0.0
    for m in range(bins):
        inside = [i for i in range(n) if m / bins < p[i].max() <= (m + 1) / bins]
        if inside:
            right = sum(p[i].argmax() == y[i] for i in inside) / len(inside)
            total += len(inside) / n * abs(right - sum(p[i].max() for i in inside) / len(inside))
    got = reliability(p, y, bins)
    assert got.error == pytest.approx(total)
    assert got.counts.sum() == n
    assert got.correct.sum() == (p.argmax(1) == y).sum()
    assert len(got.edges) == bins + 1
    assert np.array_equal(np.isnan(got.accuracy), got.counts == 0)


def test_reliability_needs_a_bin() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        reliability(np.full((3, 4), 0.25), np.array([0, 1, 2]), 0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_is_found_again(rng: np.random.Generator, temperature: float) -> None:
    p = softmax(rng.normal(size=(20_000, 5)) * 2)
    labels = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)  # drawn from p: p is calibrated
    overconfident = np.log(softmax(np.log(p) * temperature))
    found = fit_temperature(overconfident, labels)
    assert found == pytest.approx(temperature, rel=0.04)  # the labels are a sample
    mended = apply_temperature(overconfident, found)
    np.testing.assert_allclose(mended, np.log(softmax(overconfident / found)), atol=1e-5)
    np.testing.assert_array_equal(mended.argmax(1), overconfident.argmax(1))

    def loss(t: float) -> float:
        return -apply_temperature(overconfident, t)[np.arange(len(p)), labels].astype(float).mean()

    assert loss(found) <= min(loss(t) for t in np.geomspace(0.06, 18, 60)) + 1e-6


def test_a_constant_per_image_does_not_change_the_temperature(rng: np.random.Generator) -> None:
    logits, labels = rng.normal(size=(500, 4)) * 3, rng.integers(0, 4, 500)
    shifted = np.log(softmax(logits))
    assert fit_temperature(logits, labels) == pytest.approx(fit_temperature(shifted, labels), rel=1e-4)


def test_where_every_image_is_right_the_temperature_is_low_and_the_loss_nil() -> None:
    labels = np.arange(20) % 4
    log_p = np.log(np.full((20, 4), 0.1) + 0.6 * np.eye(4)[labels])
    found = fit_temperature(log_p, labels)
    assert 0.05 <= found < 0.5
    np.testing.assert_allclose(apply_temperature(log_p, found)[np.arange(20), labels], 0, atol=1e-6)


def test_temperature_refuses() -> None:
    with pytest.raises(ValueError, match="row 0 is not finite"):
        fit_temperature(np.full((2, 3), -np.inf), np.array([0, 1]))
    with pytest.raises(ValueError, match="above 0, not 0"):
        apply_temperature(np.zeros((2, 3)), 0)


@given(st.integers(0, 1000), st.integers(1, 30), st.floats(0.3, 1))
def test_risk_coverage_against_counting(seed: int, n: int, target: float) -> None:
    rng = np.random.default_rng(seed)
    # Hundredths, so that images have equal top probabilities.
    first = rng.integers(0, 101, n) / 100
    p, labels = np.stack([first, 1 - first], 1), rng.integers(0, 2, n)
    curve = risk_coverage(p, labels)
    right = p.argmax(1) == labels
    best = math.inf
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        kept = [i for i in range(n) if max(p[i]) >= threshold]
        assert coverage == len(kept) / n
        assert risk == pytest.approx(sum(not right[i] for i in kept) / len(kept))
        if 1 - risk >= target:
            best = min(best, threshold)
    assert sorted(set(p.max(1)), reverse=True) == list(curve.thresholds)
    assert curve.coverage[-1] == 1
    assert abstention_threshold(curve, target) == best


def test_no_threshold_reaches_what_no_image_allows() -> None:
    curve = risk_coverage(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([1, 1]))
    assert abstention_threshold(curve, 0.5) == math.inf
    assert abstention_threshold(curve, 0) == 0.8


def test_importing_it_brings_no_heavy_library() -> None:
    heavy = "matplotlib", "scipy", "sklearn", "cv2", "dlib", "pandas", "seaborn"
    code = f"import sys, fertools.evaluation.metrics; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
