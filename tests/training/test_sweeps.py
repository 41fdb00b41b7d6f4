from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_faces

from fertools.cli import main
from fertools.data.splits import kfold
from fertools.errors import Interrupted, RunError, SweepError
from fertools.models.registry import build
from fertools.recipes import recipe
from fertools.records import Record, load_groups
from fertools.training import scheduler
from fertools.training.checkpoints import load_checkpoint, lock_folder
from fertools.training.scheduler import OnRay, run_sweep
from fertools.training.sweeps import Sweep
from fertools.training.trainer import Trainer, train

SWEEPS = Path(__file__).parents[2] / "data" / "sweeps"
RUNS = SWEEPS.parent / "runs"
CHANGES = [
    "network.width=2,2",
    "network.scales=12,24",
    "network.units=1",
    "network.hidden=4",
    "folds=2",
    "epochs=2",
    "precision=fp32",
]
TOY = f"""
data = "toy"
recipe = "cpu-ckplus"
set = {CHANGES}
[vary]
fold = [0, 1]
"""

PATHS = [str(Path(__file__).parents[1])]  # of toy.py, for the processes that the tests start

# Makes the sweep in a process that is killed right after the first checkpoint of its second run.
SCRIPT = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = {PATHS!r}
from toy import toy_faces
from fertools.training.scheduler import run_sweep
from fertools.training.sweeps import Sweep
from fertools.training.trainer import Trainer
save = Trainer.save
def save_and_die(self):
    save(self)
    if self.folder.name == "fold-1":
        os.kill(os.getpid(), signal.SIGKILL)
Trainer.save = save_and_die
run_sweep(Sweep.read(Path(sys.argv[1])), toy_faces(), runs=Path(sys.argv[2]), device="cpu", jobs=1, progress=False)
"""

# Makes the sweep in two processes.
IN_PROCESSES = f"""
import sys
from pathlib import Path
sys.path[:0] = {PATHS!r}
from toy import toy_faces
from fertools.training.scheduler import run_sweep
from fertools.training.sweeps import Sweep
if __name__ == "__main__":
    run_sweep(Sweep.read(Path(sys.argv[1])), toy_faces(), runs=Path(sys.argv[2]), device="cpu", jobs=2, progress=False)
