"""What a student is taught, and by whom it may be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_faces

from fertools.data import FaceSet
from fertools.errors import RunError, TrainingError
from fertools.models.weights import load_network
from fertools.network import NetworkConfig
from fertools.recipes import AugmentConfig, TrainConfig
from fertools.records import Record
from fertools.training.trainer import Trainer, train

CONFIG = TrainConfig(
    epochs=2,
    network=NetworkConfig(width=(4, 4), scales=(12, 24), units=1, hidden=16),
    learning_rate=0.05,
    precision="fp32",
)
FOLDS = dataclasses.replace(CONFIG, protocol="image", folds=3)


def quick(config: TrainConfig, faces: FaceSet, folder: Path, **options: object) -> Record:
    return train(config, faces, folder, device="cpu", progress=False, **options)  # type: ignore[arg-type]


def student(config: TrainConfig, folder: Path, faces: FaceSet | None = None, **options: object) -> Trainer:
    return Trainer.from_config(config, faces or toy_faces(), folder, device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("teachers") / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        quick(CONFIG, toy_faces(), folder, seed=seed)
    return folders


def test_targets_are_the_labels_and_the_mean_of_the_teachers(teachers: list[Path], tmp_path: Path) -> None:
    taught = student(dataclasses.replace(CONFIG, distill=0.75), tmp_path, teachers=teachers)
    training = toy_faces().images[:120].astype(np.float32)
    said = np.zeros((120, 7))
    for folder in teachers:
        net, metadata = load_network(folder / "model.safetensors")
        with torch.no_grad():
            logits = net.eval()(torch.from_numpy((training - metadata.mean) / metadata.std)[:, None]).double().numpy()
        said += np.exp(logits) / np.exp(logits).sum(1, keepdims=True) / 2
    wanted = 0.25 * np.eye(7)[np.arange(120) % 7] + 0.75 * said
    # Where the processor computes in bf16, so do the teachers, with 8 bits.
    np.testing.assert_allclose(taught.labels.numpy(), wanted, atol=0.02)
    np.testing.assert_allclose(taught.labels.sum(1), 1, atol=1e-6)


def test_with_weight_one_the_labels_do_not_count(teachers: list[Path], tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, distill=1.0)
    faces = toy_faces()
    other = dataclasses.replace(faces, labels=(faces.labels + 3) % 7)
    record = Record.load(teachers[0])
    identity = record.identity | {"data": other.identity}
    relabeled = tmp_path / "teacher"
    relabeled.mkdir()
    (relabeled / "model.safetensors").write_bytes((teachers[0] / "model.safetensors").read_bytes())
    dataclasses.replace(record, identity=identity).save(relabeled)
    first = student(config, tmp_path / "a", faces, teachers=teachers[:1])
    second = student(config, tmp_path / "b", other, teachers=[relabeled])
    assert torch.equal(first.labels, second.labels)


def test_a_student_comes_closer_to_its_teacher(teachers: list[Path], tmp_path: Path) -> None:
    """By the divergence from the teachers' probabilities; training toward labels leads away from them."""

    def distance(net: torch.nn.Module, taught: Trainer) -> float:
        with torch.no_grad():
            found = net.eval()((taught.images.float() - taught.mean)[:, None] / taught.std).log_softmax(1)
        return float((taught.labels * (taught.labels.log() - found)).sum(1).mean())

    still = dataclasses.replace(CONFIG.network, dropout=0.0)
    plain = AugmentConfig(flip=0, pad=0)  # so that a student can fit what it's taught
    config = dataclasses.replace(CONFIG, network=still, augment=plain, epochs=6, learning_rate=0.01, distill=1.0)
    quick(config, toy_faces(), tmp_path / "taught", teachers=teachers, seed=5)
    quick(dataclasses.replace(config, distill=0.0), toy_faces(), tmp_path / "labels", seed=5)
    reference = student(config, tmp_path / "reference", teachers=teachers)
    taught, labels = (
        distance(load_network(tmp_path / name / "model.safetensors")[0], reference) for name in ("taught", "labels")
    )
    assert taught < 0.1
    assert labels > 1  # it becomes certain of the labels, where the teachers aren't


def test_a_teacher_that_saw_other_images_is_refused(teachers: list[Path], tmp_path: Path) -> None:
    """With other folds, a teacher has seen the student's test images, and would tell it about them."""
    quick(FOLDS, toy_faces(), tmp_path / "fold-0")
    for change in ({"fold": 1}, {"folds": 4}, {"protocol": "sequence"}, {"protocol": "splits", "folds": 10}):
        with pytest.raises(TrainingError, match="fold-0 cannot teach this run, since it was trained on other images"):
            student(dataclasses.replace(FOLDS, distill=0.5, **change), tmp_path, teachers=[tmp_path / "fold-0"])
    with pytest.raises(TrainingError, match="seed is 0 there and 1 here"):
        student(dataclasses.replace(FOLDS, distill=0.5), tmp_path, teachers=[tmp_path / "fold-0"], seed=1)
    student(dataclasses.replace(FOLDS, distill=0.5), tmp_path, teachers=[tmp_path / "fold-0"])
    with pytest.raises(TrainingError, match=r"first cannot teach this run.*data\.content is"):
        student(dataclasses.replace(CONFIG, distill=0.5), tmp_path, toy_faces(seed=1), teachers=teachers)


def test_teachers_and_their_weight_belong_together(teachers: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"distill is 0 with 2 teachers.*--set distill=0\.5"):
        student(CONFIG, tmp_path, teachers=teachers)
    with pytest.raises(TrainingError, match=r"distill is 0\.5 with 0 teachers.*--teacher RUN"):
        student(dataclasses.replace(CONFIG, distill=0.5), tmp_path)
    with pytest.raises(RunError, match="nosuch"):
        student(dataclasses.replace(CONFIG, distill=0.5), tmp_path, teachers=[tmp_path / "nosuch"])


def test_a_run_keeps_its_teachers(teachers: list[Path], tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, distill=0.5)
    record = quick(config, toy_faces(), tmp_path / "run", teachers=teachers)
    assert len(record.identity["teachers"]) == 2
    again = quick(config, toy_faces(), tmp_path / "run", teachers=teachers)  # has finished, so nothing is trained
    assert again.metrics == record.metrics
    with pytest.raises(TrainingError, match="contains another run: teachers is"):
        quick(config, toy_faces(), tmp_path / "run", teachers=teachers[:1])
