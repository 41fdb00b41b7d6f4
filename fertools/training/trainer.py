"""The training loop: :class:`Trainer` from the inside, :func:`train` from the outside.

The whole data set is on the device as uint8 (FER2013 is 83 MB); batches are cropped and augmented
there, and no worker processes are needed. The random numbers of step t come from generators seeded
by (seed, t). So a run can be stopped at any step, even killed, and the same call continues it from
its last checkpoint to the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fertools.data import FaceSet
from fertools.data.splits import make_splits
from fertools.errors import Interrupted, TrainingError
from fertools.evaluation.calibration import choose_threshold, fit_temperature
from fertools.evaluation.prediction import normalize, predict_log_proba
from fertools.evaluation.runs import measure, predict_test_sets
from fertools.files import file_digest
from fertools.models.registry import build
from fertools.models.weights import ModelMetadata, load_state_dict, load_weights, save_network
from fertools.recipes import TrainConfig
from fertools.records import Record, differences, environment, save_predictions
from fertools.training import checkpoints, distributed
from fertools.training.augmentation import augment, mix
from fertools.training.checkpoints import Progress
from fertools.training.runtime import computes_bf16, pick_device, stop_signals

_INIT, _STEP, _ORDER = 0, 1, 2  # purposes of random numbers: no two share a seed


def train(
    config: TrainConfig,
    faces: FaceSet,
    folder: Path,
    *,
    seed: int = 0,
    device: str | None = None,
    init: Path | None = None,
    compile: bool | None = None,
    recipe: str = "",
    overrides: Sequence[str] = (),
    minutes: float | None = None,
    checkpoint_minutes: float = 5.0,
    tensorboard: bool = False,
    progress: bool = True,
) -> Record:
    """Trains, evaluates and records one network; continues where an earlier call stopped.

    Args:
        config: the settings.
        faces: the whole set; it is split as the recipe says.
        folder: the run's folder. One with a record is returned as it is; one with a checkpoint
            of the same settings, seed and data is continued.
        seed: of everything random: first weights, order, augmentation, dropout, folds.
        device: ``"cuda"``, ``"cpu"``; None takes a GPU where there is one.
        init: a ``model.safetensors`` to start from instead of random weights. Where the classes
            are others, the last layer starts anew.
        compile: run ``torch.compile`` first; None does so on CUDA only.
        recipe: the recipe's name and ``overrides``, for the record.
        minutes: stop after so long with a checkpoint, raising :class:`Interrupted`.
        checkpoint_minutes: time between checkpoints; every epoch ends with one in any case.
        tensorboard: also write the history to ``folder/tensorboard``.
        progress: show a progress bar on standard error.

    Returns:
        The record, as written to ``folder/record.json``.

    Raises:
        TrainingError: the loss is not finite, the disk is full, the set is smaller than a batch,
            or ``folder`` holds another run.
        Interrupted: SIGINT, SIGTERM or ``minutes``; a checkpoint was left.
    """
    trainer = Trainer(config, faces, folder, seed=seed, device=device, init=init, compile=compile)
    if (folder / "record.json").exists():
        record = Record.load(folder)
        trainer.refuse_other_run(record.identity)
        return record
    trainer.resume()
    trainer.run(minutes, checkpoint_minutes, tensorboard, progress)
    return trainer.finish(recipe, overrides)


class Trainer:
    """One run's network, optimizer, data and progress. See :func:`train` for the arguments."""

    def __init__(
        self,
        config: TrainConfig,
        faces: FaceSet,
        folder: Path,
        *,
        seed: int = 0,
        device: str | None = None,
        init: Path | None = None,
        compile: bool | None = None,
    ) -> None:
        self.rank, self.world = distributed.start(device)
        if config.batch_size % self.world:
            raise TrainingError(f"a batch of {config.batch_size} cannot be shared by {self.world} processes evenly")
        self.config, self.faces, self.folder, self.seed = config, faces, folder, seed
        self.device = pick_device(device)
        if self.device.type == "cuda" and self.world > 1:
            self.device = torch.device("cuda", self.rank % torch.cuda.device_count())
        self.identity = {
            "config": config.to_dict(),
            "seed": seed,
            "data": faces.identity,
            "init": file_digest(init) if init else None,
        }

        self.splits = make_splits(faces, config.protocol, config.folds, config.fold, seed)
        training = self.splits.training
        self.images = torch.from_numpy(training.images).to(self.device)  # uint8 (N, 48, 48)
        self.labels = _targets(training, config).to(self.device)  # int64 (N,), or shares (N, classes)
        self.mean, self.std = float(training.images.mean()), float(training.images.std())
        self.steps = len(training) // config.batch_size  # of an epoch
        if self.steps == 0:
            raise TrainingError(
                f"a batch of {config.batch_size} does not fit into {len(training)} training images; "
                "choose a smaller one, e.g. --set batch_size=8"
            )

        with self.fork_rng():  # the caller's random numbers stay as they are
            torch.manual_seed(_seed(seed, _INIT))
            net = build(dataclasses.replace(config.network, classes=len(faces.classes)))
        if init:
            _start_from(net, init, faces.classes)
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        if self.world > 1:
            distributed.convert(net)
        compiled = compile if compile is not None else self.device.type == "cuda"
        self.forward = torch.compile(net) if compiled else net
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
        self.evaluated = self.average.module if config.ema_decay else net
        self.optimizer = _optimizer(net, config)
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_bf16(self.device))
        self.generator = torch.Generator(self.device)

        self.environment = environment()  # the code that trains, whatever is checked out when it ends
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}  # the selected epoch's weights
        self.unread: list[Tensor] = []  # (step, summed loss, correct) of steps not looked at yet

    def fork_rng(self) -> AbstractContextManager[None]:
        """The caller's random numbers come back when the trainer is done with its own."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    # --- training ---

    def step(self, rows: Tensor) -> None:
        """One step of the optimizer on the training images ``rows``."""
        config, progress = self.config, self.progress
        seed = _seed(self.seed, _STEP, progress.step)
        self.generator.manual_seed(seed)  # augmentation's
        torch.manual_seed(seed)  # dropout's
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(progress.step, self.steps)

        x, y = augment(self.images[rows], config.augment, self.generator), self.labels[rows]
        if config.augment.mixes:
            x, y = mix(x, y, config.augment, self.generator)
        x = normalize(x, self.mean, self.std)  # (N, 1, 48, 48)
        x, y = x.chunk(self.world)[self.rank], y.chunk(self.world)[self.rank]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.forward(x).float()
        loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
        predicted = logits.argmax(1)
        # Where an image belongs partly to one class and partly to another, a prediction is partly right.
        correct = (y.gather(1, predicted[:, None]) if y.is_floating_point() else predicted == y).sum()
        self.unread.append(torch.stack([correct.new_tensor(progress.step), loss.detach() * len(y), correct]))
        if self.device.type == "cpu" or len(self.unread) == 50:  # reading makes a GPU wait
            self.read_losses()

        self.optimizer.zero_grad()
        loss.backward()
        if self.world > 1:
            distributed.average_gradients(self.net.parameters())
        if config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), config.max_grad_norm)
        self.optimizer.step()
        if config.ema_decay:
            self.average.update_parameters(self.net)
        progress.step += 1

    def read_losses(self) -> None:
        """Adds the losses of the last steps to the progress; raises where one is not finite."""
        for step, loss, correct in torch.stack(self.unread).tolist() if self.unread else ():
            if not math.isfinite(loss):
                raise TrainingError(
                    f"step {int(step) + 1}: the loss is {loss}. {self.last_checkpoint()} "
                    "Lower the learning rate (--set learning_rate=...) or clip the gradient (--set max_grad_norm=1)."
                )
            self.progress.loss_sum += loss
            self.progress.correct += correct
        self.unread.clear()

    def run(self, minutes: float | None, checkpoint_minutes: float, tensorboard: bool, show: bool) -> None:
        """Trains to the last epoch. See :func:`train`."""
        config, progress = self.config, self.progress
        start = saved = time.monotonic()
        leader = self.rank == 0
        bar = tqdm(
            total=config.epochs * self.steps * config.batch_size,
            initial=progress.step * config.batch_size,
            unit=" images",
            unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else 60,
            disable=not (show and leader),
        )
        with (
            bar,
            self.fork_rng(),
            stop_signals() as stopped,
            _tensorboard(self.folder, tensorboard and leader) as log,
        ):
            while (epoch := progress.step // self.steps) < config.epochs:
                order = _order(self.seed, epoch, len(self.labels)).to(self.device)
                begun = time.monotonic() - progress.epoch_seconds
                self.net.train()
                while progress.step < (epoch + 1) * self.steps:
                    at = progress.step % self.steps * config.batch_size
                    self.step(order[at : at + config.batch_size])
                    progress.epoch_seconds = time.monotonic() - begun
                    bar.set_postfix_str(self.describe(epoch), refresh=False)
                    bar.update(config.batch_size)
                    if progress.step % self.steps == 0:
                        self.end_epoch(epoch, begun)
                        log(progress.history[-1])
                    out_of_time = minutes is not None and time.monotonic() - start >= 60 * minutes
                    stop = self.any_process(stopped() or out_of_time)
                    if stop or progress.step % self.steps == 0 or time.monotonic() - saved >= 60 * checkpoint_minutes:
                        self.save()
                        saved = time.monotonic()
                    if stop and progress.step < config.epochs * self.steps:
                        raise Interrupted(f"stopped in epoch {epoch + 1} of {config.epochs}. {self.last_checkpoint()}")

    def end_epoch(self, epoch: int, begun: float) -> None:
        """Evaluates, adds to the history, and keeps the weights if this is the epoch to select."""
        self.read_losses()
        progress, validation = self.progress, self.splits.validation
        sums = torch.tensor([progress.loss_sum, progress.correct], dtype=torch.float64, device=self.device)
        if self.world > 1:
            dist.all_reduce(sums)
        loss, accuracy = (sums / (self.steps * self.config.batch_size)).tolist()
        entry = {
            "epoch": epoch + 1,
            "loss": loss,
            "train_accuracy": accuracy,  # on augmented images, with dropout, against the targets
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if validation is not None:
            found = predict_log_proba(
                self.evaluated, validation.images, mean=self.mean, std=self.std, device=self.device
            )
            entry["validation_accuracy"] = float((found.argmax(1) == validation.labels).mean())
        entry["seconds"] = round(time.monotonic() - begun, 2)
        progress.history.append(entry)
        progress.loss_sum, progress.correct, progress.epoch_seconds = 0.0, 0, 0.0
        if self.selected_epoch() == epoch + 1:
            self.best = {name: t.detach().clone() for name, t in self.evaluated.state_dict().items()}

    def selected_epoch(self) -> int:
        """The epoch whose weights count so far: the best on the validation images, or the last."""
        history = self.progress.history
        if self.config.select == "last":
            return history[-1]["epoch"]
        return max(history, key=lambda entry: entry["validation_accuracy"])["epoch"]

    def describe(self, epoch: int) -> str:
        """The progress bar's words."""
        progress = self.progress
        read = (progress.step - 1) % self.steps + 1 - len(self.unread)
        seen = max(1, read * self.config.batch_size // self.world)
        words = f"epoch {epoch + 1}/{self.config.epochs}, loss {progress.loss_sum / seen:.3f}"
        words += f", accuracy {progress.correct / seen:.1%}"
        if progress.history and self.splits.validation is not None:
            words += f", PublicTest {progress.history[-1]['validation_accuracy']:.1%}"
        return words

    def any_process(self, wish: bool) -> bool:
        """Whether any process wishes to stop: all must leave the loop at the same step."""
        if self.world == 1:
            return wish
        vote = torch.tensor(float(wish), device=self.device)
        dist.all_reduce(vote)
        return bool(vote)

    # --- checkpoints ---

    @property
    def checkpoint(self) -> Path:
        return self.folder / checkpoints.NAME

    def last_checkpoint(self) -> str:
        if not self.checkpoint.exists():
            return "There is no checkpoint yet."
        return f"The last checkpoint is {self.checkpoint}; the same command continues from it."

    def save(self) -> None:
        """Writes the checkpoint, completely or not at all."""
        self.read_losses()
        if self.rank > 0:
            return
        average = self.average if self.config.ema_decay else None
        try:
            checkpoints.save_checkpoint(
                self.checkpoint, self.net, average, self.optimizer, self.best, self.identity, self.progress
            )
        except OSError as error:
            raise TrainingError(
                f"step {self.progress.step}: the checkpoint cannot be written ({error}). {self.last_checkpoint()}"
            ) from error

    def resume(self) -> None:
        """Continues from the folder's checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        self.refuse_other_run(checkpoints.checkpoint_identity(self.checkpoint))
        average = self.average if self.config.ema_decay else None
        best, self.progress = checkpoints.load_checkpoint(self.checkpoint, self.net, average, self.optimizer)
        self.best = {name: t.to(self.device) for name, t in best.items()}

    def refuse_other_run(self, found: dict[str, Any]) -> None:
        """Raises TrainingError where ``found``, the identity of what the folder holds, is not this run's."""
        if differing := differences(self.identity, found):
            raise TrainingError(
                f"{self.folder} holds another run: {'; '.join(differing[:5])}. "
                "Choose another folder (--output), or delete that one."
            )

    # --- the end ---

    def finish(self, recipe: str, overrides: Sequence[str]) -> Record:
        """Evaluates the selected weights on every reported part and writes the record, last of all."""
        net = build(self.net.config)
        load_state_dict(net, self.best, self.checkpoint)
        net.to(self.device).to(memory_format=torch.channels_last)
        classes = list(self.faces.classes)
        normalization = {"mean": self.mean, "std": self.std}
        predictions = predict_test_sets(net, self.splits.test, **normalization, device=self.device)
        temperature = threshold = None
        if self.splits.validation is not None:
            log_p, labels = predictions["PublicTest/single-crop"], predictions["PublicTest/labels"]
            temperature = fit_temperature(log_p, labels)
            threshold = choose_threshold(log_p, labels, temperature)
        metrics = measure(predictions, self.splits.test, temperature)
        epoch = self.selected_epoch()
        best = self.config.select == "best"
        record = Record(
            name=self.folder.name,
            recipe=recipe,
            overrides=list(overrides),
            identity=self.identity,
            data={
                "name": self.faces.name,
                "training": len(self.splits.training),
                "test": {name: len(part) for name, part in self.splits.test.items()},
            },
            classes=classes,
            normalization=normalization,
            parameters=sum(p.numel() for p in net.parameters()),
            history=self.progress.history,
            selected={"epoch": epoch, "by": "accuracy on PublicTest" if best else "last epoch"},
            metrics=metrics,
            temperature=temperature,
            threshold=threshold,
            environment=self.environment | {"device": str(self.device), "bf16": self.bf16, "processes": self.world},
            seconds=round(self.progress.seconds, 1),
            resumed=self.progress.resumed,
        )
        if self.rank == 0:
            metadata = ModelMetadata(
                net.config, tuple(classes), self.mean, self.std, temperature or 1.0, threshold or 0.0
            )
            save_network(self.folder / "model.safetensors", net, metadata)
            save_predictions(self.folder, predictions)
            record.save(self.folder)
            self.checkpoint.unlink(missing_ok=True)
        return record


def _targets(training: FaceSet, config: TrainConfig) -> Tensor:
    """What the network shall say of each image: labels, int64 (N,), or shares of the classes, float32 (N, classes)."""
    labels = torch.from_numpy(training.labels)
    if config.targets != "labels":
        from fertools.data.ferplus import shares

        votes = torch.from_numpy(shares(training))
        if config.targets == "votes":
            return votes
        labels = votes.argmax(1)  # of equals the first
    return F.one_hot(labels, len(training.classes)).float() if config.augment.mixes else labels


def _seed(*path: int) -> int:
    """32 well-mixed bits from a path such as (seed, step)."""
    return int(np.random.SeedSequence(path).generate_state(1)[0])


def _order(seed: int, epoch: int, n: int) -> Tensor:
    """The order of the training images in an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(_seed(seed, _ORDER, epoch)))


def _optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD (section 3.2). Never decayed: fusion weights; decayed if the recipe says so: biases and norms."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, p in net.named_parameters():
        fusion_weight = name.endswith(".w")
        groups[not fusion_weight and (config.decay_norm_and_bias or p.dim() > 1)].append(p)
    return torch.optim.SGD(
        [{"params": ps, "weight_decay": config.weight_decay * decays} for decays, ps in groups.items()],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def _start_from(net: nn.Module, init: Path, classes: Sequence[str]) -> None:
    """Copies weights into the network; a last layer for other classes, even as many, keeps its random ones."""
    tensors, metadata = load_weights(init)
    if metadata.get("classes") != list(classes):
        last = f"head.{len(net.head) - 1}."
        tensors |= {name: own for name, own in net.state_dict().items() if name.startswith(last)}
    load_state_dict(net, tensors, init)


@contextmanager
def _tensorboard(folder: Path, wanted: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes one entry of the history to TensorBoard, or does nothing."""
    if not wanted:
        yield lambda entry: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError("TensorBoard is not installed: pip install 'fertools[tensorboard]'") from None
    with SummaryWriter(folder / "tensorboard") as writer:

        def write(entry: dict[str, Any]) -> None:
            for key, value in entry.items():
                if key != "epoch":
                    writer.add_scalar(key, value, entry["epoch"])
            writer.flush()

        yield write