"""


def read(folder: Path, text: str, name: str = "try") -> Sweep:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return Sweep.read(path)


def quick(sweep: Sweep, runs: Path, **options: object) -> list[str]:
    said: list[str] = []
    options = {"jobs": 1, "progress": False} | options
    run_sweep(sweep, toy_faces(), runs=runs, device="cpu", say=said.append, **options)  # type: ignore[arg-type]
    return said


def same_runs(sweep: Sweep, one: Path, other: Path) -> None:
    """The same records, but for time and interruptions; the same weights and predictions, bit for bit."""
    for run in sweep.runs:
        first, second = (dataclasses.asdict(Record.load(sweep.folder(run, runs))) for runs in (one, other))
        for record in (first, second):
            for name in ("seconds", "resumed", "environment"):
                del record[name]
            for entry in record["history"]:
                del entry["seconds"]
        assert first == second
        for file in ("model.safetensors", "predictions.npz"):
            a, b = (sweep.folder(run, runs) / file for runs in (one, other))
            if file == "model.safetensors":
                assert a.read_bytes() == b.read_bytes()
            else:
                with np.load(a) as x, np.load(b) as y:
                    assert sorted(x) == sorted(y)
                    assert all(np.array_equal(x[key], y[key]) for key in x)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the processes of a sweep have: the order of sums depends on it, and runs are compared bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy_sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return read(tmp_path_factory.mktemp("sweeps"), TOY)


@pytest.fixture(scope="module")
def undisturbed(toy_sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    quick(toy_sweep, runs)
    return runs


# --- The file ---


def test_runs_are_variants_times_varied_fields_times_seeds(tmp_path: Path) -> None:
    sweep = read(
        tmp_path,
        """
        data = "fer2013"
        recipe = "cpu-fer2013"
        seeds = [3, 4]
        set = ["epochs=5"]
        [vary]
        nesterov = [true, false]
        network.kernels = [[5], [5, 3]]
        [[run]]
        name = "plain"
        set = []
        [[run]]
        name = "added"
        set = ["network.fusion=add", "network.units=1"]
        """,
    )
    assert len(sweep.runs) == len({run.name for run in sweep.runs}) == 16
    assert (sweep.name, sweep.init) == ("try", "")
    run = next(run for run in sweep.runs if run.name == "added_nesterov-false_kernels-5-3_seed-4")
    assert run.seed == 4
    overrides = ["epochs=5", "network.fusion=add", "network.units=1", "nesterov=false", "network.kernels=5,3"]
    assert list(run.overrides) == overrides
    assert run.config == recipe("cpu-fer2013", overrides)
    assert run.config.network.kernels == (5, 3)
    assert sweep.folder(run, Path("runs")) == Path("runs/try") / run.name


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ("", ["seed-0"]),
        ("seeds = [7]", ["seed-7"]),
        ("seeds = [1, 2]", ["seed-1", "seed-2"]),
        ("[vary]\nepochs = [1, 2]", ["epochs-1", "epochs-2"]),
        ('seeds = [5]\n[[run]]\nname = "a"\nset = []', ["a"]),
    ],
)
def test_a_runs_name_says_what_varies(tmp_path: Path, more: str, names: list[str]) -> None:
    sweep = read(tmp_path, f'data = "fer2013"\nrecipe = "cpu-fer2013"\n{more}')
    assert [run.name for run in sweep.runs] == names


def test_a_variant_can_start_from_another_recipe(tmp_path: Path) -> None:
    own = '[[run]]\nname = "b"\nset = ["epochs=3"]\nrecipe = "vgg13-fer2013"'
    sweep = read(tmp_path, f'data = "fer2013"\nrecipe = "cpu-fer2013"\n[[run]]\nname = "a"\nset = []\n{own}')
    assert [(run.recipe, run.config) for run in sweep.runs] == [
        ("cpu-fer2013", recipe("cpu-fer2013")),
        ("vgg13-fer2013", recipe("vgg13-fer2013", ["epochs=3"])),
    ]
    assert read(tmp_path, f'data = "fer2013"\n{own}').runs[0].recipe == "vgg13-fer2013"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data = ", "is not TOML"),
        ('data = "toy"', "recipe must be given"),
        ('data = "toy"\nrecipe = 3', "recipe = 3: expected str"),
        (TOY + "seed = [1]", "no field 'seed'"),  # inside [vary]
        ("seed = 1" + TOY, "there is no key seed"),
        ("seeds = [1, 1]" + TOY, "different whole numbers"),
        ("seeds = []" + TOY, "different whole numbers"),
        ("seeds = [true]" + TOY, "different whole numbers"),
        (TOY.replace("[0, 1]", "[]"), "fold = .*expected a list of values"),
        (TOY.replace("[0, 1]", "3"), "fold = 3: expected a list of values"),
        (TOY.replace("[0, 1]", "[0, 0]"), "two runs would be called fold-0"),
        (TOY.replace("[0, 1]", "[0, 2]"), "fold-2: .*must be from 0 to 1"),
        (TOY.replace("[0, 1]", '["x"]'), "fold-x: .*expected a whole number"),
        (
            TOY.replace("[0, 1]", '["1 #/../../ESCAPED"]'),
            "a run's name = 'fold-1 #/../../ESCAPED' is no name for",
        ),
        (TOY.replace("[0, 1]", '["1 # one"]'), "a run's name = 'fold-1 # one' is no name for"),
        (TOY.replace("[0, 1]", f"{list(range(200))}\nmomentum = {list(range(100))}"), "20,000 runs, more than 10,000"),
        (TOY + '[[run]]\nname = ".."\nset = []', "no name for a folder"),
        (TOY.replace("cpu-ckplus", "cpu-ck"), "did you mean 'cpu-ckplus'"),
        (TOY.replace("'epochs=2'", "'epochs=2', 'fold=1'"), "fold is set twice"),
        (TOY.replace("'epochs=2'", "'epochs=2', 3"), "expected texts"),
        (TOY.replace("'epochs=2'", "'protocol=splits'"), "the protocol is 'splits'"),
        (TOY + '[[run]]\nname = "a/b"\nset = []', "no name for a folder"),
        (TOY + '[[run]]\nname = "a"\nsets = []', r"\[\[run\]\]: there is no key sets"),
        (TOY + '[[run]]\nname = "a"', "set must be given"),
        (TOY + '[[run]]\nname = "a"\nset = ["epochs=3"]', "epochs is set twice"),
        (
            TOY + '[[run]]\nname = "a"\nset = []\n[[run]]\nname = "a"\nset = ["momentum=0.5"]',
            "two runs would be called",
        ),
        (
            TOY + '[[run]]\nname = "a"\nset = []\n[[run]]\nname = "b"\nset = []',
            "a_fold-0 and b_fold-0 are the same run",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SweepError, match=f"try.toml.*{message}"):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"none.toml cannot be read"):
        Sweep.read(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_sweeps_are_sound_and_their_records_are_what_they_ask_for(path: Path) -> None:
    sweep = Sweep.read(path)
    assert sweep.about
    for run in sweep.runs:
        sweep.state(run, RUNS)  # raises where a record is of another run


def test_the_ablation_without_recursion_has_the_parameters_of_the_baseline() -> None:
    runs = {run.name: run.config for run in Sweep.read(SWEEPS / "synthetic-ablations.toml").runs}

    def parameters(row: str) -> int:
        net = build(dataclasses.replace(runs[f"{row}_seed-0"].network, classes=8))
        return sum(p.numel() for p in net.parameters())

    assert parameters("not-recursive-equal-parameters") == pytest.approx(parameters("baseline"), rel=0.01)
    assert parameters("not-recursive-equal-width") > 1.2 * parameters("baseline")


# --- In this process ---


def test_a_run_of_a_sweep_is_the_run_that_train_makes(toy_sweep: Sweep, undisturbed: Path, tmp_path: Path) -> None:
    changes = [*CHANGES, "fold=1"]
    config = recipe("cpu-ckplus", changes)
    folder = tmp_path / "try" / "fold-1"
    train(config, toy_faces(), folder, device="cpu", recipe="cpu-ckplus", overrides=changes, progress=False)
    mine, theirs = Record.load(folder), Record.load(undisturbed / "try" / "fold-1")
    assert (mine.name, mine.recipe, mine.overrides) == (theirs.name, theirs.recipe, theirs.overrides)
    assert mine.identity == theirs.identity
    assert toy_sweep.state(toy_sweep.runs[1], tmp_path, toy_faces()) == "done"


def test_done_runs_are_left_alone(toy_sweep: Sweep, undisturbed: Path) -> None:
    files = sorted(undisturbed.rglob("*.safetensors"))
    before = [file.stat().st_mtime_ns for file in files]
    assert quick(toy_sweep, undisturbed) == ["1 of 2  fold-0: has its record", "2 of 2  fold-1: has its record"]
    assert [file.stat().st_mtime_ns for file in files] == before


def test_groups_tell_the_person_of_each_test_image(toy_sweep: Sweep, undisturbed: Path) -> None:
    faces = toy_faces()
    groups = load_groups(undisturbed / "try")
    assert list(groups) == ["fold-0", "fold-1"]
    for run, (_, rows) in zip(toy_sweep.runs, kfold(faces, 2, by="subject"), strict=True):
        assert faces.subjects is not None
        people = faces.subjects[rows]
        assert np.array_equal(groups[run.name][:, None] == groups[run.name], people[:, None] == people)
    assert not set(groups["fold-0"]) & set(groups["fold-1"])
    assert load_groups(undisturbed) == {}


def test_a_record_of_another_run_is_refused_by_name(undisturbed: Path, tmp_path: Path) -> None:
    other = read(tmp_path, TOY.replace("epochs=2", "epochs=3"))
    with pytest.raises(SweepError, match=r"fold-0 has the record of another run.* config.epochs is 2 there and 3 here"):
        quick(other, undisturbed)
    other = read(tmp_path, TOY.replace("toy", "ckplus48"))
    with pytest.raises(SweepError, match="set is 'toy' there and 'ckplus48' here"):
        other.state(other.runs[0], undisturbed)
    other = read(tmp_path, TOY)
    with pytest.raises(SweepError, match=r"data\.content is 'sha256:"):
        other.state(other.runs[0], undisturbed, toy_faces(seed=1))
    other = read(tmp_path, 'init = "nosuch"' + TOY)
    with pytest.raises(RunError, match="there is no run nosuch"):
        quick(other, undisturbed)


def test_runs_start_from_another_runs_weights(toy_sweep: Sweep, undisturbed: Path, tmp_path: Path) -> None:
    init = undisturbed / "try" / "fold-0"
    sweep = read(tmp_path, f"init = {str(init)!r}" + TOY.replace("[0, 1]", "[1]"))
    quick(sweep, tmp_path)
    assert Record.load(tmp_path / "try" / "fold-1").identity["init"].startswith("sha256:")
    assert sweep.state(sweep.runs[0], tmp_path) == "done"
    with pytest.raises(SweepError, match="init is 'sha256:.*there and None here"):
        toy_sweep.state(toy_sweep.runs[1], tmp_path)


def test_a_failed_run_does_not_lose_the_others(
    toy_sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def broken(self: Trainer, rows: torch.Tensor) -> None:
        if self.folder.name == "fold-0":
            raise MemoryError("no room")
        step(self, rows)

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(SweepError, match=r"1 failed:\n  fold-0: MemoryError: no room \(.*\)\n1 of 2 runs are done"):
        quick(toy_sweep, tmp_path)
    assert Record.load(tmp_path / "try" / "fold-1").resumed == 0
    assert list(load_groups(tmp_path / "try")) == ["fold-1"]


def test_it_stops_when_its_time_is_over(toy_sweep: Sweep, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="0 of 2 runs are done"):
        quick(toy_sweep, tmp_path, minutes=1e-9)
    with pytest.raises(Interrupted, match="0 of 2 runs are done"):
        quick(toy_sweep, tmp_path, minutes=0)


@pytest.mark.parametrize("when", ["save", "finish"])
def test_a_signal_stops_it_between_runs_or_with_a_checkpoint(
    toy_sweep: Sweep, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    method = getattr(Trainer, when)
    sent: list[int] = []

    def and_signal(self: Trainer, *words: object) -> object:
        if not sent:  # a second one would stop at once
            sent.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return method(self, *words)

    monkeypatch.setattr(Trainer, when, and_signal)
    with pytest.raises(Interrupted, match="of 2 runs are done"):
        quick(toy_sweep, tmp_path)
    first = tmp_path / "try" / "fold-0"
    left = {"checkpoint.safetensors", "checkpoint.previous.safetensors"} if when == "save" else set()
    assert {path.name for path in first.glob("*check*")} == left
    assert not (tmp_path / "try" / "fold-1").exists()
    said = quick(toy_sweep, tmp_path)
    assert said[0] == f"1 of 2  fold-0: {'continues' if when == 'save' else 'has its record'}"
    same_runs(toy_sweep, tmp_path, undisturbed)


def test_killed_in_the_middle_it_ends_as_if_it_had_not_been(
    toy_sweep: Sweep, undisturbed: Path, tmp_path: Path
) -> None:
    file = tmp_path / "try.toml"
    file.write_text(TOY)
    end = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file), str(tmp_path)],
        check=False,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert end.returncode == -signal.SIGKILL
    assert [toy_sweep.state(run, tmp_path) for run in toy_sweep.runs] == ["done", "unfinished"]
    assert list(load_groups(tmp_path / "try")) == ["fold-0"]
    said = quick(toy_sweep, tmp_path)
    assert said[:2] == ["1 of 2  fold-0: has its record", "2 of 2  fold-1: continues"]
    assert said[2].startswith("2 of 2  fold-1: done, ")
    assert [Record.load(tmp_path / "try" / name).resumed for name in ("fold-0", "fold-1")] == [0, 1]
    same_runs(toy_sweep, tmp_path, undisturbed)


def test_a_sweep_file_cannot_leave_the_folder_of_the_runs(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"the file's name = '\.\.' is no name for a folder"):
        read(tmp_path, TOY, name="..")
    sweep = read(tmp_path, TOY)
    for run in sweep.runs:
        assert sweep.folder(run, tmp_path).resolve().is_relative_to(tmp_path.resolve())


def test_millions_of_combinations_are_refused_at_once(tmp_path: Path) -> None:
    fields = ("momentum", "fold", "step_size", "batch_size")
    varied = "".join(f"{field} = {list(range(1, 101))}\n" for field in fields)
    start = time.monotonic()
    with pytest.raises(SweepError, match="these are 100,000,000 runs, more than 10,000"):
        read(tmp_path, TOY.replace("fold = [0, 1]", varied))
    assert time.monotonic() - start < 5


# --- In several processes ---


def test_two_processes_make_the_records_that_one_makes(toy_sweep: Sweep, undisturbed: Path, tmp_path: Path) -> None:
    before = dict(os.environ)
    said = quick(toy_sweep, tmp_path, jobs=2)
    assert said[:2] == ["1 of 2  fold-0: begins", "2 of 2  fold-1: begins"]
    assert sorted(line.split(",")[0] for line in said[2:]) == ["1 of 2  fold-0: done", "2 of 2  fold-1: done"]
    same_runs(toy_sweep, tmp_path, undisturbed)
    assert [Record.load(tmp_path / "try" / f"fold-{k}").environment["threads"] for k in (0, 1)] == [1, 1]
    assert load_groups(tmp_path / "try").keys() == {"fold-0", "fold-1"}
    assert dict(os.environ) == before
    assert quick(toy_sweep, tmp_path, jobs=2) == ["1 of 2  fold-0: has its record", "2 of 2  fold-1: has its record"]


def test_by_default_a_cpu_has_a_process_for_each_core(
    toy_sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def one(todo: list, common: dict, begin: object) -> Iterator:
        seen.append(1)
        return iter(())

    def several(todo: list, common: dict, begin: object, jobs: int) -> Iterator:
        seen.append(jobs)
        return iter(())

    monkeypatch.setattr(scheduler, "_one_by_one", one)
    monkeypatch.setattr(scheduler, "_in_processes", several)
    monkeypatch.setattr(scheduler, "physical_cores", lambda: 8)
    many = read(tmp_path, TOY.replace("folds=2", "folds=20").replace("[0, 1]", str(list(range(20)))), "many")
    single = read(tmp_path, TOY.replace("[0, 1]", "[0]"), "single")
    for sweep, jobs in ((many, 8), (toy_sweep, 2), (single, 1)):
        with pytest.raises(Interrupted):
            quick(sweep, tmp_path, jobs=None)
        assert seen.pop() == jobs
    monkeypatch.setattr(scheduler, "pick_device", lambda name: torch.device("cuda"))
    with pytest.raises(Interrupted):
        quick(toy_sweep, tmp_path, jobs=None)
    assert seen.pop() == 1
    with pytest.raises(SweepError, match="0 jobs: at least 1 is needed"):
        quick(toy_sweep, tmp_path, jobs=0)


@pytest.mark.parametrize("to", ["parent", "group"])
def test_sigterm_stops_all_processes_with_checkpoints_and_the_same_command_continues(tmp_path: Path, to: str) -> None:
    """Sent to the sweep alone, or by a terminal or a batch system to every process of it."""
    file, script = tmp_path / "try.toml", tmp_path / "script.py"
    file.write_text(TOY.replace("epochs=2", "epochs=2000"))
    script.write_text(IN_PROCESSES)
    folders = [tmp_path / "try" / f"fold-{k}" for k in (0, 1)]
    with subprocess.Popen(
        [sys.executable, str(script), str(file), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not all((folder / "checkpoint.safetensors").exists() for folder in folders):
            time.sleep(0.01)
        (os.kill if to == "parent" else os.killpg)(process.pid, signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 1
    assert err.rstrip().endswith("the sweep try was stopped: 0 of 2 runs are done. The same command continues.")
    assert out.count("stopped, stopped in epoch") == 2
    steps = []
    for folder in folders:
        checkpoint = load_checkpoint(folder)
        assert checkpoint is not None
        assert not (folder / "in-use.lock").exists()
        steps.append(checkpoint.progress.step)
    said: list[str] = []
    with pytest.raises(Interrupted):
        run_sweep(
            Sweep.read(file),
            toy_faces(),
            runs=tmp_path,
            device="cpu",
            jobs=1,
            minutes=1e-3,
            say=said.append,
            progress=False,
        )
    assert said[0] == "1 of 2  fold-0: continues"
    after = load_checkpoint(folders[0])
    assert after is not None
    assert after.progress.step > steps[0]
    assert after.progress.resumed == 1


def test_stopped_in_two_processes_it_ends_as_if_it_had_not_been(
    toy_sweep: Sweep, undisturbed: Path, tmp_path: Path
) -> None:
    for run in toy_sweep.runs:  # one step each
        path = tmp_path / "try" / run.name
        with pytest.raises(Interrupted):
            train(run.config, toy_faces(), path, device="cpu", minutes=1e-9, progress=False)
    said = quick(toy_sweep, tmp_path, jobs=2)
    assert said[:2] == ["1 of 2  fold-0: continues", "2 of 2  fold-1: continues"]
    assert [Record.load(tmp_path / "try" / name).resumed for name in ("fold-0", "fold-1")] == [1, 1]
    same_runs(toy_sweep, tmp_path, undisturbed)


def test_a_process_that_fails_does_not_take_the_others_with_it(toy_sweep: Sweep, tmp_path: Path) -> None:
    """The first run's folder is in use, so it fails; the second one is trained."""
    with (
        lock_folder(tmp_path / "try" / "fold-0"),
        pytest.raises(
            SweepError, match=r"1 failed:\n  fold-0: .* is in use by process \d+ on .*\n1 of 2 runs are done"
        ),
    ):
        quick(toy_sweep, tmp_path, jobs=2)
    assert Record.load(tmp_path / "try" / "fold-1").resumed == 0


