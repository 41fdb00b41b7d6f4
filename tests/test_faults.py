"""What can go wrong, and what then happens: each row of data/faults.csv, which the book shows, is run.

Whatever the fault: an exit code that is documented, one line that says what happened, no traceback, and
nothing lost.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pandas as pd
import pytest
from faults import Ended, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import toy_faces

from fertools.data import SPLITS, synthetic
from fertools.training.checkpoints import lock_folder
from fertools.training.checkpoints import newest as newest_checkpoint

ROOT = Path(__file__).parents[1]
ROWS = [row for _, row in pd.read_csv(ROOT / "data" / "faults.csv", dtype=str, keep_default_na=False).iterrows()]
FIELDS = ["width=2,2", "scales=12,24", "units=1", "hidden=4"]
TRAIN = ["train", "--output", "run", "--epochs=2", "--set=batch_size=8", *(f"--set=network.{f}" for f in FIELDS)]
PORTRAIT = ROOT / "book" / "_static" / "demo" / "samples" / "collins.jpg"
COMMANDS = {
    "train": TRAIN,
    "evaluate": ["evaluate", "run"],
    "predict": ["predict", str(PORTRAIT), "--model", "run"],
    "compare": ["compare", "run", "other"],
    "export": ["export", "run", "--output", "network.onnx"],
}
RESULTS = ["model.safetensors", "predictions.npz"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the faults are those of POSIX systems")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few faces and a run on them that nothing went wrong in; and another one with another seed."""
    folder = tmp_path_factory.mktemp("finished")
    data = folder / "data" / "synthetic"
    data.mkdir(parents=True)
    rows = []
    for seed, split in enumerate(SPLITS):
        synthetic.write_sheet(data / f"{split}.jpg", toy_faces(24, seed=seed).images)
        rows += [{"split": split, "subject": split, "label": synthetic.CLASSES[i % 8]} for i in range(24)]
    synthetic.write_table(data / "portraits.csv", rows)
    synthetic.write_checksums(data)
    for words in (TRAIN, [*("other" if word == "run" else word for word in TRAIN), "--seed=1"]):
        ended = run(words, folder)
        assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of that folder; before a training, without the run."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def result(folder: Path) -> list[bytes]:
    return [(folder / "runs" / "run" / name).read_bytes() for name in RESULTS]


def everything(folder: Path) -> dict[str, bytes]:
    """All files but those that say what happened."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".txt", ".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def said(ended: Ended) -> list[str]:
    """The lines of an error, without a progress bar."""
    return [line for line in ended.err.replace("\r", "\n").splitlines() if line.startswith("fertools")]


def flip(path: Path) -> None:
    """One bit: of the exponent of a tensor file's last number, and of what is in the middle of other files."""
    content = bytearray(path.read_bytes())
    content[-1 if path.suffix == ".safetensors" else len(content) // 2] ^= 1 << 5
    path.write_bytes(content)


def prepare(fault: str, folder: Path) -> None:
    """A fault of files, made before the command begins."""
    run_folder = folder / "runs" / "run"
    kind, _, name = fault.partition(" in ") if fault.startswith("flipped") else (fault, "", "")
    if fault == "flipped bit in checkpoint":
        shutil.rmtree(run_folder)
        assert run(TRAIN, folder, "signal SIGTERM").code == 75
        found = newest_checkpoint(run_folder)
        assert found
        flip(found)
    elif kind == "flipped bit":
        flip(run_folder / name)
    elif fault == "half of model.safetensors":
        path = run_folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif fault == "pickle as model.safetensors":
        (run_folder / "model.safetensors").write_bytes(pickle.dumps({"stem": [1.0]}))
    elif fault == "empty record.json":
        (run_folder / "record.json").write_bytes(b"")
    elif fault == "a file in its place":
        shutil.rmtree(run_folder)
        run_folder.touch()
    elif fault == "other data":
        (run_folder / "record.json").unlink()
        shutil.rmtree(run_folder)
        assert run(TRAIN, folder, "signal SIGTERM").code == 75
        synthetic.write_sheet(folder / "data" / "synthetic" / "Training.jpg", toy_faces(24, seed=9).images)
        synthetic.write_checksums(folder / "data" / "synthetic")
    elif fault == "locked folder":
        shutil.rmtree(run_folder)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['command']}: {row['fault']}")
def test_fault(row: pd.Series, finished: Path, place: Path) -> None:
    command, fault = row["command"], row["fault"]
    if command == "train" and fault.startswith(("killed", "signal", "time", "disk", "no permission")):
        shutil.rmtree(place / "runs" / "run")
    prepare(fault, place)
    words = [*COMMANDS[command], *(["--minutes", "0.0001"] if fault == "time is over" else [])]
    before = everything(place)
    if fault == "locked folder":
        with lock_folder(place / "runs" / "run"):
            ended = run(words, place)
    else:
        ended = run(words, place, fault)

    assert str(ended.code) == row["exit code"], ended.err
    assert "Traceback" not in ended.err
    if row["message"]:
        assert row["message"] in ended.err, ended.err
    if ended.code not in ("killed", 0):
        assert len(said(ended)) == 1, ended.err
    if row["afterwards"] == "the same command ends with the same bytes":
        again = run(COMMANDS[command], place)
        assert again.code == 0, again.err
    if row["afterwards"] == "nothing was changed":
        assert everything(place) == before
    else:
        assert result(place) == result(finished)
        assert not list(place.rglob("*.part*"))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_anywhere_is_found_or_harmless(finished: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Whichever bit of a finished run's files it is: evaluating says so, or finds what was recorded."""
    place = tmp_path / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(finished, place)
    path = place / "runs" / "run" / data.draw(st.sampled_from(["record.json", *RESULTS]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    ended = run(COMMANDS["evaluate"], place)
    assert ended.code in (0, 1), ended.err
    assert "Traceback" not in ended.err
    assert len(said(ended)) == ended.code, ended.err
