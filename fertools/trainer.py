"""The training loop: :class:`Trainer` from the inside, :func:`train` from the outside.

The whole data set lies on the device as uint8 (FER2013 is 83 MB); batches are cut and augmented
there, and no worker processes are needed. The random numbers of step t come from generators
seeded by (seed, t). A run can therefore be stopped at any step, killed included, and the same
call continues it from its last checkpoint to the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fertools import distributed
from fertools.augment import augment, mix
from fertools.data import FaceSet
from fertools.errors import Interrupted, TrainingError
from fertools.evaluate import Views, apply_temperature, evaluate, fit_temperature, predict
from fertools.files import file_fingerprint
from fertools.network import MultiScaleFusionNet
from fertools.recipes import TrainConfig
from fertools.records import Record, environment, save_predictions
from fertools.weights import fit, load_network, load_weights, save_network, save_weights

UNSEEN = "PrivateTest, unseen"  # the part without images that Training contains too


@dataclass(frozen=True)
class Parts:
    """The images that train, those that choose the epoch, and those that are reported on."""

    training: FaceSet
    validation: FaceSet | None
    reported: dict[str, FaceSet]


def divide(faces: FaceSet, config: TrainConfig, seed: int = 0) -> Parts:
    """Divides a set as the configuration's protocol says.

    With the set's own splits, PublicTest chooses the epoch, and both test splits are reported,
    PrivateTest also without those images, if any, that Training contains (``"PrivateTest, unseen"``). With
    folds nothing chooses, and the one fold is reported as ``"fold"``; ``seed`` draws them.

    Raises:
        DataError: the set has no such splits, or cannot be folded so.
    """
    if config.protocol != "splits":
        from fertools.data.folds import kfold

        train_rows, test_rows = kfold(faces, config.folds, by=config.protocol, seed=seed)[config.fold]
        return Parts(faces.select(train_rows), None, {"fold": faces.select(test_rows)})
    from fertools.data.audit import leaked

    public, private = faces.of_split("PublicTest"), faces.of_split("PrivateTest")
    reported = {"PublicTest": public, "PrivateTest": private}
    unseen = ~leaked(faces, "PrivateTest", into="Training")
    if unseen.any() and not unseen.all():
        reported[UNSEEN] = private.select(unseen)
    return Parts(faces.of_split("Training"), public, reported)


@dataclass
class Progress:
    """What a checkpoint keeps beside its tensors."""

    step: int = 0  # steps done over the whole run
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry for each finished epoch
    loss_sum: float = 0.0  # over the images of the epoch under way
    correct: float = 0  # likewise; not whole where an answer can be right in part
    epoch_seconds: float = 0.0  # likewise
    resumed: int = 0

    @property
    def seconds(self) -> float:
        return sum(entry["seconds"] for entry in self.history) + self.epoch_seconds


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
        faces: the whole set; :func:`divide` takes it apart.
        folder: the run's folder. One with a record is returned as it is; one with a checkpoint
            of the same settings, seed and data is continued.
        seed: of everything random: first weights, order, augmentation, dropout, folds.
        device: ``"cuda"``, ``"cpu"``; None takes a GPU where there is one.
        init: a ``model.safetensors`` to start from instead of random weights. Where the classes
            are others, the last layer starts anew.
        compile: ``torch.compile`` with CUDA graphs; None does so on CUDA only.
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
    """One run's network, optimiser, data and progress. See :func:`train` for the arguments."""

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
        self.rank, self.world = distributed.start()
        if config.batch_size % self.world:
            raise TrainingError(f"a batch of {config.batch_size} cannot be shared by {self.world} processes evenly")
        self.config, self.faces, self.folder, self.seed = config, faces, folder, seed
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda" and self.world > 1:
            self.device = torch.device("cuda", self.rank % torch.cuda.device_count())
        self.identity = {
            "config": config.to_dict(),
            "seed": seed,
            "data": faces.fingerprint,
            "init": file_fingerprint(init) if init else None,
        }

        self.parts = divide(faces, config, seed)
        training = self.parts.training
        self.images = torch.from_numpy(training.images).to(self.device)  # uint8 (N, 48, 48)
        self.labels = _targets(training, config).to(self.device)  # int64 (N,), or shares (N, classes)
        self.mean, self.std = float(training.images.mean()), float(training.images.std())
        self.steps = len(training) // config.batch_size  # of an epoch
        if self.steps == 0:
            raise TrainingError(
                f"a batch of {config.batch_size} does not fit into {len(training)} training images; "
                "choose a smaller one, e.g. --set batch_size=8"
            )

        _keep_freed_memory()
        torch.manual_seed(_seed(seed))
        net = MultiScaleFusionNet(dataclasses.replace(config.network, classes=len(faces.classes)))
        if init:
            _start_from(net, init, faces.classes)
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        if self.world > 1:
            distributed.convert(net)
        compiled = compile if compile is not None else self.device.type == "cuda"
        self.forward = torch.compile(net, mode="reduce-overhead") if compiled else net
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        self.evaluated = self.average.module if config.ema else net
        self.optimizer = _optimizer(net, config)
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and _computes_bf16(self.device))
        self.generator = torch.Generator(self.device)

        self.environment = environment()  # the code that trains, whatever is checked out when it ends
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}  # the selected epoch's weights
        self.unread: list[Tensor] = []  # (step, summed loss, correct) of steps not looked at yet

    # --- training ---

    def step(self, rows: Tensor) -> None:
        """One step of the optimiser on the training images ``rows``."""
        config, progress = self.config, self.progress
        seed = _seed(self.seed, progress.step)
        self.generator.manual_seed(seed)  # augmentation's
        torch.manual_seed(seed)  # dropout's
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(progress.step, self.steps)

        x, y = augment(self.images[rows], config.augment, self.generator), self.labels[rows]
        if config.augment.mixes:
            x, y = mix(x, y, config.augment, self.generator)
        x = ((x - self.mean) / self.std)[:, None]  # (N, 1, 48, 48)
        x, y = x.chunk(self.world)[self.rank], y.chunk(self.world)[self.rank]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.forward(x).float()
        loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
        answer = logits.argmax(1)
        # Where an image is in part of this class and in part of that, the answer is right in part.
        correct = (y.gather(1, answer[:, None]) if y.is_floating_point() else answer == y).sum()
        self.unread.append(torch.stack([correct.new_tensor(progress.step), loss.detach() * len(y), correct]))
        if self.device.type == "cpu" or len(self.unread) == 50:  # reading makes a GPU wait
            self.read_losses()

        self.optimizer.zero_grad()
        loss.backward()
        if self.world > 1:
            distributed.average_gradients(self.net.parameters())
        if config.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        self.optimizer.step()
        if config.ema:
            self.average.update_parameters(self.net)
        progress.step += 1

    def read_losses(self) -> None:
        """Adds the losses of the last steps to the progress; raises where one is not finite."""
        for step, loss, correct in torch.stack(self.unread).tolist() if self.unread else ():
            if not math.isfinite(loss):
                raise TrainingError(
                    f"step {int(step) + 1}: the loss is {loss}. {self.last_checkpoint()} "
                    "Lower the learning rate (--set learning_rate=...) or clip the gradient (--set clip=1)."
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
        with bar, stop_signals() as stopped, _tensorboard(self.folder, tensorboard and leader) as log:
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
        progress, validation = self.progress, self.parts.validation
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
            found = predict(self.evaluated, validation.images, mean=self.mean, std=self.std, device=self.device)
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
        if progress.history and self.parts.validation is not None:
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
        return self.folder / "checkpoint.safetensors"

    def last_checkpoint(self) -> str:
        if not self.checkpoint.exists():
            return "There is no checkpoint yet."
        return f"The last checkpoint is {self.checkpoint}; the same command continues from it."

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        self.read_losses()
        if self.rank > 0:
            return
        tensors = {f"net.{name}": t for name, t in self.net.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        if self.config.ema:
            tensors |= {f"average.{name}": t for name, t in self.average.state_dict().items()}
        for name, p in self.net.named_parameters():
            if "momentum_buffer" in self.optimizer.state[p]:
                tensors[f"momentum.{name}"] = self.optimizer.state[p]["momentum_buffer"]
        about = {"identity": self.identity, "progress": dataclasses.asdict(self.progress)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_weights(self.checkpoint, tensors, about)
        except OSError as error:
            raise TrainingError(
                f"step {self.progress.step}: the checkpoint cannot be written ({error}). {self.last_checkpoint()}"
            ) from error

    def resume(self) -> None:
        """Continues from the folder's checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        tensors, about = load_weights(self.checkpoint)
        self.refuse_other_run(about["identity"])

        def group(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

        fit(self.net, group("net"), self.checkpoint)
        if self.config.ema:
            fit(self.average, group("average"), self.checkpoint)
        momentum = group("momentum")
        for name, p in self.net.named_parameters():
            if name in momentum:
                self.optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(momentum[name])
        self.best = {name: t.to(self.device) for name, t in group("best").items()}
        self.progress = Progress(**about["progress"])
        self.progress.resumed += 1

    def refuse_other_run(self, found: dict[str, Any]) -> None:
        """Raises TrainingError where ``found``, the identity of what the folder holds, is not this run's."""
        if differing := differences(self.identity, found):
            raise TrainingError(
                f"{self.folder} holds another run: {'; '.join(differing[:5])}. "
                "Choose another folder (--out), or delete that one."
            )

    # --- the end ---

    def finish(self, recipe: str, overrides: Sequence[str]) -> Record:
        """Evaluates the selected weights on every reported part and writes the record, last of all."""
        net = MultiScaleFusionNet(self.net.config)
        fit(net, self.best, self.checkpoint)
        net.to(self.device).to(memory_format=torch.channels_last)
        classes = list(self.faces.classes)
        pixels = {"mean": self.mean, "std": self.std}
        predictions = answers(net, self.parts.reported, **pixels, device=self.device)
        temperature = None
        if self.parts.validation is not None:
            temperature = fit_temperature(predictions["PublicTest/one"], predictions["PublicTest/labels"])
        metrics = measure(predictions, self.parts.reported, temperature)
        epoch = self.selected_epoch()
        best = self.config.select == "best"
        record = Record(
            name=self.folder.name,
            recipe=recipe,
            overrides=list(overrides),
            identity=self.identity,
            data={
                "name": self.faces.name,
                "training": len(self.parts.training),
                "reported": {name: len(part) for name, part in self.parts.reported.items()},
            },
            classes=classes,
            pixels=pixels,
            parameters=sum(p.numel() for p in net.parameters()),
            history=self.progress.history,
            selected={"epoch": epoch, "by": "accuracy on PublicTest" if best else "last epoch"},
            metrics=metrics,
            temperature=temperature,
            environment=self.environment | {"device": str(self.device), "bf16": self.bf16, "processes": self.world},
            seconds=round(self.progress.seconds, 1),
            resumed=self.progress.resumed,
        )
        if self.rank == 0:
            about = {"classes": classes, "pixels": pixels, "temperature": temperature}
            save_network(self.folder / "model.safetensors", net, about)
            save_predictions(self.folder, predictions)
            record.save(self.folder)
            self.checkpoint.unlink(missing_ok=True)
        return record


def answers(
    net: nn.Module, parts: Mapping[str, FaceSet], mean: float, std: float, device: torch.device | str
) -> dict[str, np.ndarray]:
    """A network's log-probabilities by ``"part/view"``, and the labels by ``"part/labels"``."""
    found: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        for views in get_args(Views):
            found[f"{name}/{views}"] = predict(net, part.images, mean=mean, std=std, device=device, views=views)
        found[f"{name}/labels"] = part.labels
    return found


def measure(
    predictions: Mapping[str, np.ndarray], parts: Mapping[str, FaceSet], temperature: float | None = None
) -> dict[str, dict[str, Any]]:
    """Metrics (part -> view -> plain dictionary) of what :func:`answers` gave.

    With a temperature, the view ``"calibrated"`` is the one view divided by it.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        found = {views: predictions[f"{name}/{views}"] for views in get_args(Views)}
        if temperature is not None:
            found["calibrated"] = apply_temperature(found["one"], temperature)
        metrics[name] = {
            views: dataclasses.asdict(evaluate(np.exp(p), part.labels, part.classes)) for views, p in found.items()
        }
    return metrics


def evaluate_run(folder: Path, faces: FaceSet, names: Sequence[str], device: str | None = None) -> dict[str, Any]:
    """Measures a finished run's network again, as its record did: part -> view -> metrics.

    Raises:
        TrainingError: ``faces`` is not the data that the run was made with.
    """
    record = Record.load(folder)
    if faces.fingerprint != record.identity["data"]:
        raise TrainingError(f"{faces.source or faces.name} is not the data that {folder} was trained on")
    net, about = load_network(folder / "model.safetensors")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    net.to(place).to(memory_format=torch.channels_last)
    config = TrainConfig.from_dict(record.identity["config"])
    parts = divide(faces, config, record.identity["seed"]).reported
    chosen = {name: parts[name] for name in names}
    return measure(answers(net, chosen, **about["pixels"], device=place), chosen, record.temperature)


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
    return torch.randperm(n, generator=torch.Generator().manual_seed(_seed(seed, epoch, 1)))


def _optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD (section 3.2). Never decayed: fusion weights; decayed if the recipe says so: biases and norms."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, p in net.named_parameters():
        fusion_weight = name.endswith(".w")
        groups[not fusion_weight and (config.decay_all or p.dim() > 1)].append(p)
    return torch.optim.SGD(
        [{"params": ps, "weight_decay": config.weight_decay * decays} for decays, ps in groups.items()],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def _start_from(net: MultiScaleFusionNet, init: Path, classes: Sequence[str]) -> None:
    """Copies weights into the network; a last layer for other classes, even as many, keeps its random ones."""
    tensors, about = load_weights(init)
    if about.get("classes") != list(classes):
        last = f"head.{len(net.head) - 1}."
        tensors |= {name: own for name, own in net.state_dict().items() if name.startswith(last)}
    fit(net, tensors, init)


def _computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic; without, it is emulated, and slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def _keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    By default every large tensor is fresh, zeroed memory: on two CPU cores a third of a
    training step went into page faults.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):  # another C library
            return
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: allocate up to 1 GiB on the heap
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: never shrink the heap


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question that the loop asks; a second one stops at once."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where two identities differ, each as ``"config.epochs is 40 there and 60 here"``.

    A field that the configuration did not have yet when an identity was written has its default there.
    """
    mine, theirs = _flat(_completed(mine)), _flat(_completed(theirs))
    return [
        f"{name} is {theirs.get(name)!r} there and {mine.get(name)!r} here"
        for name in (*mine, *(theirs.keys() - mine.keys()))
        if mine.get(name) != theirs.get(name)
    ]


def _completed(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity with every field that a configuration has today."""
    with suppress(ValueError):  # a field that is gone, which is then a difference
        return identity | {"config": TrainConfig.from_dict(identity["config"]).to_dict()}
    return identity


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; lists and tuples as lists."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
