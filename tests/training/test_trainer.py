from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_faces

from fertools import hardware
from fertools.data import FaceSet
from fertools.data.ferplus import VOTE_CLASSES
from fertools.errors import DataError, Interrupted, RunError, TrainingError, WeightsError
from fertools.evaluation.runs import evaluate_run
from fertools.models.weights import load_network, load_weights, save_weights
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.recipes import AugmentConfig, TrainConfig
from fertools.records import Record, differences, load_predictions
from fertools.training.augmentation import augment, cutmix, mixup
from fertools.training.checkpoints import load_checkpoint
from fertools.training.randomness import Purpose, derive_seed
from fertools.training.trainer import Trainer, train

NETWORK = NetworkConfig(width=(4, 4), scales=(12, 24), units=1, hidden=16)
CONFIG = TrainConfig(
    epochs=3,
    network=NETWORK,
    learning_rate=0.05,
    schedule="cosine",
    ema_decay=0.9,
    label_smoothing=0.1,
    max_grad_norm=5.0,
    nesterov=True,
    decay_norm_and_bias=False,
    precision="fp32",  # what is expected below is computed in fp32
    select="best",
)
PLAIN = TrainConfig(epochs=2, network=NETWORK, learning_rate=0.01, precision="fp32")  # all else off, as in the paper
BEYOND = dataclasses.replace(
    CONFIG,
    network=dataclasses.replace(NETWORK, fusion="excite", drop_path=0.2),
    augment=AugmentConfig(mixup=0.4, erase=0.2),
)

