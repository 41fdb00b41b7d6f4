"""The training loop: :class:`Trainer` from the inside, :func:`train` from the outside.

The whole data set is on the device as uint8 (FER2013 is 83 MB); batches are cropped and augmented
there, and no worker processes are needed. Each step has random numbers of its own (see
:mod:`fertools.training.randomness`). So a run can be stopped at any step, even killed, and the same
call continues it from its last checkpoint to the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

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
from fertools.hardware import computes_bf16, pick_device
from fertools.models.registry import build
from fertools.models.weights import ModelMetadata, initialize_from, save_network
from fertools.recipes import TrainConfig
from fertools.records import Record, differences, environment, save_predictions
from fertools.training import checkpoints, distributed
from fertools.training.augmentation import augment, cutmix, mixup
from fertools.training.checkpoints import Progress
from fertools.training.distillation import teacher_probabilities
from fertools.training.optimizer import make_optimizer
from fertools.training.randomness import Purpose, derive_seed, epoch_order, fork_rng
from fertools.training.runtime import stop_signals
from fertools.training.tensorboard import epoch_log

_NO_CHECKPOINT = "There is no checkpoint yet."


def train(
    config: TrainConfig,
    faces: FaceSet,
    folder: Path,
    *,
    seed: int = 0,
    device: str | None = None,
    init: Path | None = None,
    teachers: Sequence[Path] = (),
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
        faces: the whole set; it is split as ``config`` says.
        folder: the run's folder. One with a record is returned as it is; one with a checkpoint
            of the same settings, seed, and data is continued.
        seed: of everything random: initial weights, order, augmentation, dropout, folds.
        device: ``"cuda"`` or ``"cpu"``; None takes a GPU where there is one.
        init: a ``model.safetensors`` to fine-tune instead of random weights. The last layer starts
            anew if the classes differ.
        teachers: the folders of finished runs whose probabilities are mixed into the targets, with
            the weight ``config.distill``.
        compile: run ``torch.compile`` first; None does so on CUDA only.
        recipe, overrides: the recipe's name and its changed fields, for the record.
        minutes: stop after that many minutes with a checkpoint, raising :class:`Interrupted`.
        checkpoint_minutes: time between checkpoints; every epoch ends with one in any case.
        tensorboard: also write the history to ``folder/tensorboard``.
        progress: show a progress bar on standard error.

    Returns:
        The record, as written to ``folder/record.json``.

    Raises:
        TrainingError: the loss is not finite, the disk is full, the set is smaller than a batch,
            another process trains in ``folder``, it contains another run, or a teacher is missing or
            was trained on other images.
        DataError: the set has no such splits or folds, or lacks the votes that the targets need.
        ValueError: there is no such device.
        WeightsError: ``init`` or the checkpoint is damaged, or does not fit the network.
        Interrupted: stopped by SIGINT, SIGTERM, or ``minutes``, with a checkpoint.
    """
    trainer = Trainer.from_config(
        config, faces, folder, seed=seed, device=device, init=init, teachers=teachers, compile=compile
    )
    if (folder / "record.json").exists():
        record = Record.load(folder)
        trainer.refuse_other_run(record.identity)
        return record
    with checkpoints.lock_folder(folder) if trainer.rank == 0 else nullcontext():
        trainer.resume()
        trainer.run(minutes, checkpoint_minutes, tensorboard, progress)
        return trainer.finish(recipe, overrides)


