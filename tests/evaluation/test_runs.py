from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy import toy_faces

from fertools.data import FaceSet
from fertools.errors import RunError
from fertools.evaluation.prediction import predict_log_proba
from fertools.evaluation.runs import (
    PROBABILITY,
    Change,
    check_run,
    evaluate_run,
    find_contradictions,
    measure,
    predict_test_sets,
)
from fertools.models.weights import ModelMetadata, load_network, save_network
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.recipes import TrainConfig
from fertools.records import Record, load_predictions, save_predictions

ROOT = Path(__file__).parents[2]
FACES = toy_faces(240)
TEST = {"PublicTest": FACES.of_split("PublicTest"), "PrivateTest": FACES.of_split("PrivateTest")}
TTAS = ("single-crop", "flip", "ten-crop")


NETWORK = NetworkConfig(scales=(12, 24), width=2, units=1, kernels=(3,), hidden=8)


def network(seed: int) -> MultiScaleFusionNet:
    torch.manual_seed(seed)
    return MultiScaleFusionNet(NETWORK).eval().to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, without training: what its random network predicts is its record."""
    folder = tmp_path_factory.mktemp("finished")
    config = TrainConfig(epochs=1, network=NETWORK)
    net, mean, std = network(0), 70.0, 40.0
    predictions = predict_test_sets(net, TEST, mean, std, "cpu")
    save_network(folder / "model.safetensors", net, ModelMetadata(config.network, FACES.classes, mean, std))
    save_predictions(folder, predictions)
    Record(
        name="run",
        recipe="cpu-fer2013",
        overrides=[],
        identity={"config": config.to_dict(), "seed": 0, "data": FACES.identity, "init": None},
        data={"name": "toy"},
        classes=list(FACES.classes),
        normalization={"mean": mean, "std": std},
        parameters=sum(p.numel() for p in net.parameters()),
        history=[{"epoch": 1}],
        selected={"epoch": 1, "by": "last epoch"},
        metrics=measure(predictions, FACES.classes, 1.5),
        temperature=1.5,
        threshold=0.5,
        environment={},
        seconds=1.0,
        resumed=0,
    ).save(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be tampered with."""
    return shutil.copytree(finished, tmp_path / "run")


def forge(run: Path, **predictions: np.ndarray) -> None:
    """Replaces recorded predictions, and makes the record follow from them."""
    record, changed = Record.load(run), load_predictions(run) | predictions
    save_predictions(run, changed)
    replace(record, metrics=measure(changed, record.classes, record.temperature)).save(run)


def flip(log_p: np.ndarray, row: int, gap: float) -> np.ndarray:
    """Log-probabilities in which the second class of a row is now first, by ``gap``, moving as little as possible."""
    p = np.exp(log_p.astype(float))
    second, first = p[row].argsort()[-2:]
    middle = (p[row, first] + p[row, second]) / 2
    p[row, first], p[row, second] = middle - gap / 2, middle + gap / 2
    return np.log(p).astype(np.float32)


def closest(log_p: np.ndarray) -> int:
    """The image whose two most probable classes are nearest to each other."""
    p = np.sort(np.exp(log_p), 1)
    return int((p[:, -1] - p[:, -2]).argmin())


# --- measure ---


def test_measure_counts_by_test_set_and_tta_and_calibrates(run: Path) -> None:
    predictions = load_predictions(run)
    metrics = measure(predictions, FACES.classes, 1.5)
    assert {name: set(by_tta) for name, by_tta in metrics.items()} == dict.fromkeys(TEST, {*TTAS, "calibrated"})
    p, labels = predictions["PublicTest/single-crop"].astype(float), TEST["PublicTest"].labels
    assert metrics["PublicTest"]["single-crop"]["accuracy"] == (p.argmax(1) == labels).mean()
    e = np.exp(p / 1.5)
    loss = -np.log((e / e.sum(1, keepdims=True))[np.arange(len(p)), labels]).mean()
    assert metrics["PublicTest"]["calibrated"]["negative_log_likelihood"] == pytest.approx(loss, rel=1e-5)
    assert "calibrated" not in measure(predictions, FACES.classes)["PublicTest"]


