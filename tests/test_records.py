from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fertools.errors import RunError
from fertools.evaluation.metrics import evaluate
from fertools.records import (
    Record,
    environment,
    load_predictions,
    results_table,
    find_run,
    save_predictions,
)


def a_record(**changes: object) -> Record:
    probabilities = np.eye(2)[[0, 1, 1, 1]] * 0.8 + 0.1
    metrics = dataclasses.asdict(evaluate(probabilities, np.array([0, 1, 1, 0]), ("happy", "sad")))
    values = {
        "name": "a-run",
        "recipe": "cpu-fer2013",
        "overrides": ["epochs=2"],
        "identity": {"seed": 0},
        "data": {"name": "fer2013", "training": 8},
        "classes": ["happy", "sad"],
        "pixels": {"mean": 120.0, "std": 60.0},
        "parameters": 1234,
        "history": [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}],
        "selected": {"epoch": 2, "by": "accuracy on PublicTest"},
        "metrics": {"PrivateTest": {"one": metrics}},
        "temperature": 1.25,
        "environment": {"cores": 2},
        "seconds": 12.5,
        "resumed": 1,
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def test_a_record_comes_back_by_name_or_by_folder(tmp_path: Path) -> None:
    record = a_record(notes=["stopped early"])
    folder = tmp_path / "a-run"
    folder.mkdir()
    record.save(folder)
    assert Record.load("a-run", runs=tmp_path) == record
    assert Record.load(folder) == record
    assert [p.name for p in folder.iterdir()] == ["record.json"]
    assert find_run("a-run", tmp_path) == folder
    assert find_run("else/where", tmp_path) == Path("else/where")


def test_a_record_is_plain_json_without_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        a_record(seconds=float("nan")).save(tmp_path)
    assert not list(tmp_path.iterdir())  # nothing half-written stays
    a_record().save(tmp_path)
    assert json.loads((tmp_path / "record.json").read_text())["parameters"] == 1234


def test_the_summary_says_what_was_measured_and_what_must_be_known() -> None:
    text = a_record(notes=["stopped early"]).summary()
    assert "a-run: cpu-fer2013 on fer2013, 1,234 parameters, epoch 2 of 2, chosen by accuracy on PublicTest" in text
    assert "75.00%" in text
    assert "4 images" in text
    assert "note: stopped early" in text


def test_the_table_has_a_row_for_each_run_on_fer2013(tmp_path: Path) -> None:
    one = dataclasses.asdict(evaluate(np.full((4, 2), 0.5), np.array([0, 1, 0, 0]), ("happy", "sad")))
    every = {"one": one, "ten-crop": one}
    splits, fold = ("PrivateTest", "PrivateTest, deduplicated"), ("fold",)
    for name, data, parts in [("b", "fer2013", splits), ("a", "fer2013", fold), ("c", "synthetic", splits)]:
        (tmp_path / name).mkdir()
        record = a_record(name=name, data={"name": data}, metrics={part: every for part in parts})
        record.save(tmp_path / name)
    _, _, *rows = results_table(tmp_path).splitlines()
    low, high = one["accuracy_interval"]
    cell = f"75.00 ({100 * low:.2f} to {100 * high:.2f})"
    assert rows == [f"| `b` | 1,234 | 0 | 2 of 2 | {cell} | {cell} | {cell} |"]


def test_a_missing_run_lists_the_finished_ones(tmp_path: Path) -> None:
    (tmp_path / "a-run").mkdir()
    a_record().save(tmp_path / "a-run")
    with pytest.raises(RunError, match="no run at .*b-run; finished runs are: a-run"):
        Record.load("b-run", runs=tmp_path)
    (tmp_path / "c-run").mkdir()
    (tmp_path / "c-run" / "checkpoint.safetensors").touch()
    with pytest.raises(RunError, match="has not finished: start the same training again"):
        Record.load("c-run", runs=tmp_path)


def test_predictions_come_back(tmp_path: Path) -> None:
    made = {"PrivateTest/single-crop": np.log(np.full((3, 2), 0.5, np.float32)), "PrivateTest/labels": np.array([0, 1, 1])}
    save_predictions(tmp_path, made)
    found = load_predictions(tmp_path)
    assert found.keys() == made.keys()
    for name, values in made.items():
        assert np.array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_environment_is_plain_and_names_the_code() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert {"commit", "changed", "python", "libraries", "cores", "threads", "cpu", "gpu"} <= found.keys()