# A run in a process of its own, that can be killed. Arguments: folder, minutes between checkpoints.
SCRIPT = f"""
import sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from toy import toy_faces
from test_trainer import CONFIG
from fertools.training.trainer import train
train(CONFIG, toy_faces(), Path(sys.argv[1]), device="cpu", checkpoint_minutes=float(sys.argv[2]))
"""


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def quick(config: TrainConfig, faces: FaceSet, folder: Path, **options: object) -> Record:
    return train(config, faces, folder, device="cpu", progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    quick(CONFIG, toy_faces(), folder)
    return folder


# --- What it computes ---


def test_two_steps_are_sgd_written_out(faces: FaceSet, tmp_path: Path) -> None:
    """Loss, weight decay, momentum, and schedule against a few lines of plain arithmetic."""
    trainer = Trainer.from_config(PLAIN, faces, tmp_path, device="cpu")
    # In the trainer's memory layout: in another one, other rounding can turn a ReLU at 0 on or off.
    peer = MultiScaleFusionNet(NETWORK).to(memory_format=torch.channels_last)
    peer.load_state_dict(trainer.net.state_dict())
    velocity = {name: torch.zeros_like(p) for name, p in peer.named_parameters()}
    rows = torch.arange(16)
    losses: list[float] = []
    inputs: list[torch.Tensor] = []
    trainer.net.register_forward_pre_hook(lambda m, args: inputs.append(args[0].clone()))
    for step in range(2):
        trainer.step(rows)
        # The same dropout mask: the generator is seeded for each step.
        torch.manual_seed(derive_seed(0, Purpose.STEP, step))
        logits = peer.train()(inputs[step])
        loss = -logits.log_softmax(1)[torch.arange(16), torch.from_numpy(faces.labels[:16])].mean()
        peer.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, p in peer.named_parameters():
                decay = 0.0 if name.endswith(".w") else 5e-4
                assert p.grad is not None
                velocity[name] = 0.9 * velocity[name] + p.grad + decay * p
                p.sub_(0.01 * velocity[name])
        losses.append(16 * loss.item())
        assert trainer.progress.loss_sum == pytest.approx(sum(losses), rel=1e-5)
    for (name, mine), theirs in zip(trainer.net.named_parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_the_input_is_normalized_by_the_training_images(faces: FaceSet, tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, augment=dataclasses.replace(PLAIN.augment, flip=0.0, pad=0))
    trainer = Trainer.from_config(config, faces, tmp_path, device="cpu")
    seen: list[torch.Tensor] = []
    trainer.net.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    rows = torch.arange(32)
    trainer.step(rows)
    training = faces.images[faces.split == "Training"].astype(float)
    wanted = (faces.images[:32] - training.mean()) / training.std()
    np.testing.assert_allclose(seen[0][:, 0], wanted, atol=1e-4)


def test_every_image_once_an_epoch_in_an_order_of_its_own(faces: FaceSet, tmp_path: Path) -> None:
    trainer = Trainer.from_config(PLAIN, faces, tmp_path, device="cpu")
    batches: list[list[int]] = []
    step = trainer.step
    trainer.step = lambda rows: (batches.append(rows.tolist()), step(rows))[1]  # type: ignore[method-assign,func-returns-value]
    trainer.run(None, 60, False, False)
    assert [len(batch) for batch in batches] == [16] * 14  # 120 images, the last 8 of an epoch dropped
    first, second = (sum(batches[i : i + 7], []) for i in (0, 7))
    for epoch in (first, second):
        assert len(set(epoch)) == 112
        assert set(epoch) <= set(range(120))
    assert first != second


def test_label_smoothing_average_and_clipping_do_what_they_say(faces: FaceSet, tmp_path: Path) -> None:
    config = dataclasses.replace(
        PLAIN, ema_decay=0.5, max_grad_norm=1e-3, momentum=0.0, weight_decay=0.0, label_smoothing=0.2
    )
    trainer = Trainer.from_config(config, faces, tmp_path, device="cpu")
    before = {name: p.detach().clone() for name, p in trainer.net.named_parameters()}
    logits: list[torch.Tensor] = []
    trainer.net.register_forward_hook(lambda m, args, out: logits.append(out.detach()))
    trainer.step(torch.arange(16))
    log_p = logits[0].log_softmax(1)
    labels = torch.from_numpy(faces.labels[:16])
    smooth = -(0.8 * log_p[torch.arange(16), labels] + 0.2 * log_p.mean(1)).mean()
    assert trainer.progress.loss_sum == pytest.approx(16 * smooth.item(), rel=1e-5)
    moved = torch.cat([(p - before[name]).flatten() for name, p in trainer.net.named_parameters()])
    assert moved.norm().item() == pytest.approx(0.01 * 1e-3, rel=1e-2)  # learning rate times the clipped norm
    once = {name: p.detach().clone() for name, p in trainer.net.named_parameters()}
    trainer.step(torch.arange(16))
    for name, average in trainer.average.module.named_parameters():
        now = dict(trainer.net.named_parameters())[name]
        torch.testing.assert_close(average, 2 / 11 * once[name] + 9 / 11 * now.detach())


def test_the_moving_average_soon_follows_and_then_forgets_slowly(faces: FaceSet, tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, ema_decay=0.6, epochs=3)
    trainer = Trainer.from_config(config, faces, tmp_path, device="cpu")
    (name, weights), *_ = trainer.net.named_parameters()
    expected = np.zeros(tuple(weights.shape))
    for step in range(20):
        trainer.step(torch.arange(16))
        decay = min(0.6, (1 + step) / (10 + step)) if step else 0.0
        expected = decay * expected + (1 - decay) * weights.detach().numpy()
    np.testing.assert_allclose(trainer.average.module.get_parameter(name).numpy(force=True), expected, atol=1e-6)


@pytest.mark.parametrize("mixing", [{"mixup": 0.5}, {"cutmix": 1.0}])
def test_mixed_images_are_learned_and_counted_by_probability(mixing: dict, faces: FaceSet, tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, augment=AugmentConfig(**mixing), label_smoothing=0.2)
    trainer = Trainer.from_config(config, faces, tmp_path, device="cpu")
    inputs: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    trainer.net.register_forward_pre_hook(lambda m, args: inputs.append(args[0]))
    trainer.net.register_forward_hook(lambda m, args, out: logits.append(out.detach()))
    trainer.step(torch.arange(16))
    # The step's own generator, from which the augmentation draws first.
    draw = torch.Generator().manual_seed(derive_seed(0, Purpose.STEP, 0))
    alone = augment(torch.from_numpy(faces.images[:16]), config.augment, draw)
    one_hot = torch.eye(7)[torch.from_numpy(faces.labels[:16])]
    mix, alpha = (mixup, 0.5) if "mixup" in mixing else (cutmix, 1.0)
    mixed, probabilities = mix(alone, one_hot, alpha, draw)
    torch.testing.assert_close(inputs[0][:, 0], (mixed - trainer.mean) / trainer.std)
    smooth = 0.8 * probabilities + 0.2 / 7
    loss = -(smooth * logits[0].log_softmax(1)).sum(1).mean()
    assert trainer.progress.loss_sum == pytest.approx(16 * loss.item(), rel=1e-5)
    assert ((probabilities > 0).sum(1) == 2).any()  # some pairs are of two classes
    right = sum(float(p[k]) for p, k in zip(probabilities, logits[0].argmax(1), strict=True))
    assert trainer.progress.correct == pytest.approx(right, rel=1e-5)


def test_votes_as_targets(faces: FaceSet, tmp_path: Path) -> None:
    """Three for happiness, one for sadness, six that count for no label of FER2013."""
    votes = np.zeros((len(faces), len(VOTE_CLASSES)), dtype=np.int64)
    for name, n in {"happiness": 3, "sadness": 1, "contempt": 2, "NF": 4}.items():
        votes[:, VOTE_CLASSES.index(name)] = n
    voted = dataclasses.replace(faces, votes=votes, vote_classes=VOTE_CLASSES)
    config = dataclasses.replace(PLAIN, targets="votes")
    trainer = Trainer.from_config(config, voted, tmp_path, device="cpu")
    logits: list[torch.Tensor] = []
    trainer.net.register_forward_hook(lambda m, args, out: logits.append(out.detach()))
    trainer.step(torch.arange(16))
    p = logits[0].log_softmax(1)
    happy, sad = faces.classes.index("happy"), faces.classes.index("sad")
    assert trainer.progress.loss_sum == pytest.approx(-(0.75 * p[:, happy] + 0.25 * p[:, sad]).sum().item(), rel=1e-5)
    predicted = logits[0].argmax(1)
    right = 0.75 * (predicted == happy).sum() + 0.25 * (predicted == sad).sum()
    assert trainer.progress.correct == pytest.approx(right.item())
    most = Trainer.from_config(
        dataclasses.replace(config, targets="majority"), voted, tmp_path / "majority", device="cpu"
    )
    assert (most.labels == happy).all()
    with pytest.raises(DataError, match=r"toy has no votes; read it with fertools\.data\.load\('ferplus'\)"):
        Trainer.from_config(config, faces, tmp_path, device="cpu")


def test_it_learns_and_selects_on_public_test(undisturbed: Path) -> None:
    record = Record.load(undisturbed)
    accuracies = [entry["validation_accuracy"] for entry in record.history]
    assert record.selected == {"epoch": 1 + int(np.argmax(accuracies)), "by": "accuracy on PublicTest"}
    assert record.history[-1]["loss"] < record.history[0]["loss"] - 0.1
    found = load_predictions(undisturbed)
    assert (found["PublicTest/single-crop"].argmax(1) == found["PublicTest/labels"]).mean() == pytest.approx(
        max(accuracies)
    )


def test_training_longer_learns_the_toy_set(faces: FaceSet, tmp_path: Path) -> None:
    record = quick(dataclasses.replace(CONFIG, epochs=12, ema_decay=0.0, label_smoothing=0.0), faces, tmp_path / "run")
    assert record.metrics["PrivateTest"]["single-crop"]["accuracy"] > 0.9


def test_bf16_and_compile_change_only_the_rounding(faces: FaceSet, tmp_path: Path) -> None:
    small = dataclasses.replace(NETWORK, scales=(12,), width=4, dropout=0.0)
    losses = {}
    for name, precision in {"fp32": "fp32", "bf16": "bf16", "compiled": "fp32"}.items():
        config = dataclasses.replace(PLAIN, network=small, precision=precision)
        trainer = Trainer.from_config(config, faces, tmp_path / name, device="cpu", compile=name == "compiled")
        trainer.step(torch.arange(32))
        losses[name] = trainer.progress.loss_sum / 32
    assert losses["compiled"] == pytest.approx(losses["fp32"], rel=1e-4)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=2e-2)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.parametrize("computes", [True, False])
def test_auto_precision_follows_the_processor(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computes: bool
) -> None:
    """The probe decides, and nothing but ``auto`` asks it; the network sees what was decided."""
    monkeypatch.setattr("fertools.training.trainer.computes_bf16", lambda device: computes)
    for precision, bf16 in (("auto", computes), ("fp32", False), ("bf16", True)):
        config = dataclasses.replace(PLAIN, precision=precision)
        trainer = Trainer.from_config(config, faces, tmp_path, device="cpu")
        assert trainer.bf16 is bf16
        seen: list[torch.dtype] = []
        trainer.net.stem[0].register_forward_hook(lambda m, args, out, seen=seen: seen.append(out.dtype))
        trainer.step(torch.arange(16))
        assert seen == [torch.bfloat16 if bf16 else torch.float32]


@pytest.mark.parametrize("supported", [True, False])
def test_the_probe_of_a_cpu_is_pytorchs(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    assert hardware.computes_bf16(torch.device("cpu")) is supported


def test_bf16_learns_what_fp32_learns(faces: FaceSet, tmp_path: Path) -> None:
    """Over three epochs the losses differ by rounding: by some percent, and not by nothing."""
    losses = {}
    for precision in ("fp32", "bf16"):
        record = quick(dataclasses.replace(CONFIG, precision=precision), faces, tmp_path / precision)
        assert record.environment["bf16"] is (precision == "bf16")
        losses[precision] = [entry["loss"] for entry in record.history]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


# --- The protocols ---


def test_a_fold_is_trained_to_the_last_epoch(faces: FaceSet, tmp_path: Path) -> None:
    record = quick(dataclasses.replace(PLAIN, protocol="subject", folds=4, fold=1), faces, tmp_path / "fold")
    assert record.selected == {"epoch": 2, "by": "last epoch"}
    assert list(record.metrics) == ["fold"]
    assert "validation_accuracy" not in record.history[0]


# --- The record ---


def test_the_record_tells_all_and_evaluates_to_the_same(undisturbed: Path) -> None:
    record = Record.load(undisturbed)
    assert TrainConfig.from_dict(record.identity["config"]) == CONFIG
    assert record.identity["data"] == toy_faces().identity
    assert record.data == {
        "name": "toy",
        "training": 120,
        "test": {"PublicTest": 30, "PrivateTest": 30},
    }
    assert record.environment["libraries"]["torch"] == importlib.metadata.version("torch")
    assert record.environment["bf16"] in (True, False)
    assert sorted(p.name for p in undisturbed.iterdir()) == [
        "model.safetensors",
        "predictions.npz",
        "record.json",
    ]
    json.loads((undisturbed / "record.json").read_text())

    net, metadata = load_network(undisturbed / "model.safetensors")
    assert (metadata.temperature, metadata.threshold) == (record.temperature, record.threshold)
    assert record.normalization == {"mean": metadata.mean, "std": metadata.std}
    assert record.parameters == sum(p.numel() for p in net.parameters())
    faces = toy_faces().of_split("PrivateTest")
    x = (torch.from_numpy(faces.images).float() - metadata.mean) / metadata.std
    with torch.inference_mode():
        by_hand = (net(x[:, None]).argmax(1).numpy() == faces.labels).mean()
    assert record.metrics["PrivateTest"]["single-crop"]["accuracy"] == pytest.approx(by_hand)
    assert evaluate_run(undisturbed, toy_faces(), list(record.metrics), device="cpu") == record.metrics


def test_evaluating_on_other_data_is_refused(undisturbed: Path) -> None:
    with pytest.raises(RunError, match="not the data"):
        evaluate_run(undisturbed, toy_faces(seed=1), ["PrivateTest"])


def test_a_finished_run_is_returned_and_not_repeated(undisturbed: Path) -> None:
    before = weights(undisturbed)
    assert quick(CONFIG, toy_faces(), undisturbed) == Record.load(undisturbed)
    assert weights(undisturbed) == before
    with pytest.raises(TrainingError, match="contains another run: seed is 0 there and 7 here"):
        quick(CONFIG, toy_faces(), undisturbed, seed=7)


# --- Stop, kill, resume ---


def test_stopped_at_any_step_and_resumed_gives_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    stops = 0
    while True:
        try:
            record = quick(CONFIG, toy_faces(), tmp_path / "run", minutes=1e-9)  # one step at a time
            break
        except Interrupted:
            stops += 1
    assert stops == 3 * 7 - 1
    assert record.resumed == stops
    assert weights(tmp_path / "run") == weights(undisturbed)
    drop = ("seconds",)
    for mine, theirs in zip(record.history, Record.load(undisturbed).history, strict=True):
        assert {k: v for k, v in mine.items() if k not in drop} == pytest.approx(
            {k: v for k, v in theirs.items() if k not in drop}
        )


def test_ideas_beyond_the_paper_resume_to_the_same_weights_too(faces: FaceSet, tmp_path: Path) -> None:
    config = dataclasses.replace(BEYOND, epochs=2)
    whole = quick(config, faces, tmp_path / "whole")
    for _ in range(2 * 7 - 1):
        with pytest.raises(Interrupted):
            quick(config, faces, tmp_path / "parts", minutes=1e-9)  # one step at a time
    parts = quick(config, faces, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    for a, b in zip(whole.history, parts.history, strict=True):
        assert a["train_accuracy"] == pytest.approx(b["train_accuracy"])


def test_what_was_made_before_a_field_was_there_has_its_default(
    undisturbed: Path, faces: FaceSet, tmp_path: Path
) -> None:
    """Records and checkpoints of older versions stay valid, and say where a newer setting is another."""

    def older(identity: dict) -> dict:
        config = json.loads(json.dumps(identity["config"]))
        del config["targets"], config["network"]["drop_path"], config["augment"]["mixup"], config["augment"]["cutmix"]
        return identity | {"config": config}

    record = Record.load(undisturbed)
    assert differences(record.identity, older(record.identity)) == []
    assert differences(older(record.identity), record.identity) == []
    now = record.identity | {"config": BEYOND.to_dict()}
    assert "config.network.drop_path is 0.0 there and 0.2 here" in differences(now, older(record.identity))
    assert differences(record.identity, older(record.identity) | {"seed": 3}) == ["seed is 3 there and 0 here"]
    gone = record.identity | {"config": record.identity["config"] | {"wings": 2}}
    assert "config.wings is 2 there and None here" in differences(record.identity, gone)

    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        quick(CONFIG, faces, folder, minutes=1e-9)
    tensors, header = load_weights(folder / "checkpoint.safetensors")
    save_weights(folder / "checkpoint.safetensors", tensors, header | {"identity": older(header["identity"])})
    assert quick(CONFIG, faces, folder).resumed == 1
    assert weights(folder) == weights(undisturbed)


def test_kill_9_in_mid_epoch_and_the_same_command_again(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", SCRIPT, str(folder), "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    checkpoint = folder / "checkpoint.safetensors"
    while process.poll() is None:
        with suppress(WeightsError):  # between two checkpoints, there is no newest one for a moment
            if load_weights(checkpoint)[1]["progress"]["step"] >= 10:
                process.send_signal(signal.SIGKILL)
                break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL
    left = load_checkpoint(folder)
    assert left is not None
    step = left.progress.step
    assert step % 7 != 0 or step == 14
    assert not (folder / "record.json").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert weights(folder) == weights(undisturbed)
    assert Record.load(folder).resumed == 1


def test_sigterm_leaves_a_checkpoint_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), "1000"], stderr=subprocess.PIPE, text=True)
    while not (folder / "checkpoint.safetensors").exists() and process.poll() is None:  # the first epoch has ended
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert "Interrupted: stopped in epoch" in err
    assert (folder / "checkpoint.safetensors").exists()


def test_another_configuration_does_not_continue_a_checkpoint(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        quick(CONFIG, faces, tmp_path, minutes=1e-9)
    other = dataclasses.replace(CONFIG, learning_rate=0.01, network=dataclasses.replace(NETWORK, units=2))
    with pytest.raises(TrainingError, match=r"config\.network\.units is 1 there and 2 here"):
        quick(other, faces, tmp_path)
    with pytest.raises(TrainingError, match=r"data\.content is 'sha256:.*Choose another folder"):
        quick(CONFIG, toy_faces(seed=1), tmp_path)


def test_other_data_does_not_continue_a_checkpoint(faces: FaceSet, tmp_path: Path) -> None:
    """Of the same content, with rows swapped between splits, other votes, subjects, or sequences."""
    votes = np.zeros((len(faces), len(VOTE_CLASSES)), dtype=np.int64)
    votes[:, VOTE_CLASSES.index("happiness")] = 10
    voted = dataclasses.replace(faces, votes=votes, vote_classes=VOTE_CLASSES)
    config = dataclasses.replace(CONFIG, targets="votes")
    with pytest.raises(Interrupted):
        quick(config, voted, tmp_path, minutes=1e-9)

    assert voted.split is not None
    swapped = voted.split.copy()
    swapped[:30], swapped[-30:] = voted.split[-30:], voted.split[:30]
    other_votes = votes.copy()
    other_votes[0] = np.roll(votes[0], 1)
    others = np.array([f"person {i // 4}" for i in range(len(faces))])
    for name, changed in {
        "split": dataclasses.replace(voted, split=swapped),
        "votes": dataclasses.replace(voted, votes=other_votes),
        "subjects": dataclasses.replace(voted, subjects=others),
        "sequences": dataclasses.replace(voted, sequences=others),
    }.items():
        assert changed.fingerprint == voted.fingerprint
        with pytest.raises(TrainingError, match=rf"contains another run: data\.{name} is 'sha256:\w+' there and"):
            quick(config, changed, tmp_path)
    images = faces.images.copy()
    images[0, 0, 0] ^= 1
    with pytest.raises(TrainingError, match=r"contains another run: data\.content is 'sha256:\w+' there and"):
        quick(config, dataclasses.replace(voted, images=images), tmp_path)
    same = dataclasses.replace(voted, name="another name", source="elsewhere")
    assert quick(config, same, tmp_path).resumed == 1


def test_a_loss_that_is_not_finite_stops_at_once(faces: FaceSet, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, learning_rate=1e30, warmup=0.0, max_grad_norm=0.0)
    with pytest.raises(
        TrainingError, match=r"step \d: the loss is (nan|inf).*There is no checkpoint yet.*learning_rate"
    ):
        quick(config, faces, tmp_path)

    with pytest.raises(Interrupted):
        quick(CONFIG, faces, tmp_path / "run", minutes=1e-9)
    good = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    trainer = Trainer.from_config(CONFIG, faces, tmp_path / "run", device="cpu")
    trainer.resume()
    with torch.no_grad():
        trainer.net.get_parameter("head.1.bias").fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 2: the loss is nan. The last checkpoint is"):
        trainer.run(None, 0, False, False)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == good


def test_a_full_disk_keeps_the_last_good_checkpoint(
    faces: FaceSet, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        quick(CONFIG, faces, folder, minutes=1e-9)

    def full(tensors: dict, path: Path, metadata: dict) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fertools.models.weights.save_file", full)
        with pytest.raises(TrainingError, match="step 2: .*No space left.* The last checkpoint is"):
            quick(CONFIG, faces, folder, checkpoint_minutes=0)
    assert [p.name for p in folder.iterdir()] == ["checkpoint.safetensors"]
    quick(CONFIG, faces, folder)
    assert weights(folder) == weights(undisturbed)


# --- The rest ---


def test_a_batch_that_does_not_fit_is_refused(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="a batch of 500 does not fit into 120 training images"):
        quick(dataclasses.replace(PLAIN, batch_size=500), faces, tmp_path)


def test_fine_tuning_another_runs_weights(undisturbed: Path, tmp_path: Path) -> None:
    init = undisturbed / "model.safetensors"
    tensors, _ = load_weights(init)
    same = Trainer.from_config(PLAIN, toy_faces(), tmp_path, device="cpu", init=init)
    for name, value in same.net.state_dict().items():
        assert torch.equal(value, tensors[name])
    three = toy_faces(classes=("happy", "sad", "surprise"))
    other = Trainer.from_config(PLAIN, three, tmp_path, device="cpu", init=init)
    assert torch.equal(other.net.stem[0].weight, tensors["stem.0.weight"])
    assert other.net.head[-1].weight.shape == (3, 16)
    assert other.identity["init"] == same.identity["init"]
    as_many = Trainer.from_config(PLAIN, toy_faces(classes=tuple("abcdefg")), tmp_path, device="cpu", init=init)
    assert torch.equal(as_many.net.stem[0].weight, tensors["stem.0.weight"])
    assert not torch.equal(as_many.net.head[-1].weight, same.net.head[-1].weight)  # they are other labels


def test_tensorboard_has_the_history(faces: FaceSet, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = quick(PLAIN, faces, tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([e["loss"] for e in record.history])


TORCHRUN = f"""
import dataclasses, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from toy import toy_faces
from test_trainer import DISTRIBUTED
from fertools.training.trainer import train
train(DISTRIBUTED, toy_faces(), Path(sys.argv[1]), device="cpu", progress=False)
"""
# Few and small steps: later ones multiply the differences in rounding.
DISTRIBUTED = dataclasses.replace(
    BEYOND, epochs=1, learning_rate=0.01, network=dataclasses.replace(BEYOND.network, head_norm=True)
)


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """The same weights to rounding: statistics, dropout and gradient are those of the whole batch."""
    one = quick(DISTRIBUTED, toy_faces(), tmp_path / "one")
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(TORCHRUN))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, str(script), str(tmp_path / "two")], check=True, env=environment, capture_output=True)
    two = Record.load(tmp_path / "two")
    assert two.environment["processes"] == 2
    mine, theirs = (load_weights(tmp_path / name / "model.safetensors")[0] for name in ("one", "two"))
    for name, value in mine.items():
        # With another number of threads one process differs from itself by up to 6e-5.
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=3e-4, msg=name)
    for a, b in zip(one.history, two.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["train_accuracy"] == pytest.approx(b["train_accuracy"], abs=0.01)
