from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import toy_faces

from fertools.errors import Interrupted, TrainingError, WeightsError
from fertools.models.weights import load_weights, save_weights
from fertools.network import NetworkConfig
from fertools.recipes import TrainConfig
from fertools.records import Record
from fertools.training.checkpoints import load_checkpoint, lock_folder, tensors_digest
from fertools.training.trainer import Trainer, train

CONFIG = TrainConfig(
    epochs=2,
    network=NetworkConfig(width=(2, 2), scales=(12, 24), units=1, hidden=4),
    learning_rate=0.01,
    precision="fp32",
)


def quick(folder: Path, config: TrainConfig = CONFIG, **options: object) -> Record:
    return train(config, toy_faces(), folder, device="cpu", progress=False, **options)  # type: ignore[arg-type]


def stopped(folder: Path, steps: int, config: TrainConfig = CONFIG) -> Path:
    """A run that was stopped after some steps, each with a checkpoint."""
    for _ in range(steps):
        with pytest.raises(Interrupted):
            quick(folder, config, minutes=1e-9)
    return folder / "checkpoint.safetensors"


def break_it(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "a bit":
        data[-5] ^= 1  # in a tensor: safetensors does not notice
    else:
        del data[-1000:]
    path.write_bytes(data)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    quick(folder)
    return (folder / "model.safetensors").read_bytes()


# --- Damage ---


@pytest.mark.parametrize("how", ["a bit", "the end"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(
    how: str, tmp_path: Path, undisturbed: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    newest = stopped(tmp_path, 3)
    break_it(newest, how)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.path.name, found.progress.step) == ("checkpoint.previous.safetensors", 2)
    (message,) = caplog.messages
    assert str(newest) in message
    assert "Continuing from the checkpoint before it" in message
    record = quick(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == undisturbed
    assert record.resumed == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "predictions.npz", "record.json"]


def test_killed_between_two_checkpoints_the_one_before_is_used(tmp_path: Path, undisturbed: bytes) -> None:
    newest = stopped(tmp_path, 3)
    newest.rename(tmp_path / "checkpoint.new.safetensors")  # it was written, but is not in its place
    assert quick(tmp_path).resumed == 2
    assert (tmp_path / "model.safetensors").read_bytes() == undisturbed
    assert not list(tmp_path.glob("checkpoint*"))


def test_if_all_are_damaged_nothing_is_overwritten(tmp_path: Path) -> None:
    stopped(tmp_path, 2)
    for path in tmp_path.glob("checkpoint*"):
        break_it(path, "a bit")
    with pytest.raises(WeightsError, match=r"checkpoint.safetensors is damaged.*previous.* delete "):
        quick(tmp_path)
    assert len(list(tmp_path.glob("checkpoint*"))) == 2


@pytest.mark.parametrize("name", ["digest", "identity", "progress"])
def test_a_header_without_a_field_is_damage(tmp_path: Path, name: str) -> None:
    newest = stopped(tmp_path, 1)
    tensors, header = load_weights(newest)
    save_weights(newest, tensors, {key: value for key, value in header.items() if key != name})
    with pytest.raises(WeightsError, match=f"not a checkpoint of this version .*{name}"):
        load_checkpoint(tmp_path)


def test_a_folder_without_checkpoint_has_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("missing", ["all", "one"])
def test_missing_momentum_is_refused(tmp_path: Path, missing: str) -> None:
    newest = stopped(tmp_path, 1)
    tensors, header = load_weights(newest)
    gone = [name for name in tensors if name.startswith("momentum.")][: None if missing == "all" else 1]
    assert gone
    kept = {name: t for name, t in tensors.items() if name not in gone}
    save_weights(newest, kept, header | {"digest": tensors_digest(kept)})
    with pytest.raises(WeightsError, match=r"is incomplete: the momentum of \S+ is missing"):
        quick(tmp_path)


def test_without_momentum_none_is_missed(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, momentum=0.0)
    newest = stopped(tmp_path, 1, config)
    assert not [name for name in load_weights(newest)[0] if name.startswith("momentum.")]
    assert quick(tmp_path, config).resumed == 1


def test_the_digest_depends_on_all_that_a_tensor_is() -> None:
    x = torch.arange(6.0)
    digests = {
        tensors_digest(tensors)
        for tensors in (
            {"x": x},
            {"y": x},
            {"x": x.view(2, 3)},
            {"x": x.bfloat16()},
            {"x": x + 1},
            {"x": x, "n": torch.tensor(3)},
            {"x": x, "n": torch.tensor(4)},
        )
    }
    assert len(digests) == 7
    one, other = torch.rand(2, 3, 4, 5), torch.zeros(1)
    assert tensors_digest({"a": one, "b": other}) == tensors_digest(
        {"b": other, "a": one.to(memory_format=torch.channels_last)}
    )


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    newest = stopped(tmp_path, 1)
    good = newest.read_bytes()
    trainer = Trainer.from_config(CONFIG, toy_faces(), tmp_path, device="cpu")
    trainer.resume()
    with torch.no_grad():
        trainer.net.get_parameter("head.1.bias")[0] = torch.inf  # type: ignore[index]
    with pytest.raises(
        TrainingError, match=r"step 1: net.head.1.bias is not finite. The last checkpoint is .*Lower the"
    ):
        trainer.save()
    assert newest.read_bytes() == good
    assert [path.name for path in tmp_path.iterdir()] == [newest.name]


# --- The lock ---


def test_a_second_process_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom fertools.training.checkpoints import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    print('locked', flush=True)\n    sys.stdin.read()"
    )
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(TrainingError, match=f"in use by process {process.pid} on {socket.gethostname()}"):
            quick(folder)
        process.kill()  # as by kill -9: the lock is free, although its file is still there
    assert [path.name for path in folder.iterdir()] == ["in-use.lock"]
    quick(folder)
    assert not list(folder.glob("*.lock"))


def test_the_lock_tells_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "a" / "run"):
        (lock,) = (tmp_path / "a" / "run").iterdir()
        assert json.loads(lock.read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
        with pytest.raises(TrainingError, match="is in use by process"), lock_folder(tmp_path / "a" / "run"):
            pass
    assert not lock.exists()
    with lock_folder(tmp_path / "a" / "run"):
        pass


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "step", lambda self, rows: pytest.fail("a step was done"))
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file/run cannot be written to \(Not a directory\)"):
        quick(tmp_path / "file" / "run")

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(TrainingError, match=r"run cannot be written to \(No space left on device\); make room"):
            quick(tmp_path / "run")
