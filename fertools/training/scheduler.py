"""The runs of a sweep, one after the other: in this process, in several, or on Ray.

On CPUs, one thread for each run and one run for each core is fastest: two one-thread runs reached 424
images/s together. One two-thread run reached 413 on a quiet machine, and 22 on a busy one, because its threads wait
for each other.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from fertools.data import FaceSet
from fertools.errors import FertoolsError, Interrupted, RunError, SweepError
from fertools.files import atomic_write
from fertools.hardware import physical_cores, pick_device
from fertools.paths import runs_folder
from fertools.records import load_predictions
from fertools.training.runtime import keep_freed_memory, stop_signals
from fertools.training.sweeps import Run, Sweep
from fertools.training.trainer import train


@dataclass(frozen=True)
class OnRay:
    """Run on Ray: on the cluster at ``address``, or locally.

    All nodes must see the folder of the runs, since a run may continue on another node than it began on.
    ``gpus`` is the fraction of a GPU that a run has; None takes a quarter where there are any.
    """

    address: str = ""
    gpus: float | None = None
    cpus: float = 1


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended; ``message`` has its accuracy, or what went wrong."""

    state: Literal["done", "stopped", "failed"]
    message: str


def run_sweep(
    sweep: Sweep,
    faces: FaceSet,
    *,
    runs: str | Path | None = None,
    device: str | None = None,
    jobs: int | None = None,
    minutes: float | None = None,
    ray: OnRay | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> None:
    """Trains every run of a sweep that has no record yet, and continues those that were interrupted.

    A run that fails does not keep the others from running. SIGINT and SIGTERM stop all runs under
    way with a checkpoint; the same call continues them.

    Args:
        sweep: the runs.
        faces: the data set that the sweep names.
        runs: the folder that the sweep's own folder is in; None: see :func:`fertools.paths.runs_folder`.
        device: as :func:`fertools.training.trainer.train` takes it.
        jobs: how many runs at a time, each in a process of its own with one thread; 1 runs one after the
            other in this process. None takes the number of physical cores if more than one run is left
            and the device is the CPU, or else 1. A script that starts processes needs Python's usual
            ``if __name__ == "__main__":``.
        minutes: stop after that many minutes.
        ray: run on Ray instead; ``jobs`` is then not used.
        say: called with one line about each run that begins or ends.
        progress: show a progress bar for each run, except on Ray.

    Raises:
        SweepError: a folder has the record of another run (found before anything runs); some runs
            failed; Ray is missing, or lacks what a run needs.
        Interrupted: stopped before all runs were done.
    """
    if jobs is not None and jobs < 1:
        raise SweepError(f"{jobs} jobs: at least 1 is needed")
    root = runs_folder(runs)
    weights = sweep.weights(runs)
    states = {run.name: sweep.state(run, runs, faces) for run in sweep.runs}
    place = {run.name: f"{k} of {len(sweep.runs)}  {run.name}" for k, run in enumerate(sweep.runs, 1)}
    for name, state in states.items():
        if state == "done":
            say(f"{place[name]}: has its record")
    todo = [(run, sweep.folder(run, runs).resolve()) for run in sweep.runs if states[run.name] != "done"]
    root.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {
        "weights": weights.resolve() if weights else None,
        "device": device,
        "end": None if minutes is None else time.time() + 60 * minutes,
    }

    def begin(name: str) -> None:
        say(f"{place[name]}: {'continues' if states[name] == 'unfinished' else 'begins'}")

    if ray is not None:
        outcomes = _on_ray(todo, faces, common, ray)
    else:
        common |= {"faces": faces, "progress": progress}
        if jobs is None:
            jobs = min(physical_cores(), len(todo)) if pick_device(device).type == "cpu" else 1
        outcomes = _one_by_one(todo, common, begin) if jobs <= 1 else _in_processes(todo, common, begin, jobs)
    done = {name for name, state in states.items() if state == "done"}
    failed, stopped = {}, False
    _save_groups(sweep, done, faces, runs)
    for name, outcome in outcomes:
        say(f"{place[name]}: {outcome.state}, {outcome.message}")
        stopped |= outcome.state == "stopped"
        if outcome.state == "failed":
            failed[name] = outcome.message
        elif outcome.state == "done":
            done.add(name)
            _save_groups(sweep, done, faces, runs)  # now and not at the end, which a killed process never reaches
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
    weights: Path | None,
    device: str | None,
    end: float | None,
    progress: bool = False,
) -> Outcome:
    """Trains one run in the process that calls it; ``end`` is the time to stop at."""
    minutes = None if end is None else (end - time.time()) / 60
    if minutes is not None and minutes <= 0:
        return Outcome("stopped", "there was no time left to begin")
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
            recipe=run.recipe,
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
    todo: list[tuple[Run, Path]], common: dict[str, Any], begin: Callable[[str], None]
) -> Iterator[tuple[str, Outcome]]:
    with stop_signals() as stopped:
        for run, folder in todo:
            if stopped():
                return
            begin(run.name)
            outcome = _attempt(run, folder, **common)
            yield run.name, outcome
            if outcome.state == "stopped":
                return


