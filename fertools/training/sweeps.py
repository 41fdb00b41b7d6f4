"""Many runs from one file: folds, seeds, ablations; in this process or on Ray.

A sweep is a TOML file, ``data/sweeps/NAME.toml``::

    about = "CK+48 by subject, ten folds"   # for people
    data = "ckplus48"
    recipe = "cpu-ckplus"
    seeds = [0]                             # [0] where it is not said
    set = ["epochs=40"]                     # changes to the recipe that all runs have in common
    init = ""                               # a finished run whose weights all runs start from

    [vary]                                  # every combination of these
    fold = [0, 1, 2]
    network.units = [1, 2]

    [[run]]                                 # and of these rows
    name = "one-branch"
    set = ["network.scales=48"]

Its runs are seeds x rows x ``vary``, in that order. Each goes to ``data/runs/NAME/RUN/``, where RUN names what
varies: ``fold-0``, or ``one-branch_fold-0_units-2_seed-1``. Beside them lies ``groups.json``,
which test images are of one person, for intervals that must know.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fertools.data import FaceSet
from fertools.errors import FertoolsError, Interrupted, RunError, SweepError
from fertools.files import atomic_write, file_digest
from fertools.paths import find_run, runs_folder
from fertools.recipes import TrainConfig
from fertools.recipes import recipe as named
from fertools.records import Record, differences, load_predictions
from fertools.training.runtime import stop_signals
from fertools.training.trainer import train

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
_ROW_KEYS: dict[str, type] = {"name": str, "set": list}

State = Literal["new", "unfinished", "done"]


@dataclass(frozen=True)
class Run:
    """One training of a sweep."""

    name: str  # its folder's
    overrides: tuple[str, ...]  # "field=value", changes to the recipe
    seed: int
    config: TrainConfig


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and found sound: every run's configuration has been built."""

    name: str
    data: str
    recipe: str
    runs: tuple[Run, ...]
    about: str = ""
    init: str = ""

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Reads a sweep file.

        Raises:
            SweepError: there is none, or it is not TOML, has an unknown key or a value of the wrong
                kind, sets a field twice, asks for what no recipe can be, or for one run twice.
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
        _check_keys(values, _KEYS, required=("data", "recipe"))
        seeds, vary, rows = values.get("seeds", [0]), _fields(values.get("vary", {})), values.get("run", [{}])
        if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds = {seeds!r}: expected different whole numbers from 0, e.g. [0, 1, 2]")
        if not rows:
            raise ValueError("run is empty: leave it out, or write [[run]] tables")
        for row in rows if "run" in values else ():
            _check_keys(row, _ROW_KEYS, required=("name", "set"), where="[[run]]: ")
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", row["name"]):
                raise ValueError(f"[[run]]: name = {row['name']!r} is no name for a folder; use letters, digits, . + -")
        runs: dict[str, Run] = {}
        # Seed by seed, so that a sweep stopped half-way has compared everything once.
        for seed, row, *choice in itertools.product(seeds, rows, *vary.values()):
            varied = dict(zip(vary, choice, strict=True))
            parts = [row["name"]] if row else []
            parts += [f"{field.split('.')[-1]}-{_text(value).replace(',', '-')}" for field, value in varied.items()]
            if len(seeds) > 1 or not parts:
                parts.append(f"seed-{seed}")
            run_name = "_".join(parts)
            overrides = (*values.get("set", []), *row.get("set", []), *(f"{f}={_text(v)}" for f, v in varied.items()))
            try:
                config = _build(values["recipe"], overrides)
            except ValueError as error:
                raise ValueError(f"{run_name}: {error}") from None
            if run_name in runs:
                raise ValueError(f"two runs would be called {run_name}")
            for other in runs.values():
                if (other.config, other.seed) == (config, seed):
                    raise ValueError(f"{other.name} and {run_name} are the same run; leave one out")
            runs[run_name] = Run(run_name, overrides, seed, config)
        texts = {key: values.get(key, "") for key in ("data", "recipe", "about", "init")}
        return cls(name, runs=tuple(runs.values()), **texts)

    def folder(self, run: Run, runs: str | Path | None = None) -> Path:
        """Where a run of this sweep goes."""
        return runs_folder(runs) / self.name / run.name

    def weights(self, runs: str | Path | None = None) -> Path | None:
        """The weights that every run starts from, if not from random ones.

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
            return "unfinished" if (folder / "checkpoint.safetensors").exists() else "new"
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


# --- Running ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnRay:
    """Run on Ray: on the cluster at ``address``, or locally.

    The folder of the runs must be one that all nodes see, since a run may be continued on another
    node than it began on. ``gpus`` is a run's share of a GPU; None takes a quarter where there are any.
    """

    address: str = ""
    gpus: float | None = None
    cpus: float = 1


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended; ``word`` is its accuracy, or what went wrong."""

    state: Literal["done", "stopped", "failed"]
    word: str