def test_a_run_is_measured_again_as_it_was(run: Path) -> None:
    record = Record.load(run)
    assert evaluate_run(run, FACES, ["PrivateTest"], "cpu") == {"PrivateTest": record.metrics["PrivateTest"]}


def test_other_data_and_unknown_test_sets_are_refused(run: Path) -> None:
    with pytest.raises(RunError, match="not the data"):
        check_run(run, toy_faces(240, seed=1), ["PrivateTest"], "cpu")
    with pytest.raises(RunError, match="no test set fold; it has: PublicTest, PrivateTest"):
        check_run(run, FACES, ["fold"], "cpu")


# --- check_run ---


def test_a_sound_run_passes(run: Path) -> None:
    check = check_run(run, FACES, list(TEST), "cpu")
    assert check.ok
    assert check.contradictions == ()
    assert [(c.test_set, c.tta, c.images, c.changed) for c in check.changes] == [
        (name, tta, 40, 0) for name in TEST for tta in TTAS
    ]
    text = str(check)
    assert f"{check.record.metrics['PrivateTest']['single-crop']['accuracy']:.2%}" in text
    assert "PrivateTest, ten-crop: the recorded predictions for all 40 images" in text
    assert text.endswith("The weights give what the record says.")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accuracy", 0.99),
        ("balanced_accuracy", 0.99),
        ("negative_log_likelihood", 0.5),
        ("brier", 0.1),
        ("calibration_error", 0.9),
        ("n", 39),
        ("accuracy_interval", [0.98, 1.0]),
    ],
)
@pytest.mark.parametrize("tta", ["ten-crop", "calibrated"])
def test_a_forged_metric_is_caught(run: Path, tta: str, field: str, value: object) -> None:
    values = json.loads((run / "record.json").read_text())
    values["metrics"]["PublicTest"][tta][field] = value
    (run / "record.json").write_text(json.dumps(values))
    (found,) = find_contradictions(Record.load(run), load_predictions(run))
    assert found.startswith(f"PublicTest, {tta}: {field.replace('_', ' ')} does not follow from the predictions")


def test_a_forged_accuracy_fails_the_check_of_any_test_set(run: Path) -> None:
    values = json.loads((run / "record.json").read_text())
    values["metrics"]["PublicTest"]["flip"]["accuracy"] += 1e-3
    (run / "record.json").write_text(json.dumps(values))
    check = check_run(run, FACES, ["PrivateTest"], "cpu")
    assert not check.ok
    assert len(check.contradictions) == 1
    assert "it was edited, or is damaged" in str(check)


def test_one_forged_count_is_caught(run: Path) -> None:
    values = json.loads((run / "record.json").read_text())
    values["metrics"]["PrivateTest"]["flip"]["confusion"][0][1] += 1
    values["metrics"]["PrivateTest"]["flip"]["per_class"]["fear"]["recall"] = 1.0
    (run / "record.json").write_text(json.dumps(values))
    found = find_contradictions(Record.load(run), load_predictions(run))
    assert [text.split(": ")[1].split(" does")[0] for text in found] == ["confusion", "per class"]


def test_metrics_without_predictions_are_caught(run: Path) -> None:
    values = json.loads((run / "record.json").read_text())
    values["metrics"]["another"] = values["metrics"]["PrivateTest"]
    (run / "record.json").write_text(json.dumps(values))
    found = find_contradictions(Record.load(run), load_predictions(run))
    assert "another, flip: the record has metrics, but predictions.npz has no predictions" in found


def test_forged_labels_are_caught(run: Path) -> None:
    predictions = load_predictions(run)
    forge(run, **{"PrivateTest/labels": predictions["PrivateTest/single-crop"].argmax(1)})  # 100 % right
    check = check_run(run, FACES, ["PrivateTest"], "cpu")
    assert not check.ok
    assert check.contradictions == ("PrivateTest: the recorded labels are not those of the data",)


