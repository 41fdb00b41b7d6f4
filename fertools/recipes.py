"""Training recipes: data, not code.

A recipe is a :class:`TrainConfig` with a name. ``fertools train --recipe NAME`` runs one, and
``--set field=value`` changes a field of it: ``epochs=5``, ``network.width=16``, ``augment.erase=0.5``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fertools.augment import AugmentConfig
from fertools.network import NetworkConfig


@dataclass(frozen=True)
class TrainConfig:
    """One training run. What a recipe does not turn on is off.

    A configuration that contradicts itself is refused with :class:`ValueError`.
    """

    epochs: int
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    # Which images train and which test: the set's own splits, or one of several stratified
    # folds by image, sequence or subject (section 3.3 says ten, by image).
    protocol: Literal["splits", "image", "sequence", "subject"] = "splits"
    folds: int = 10
    fold: int = 0

    batch_size: int = 16  # over all processes; section 3.2: 16. An incomplete last batch is dropped.
    learning_rate: float = 1e-4  # the schedule's highest; section 3.2: 1e-4
    momentum: float = 0.9  # section 3.2
    nesterov: bool = False
    weight_decay: float = 5e-4  # section 3.2
    decay_all: bool = True
    # Whether biases and normalisation decay too, as PyTorch's SGD does when nothing is said. The
    # fusion weights never do: decay would pull them to 0, where their branch is switched off.

    schedule: Literal["step", "one-cycle"] = "step"
    # "step", per epoch: constant for `hold` epochs, then times `factor` at once and again every
    # `every` epochs. "one-cycle", per step: a linear rise over the share `warmup` of all steps,
    # then a cosine down to 0 (Smith and Topin 2019).
    hold: int = 50
    every: int = 20
    factor: float = 0.95
    warmup: float = 0.2

    targets: Literal["labels", "majority", "votes"] = "labels"
    # What the network is trained towards: the set's labels; or what ten annotators said of each image
    # (Barsoum et al. 2016), as the one class that most of them chose or as the shares of their votes.
    # The latter two need the data set ferplus. The epoch is chosen, and the result measured, on labels.
    label_smoothing: float = 0.0
    ema: float = 0.0  # decay per step of the moving average of the weights that is then evaluated
    clip: float = 0.0  # largest norm of the gradient
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware computes in it
    select: Literal["best", "last"] = "last"  # which epoch's weights: best on PublicTest, or the last

    def __post_init__(self) -> None:
        def refuse(name: str, why: str) -> None:
            raise ValueError(f"TrainConfig: {name}={getattr(self, name)!r} {why}")

        for name in ("epochs", "batch_size", "every"):
            if getattr(self, name) < 1:
                refuse(name, "must be at least 1")
        for name in ("label_smoothing", "ema", "momentum", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                refuse(name, "must be in [0, 1)")
        for name in ("weight_decay", "clip", "hold"):
            if getattr(self, name) < 0:
                refuse(name, "must not be negative")
        if self.learning_rate <= 0:
            refuse("learning_rate", "must be above 0")
        if self.nesterov and not self.momentum:
            refuse("nesterov", "needs momentum above 0")
        if self.protocol != "splits":
            if self.folds < 2:
                refuse("folds", "must be at least 2")
            if not 0 <= self.fold < self.folds:
                refuse("fold", f"must be from 0 to {self.folds - 1}")
            if self.select == "best":
                refuse("select", "would choose on a test fold; with folds the last epoch counts")

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run."""
        if self.schedule == "step":
            decays = max(0, (step // steps_per_epoch - self.hold) // self.every + 1)
            return self.learning_rate * self.factor**decays
        total = self.epochs * steps_per_epoch
        rise = self.warmup * total
        if step < rise:
            return self.learning_rate * (step + 1) / (rise + 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as a record stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_dict`, also after a way through JSON."""
        return config_from_dict(cls, values)


# --- The named recipes ------------------------------------------------------------------------

_ONE_CYCLE = TrainConfig(
    epochs=60,
    batch_size=64,
    learning_rate=0.05,
    nesterov=True,
    decay_all=False,
    schedule="one-cycle",
    label_smoothing=0.1,
)

# Small enough for two CPU cores: branches from 48, 24 and 12 pixels, since most of the paper's
# operations go into its 96x96 maps, and channels that grow as the maps shrink.
_CPU_NETWORK = NetworkConfig(scales=(12, 24, 48), width=(8, 16, 40), units=2, dropout=0.3)

RECIPES: dict[str, TrainConfig] = {
    # Section 3.2 to the letter. The width is open; PublicTest chooses the epoch.
    "paper-fer2013": TrainConfig(epochs=200, hold=50, every=20, factor=0.95, select="best"),
    "paper-ckplus": TrainConfig(epochs=60, hold=20, every=5, factor=0.98, protocol="image"),
    "tuned-fer2013": replace(
        _ONE_CYCLE,
        epochs=240,
        network=NetworkConfig(width=64),
        augment=AugmentConfig(rotate=10.0, zoom=0.1, contrast=0.2, erase=0.5),
        batch_size=128,
        learning_rate=0.1,
        ema=0.999,
        clip=5.0,
        select="best",
    ),
    "tuned-ckplus": replace(
        _ONE_CYCLE,
        augment=AugmentConfig(rotate=10.0, zoom=0.1, contrast=0.2),
        protocol="subject",
        batch_size=32,
        learning_rate=0.02,
    ),
    "cpu-fer2013": replace(
        _ONE_CYCLE, epochs=26, network=_CPU_NETWORK, batch_size=32, learning_rate=0.03, select="best"
    ),
    # The paper's network at width 16, as long as two cores bear: an hour.
    "synthetic": replace(
        _ONE_CYCLE, epochs=8, network=NetworkConfig(width=16), batch_size=32, learning_rate=0.03, select="best"
    ),
    "cpu-synthetic": replace(
        _ONE_CYCLE, epochs=12, network=_CPU_NETWORK, batch_size=32, learning_rate=0.03, select="best"
    ),
    "cpu-ckplus": replace(
        _ONE_CYCLE, epochs=40, network=_CPU_NETWORK, protocol="subject", batch_size=32, learning_rate=0.02
    ),
}


def recipe(name: str, overrides: typing.Iterable[str] = ()) -> TrainConfig:
    """The recipe of that name with some fields changed.

    Args:
        name: a key of :data:`RECIPES`.
        overrides: ``"field=value"`` each, e.g. ``"epochs=5"``, ``"network.scales=12,24,48"``.

    Raises:
        ValueError: an unknown recipe or field, or a value that does not fit the field.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}{_nearest(name, RECIPES)}; there are: {', '.join(RECIPES)}")
    values = RECIPES[name].to_dict()
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"cannot read {override!r}; write field=value, e.g. epochs=5 or network.width=16")
        *groups, last = path.strip().split(".")
        place = values
        for group in groups:
            place = place.get(group, {}) if isinstance(place, dict) else {}
        if not isinstance(place, dict) or last not in place or isinstance(place[last], dict):
            known = _paths(values)
            raise ValueError(f"there is no field {path!r}{_nearest(path, known)}; there are: {', '.join(known)}")
        place[last] = _literal(text.strip())
    return TrainConfig.from_dict(values)


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _paths(values: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += _paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def config_from_dict(cls: type, values: dict[str, Any]) -> Any:
    """A configuration from plain values, each checked against its field's type."""
    hints = typing.get_type_hints(cls)
    if unknown := set(values) - set(hints):
        raise ValueError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    return cls(**{name: _fit(value, hints[name], f"{cls.__name__}.{name}") for name, value in values.items()})


def _fit(value: Any, hint: Any, name: str) -> Any:
    """``value`` as the type ``hint`` says, or ValueError."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_dict(hint, value)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and value in inner:
        return value
    if origin is types.UnionType:
        for option in inner:
            try:
                return _fit(value, option, name)
            except ValueError:
                continue
    if origin is tuple and isinstance(value, (tuple, list, int)) and not isinstance(value, bool):
        return tuple(_fit(v, inner[0], name) for v in (value if isinstance(value, (tuple, list)) else (value,)))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint in (int, bool) and type(value) is hint:
        return value
    wanted = f"one of {', '.join(map(str, inner))}" if origin is Literal else getattr(hint, "__name__", str(hint))
    raise ValueError(f"{name}={value!r} does not fit; expected {wanted}")