class Trainer:
    """One run's network, optimizer, data, and progress.

    Args:
        net: the network with its initial weights: (N, 1, 48, 48) to logits (N, classes). It is trained in place.
        config: the settings; ``config.network`` describes ``net``.
        init: the digest of the weights file that ``net`` started from, if any; part of the run's identity.
        faces, folder, seed, device, teachers, compile: as :func:`train` takes them.
    """

    def __init__(
        self,
        net: nn.Module,
        config: TrainConfig,
        faces: FaceSet,
        folder: Path,
        *,
        seed: int = 0,
        device: str | None = None,
        init: str | None = None,
        teachers: Sequence[Path] = (),
        compile: bool | None = None,
    ) -> None:
        self.rank, self.world = distributed.start(device)
        if config.batch_size % self.world:
            raise TrainingError(f"a batch of {config.batch_size} cannot be divided evenly by {self.world} processes")
        self.config, self.faces, self.folder, self.seed = config, faces, folder, seed
        self.device = pick_device(device)
        if self.device.type == "cuda" and self.world > 1:
            self.device = torch.device("cuda", self.rank % torch.cuda.device_count())
        self.identity = {"config": config.to_dict(), "seed": seed, "data": faces.identity, "init": init}
        if bool(teachers) != bool(config.distill):
            raise TrainingError(
                f"distill is {config.distill:g} with {len(teachers)} teachers. To learn from other networks, name them "
                "(--teacher RUN) and say how much they count (--set distill=0.5); else leave out both"
            )

        self.splits = make_splits(faces, config.protocol, config.folds, config.fold, seed)
        training = self.splits.training
        self.images = torch.from_numpy(training.images).to(self.device)  # uint8 (N, 48, 48)
        targets = _targets(training, config)
        if teachers:
            taught = torch.from_numpy(teacher_probabilities(teachers, training, self.identity, self.device))
            targets = torch.lerp(targets, taught, config.distill)
            self.identity["teachers"] = [file_digest(teacher / "model.safetensors") for teacher in teachers]
        self.labels = targets.to(self.device)  # int64 (N,), or probabilities (N, classes)
        self.mean, self.std = float(training.images.mean()), float(training.images.std())
        self.steps = len(training) // config.batch_size  # of an epoch
        if self.steps == 0:
            raise TrainingError(
                f"a batch of {config.batch_size} does not fit into {len(training)} training images; "
                "choose a smaller one, e.g. --set batch_size=8"
            )

        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self.average = AveragedModel(net, multi_avg_fn=self.move_average, use_buffers=True)
        self.evaluated = self.average.module if config.ema_decay else net
        if self.world > 1:
            distributed.convert(net)
        compiled = compile if compile is not None else self.device.type == "cuda"
        self.forward = torch.compile(net) if compiled else net
        self.optimizer = make_optimizer(net, config)
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_bf16(self.device))
        self.generator = torch.Generator(self.device)

        self.environment = environment()  # the code that trains, whatever is checked out when it ends
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}  # the selected epoch's weights
        self.unread: list[Tensor] = []  # (step, summed loss, correct) of steps not looked at yet

    @classmethod
    def from_config(
        cls,
        config: TrainConfig,
        faces: FaceSet,
        folder: Path,
        *,
        seed: int = 0,
        device: str | None = None,
        init: Path | None = None,
        teachers: Sequence[Path] = (),
        compile: bool | None = None,
    ) -> Self:
        """A trainer with the network that ``config.network`` describes, for the classes of ``faces``.

        Args:
            config, faces, folder, seed, device, init, teachers, compile: as :func:`train` takes them.
        """
        with fork_rng(torch.device("cpu")):
            torch.manual_seed(derive_seed(seed, Purpose.INITIALIZATION))
            net = build(dataclasses.replace(config.network, classes=len(faces.classes)))
        if init:
            initialize_from(net, init, faces.classes)
        digest = file_digest(init) if init else None
        return cls(
            net, config, faces, folder, seed=seed, device=device, init=digest, teachers=teachers, compile=compile
        )

    # --- training ---

    def step(self, rows: Tensor) -> None:
        """One step of the optimizer on the training images ``rows``."""
        config, progress = self.config, self.progress
        seed = derive_seed(self.seed, Purpose.STEP, progress.step)
        self.generator.manual_seed(seed)  # augmentation's
        torch.manual_seed(seed)  # dropout's
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(progress.step, self.steps)

        x, y = augment(self.images[rows], config.augment, self.generator), self.labels[rows]
        if config.augment.mixup:
            x, y = mixup(x, y, config.augment.mixup, self.generator)
        if config.augment.cutmix:
            x, y = cutmix(x, y, config.augment.cutmix, self.generator)
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

    def move_average(self, average: Any, weights: Any, count: Any) -> None:
        """Moves the average toward the weights, by less and less until ``config.ema_decay`` is reached.

        At once with a decay of 0.999, the average of a run of a few epochs would be of weights from long before, and
        its normalization would have the statistics of others: it then predicts one class for every image. The ramp is
        that of TensorFlow's ``ExponentialMovingAverage(num_updates)``.
        """
        step = self.progress.step
        get_ema_multi_avg_fn(min(self.config.ema_decay, (1 + step) / (10 + step)))(average, weights, count)

    def read_losses(self) -> None:
        """Adds the losses of the last steps to the progress; raises where one is not finite."""
        for step, loss, correct in torch.stack(self.unread).tolist() if self.unread else ():
            if not math.isfinite(loss):
                raise self.diverged(int(step) + 1, f"the loss is {loss}")
            self.progress.loss_sum += loss
            self.progress.correct += correct
        self.unread.clear()

    def diverged(self, step: int, what: str) -> TrainingError:
        """The error that ends a run whose loss or weights are not finite."""
        return TrainingError(
            f"step {step}: {what}. {self.last_checkpoint()} "
            "Lower the learning rate (--set learning_rate=...) or clip the gradient (--set max_grad_norm=1)."
        )

    def run(self, minutes: float | None, checkpoint_minutes: float, tensorboard: bool, show: bool) -> None:
        """Trains to the last epoch. See :func:`train`."""
        config, progress = self.config, self.progress
        start = last_save = time.monotonic()
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
            fork_rng(self.device),
            stop_signals() as stopped,
            epoch_log(self.folder / "tensorboard", tensorboard and leader) as log,
        ):
            while (epoch := progress.step // self.steps) < config.epochs:
                order = epoch_order(self.seed, epoch, len(self.labels)).to(self.device)
                epoch_start = time.monotonic() - progress.epoch_seconds
                self.net.train()
                while progress.step < (epoch + 1) * self.steps:
                    at = progress.step % self.steps * config.batch_size
                    self.step(order[at : at + config.batch_size])
                    progress.epoch_seconds = time.monotonic() - epoch_start
                    bar.set_postfix_str(self.describe(epoch), refresh=False)
                    bar.update(config.batch_size)
                    if progress.step % self.steps == 0:
                        self.end_epoch(epoch, epoch_start)
                        log(progress.history[-1])
                    out_of_time = minutes is not None and time.monotonic() - start >= 60 * minutes
                    stop = self.any_process(stopped() or out_of_time)
                    due = time.monotonic() - last_save >= 60 * checkpoint_minutes
                    if stop or due or progress.step % self.steps == 0:
                        self.save()
                        last_save = time.monotonic()
                    if stop and progress.step < config.epochs * self.steps:
                        raise Interrupted(f"stopped in epoch {epoch + 1} of {config.epochs}. {self.last_checkpoint()}")

    def end_epoch(self, epoch: int, epoch_start: float) -> None:
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
        entry["seconds"] = round(time.monotonic() - epoch_start, 2)
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
        """The text of the progress bar."""
        progress = self.progress
        read = (progress.step - 1) % self.steps + 1 - len(self.unread)
        seen = max(1, read * self.config.batch_size // self.world)
        text = f"epoch {epoch + 1}/{self.config.epochs}, loss {progress.loss_sum / seen:.3f}"
        text += f", accuracy {progress.correct / seen:.1%}"
        if progress.history and self.splits.validation is not None:
            text += f", PublicTest {progress.history[-1]['validation_accuracy']:.1%}"
        return text

    def any_process(self, stop: bool) -> bool:
        """Whether any process is to stop: all must leave the loop at the same step."""
        if self.world == 1:
            return stop
        stops = torch.tensor(float(stop), device=self.device)
        dist.all_reduce(stops)
        return bool(stops)

    # --- checkpoints ---

    def last_checkpoint(self) -> str:
        """A sentence about the newest checkpoint, for messages."""
        path = checkpoints.newest(self.folder)
        return f"The last checkpoint is {path}; the same command continues from it." if path else _NO_CHECKPOINT

    def save(self) -> None:
        """Writes the checkpoint, completely or not at all."""
        self.read_losses()
        if self.rank > 0:
            return
        average = self.average if self.config.ema_decay else None
        state = (self.net, average, self.optimizer, self.best, self.identity, self.progress)
        try:
            checkpoints.save_checkpoint(self.folder, *state)
        except FloatingPointError as error:
            raise self.diverged(self.progress.step, str(error)) from None
        except OSError as error:
            raise TrainingError(
                f"step {self.progress.step}: the checkpoint cannot be written ({error}). {self.last_checkpoint()}"
            ) from error

    def resume(self) -> None:
        """Continues from the folder's checkpoint, if there is one."""
        checkpoint = checkpoints.load_checkpoint(self.folder)
        if checkpoint is None:
            return
        self.refuse_other_run(checkpoint.identity)
        average = self.average if self.config.ema_decay else None
        best = checkpoints.restore(checkpoint, self.net, average, self.optimizer)
        self.best = {name: t.to(self.device) for name, t in best.items()}
        self.progress = dataclasses.replace(checkpoint.progress, resumed=checkpoint.progress.resumed + 1)

    def refuse_other_run(self, found: dict[str, Any]) -> None:
        """Raises TrainingError if ``found``, the identity of the run in the folder, is not this run's."""
        if differing := differences(self.identity, found):
            raise TrainingError(
                f"{self.folder} contains another run: {'; '.join(differing[:5])}. "
                "Choose another folder (--output), or delete that one."
            )

    # --- the end ---

    def finish(self, recipe: str, overrides: Sequence[str]) -> Record:
        """Evaluates the selected weights on every test set and writes the record, last of all."""
        net = self.average.module  # a copy of the network that is not needed any more
        net.load_state_dict(self.best)
        classes = list(self.faces.classes)
        normalization = {"mean": self.mean, "std": self.std}
        predictions = predict_test_sets(net, self.splits.test, **normalization, device=self.device)
        temperature = threshold = None
        if self.splits.validation is not None:
            log_p, labels = predictions["PublicTest/single-crop"], predictions["PublicTest/labels"]
            temperature = fit_temperature(log_p, labels)
            threshold = choose_threshold(log_p, labels, temperature)
        metrics = measure(predictions, classes, temperature)
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
                "test": {name: len(test) for name, test in self.splits.test.items()},
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
            network = dataclasses.replace(self.config.network, classes=len(classes))
            metadata = ModelMetadata(network, tuple(classes), self.mean, self.std, temperature or 1.0, threshold or 0.0)
            save_network(self.folder / "model.safetensors", net, metadata)
            save_predictions(self.folder, predictions)
            record.save(self.folder)
            checkpoints.delete_checkpoints(self.folder)
        return record


def _targets(training: FaceSet, config: TrainConfig) -> Tensor:
    """What the network is trained toward: labels, int64 (N,), or class probabilities, float32 (N, classes)."""
    labels = torch.from_numpy(training.labels)
    if config.targets != "labels":
        from fertools.data.ferplus import vote_distribution

        votes = torch.from_numpy(vote_distribution(training))
        if config.targets == "votes":
            return votes
        labels = votes.argmax(1)  # of a tie, the first
    mixed = config.augment.mixes or config.distill
    return F.one_hot(labels, len(training.classes)).float() if mixed else labels
