"""The command as a user types it, with its exit codes."""

from __future__ import annotations

import builtins
import csv
import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy import toy_faces

from fertools import __version__
from fertools.cli import csv_cell, main, printable
from fertools.data import SPLITS, ckplus, synthetic
from fertools.models.weights import load_weights, save_weights
from fertools.paths import package_data
from fertools.records import Record

Command = Callable[..., tuple[int, str, str]]

TINY = [
    "--epochs=1",
    "--set=network.width=2,2",
    "--set=network.scales=12,24",
    "--set=network.units=1",
    "--set=network.hidden=4",
    "--set=folds=2",
]
TINY_FIELDS = [word.removeprefix("--set=") for word in TINY[1:]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a made-up CK+48 of the published counts, in data/."""
    home = tmp_path_factory.mktemp("home")
    (home / "file").touch()
    rng = np.random.default_rng(0)
    faces = toy_faces(42)
    sequence = 0
    for label, (name, sequences) in enumerate(
        {"anger": 45, "contempt": 18, "disgust": 59, "fear": 25, "happy": 69, "sadness": 28, "surprise": 83}.items()
    ):
        (home / "data" / "CK+48" / name).mkdir(parents=True)
        for _ in range(sequences):
            for frame in (10, 11, 12):
                image = np.clip(faces.images[label] + rng.integers(0, 20, (48, 48)), 0, 255).astype(np.uint8)
                person = f"S{sequence % 118:03}_{sequence // 118:03}"
                Image.fromarray(image).save(home / "data" / "CK+48" / name / f"{person}_{frame:08}.png")
            sequence += 1
    assert len(ckplus.load_ckplus48(home / "data" / "CK+48")) == 981
    return home


@pytest.fixture
def fertools(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in ``home``; returns the exit code, standard output, and standard error."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fertools", *words])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), out, err

    return run


def test_train_evaluate_and_train_again(fertools: Command, home: Path) -> None:
    train = ["train", "--recipe", "cpu-ckplus", "--data", "ckplus48", "--output", "try", "--seed", "3", *TINY]
    code, _, err = fertools(*train, "--minutes", "0.0001")
    assert code == 75
    assert "the same command continues from it" in err
    code, out, err = fertools(*train)
    assert code == 0, err
    assert "images/s" in err  # the progress bar
    record = Record.load("try", runs=home / "runs")
    assert record.summary() in out
    assert (record.recipe, record.resumed, record.identity["seed"]) == ("cpu-ckplus", 1, 3)
    assert record.overrides == [word.removeprefix("--set=").removeprefix("--") for word in TINY]

    code, out, err = fertools("evaluate", "try", "--split", "fold")
    assert code == 0, err
    assert f"{record.metrics['fold']['single-crop']['accuracy']:.2%}" in out
    code, _, err = fertools("evaluate", "try", "--split", "PrivateTest")
    assert code == 2
    assert "recorded fold" in err

    code, _, err = fertools(*train[:-1], "--set=folds=3")
    assert code == 1
    assert "contains another run: config.folds is 2 there and 3 here" in err


def test_train_needs_no_more_than_a_name(fertools: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it trains on the synthetic faces, here on a few in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "synthetic"
    folder.mkdir(parents=True)
    rows = []
    for seed, split in enumerate(SPLITS):
        synthetic.write_sheet(folder / f"{split}.jpg", toy_faces(48, seed=seed).images)
        rows += [{"split": split, "subject": split, "label": synthetic.CLASSES[i % 8]} for i in range(48)]
    synthetic.write_table(folder / "portraits.csv", rows)
    synthetic.write_checksums(folder)
    code, out, err = fertools("train", "--output", "first", *TINY)
    assert code == 0, err
    record = Record.load("first", runs=tmp_path / "runs")
    assert record.summary() in out
    assert record.recipe == "cpu-synthetic"
    assert record.data["name"] == "synthetic"
    assert record.selected["by"] == "accuracy on PublicTest"


def test_evaluate_says_where_the_weights_are_not_the_recorded_ones(fertools: Command, home: Path) -> None:
    train = ["train", "--recipe", "cpu-ckplus", "--data", "ckplus48", "--output", "other", *TINY]
    assert fertools(*train)[0] == 0
    path = home / "runs" / "other" / "model.safetensors"
    tensors, metadata = load_weights(path)
    tensors["head.5.bias"][2] += 100
    save_weights(path, tensors, metadata)
    code, _, err = fertools("evaluate", "other")
    assert code == 1
    assert "the predictions are not the recorded ones" in err


def test_data_lists_what_is_available_and_what_is_missing(fertools: Command) -> None:
    code, out, _ = fertools("data", "--data-dir", "data")
    assert code == 0
    assert "981 images" in out
    for missing in ("synthetic", "synthetic-sequences", "fer2013", "ferplus", "ckplus"):
        assert f"{missing}: not available" in out
    assert "kaggle.com" in out


def test_audit_counts(fertools: Command) -> None:
    code, out, _ = fertools("audit", "ckplus48")
    assert code == 0
    assert "981  images" in out


@pytest.mark.parametrize(
    ("words", "wanted", "message"),
    [
        (["audit", "fer2012"], 1, "there is no data set 'fer2012'"),
        (["audit", "fer2013", "--data-dir", "data"], 1, "fer2013"),
        (["evaluate", "nosuch"], 1, "there is no run nosuch"),
        (["train", "--output", "x", "--recipe", "paper-fer"], 2, "did you mean 'paper-fer2013'"),
        (["train", "--output", "x", "--set", "epochs=many"], 2, "expected a whole number"),
        (["train", "--output", ""], 2, "give one of --output"),
        (["train", "--output", "x", "--data-dir", "nosuch"], 2, "'nosuch' does not exist"),
        (["train", "--output", "x", "--seed", "one"], 2, "--seed"),
        (["train", "--output", "x", "--epochs", "0"], 2, "epochs=0 must be at least 1"),
        (["train", "--output", "x", "--lr", "1", "--set", "learning_rate=2"], 2, "learning_rate is set twice"),
        (["train", "--output", "x", "--device", "abacus"], 2, "there is no device 'abacus'"),
        (["train", "--output", "x", "--resume", "x"], 2, "give one of --output"),
        (["train", "--resume", "x", "--lr", "1"], 2, "own settings"),
        (["train", "--resume", "nosuch"], 1, "there is no run nosuch"),
        (["train", "--output", "file/run"], 1, "file/run cannot be written to (Not a directory)"),
        (["sweep", "nosuch.toml"], 1, "nosuch.toml"),
        (["compare", "--tta", "one"], 2, "single-crop, flip, ten-crop"),
        (["compare", "a", "b", "c"], 2, "at most two"),
        (["predict", "a.jpg", "--json", "--csv"], 2, "--json and --csv"),
        (["nosuch"], 2, "nosuch"),
    ],
)
def test_failures_and_wrong_calls_have_their_exit_codes(
    fertools: Command, words: list[str], wanted: int, message: str
) -> None:
    code, _, err = fertools(*words)
    assert code == wanted
    assert message in err


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_is_there(fertools: Command, words: list[str]) -> None:
    code, out, _ = fertools(*words)
    assert code == 0
    assert "Usage" in out


def test_version(fertools: Command) -> None:
    assert fertools("--version")[:2] == (0, f"fertools {__version__}\n")


def test_resume_continues_with_the_runs_own_settings(fertools: Command, home: Path) -> None:
    """The run that was resumed by name equals the one that was never stopped, bit for bit."""
    train = ["train", "--recipe", "cpu-ckplus", "--data", "ckplus48", "--seed", "5", "--lr", "0.01", *TINY]
    assert fertools(*train, "--output", "whole")[0] == 0
    assert fertools(*train, "--output", "halves", "--minutes", "0.0001")[0] == 75
    code, out, err = fertools("train", "--resume", "halves")
    assert code == 0, err
    runs = home / "runs"
    whole, halves = Record.load("whole", runs), Record.load("halves", runs)
    assert (whole.resumed, halves.resumed) == (0, 1)
    assert halves.overrides == whole.overrides == ["epochs=1", "learning_rate=0.01", *TINY_FIELDS]
    tensors = [load_weights(runs / name / "model.safetensors")[0] for name in ("whole", "halves")]
    assert all((tensors[0][name] == tensors[1][name]).all() for name in tensors[0])
    assert sorted(path.name for path in (runs / "halves").iterdir()) == [
        "model.safetensors",
        "predictions.npz",
        "record.json",
    ]
    code, _, err = fertools("train", "--resume", "halves")
    assert code == 1
    assert "has finished" in err


def test_ctrl_c_ends_with_130(fertools: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fertools.data.inventory", interrupt)
    code, _, err = fertools("data")
    assert code == 130
    assert err == "fertools: interrupted\n"


def test_a_missing_extra_is_named(fertools: Command, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setitem(sys.modules, "dlib", None)  # what Python does with a package that must not be imported
    Image.fromarray(np.zeros((90, 90), np.uint8)).save("plain.png")
    code, _, err = fertools("predict", "plain.png")
    assert code == 1
    assert "pip install 'fertools[faces]'" in err


def test_a_missing_tensorboard_is_named_before_anything_is_written(
    fertools: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    train = ["train", "--recipe", "cpu-ckplus", "--data", "ckplus48", "--output", "unlogged", *TINY]
    code, _, err = fertools(*train, "--tensorboard")
    assert code == 1
    assert err == "fertools: this needs tensorboard: pip install 'fertools[tensorboard]'\n"
    assert not (home / "runs" / "unlogged").exists()


@pytest.mark.parametrize(
    ("words", "usage"), [(["compare"], "compare [OPTIONS] [RUN]..."), (["predict"], "predict [OPTIONS] {FILE}...")]
)
def test_usage_shows_what_can_be_repeated(fertools: Command, words: list[str], usage: str) -> None:
    assert usage in fertools(*words, "--help")[1]


def test_file_names_cannot_steer_a_terminal_or_a_spreadsheet(fertools: Command) -> None:
    face, broken = "=face\x1b[2J\n.png", "@broken\x1b[2J.jpg"
    frame = "synthetic/CK+/cohn-kanade-images/S001/003/S001_003_00000010.png"
    shutil.copy(package_data() / frame, face)
    Path(broken).write_text("no image")
    code, out, err = fertools("predict", face, broken)
    assert code == 1
    assert "\x1b" not in out + err
    assert r"=face\x1b[2J\n.png" in out
    assert r"@broken\x1b[2J.jpg" in out
    code, out, err = fertools("predict", face, broken, "--csv")
    assert "\x1b" not in out + err
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["source"] == r"'=face\x1b[2J\n.png"
    assert r"@broken\x1b[2J.jpg" in err
    code, out, _ = fertools("predict", face, "--json")
    assert code == 0
    assert json.loads(out)["source"] == face  # a program gets the name as it is
    assert "\x1b" not in out


def test_an_unreadable_photo_does_not_stop_the_others(fertools: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = package_data() / "synthetic/CK+/cohn-kanade-images/S001/003/S001_003_00000010.png"
    shutil.copy(frame, "readable.png")
    shutil.copy(frame, "locked.png")
    access, opened = os.access, builtins.open

    def access_others(path: Any, *words: Any, **options: Any) -> bool:
        return "locked" not in str(path) and access(path, *words, **options)

    def open_others(path: Any, *words: Any, **options: Any) -> Any:
        if "locked" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *words, **options)

    monkeypatch.setattr(os, "access", access_others)  # chmod would not stop root
    monkeypatch.setattr(builtins, "open", open_others)
    code, out, _ = fertools("predict", "locked.png", "readable.png")
    assert code == 1
    assert "locked.png: you don't have permission to read it\nreadable.png: " in out
    assert "a face of" in out


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\tb", r"a\tb"), ("\x9b", r"\x9b"), ("\udc80", r"\udc80"), ("Müller 表情.jpg", "Müller 表情.jpg")],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("value", ["=1", "+1", "-1", "@x"])
def test_cells_that_a_spreadsheet_would_run_are_quoted(value: str) -> None:
    assert csv_cell(value) == f"'{value}"
    assert [csv_cell(-1.5), csv_cell("a=b"), csv_cell(None)] == [-1.5, "a=b", None]


def test_the_command_starts_without_torch_and_quickly() -> None:
    code = (
        "import sys, fertools.cli; sys.argv = ['fertools', '--help']\n"
        "try: fertools.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "early = {'torch', 'numpy', 'pandas', 'rich'} & sys.modules.keys()\n"
        "assert not early, early"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    def processor_seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    taken = []
    for _ in range(3):
        before = processor_seconds()
        subprocess.run([sys.executable, "-m", "fertools", "--help"], check=True, stdout=subprocess.DEVNULL)
        taken.append(processor_seconds() - before)
    assert min(taken) < 0.3  # processor time, which a busy machine does not lengthen
