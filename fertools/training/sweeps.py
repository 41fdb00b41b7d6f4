"""Many runs from one file: folds, seeds, ablations. :mod:`fertools.training.scheduler` runs them.

A sweep is a TOML file, ``data/sweeps/NAME.toml``::

    about = "CK+48 by subject, ten folds"   # for people
    data = "ckplus48"
    recipe = "cpu-ckplus"                   # of every run that names no other
    seeds = [0]                             # the default
    set = ["epochs=40"]                     # overrides that all runs have in common
    init = ""                               # a finished run that all runs are fine-tuned from

    [vary]                                  # every combination of these
    fold = [0, 1, 2]
    network.units = [1, 2]

    [[run]]                                 # and of these variants
    name = "one-branch"
    set = ["network.scales=48"]
    recipe = "cpu-ckplus"                   # optional

Its runs are seeds x variants x ``vary``, in that order. Each is written to ``data/runs/NAME/RUN/``, where
RUN names what varies: ``fold-0``, or ``one-branch_fold-0_units-2_seed-1``. ``groups.json`` next to them
says which test images show the same person, for confidence intervals that depend on it.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fertools.data import FaceSet
from fertools.errors import SweepError
from fertools.files import file_digest
from fertools.paths import find_run, runs_folder
from fertools.recipes import TrainConfig
from fertools.recipes import recipe as named
from fertools.records import Record, differences
from fertools.training.checkpoints import newest

_KEYS: dict[str, type] = {
    "about": str,
    "data": str,
    "recipe": str,
    "seeds": list,
    "set": list,
    "init": str,
    "vary": dict,
    "run": list,
}
_VARIANT_KEYS: dict[str, type] = {"name": str, "set": list, "recipe": str}

MAX_RUNS = 10_000  # more is a mistake in the file
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")  # of a folder, on every system

State = Literal["new", "unfinished", "done"]


@dataclass(frozen=True)
class Run:
    """One training run of a sweep."""

    name: str  # its folder's
    recipe: str
    overrides: tuple[str, ...]  # of the recipe, "field=value" each
    seed: int
    config: TrainConfig


@dataclass(frozen=True)
class Sweep:
    """A sweep file that has been read and checked: every run's configuration has been built."""

    name: str
    data: str
    runs: tuple[Run, ...]
    about: str = ""
    init: str = ""

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Reads a sweep file.

        Raises:
            SweepError: there is none, or it is not TOML, has an unknown key or a value of the wrong
                kind, sets a field twice, contradicts itself, has too many runs, or one run twice.
        """
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise SweepError(f"{path} cannot be read ({error.strerror}); sweeps are kept in data/sweeps") from None
        except ValueError as error:
            raise SweepError(f"{path} is not TOML: {error}") from None
        try:
            return cls._from(path.stem, values)
        except ValueError as error:
            raise SweepError(f"{path}: {error}") from None

    @classmethod
    def _from(cls, name: str, values: dict[str, Any]) -> Sweep:
        _check_keys(values, _KEYS, required=("data",))
        seeds, vary, variants = values.get("seeds", [0]), _fields(values.get("vary", {})), values.get("run", [{}])
        if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds = {seeds!r}: expected different whole numbers from 0, e.g. [0, 1, 2]")
        if not variants:
            raise ValueError("run is empty: leave it out, or write [[run]] tables")
        for variant in variants if "run" in values else ():
            _check_keys(variant, _VARIANT_KEYS, required=("name", "set"), where="[[run]]: ")
            _check_name(variant["name"], "[[run]]: name")
        _check_name(name, "the file's name")
        n = len(seeds) * len(variants) * math.prod(map(len, vary.values()))
        if n > MAX_RUNS:
            raise ValueError(f"these are {n:,} runs, more than {MAX_RUNS:,}; vary fewer fields together")
        runs: dict[str, Run] = {}
        same: dict[tuple[TrainConfig, int], str] = {}
        # Seed by seed, so that a sweep that is stopped halfway has compared everything once.
        for seed, variant, *choice in itertools.product(seeds, variants, *vary.values()):
            varied = dict(zip(vary, choice, strict=True))
            parts = [variant["name"]] if variant else []
            parts += [f"{field.split('.')[-1]}-{_text(value).replace(',', '-')}" for field, value in varied.items()]
            if len(seeds) > 1 or not parts:
                parts.append(f"seed-{seed}")
            run_name = "_".join(parts)
            _check_name(run_name, "a run's name")
            own = [f"{field}={_text(value)}" for field, value in varied.items()]
            overrides = (*values.get("set", []), *variant.get("set", []), *own)
            recipe = variant.get("recipe") or values.get("recipe")
            if not recipe:
                raise ValueError(f"{run_name}: recipe must be given, for the whole sweep or in [[run]]")
            try:
                config = _build(recipe, overrides)
            except ValueError as error:
                raise ValueError(f"{run_name}: {error}") from None
            if run_name in runs:
                raise ValueError(f"two runs would be called {run_name}")
            if (other := same.setdefault((config, seed), run_name)) != run_name:
                raise ValueError(f"{other} and {run_name} are the same run; leave one out")
            runs[run_name] = Run(run_name, recipe, overrides, seed, config)
        texts = {key: values.get(key, "") for key in ("data", "about", "init")}
        return cls(name, runs=tuple(runs.values()), **texts)

    def folder(self, run: Run, runs: str | Path | None = None) -> Path:
        """Where a run of this sweep goes."""
        return runs_folder(runs) / self.name / run.name

    def weights(self, runs: str | Path | None = None) -> Path | None:
        """The weights that every run is fine-tuned from, or None.

        Raises:
            RunError: the run ``init`` is not there or not finished.
        """
        if not self.init:
            return None
        Record.load(self.init, runs)
        return find_run(self.init, runs) / "model.safetensors"

    def state(self, run: Run, runs: str | Path | None = None, faces: FaceSet | None = None) -> State:
        """Whether a run has its record, has only begun, or neither.

        With ``faces``, the record must also be of that very data.

        Raises:
            SweepError: the folder has the record of another run than the sweep asks for.
            RunError: see :meth:`weights`.
        """
        folder = self.folder(run, runs)
        if not (folder / "record.json").exists():
            return "unfinished" if newest(folder) else "new"
        record, weights = Record.load(folder), self.weights(runs)
        wanted = {
            "config": run.config.to_dict(),
            "seed": run.seed,
            "data": faces.identity if faces else record.identity["data"],
            "init": file_digest(weights) if weights else None,
            "set": self.data,
        }
        if differing := differences(wanted, record.identity | {"set": record.data["name"]}):
            raise SweepError(
                f"{folder} has the record of another run than the sweep {self.name} asks for: "
                f"{'; '.join(differing[:5])} (there: the record, here: the sweep). Change one, or move that folder."
            )
        return "done"


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} = {name!r} is no name for a folder; use letters, digits, . + - and _")


def _check_keys(values: dict[str, Any], kinds: dict[str, type], required: Sequence[str], where: str = "") -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where}expected a table, not {values!r}")
    if unknown := sorted(set(values) - set(kinds)):
        raise ValueError(f"{where}there is no key {', '.join(unknown)}; there are: {', '.join(kinds)}")
    if missing := [key for key in required if key not in values]:
        raise ValueError(f"{where}{', '.join(missing)} must be given")
    for key, value in values.items():
        if not isinstance(value, kinds[key]):
            raise ValueError(f"{where}{key} = {value!r}: expected {kinds[key].__name__}")
    if not all(isinstance(override, str) for override in values.get("set", [])):
        raise ValueError(f'{where}set = {values["set"]!r}: expected texts, e.g. ["epochs=5", "network.width=16"]')


def _fields(vary: dict[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """The values of each varied field, by its path: TOML reads ``network.units`` as a table in a table."""
    fields: dict[str, list[Any]] = {}
    for key, values in vary.items():
        if isinstance(values, dict):
            fields |= _fields(values, f"{prefix}{key}.")
        elif isinstance(values, list) and values:
            fields[prefix + key] = values
        else:
            raise ValueError(f"[vary]: {prefix}{key} = {values!r}: expected a list of values")
    return fields


def _text(value: Any) -> str:
    """A value as ``--set`` reads it: 5, true, bicubic; 5,3 of a list."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _build(recipe: str, overrides: Sequence[str]) -> TrainConfig:
    fields = [override.partition("=")[0].strip() for override in overrides]
    if twice := sorted({field for field in fields if fields.count(field) > 1}):
        raise ValueError(f"{', '.join(twice)} is set twice; say it once, in set, in [vary] or in [[run]]")
    config = named(recipe, overrides)
    if "fold" in fields and config.protocol == "splits":
        raise ValueError("fold is set, but the protocol is 'splits'; choose protocol=image, sequence or subject")
    return config