def test_a_killed_process_is_named_with_its_signal() -> None:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=time.sleep, args=(60,))
    process.start()
    send.close()
    process.kill()
    job = scheduler._Job("a", process, receive, 0)
    assert job.result(stopping=False) == scheduler.Outcome(
        "failed", "its process was killed by SIGKILL; the same command continues from its last checkpoint"
    )
    assert job.result(stopping=True).state == "stopped"
    receive.close()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep from the shell, and a comparison of its folds with themselves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fertools.data.load", lambda name, root: toy_faces())
    read(tmp_path, TOY)

    def call(*words: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["fertools", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().out

    code, out = call("sweep", "try.toml", "--minutes", "1e-9", "--jobs", "1")
    assert code == 75
    assert "fold-0: stopped, there was no time left to begin" in out
    assert [line.split()[0] for line in call("sweep", "try.toml", "--list")[1].splitlines()] == ["new", "new"]
    code, out = call("sweep", "try.toml", "--device", "cpu")
    assert code == 0
    assert "2 of 2  fold-1: done, " in out
    assert [line.split()[0] for line in call("sweep", "try.toml", "--list")[1].splitlines()] == ["done", "done"]
    assert call("sweep", "try.toml", "--address", "auto")[0] == 2
    code, out = call("compare", "try", "try")
    assert code == 0
    assert "These images do not allow a ranking" in out
    assert call("compare", "try", "try", "try")[0] == 2
    assert call("compare", "try", "--tta", "two")[0] == 2


# --- On Ray ---


def test_without_ray_it_says_how_to_get_it(toy_sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SweepError, match=r"pip install 'fertools\[ray\]'"):
        quick(toy_sweep, tmp_path, ray=OnRay())


def test_on_ray_a_killed_worker_costs_nothing_and_the_records_are_the_same(
    toy_sweep: Sweep, undisturbed: Path, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: the extra `ray`")

    def die_once() -> None:  # in each new worker
        save = Trainer.save
        marker = tmp_path / "killed"

        def save_and_die(self: Trainer) -> None:
            save(self)
            if self.folder.name == "fold-1" and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        Trainer.save = save_and_die  # type: ignore[method-assign]

    try:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="WARNING",
            runtime_env={"worker_process_setup_hook": die_once},
        )
    except Exception as error:  # Ray gives its own processes 30 seconds, too few on a busy machine
        ray.shutdown()
        if "timed out during startup" not in str(error):
            raise
        pytest.skip(f"Ray: {error}")
    try:
        said = quick(toy_sweep, tmp_path, ray=OnRay())
        with pytest.raises(SweepError, match=r"a run needs 64 CPUs, but the cluster has 2"):
            quick(read(tmp_path, TOY, "more"), tmp_path, ray=OnRay(cpus=64))
    finally:
        ray.shutdown()
    assert (tmp_path / "killed").exists()
    assert sorted(line.split(",")[0] for line in said) == ["1 of 2  fold-0: done", "2 of 2  fold-1: done"]
    assert Record.load(tmp_path / "try" / "fold-1").resumed == 1
    same_runs(toy_sweep, tmp_path, undisturbed)