@dataclass
class _Job:
    """One run in a process of its own."""

    name: str
    process: multiprocessing.process.BaseProcess
    outcome: Connection  # where the process sends its Outcome
    row: int  # of its progress bar

    def result(self, stopping: bool) -> Outcome:
        """The outcome of a process that has ended."""
        self.process.join()
        if self.outcome.poll():
            with suppress(EOFError):
                return self.outcome.recv()
        code = self.process.exitcode or 0
        if stopping:
            return Outcome("stopped", "before it could begin")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Outcome("failed", f"its process {how}; the same command continues from its last checkpoint")


def _in_processes(
    todo: list[tuple[Run, Path]], common: dict[str, Any], begin: Callable[[str], None], jobs: int
) -> Iterator[tuple[str, Outcome]]:
    """The runs in processes of one thread, ``jobs`` at a time, in the order in which they end."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit PyTorch's threads in an unknown state
    screen = context.RLock()  # only one process at a time draws its progress bar
    waiting, running, stopping = list(todo), list[_Job](), False
    try:
        with stop_signals() as stopped:
            while running or (waiting and not stopping):
                while waiting and len(running) < jobs and not stopped():
                    run, folder = waiting.pop(0)
                    row = min(set(range(jobs)) - {job.row for job in running})
                    receive, send = context.Pipe(duplex=False)
                    process = context.Process(target=_job, args=(send, screen, run, folder, common))
                    begin(run.name)
                    with _environment(OMP_NUM_THREADS="1", TQDM_POSITION=str(row), TQDM_DESC=run.name):
                        process.start()
                    send.close()  # the process has its own copy
                    running.append(_Job(run.name, process, receive, row))
                if stopped() and not stopping:
                    stopping = True
                    for job in running:
                        job.process.terminate()  # SIGTERM: the training leaves a checkpoint
                ended = wait([job.process.sentinel for job in running], timeout=0.5) if running else []
                for job in [job for job in running if job.process.sentinel in ended]:
                    running.remove(job)
                    yield job.name, job.result(stopping)
    finally:
        for job in running:  # after an error in this process, or a second signal
            job.process.terminate()


def _job(outcome: Connection, screen: Any, run: Run, folder: Path, common: dict[str, Any]) -> None:
    """The work of one process of :func:`_in_processes`."""
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends them to all processes; ours get SIGTERM from their parent
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with stop_signals() as stopped:
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        torch.set_num_threads(1)
        keep_freed_memory()  # this process does nothing but train
        tqdm.set_lock(screen)
        outcome.send(Outcome("stopped", "before it could begin") if stopped() else _attempt(run, folder, **common))


def _stop_with_parent() -> None:
    """Stops this process, with a checkpoint, when its parent is gone, even by ``kill -9``."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _on_ray(
    todo: list[tuple[Run, Path]], faces: FaceSet, common: dict[str, Any], wanted: OnRay
) -> Iterator[tuple[str, Outcome]]:
    """The runs as tasks of Ray, in the order in which they end. Ray itself retries a run whose worker died."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send usage statistics to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the next default; without it, Ray warns
    try:
        ray: Any = import_module("ray")  # its types differ from version to version
    except ImportError:
        raise SweepError("Ray is not installed: pip install 'fertools[ray]'; or run without --ray") from None
    started_here = not ray.is_initialized()
    try:
        if started_here:
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
                raise SweepError(f"a run needs {amount} {kind}s, but the cluster has {there.get(kind, 0)}")
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
        if started_here:
            ray.shutdown()


def _save_groups(sweep: Sweep, done: set[str], faces: FaceSet, runs: str | Path | None) -> None:
    """Writes ``groups.json``: for each finished run on a fold, the number of the person on each test image.

    Images of one person are not independent, and neither are their errors. In a set without subjects,
    every image has a number of its own.
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
            raise RunError(
                f"{folder} was tested on another fold than the one drawn now; "
                "another version of scikit-learn may draw other folds"
            )
        groups[run.name] = people[rows].tolist()
    if groups:
        with atomic_write(runs_folder(runs) / sweep.name / "groups.json") as part:
            part.write_text(json.dumps(groups) + "\n")
