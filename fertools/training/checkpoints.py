"""The resumable state of a run on disk, and the lock that keeps a second process out of its folder.

``checkpoint.safetensors`` has the tensors by group (``net.``, ``average.``, ``momentum.``, ``best.``) and,
in its header, the run's identity, its progress, and a digest of the tensors.
``checkpoint.previous.safetensors`` is the one before, in case the newest is damaged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from fertools.errors import TrainingError, WeightsError
from fertools.models.weights import load_state_dict, load_weights, save_weights

NEWEST, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
_UNFINISHED = "checkpoint.new.safetensors"  # complete, but not in its place yet
_LOCK = "in-use.lock"

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """What a checkpoint keeps besides its tensors."""

    step: int = 0  # steps done over the whole run
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry for each finished epoch
    loss_sum: float = 0.0  # over the images of the current epoch
    correct: float = 0  # likewise; fractional where a prediction can be partly right
    epoch_seconds: float = 0.0  # likewise
    resumed: int = 0  # how often the run was continued

    @property
    def seconds(self) -> float:
        """Spent training, over all interruptions."""
        return sum(entry["seconds"] for entry in self.history) + self.epoch_seconds


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found undamaged.

    Attributes:
        path: its file.
        tensors: on the CPU, by group and name, e.g. ``"net.stem.0.weight"``.
        identity: what the run depends on; see :func:`fertools.records.differences`.
        progress: how far the run is.
    """

    path: Path
    tensors: dict[str, Tensor]
    identity: dict[str, Any]
    progress: Progress

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one group, by name."""
        start = f"{prefix}."
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


def newest(folder: Path) -> Path | None:
    """The newest checkpoint file of a run, if there is one."""
    return next((folder / name for name in (NEWEST, PREVIOUS) if (folder / name).exists()), None)


def save_checkpoint(
    folder: Path,
    net: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    identity: dict[str, Any],
    progress: Progress,
) -> None:
    """Writes all that a run needs to continue, completely or not at all; keeps the checkpoint before.

    Args:
        folder: the run's.
        net, average: the network and, if the recipe has one, the moving average of its weights.
        optimizer: SGD; its momentum is kept by parameter name.
        best: the selected epoch's weights.
        identity: what the run depends on; see :func:`fertools.records.differences`.
        progress: how far it is.

    Raises:
        FloatingPointError: a tensor is not finite: continuing from it would never help.
        OSError: the file cannot be written; the older ones are still there.
    """
    tensors = {f"net.{name}": t for name, t in net.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in best.items()}
    if average is not None:
        tensors |= {f"average.{name}": t for name, t in average.state_dict().items()}
    for name, p in net.named_parameters():
        if optimizer.state[p].get("momentum_buffer") is not None:
            tensors[f"momentum.{name}"] = optimizer.state[p]["momentum_buffer"]
    tensors = {name: t.detach().cpu() for name, t in tensors.items()}
    for name, t in tensors.items():
        if not torch.isfinite(t).all():
            raise FloatingPointError(f"{name} is not finite")

    folder.mkdir(parents=True, exist_ok=True)
    header = {"identity": identity, "progress": dataclasses.asdict(progress), "digest": tensors_digest(tensors)}
    save_weights(folder / _UNFINISHED, tensors, header)
    if (folder / NEWEST).exists():
        os.replace(folder / NEWEST, folder / PREVIOUS)
    os.replace(folder / _UNFINISHED, folder / NEWEST)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint of a run, or None where it has none.

    Where the newest file is damaged, a warning says so and the one before is used.

    Raises:
        WeightsError: there are checkpoints, but all are damaged.
    """
    damage: list[str] = []
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            found = _read(path)
        except WeightsError as error:
            damage.append(str(error))
            continue
        if damage:
            log.warning("%s\nContinuing from the checkpoint before it, %s.", damage[0], path)
        return found
    if damage:
        raise WeightsError(f"{'; '.join(damage)}. To start this run anew, delete {folder}.")
    return None


def _read(path: Path) -> Checkpoint:
    tensors, header = load_weights(path)
    try:
        digest, identity, progress = header["digest"], header["identity"], Progress(**header["progress"])
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path} is not a checkpoint of this version of fertools ({error})") from None
    if tensors_digest(tensors) != digest:
        raise WeightsError(f"{path} is damaged: its tensors do not have the digest in its header")
    return Checkpoint(path, tensors, identity, progress)


def restore(
    checkpoint: Checkpoint, net: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Restores the network, its average, and the optimizer in place; returns the selected epoch's weights.

    Raises:
        WeightsError: the checkpoint does not fit the network, or lacks some of the optimizer's state.
    """
    path = checkpoint.path
    load_state_dict(net, checkpoint.group("net"), path)
    if average is not None:
        load_state_dict(average, checkpoint.group("average"), path)
    momentum = checkpoint.group("momentum")
    moved = checkpoint.progress.step > 0 and optimizer.defaults["momentum"] > 0
    parameters = {name: p for name, p in net.named_parameters() if moved and p.requires_grad}
    if missing := sorted(parameters.keys() - momentum.keys()):
        raise WeightsError(f"{path} is incomplete: the momentum of {missing[0]} is missing")
    for name, p in parameters.items():
        optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(momentum[name])
    return checkpoint.group("best")


def delete_checkpoints(folder: Path) -> None:
    """Removes what a finished run no longer needs."""
    for name in (NEWEST, PREVIOUS, _UNFINISHED):
        (folder / name).unlink(missing_ok=True)


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """``"sha256:..."`` over the names, types, shapes, and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, t in sorted(tensors.items()):
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Makes a run's folder, and keeps other processes from training in it.

    The operating system frees the lock when the process ends, even by ``kill -9``.

    Raises:
        TrainingError: another process trains there, named by its id and host; or the folder cannot be written.
    """
    path = folder / _LOCK
    lock = FileLock(path, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise TrainingError(
            f"{folder} is in use by {_holder(path)}. Wait for it, stop it, or choose another folder (--output)."
        ) from None
    except OSError as error:
        raise _not_writable(folder, error) from None
    try:
        with suppress(PermissionError):  # Windows locks the content, too
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    except OSError as error:
        lock.release()
        raise _not_writable(folder, error) from None
    try:
        for left in folder.glob("*.part.*"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # still locked: a process that has just opened it notices that it is gone
        lock.release()


def _holder(lock: Path) -> str:
    try:
        found = json.loads(lock.read_text())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # not written yet
        return "another process"


def _not_writable(folder: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"{folder} cannot be written to ({error.strerror or error}); make room, or choose another folder (--output)"
    )