def run_sweep(
    sweep: Sweep,
    faces: FaceSet,
    *,
    runs: str | Path | None = None,
    device: str | None = None,
    minutes: float | None = None,
    ray: OnRay | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> None:
    """Makes every run of a sweep that has no record yet; one that was interrupted is continued.

    A run that fails does not keep the others from running. SIGINT and SIGTERM stop all runs under
    way with a checkpoint; the same call continues them.

    Args:
        sweep: the runs.
        faces: the data set that the sweep names.
        runs: the folder that the sweep's own folder lies in.
        device: as :func:`fertools.training.trainer.train` takes it.
        minutes: stop after so long.
        ray: run on Ray rather than one after the other in this process.
        say: told of each run, one line at a time.
        progress: a progress bar for each run in this process.

    Raises:
        SweepError: a folder has the record of another run (found before anything runs); some runs
            failed; Ray is missing, or has not what a run needs.
        Interrupted: stopped before all runs were done.
    """
    weights = sweep.weights(runs)
    states = {run.name: sweep.state(run, runs, faces) for run in sweep.runs}
    place = {run.name: f"{k} of {len(sweep.runs)}  {run.name}" for k, run in enumerate(sweep.runs, 1)}
    for name, state in states.items():
        if state == "done":
            say(f"{place[name]}: has its record")
    todo = [(run, sweep.folder(run, runs).resolve()) for run in sweep.runs if states[run.name] != "done"]
    runs.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {
        "recipe": sweep.recipe,
        "weights": weights.resolve() if weights else None,
        "device": device,
        "end": None if minutes is None else time.time() + 60 * minutes,
    }
    if ray is None:
        begin = {"new": "begins", "unfinished": "continues", "done": ""}
        attempt = partial(_attempt, faces=faces, progress=progress, **common)
        outcomes = _one_by_one(todo, attempt, lambda name: say(f"{place[name]}: {begin[states[name]]}"))
    else:
        outcomes = _on_ray(todo, faces, common, ray)
    done = {name for name, state in states.items() if state == "done"}
    failed, stopped = {}, False
    _save_groups(sweep, done, faces, runs)
    for name, outcome in outcomes:
        say(f"{place[name]}: {outcome.state}, {outcome.word}")
        stopped |= outcome.state == "stopped"
        if outcome.state == "failed":
            failed[name] = outcome.word
        elif outcome.state == "done":
            done.add(name)
            _save_groups(sweep, done, faces, runs)  # now, not at the end, which a killed process never sees
    left = f"{len(done)} of {len(sweep.runs)} runs are done. The same command continues."
    if failed:
        causes = "\n".join(f"  {name}: {cause}" for name, cause in failed.items())
        raise SweepError(f"of the sweep {sweep.name}, {len(failed)} failed:\n{causes}\n{left}")
    if stopped or len(done) < len(sweep.runs):
        raise Interrupted(f"the sweep {sweep.name} was stopped: {left}")


def _attempt(
    run: Run,
    folder: Path,
    faces: FaceSet,
    recipe: str,
    weights: Path | None,
    device: str | None,
    end: float | None,
    progress: bool = False,
) -> Outcome:
    """Trains one run, in this process or in a worker of Ray; ``end`` is the time to stop at."""
    minutes = None if end is None else (end - time.time()) / 60
    if minutes is not None and minutes <= 0:
        return Outcome("stopped", "the time was over before it began")
    try:
        if not folder.parent.parent.is_dir():
            raise SweepError(
                f"{folder.parent.parent} is not on this machine; all nodes must see the folder of the runs"
            )
        record = train(
            run.config,
            faces,
            folder,
            seed=run.seed,
            device=device,
            init=weights,
            recipe=recipe,
            overrides=run.overrides,
            minutes=minutes,
            progress=progress,
        )
    except Interrupted as error:
        return Outcome("stopped", str(error))
    except FertoolsError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # whatever it is, the other runs go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome("failed", f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")
    part, by_tta = next(reversed(record.metrics.items()))
    return Outcome(
        "done", f"{by_tta['single-crop']['accuracy']:.2%} on {part}, {record.seconds / 60:.1f} minutes of training"
    )


def _one_by_one(
    todo: list[tuple[Run, Path]], attempt: Callable[[Run, Path], Outcome], begin: Callable[[str], None]
) -> Iterator[tuple[str, Outcome]]:
    with stop_signals() as stopped:
        for run, folder in todo:
            if stopped():  # it came while no training listened: a run was being evaluated
                return
            begin(run.name)
            outcome = attempt(run, folder)
            yield run.name, outcome
            if outcome.state == "stopped":
                return


def _on_ray(
    todo: list[tuple[Run, Path]], faces: FaceSet, common: dict[str, Any], wanted: OnRay
) -> Iterator[tuple[str, Outcome]]:
    """The runs as tasks of Ray, in the order in which they end. Ray itself tries one again whose worker died."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default; it warns otherwise
    try:
        ray: Any = import_module("ray")  # its types differ from version to version
    except ImportError:
        raise SweepError("Ray is not installed: pip install 'fertools[ray]'; or run without --ray") from None
    mine = not ray.is_initialized()
    try:
        if mine:
            local = {} if wanted.address else {"include_dashboard": False}
            try:
                ray.init(wanted.address or None, log_to_driver=False, logging_level="WARNING", **local)
            except Exception as error:  # Ray raises all kinds, also a plain Exception
                where = f"reached at {wanted.address}" if wanted.address else "started here"
                raise SweepError(f"Ray cannot be {where}: {error}") from error
        there = ray.cluster_resources()
        gpus = wanted.gpus if wanted.gpus is not None else 0.25 * ("GPU" in there)
        for kind, amount in {"GPU": gpus, "CPU": wanted.cpus}.items():
            if amount > there.get(kind, 0):
                raise SweepError(f"a run is to have {amount} {kind}s, but the cluster has {there.get(kind, 0)}")
        task = ray.remote(num_gpus=gpus, num_cpus=wanted.cpus)(_attempt)
        data = ray.put(faces)  # once for all tasks
        names = {task.remote(run, folder, data, **common): run.name for run, folder in todo}
        cancelled = False
        with stop_signals() as stopped:
            while names:
                if stopped() and not cancelled:
                    cancelled = True
                    for reference in names:
                        ray.cancel(reference)  # as SIGINT: the training leaves a checkpoint
                for ready in ray.wait(list(names), timeout=1)[0]:
                    name = names.pop(ready)
                    try:
                        yield name, ray.get(ready)
                    except ray.exceptions.TaskCancelledError:
                        yield name, Outcome("stopped", "cancelled")
                    except ray.exceptions.RayError as error:
                        yield name, Outcome("failed", str(error).strip().splitlines()[0])
    finally:
        if mine:
            ray.shutdown()


# --- Which test images belong together --------------------------------------------------------


def _save_groups(sweep: Sweep, done: set[str], faces: FaceSet, runs: str | Path | None) -> None:
    """Writes ``groups.json``: for each finished run on a fold, a number for the person of each test image.

    Images of one person are not independent, and neither are their errors. Where the set does not
    know its persons, every image has a number of its own.
    """
    from fertools.data.splits import kfold

    people = np.arange(len(faces)) if faces.subjects is None else np.unique(faces.subjects, return_inverse=True)[1]
    groups = {}
    for run in sweep.runs:
        config = run.config
        if run.name not in done or config.protocol == "splits":
            continue
        rows = kfold(faces, config.folds, by=config.protocol, seed=run.seed)[config.fold][1]
        folder = sweep.folder(run, runs)
        if not np.array_equal(faces.labels[rows], load_predictions(folder)["fold/labels"]):
            raise RunError(f"{folder} was tested on another fold than is drawn now; has scikit-learn changed?")
        groups[run.name] = people[rows].tolist()
    if groups:
        with atomic_write(runs / sweep.name / "groups.json") as part:
            part.write_text(json.dumps(groups) + "\n")


def load_groups(folder: Path) -> dict[str, np.ndarray]:
    """A sweep's ``groups.json``: run name -> (test images,) numbers of persons; empty where there is none."""
    path = folder / "groups.json"
    if not path.exists():
        return {}
    return {name: np.array(numbers) for name, numbers in json.loads(path.read_text()).items()}
