"""The command as a user types it, with its exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import toy_faces

from fertools.cli import main
from fertools.data import SPLITS, ckplus, synthetic
from fertools.records import Record
from fertools.models.weights import load_weights, save_weights

Command = Callable[..., tuple[int, str, str]]

TINY = [
    "--set=epochs=1",
    "--set=network.width=2,2",
    "--set=network.scales=12,24",
    "--set=network.units=1",
    "--set=network.hidden=4",
    "--set=folds=2",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a made-up CK+48 of the published counts, in data/."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    faces = toy_faces(42)
    film = 0
    for label, (name, films) in enumerate(
        {"anger": 45, "contempt": 18, "disgust": 59, "fear": 25, "happy": 69, "sadness": 28, "surprise": 83}.items()
    ):
        (home / "data" / "CK+48" / name).mkdir(parents=True)
        for _ in range(films):
            for frame in (10, 11, 12):
                image = np.clip(faces.images[label] + rng.integers(0, 20, (48, 48)), 0, 255).astype(np.uint8)
                person = f"S{film % 118:03}_{film // 118:03}"
                Image.fromarray(image).save(home / "data" / "CK+48" / name / f"{person}_{frame:08}.png")
            film += 1
    assert len(ckplus.load_ckplus48(home / "data" / "CK+48")) == 981
    return home


@pytest.fixture
def fertools(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in ``home``; gives exit code, standard output and standard error."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fertools", *words])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        if isinstance(end.value.code, str):  # what Python does with sys.exit("message")
            return 1, out, err + end.value.code
        return int(end.value.code or 0), out, err

    return run


def test_train_evaluate_and_train_again(fertools: Command, home: Path) -> None:
    train = ["train", "--recipe", "cpu-ckplus", "--data", "ckplus48", "--out", "try", "--seed", "3", *TINY]
    code, _, err = fertools(*train, "--minutes", "0.0001")
    assert code == 1
    assert "the same command continues from it" in err
    code, out, err = fertools(*train)
    assert code == 0, err
    assert "images/s" in err  # the progress bar
    record = Record.load("try", runs=home / "data" / "runs")
    assert record.summary() in out
    assert (record.recipe, record.resumed, record.identity["seed"]) == ("cpu-ckplus", 1, 3)
    assert record.overrides == [word.removeprefix("--set=") for word in TINY]

    code, out, err = fertools("evaluate", "try", "--split", "fold")
    assert code == 0, err
    assert f"{record.metrics['fold']['single-crop']['accuracy']:.2%}" in out
    code, _, err = fertools("evaluate", "try", "--split", "PrivateTest")
    assert code == 2
    assert "recorded fold" in err

    code, _, err = fertools(*train[:-1], "--set=folds=3")
    assert code == 1
    assert "holds another run: config.folds is 2 there and 3 here" in err


def test_train_needs_no_more_than_a_name(fertools: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it trains on the faces that come with the project, here a few that stand for them."""
    monkeypatch.chdir(tmp_path)
    code, _, err = fertools("train", "--out", "first")
    assert code == 1
    assert "data/synthetic/SHA256SUMS: no such file" in err
    assert "git checkout -- data/synthetic" in err

    folder = tmp_path / "data" / "synthetic"
    folder.mkdir(parents=True)
    rows = []
    for seed, split in enumerate(SPLITS):
        synthetic.write_sheet(folder / f"{split}.jpg", toy_faces(48, seed=seed).images)
        rows += [{"split": split, "subject": split, "label": synthetic.CLASSES[i % 8]} for i in range(48)]
    synthetic.write_table(folder / "portraits.csv", rows)
    synthetic.write_checksums(folder)
    code, out, err = fertools("train", "--out", "first", *TINY)
    assert code == 0, err
    record = Record.load("first", runs=tmp_path / "data" / "runs")
    assert record.summary() in out
    assert record.recipe == "cpu-synthetic"
    assert record.data["name"] == "synthetic"
    assert record.selected["by"] == "accuracy on PublicTest"


def test_evaluate_says_where_the_weights_are_not_the_recorded_ones(fertools: Command, home: Path) -> None:
    train = ["train", "--recipe", "cpu-ckplus", "--data", "ckplus48", "--out", "other", *TINY]
    assert fertools(*train)[0] == 0
    path = home / "data" / "runs" / "other" / "model.safetensors"
    tensors, about = load_weights(path)
    tensors["head.5.bias"][2] += 100
    save_weights(path, tensors, about)
    code, _, err = fertools("evaluate", "other")
    assert code == 1
    assert "the record has other counts" in err


def test_data_tells_what_is_here_and_what_is_missing(fertools: Command) -> None:
    code, out, _ = fertools("data")
    assert code == 0
    assert "981 images" in out
    for missing in ("synthetic", "synthetic-sequences", "fer2013", "ferplus", "ckplus"):
        assert f"{missing}: not there" in out
    assert "kaggle.com" in out
    assert "comes with the project" in out


def test_audit_counts(fertools: Command) -> None:
    code, out, _ = fertools("audit", "ckplus48")
    assert code == 0
    assert "981  images" in out


@pytest.mark.parametrize(
    ("words", "wanted", "message"),
    [
        (["audit", "fer2012"], 1, "no data set is called 'fer2012'"),
        (["audit", "fer2013"], 1, "fer2013"),
        (["evaluate", "nosuch"], 1, "there is no run at"),
        (["train", "--out", "x", "--recipe", "paper-fer"], 2, "did you mean 'paper-fer2013'"),
        (["train", "--out", "x", "--set", "epochs=many"], 2, "expected int"),
        (["train"], 2, "--out"),
        (["train", "--out", "x", "--seed", "one"], 2, "--seed"),
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


def test_the_command_is_installed_and_starts_without_torch() -> None:
    code = (
        "import sys, fertools.cli; sys.argv = ['fertools', '--help']\n"
        "try: fertools.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-m", "fertools", "--help"], check=True, stdout=subprocess.DEVNULL)
