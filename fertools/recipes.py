"""Training recipes: data, not code.

A recipe is a :class:`TrainConfig` with a name. ``fertools train --recipe NAME`` runs one, and
``--set field=value`` changes a field of it: ``epochs=5``, ``network.width=16``, ``augment.erase=0.5``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from fertools.config import Config, Range, nearest
from fertools.models.baselines import END_SIZES, BaselineConfig
from fertools.models.registry import AnyNetworkConfig
from fertools.network import NetworkConfig


@dataclass(frozen=True)
class AugmentConfig(Config):
    """What happens to a training image. The defaults are the paper's; 0 turns a transform off."""

    flip: Annotated[float, Range(0, 1)] = 0.5  # probability of a mirror image
    pad: Annotated[int, Range(0)] = 4  # pixels of zero-padding on every edge before the crop
    rotate: Annotated[float, Range(0)] = 0.0  # degrees: uniform in [-rotate, rotate]
    zoom: Annotated[float, Range(0, 1, below=True)] = 0.0  # factor: uniform in [1 - zoom, 1 + zoom]
    contrast: Annotated[float, Range(0, 1, below=True)] = 0.0
    # factor around the image's mean: uniform in [1 - contrast, 1 + contrast]
    erase: Annotated[float, Range(0, 1)] = 0.0  # probability of a gray box over 2 % to 20 % of the area
    # (random erasing, Zhong et al. 2020)
    mixup: Annotated[float, Range(0)] = 0.0  # alpha of Beta(alpha, alpha), from which the weights of two
    # images and of their labels are drawn (Zhang et al. 2018)
    cutmix: Annotated[float, Range(0)] = 0.0  # likewise, for the area of a box of the other image (Yun et al. 2019)

    def check(self) -> None:
        if self.mixup and self.cutmix:
            self.refuse("mixup", f"and cutmix={self.cutmix!r}: choose one of the two")

    @property
    def mixes(self) -> bool:
        """Whether two images become one, so that labels become probabilities."""
        return bool(self.mixup or self.cutmix)