def test_a_flipped_near_tie_is_tolerated_and_reported(run: Path) -> None:
    """As on a GPU that rounds otherwise: the record has the other one of two classes that are as probable."""
    key = "PrivateTest/single-crop"
    log_p = load_predictions(run)[key]
    forge(run, **{key: flip(log_p, closest(log_p), 1e-4)})
    check = check_run(run, FACES, ["PrivateTest"], "cpu")
    assert [(c.changed, c.clear) for c in check.changes] == [(1, 0), (0, 0), (0, 0)]
    assert 0 < check.changes[0].largest <= PROBABILITY
    assert check.ok
    assert "1 of 40 predictions changed (2.50%), all of them near-ties" in str(check)
    assert str(check).endswith("up to near-ties.")


def test_a_prediction_that_was_clear_must_not_change(run: Path) -> None:
    key = "PrivateTest/single-crop"
    log_p = load_predictions(run)[key]
    forge(run, **{key: flip(log_p, closest(log_p), 0.3)})
    check = check_run(run, FACES, ["PrivateTest"], "cpu")
    assert (check.changes[0].changed, check.changes[0].clear) == (1, 1)
    assert not check.ok


@pytest.mark.parametrize(
    ("images", "changed", "clear", "largest", "tolerated"),
    [
        (3589, 10, 0, 0.002, True),
        (3589, 11, 0, 0.002, False),  # more than 0.3 %
        (3589, 1, 1, 0.002, False),
        (3589, 0, 0, 0.02, False),
        (99, 1, 0, 0.002, True),  # one in any set
        (99, 2, 0, 0.002, False),
    ],
)
def test_what_is_tolerated(images: int, changed: int, clear: int, largest: float, tolerated: bool) -> None:
    assert Change("fold", "flip", images, changed, clear, largest).tolerated is tolerated


def test_another_networks_weights_are_caught(run: Path) -> None:
    _, metadata = load_network(run / "model.safetensors")
    save_network(run / "model.safetensors", network(1), metadata)
    check = check_run(run, FACES, ["PrivateTest"], "cpu")
    assert not check.ok
    assert check.contradictions == ()
    assert "probably those of another run" in str(check)


def test_weights_that_keep_every_prediction_but_not_the_probabilities_are_caught(run: Path) -> None:
    net, metadata = load_network(run / "model.safetensors")
    with torch.no_grad():
        last = [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1]
        for p in last.parameters():
            p.mul_(3)
    save_network(run / "model.safetensors", net, metadata)
    check = check_run(run, FACES, ["PrivateTest"], "cpu")
    assert check.changes[0].changed == 0
    assert check.changes[0].largest > PROBABILITY
    assert not check.ok


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_damaged_predictions_are_an_error_that_names_the_file(run: Path, damage: str) -> None:
    path = run / "predictions.npz"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="predictions.npz"):
        check_run(run, FACES, ["PrivateTest"], "cpu")


# --- the recorded runs ---


def test_every_recorded_metric_follows_from_the_recorded_predictions() -> None:
    paths = sorted((ROOT / "data" / "runs").rglob("record.json"))
    assert len(paths) > 50
    for path in paths:
        assert find_contradictions(Record.load(path.parent), load_predictions(path.parent)) == [], path


def test_the_stored_training_fit(published_fer2013: FaceSet) -> None:
    """data/training_fit.csv is what the recorded weights predict: computed again for the rarest label."""
    kept = pd.read_csv(ROOT / "data" / "training_fit.csv")
    assert {"cpu-fer2013", "wide-fer2013"} <= set(kept["run"])
    training = published_fer2013.of_split("Training")
    assert (kept.groupby("run")["images"].sum() == len(training)).all()
    rarest = training.select(training.labels == training.classes.index("disgust"))
    for run, _, images, right in kept.query("label == 'disgust'").itertuples(index=False):
        net, metadata = load_network(ROOT / "data" / "runs" / run / "model.safetensors")
        found = predict_log_proba(net, rarest.images, mean=metadata.mean, std=metadata.std, progress=False)
        assert images == len(rarest)
        assert abs((found.argmax(1) == rarest.labels).sum() - right) <= 1  # processors round differently