@dataclass(frozen=True)
class TrainConfig(Config):
    """One training run. What a recipe does not turn on is off.

    >>> TrainConfig(epochs=10, schedule="cosin")
    Traceback (most recent call last):
        ...
    ValueError: TrainConfig: schedule='cosin' is not one of step, cosine
    """

    epochs: Annotated[int, Range(1)]
    network: AnyNetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    # Which images train and which test: the set's own splits, or one of several stratified folds at
    # the level of images, sequences, or subjects (section 3.3 says ten groups of images).
    protocol: Literal["splits", "image", "sequence", "subject"] = "splits"
    folds: Annotated[int, Range(2)] = 10
    fold: Annotated[int, Range(0)] = 0

    batch_size: Annotated[int, Range(1)] = 16  # over all processes; section 3.2: 16. A last, partial batch is dropped.
    learning_rate: Annotated[float, Range(0, above=True)] = 1e-4  # the schedule's highest; section 3.2: 1e-4
    momentum: Annotated[float, Range(0, 1, below=True)] = 0.9  # section 3.2
    nesterov: bool = False
    weight_decay: Annotated[float, Range(0)] = 5e-4  # section 3.2
    decay_norm_and_bias: bool = True
    # Whether biases and normalization decay too, as with PyTorch's SGD by default. The fusion weights
    # never do: decay would pull them toward 0.

    schedule: Literal["step", "cosine"] = "step"
    # "step", per epoch: constant for `hold` epochs, then times `gamma` at once and again every
    # `step_size` epochs. "cosine", per step: a linear warmup over the fraction `warmup` of all steps,
    # then a cosine down to 0 (Loshchilov and Hutter 2017).
    hold: Annotated[int, Range(0)] = 50
    step_size: Annotated[int, Range(1)] = 20
    gamma: Annotated[float, Range(0, 1, above=True)] = 0.95
    warmup: Annotated[float, Range(0, 1, below=True)] = 0.2

    targets: Literal["labels", "majority", "votes"] = "labels"
    # What the network is trained toward: the set's labels, or the votes of ten annotators (Barsoum et
    # al. 2016), either their most frequent choice or their distribution. Votes need the data set
    # ferplus. The epoch is selected, and the result measured, on the set's labels.
    distill: Annotated[float, Range(0, 1)] = 0.0
    # The weight of the teachers' probabilities in the targets; that of the labels is the rest (Hinton et al. 2015, at
    # temperature 1).
    label_smoothing: Annotated[float, Range(0, 1, below=True)] = 0.0
    ema_decay: Annotated[float, Range(0, 1, below=True)] = 0.0
    # per step, of the exponential moving average of the weights that is then evaluated; 0: none. Step t, from 0,
    # has at most (1 + t) / (10 + t).
    max_grad_norm: Annotated[float, Range(0)] = 0.0  # gradient clipping; 0: none
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware computes in it
    select: Literal["best", "last"] = "last"  # which epoch's weights: best on PublicTest, or the last

    def check(self) -> None:
        if self.nesterov and not self.momentum:
            self.refuse("nesterov", "needs momentum above 0")
        if self.protocol != "splits":
            if self.fold >= self.folds:
                self.refuse("fold", f"must be from 0 to {self.folds - 1}")
            if self.select == "best":
                self.refuse("select", "would choose on a test fold; with folds the last epoch counts")

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run."""
        if self.schedule == "step":
            decays = max(0, (step // steps_per_epoch - self.hold) // self.step_size + 1)
            return self.learning_rate * self.gamma**decays
        total = self.epochs * steps_per_epoch
        rise = self.warmup * total
        if step < rise:
            return self.learning_rate * (step + 1) / (rise + 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))


# --- The named recipes ------------------------------------------------------------------------

_TUNED = TrainConfig(
    epochs=60,
    batch_size=64,
    learning_rate=0.05,
    nesterov=True,
    decay_norm_and_bias=False,
    schedule="cosine",
    label_smoothing=0.1,
)

# Small enough for two CPU cores: branches that start at 48, 24, and 12 pixels, since the 96x96 maps
# take most of the paper's operations, and channels that grow as the maps shrink.
_CPU_NETWORK = NetworkConfig(scales=(12, 24, 48), width=(8, 16, 40), units=2, dropout=0.3)

RECIPES: dict[str, TrainConfig] = {
    # Section 3.2 to the letter. The width is open; PublicTest chooses the epoch.
    "paper-fer2013": TrainConfig(epochs=200, hold=50, step_size=20, gamma=0.95, select="best"),
    "paper-ckplus": TrainConfig(epochs=60, hold=20, step_size=5, gamma=0.98, protocol="image"),
    "tuned-fer2013": replace(
        _TUNED,
        epochs=240,
        network=NetworkConfig(width=64),
        augment=AugmentConfig(rotate=10.0, zoom=0.1, contrast=0.2, erase=0.5),
        batch_size=128,
        learning_rate=0.1,
        ema_decay=0.999,
        max_grad_norm=5.0,
        select="best",
    ),
    "tuned-ckplus": replace(
        _TUNED,
        augment=AugmentConfig(rotate=10.0, zoom=0.1, contrast=0.2),
        protocol="subject",
        batch_size=32,
        learning_rate=0.02,
    ),
    # What the shipped network was trained with: as large a network as two CPU cores can train in a day.
    "wide-fer2013": replace(
        _TUNED,
        network=replace(_CPU_NETWORK, width=(16, 32, 64), dropout=0.4),
        augment=AugmentConfig(rotate=10.0, zoom=0.1, contrast=0.2, erase=0.3),
        ema_decay=0.999,
        max_grad_norm=5.0,
        select="best",
    ),
    "cpu-fer2013": replace(_TUNED, epochs=26, network=_CPU_NETWORK, batch_size=32, learning_rate=0.03, select="best"),
    # The paper's network at width 16: about an hour on two cores.
    "synthetic": replace(
        _TUNED, epochs=8, network=NetworkConfig(width=16), batch_size=32, learning_rate=0.03, select="best"
    ),
    "cpu-synthetic": replace(_TUNED, epochs=12, network=_CPU_NETWORK, batch_size=32, learning_rate=0.03, select="best"),
    "cpu-ckplus": replace(
        _TUNED, epochs=40, network=_CPU_NETWORK, protocol="subject", batch_size=32, learning_rate=0.02
    ),
}

# For weights that "wide-fer2013" has trained: toward what several of its networks say together.
_WIDE = RECIPES["wide-fer2013"]
RECIPES["distilled-fer2013"] = replace(
    _WIDE,
    network=replace(_CPU_NETWORK, width=(16, 32, 64), dropout=0.2),
    augment=replace(_WIDE.augment, erase=0.0),
    epochs=10,
    learning_rate=0.03,
    warmup=0.1,
    distill=0.75,
    label_smoothing=0.0,
)

# The paper's topology and the baselines, all under the protocol of "tuned-fer2013".
_PROTOCOL = replace(RECIPES["tuned-fer2013"], network=NetworkConfig(width=32), epochs=51)
RECIPES |= {
    "multiscale-fer2013": _PROTOCOL,
    **{
        f"{name.replace('_', '-')}-fer2013": replace(_PROTOCOL, network=BaselineConfig(name, end_size=end_size))
        for name, end_size in END_SIZES.items()
    },
}


def recipe(name: str, overrides: Iterable[str] = ()) -> TrainConfig:
    """The recipe of that name with some fields changed.

    Args:
        name: a key of :data:`RECIPES`.
        overrides: ``"field=value"`` each, see :meth:`fertools.config.Config.with_overrides`.

    Raises:
        ValueError: an unknown recipe or field, or a value that does not fit the field.

    >>> recipe("cpu-synthetic", ["epochs=3", "network.units=1"]).network.units
    1
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}{nearest(name, RECIPES)}; there are: {', '.join(RECIPES)}")
    return RECIPES[name].with_overrides(overrides)
