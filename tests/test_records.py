from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fertools
from fertools.errors import RunError
from fertools.evaluation.metrics import evaluate
from fertools.records import FORMAT, Record, environment, finished_runs, load_groups, load_predictions, save_predictions


def a_record(**changes: object) -> Record:
    probabilities = np.eye(2)[[0, 1, 1, 1]] * 0.8 + 0.1
    metrics = dataclasses.asdict(evaluate(probabilities, np.array([0, 1, 1, 0]), ("happy", "sad")))
    values = {
        "name": "a-run",
        "recipe": "cpu-fer2013",
        "overrides": ["epochs=2"],
        "identity": {"config": {"epochs": 2}, "seed": 0, "data": {}},
        "data": {"name": "fer2013", "training": 8},
        "classes": ["happy", "sad"],
        "normalization": {"mean": 120.0, "std": 60.0},
        "parameters": 1234,
        "history": [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}],
        "selected": {"epoch": 2, "by": "accuracy on PublicTest"},
        "metrics": {"PrivateTest": {"single-crop": metrics}},
        "temperature": 1.25,
        "threshold": 0.5,
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
    assert finished_runs(tmp_path) == [record]


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


def test_a_record_is_short_in_a_notebook() -> None:
    record = a_record(notes=["<stopped> early"])
    assert repr(record) == "Record('a-run': cpu-fer2013 on fer2013, PrivateTest 75.00 %)"
    assert repr(a_record(metrics={})) == "Record('a-run': cpu-fer2013 on fer2013)"
    html = record._repr_html_()
    low, high = record.metrics["PrivateTest"]["single-crop"]["accuracy_interval"]
    assert f"<td>75.00 ({100 * low:.2f} to {100 * high:.2f})</td><td>4</td>" in html
    assert '<th scope="row">PrivateTest</th>' in html
    assert "&lt;stopped&gt; early" in html


def test_a_missing_run_lists_the_finished_ones(tmp_path: Path) -> None:
    (tmp_path / "a-run").mkdir()
    a_record().save(tmp_path / "a-run")
    with pytest.raises(RunError, match="no run b-run: looked for .*b-run; finished runs are: a-run"):
        Record.load("b-run", runs=tmp_path)
    (tmp_path / "c-run").mkdir()
    with pytest.raises(RunError, match=r"has no record\.json"):
        Record.load("c-run", runs=tmp_path)
    (tmp_path / "c-run" / "checkpoint.safetensors").touch()
    with pytest.raises(RunError, match="has not finished: start the same training again"):
        Record.load("c-run", runs=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name": "a-r', "is damaged .*train again"),
        (b"", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[1, 2]", "contains list, not an object"),
        (b"{}", "classes is missing, data is missing.*Restore the file"),
    ],
)
def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(RunError, match=message) as error:
        Record.load(tmp_path)
    assert str(tmp_path / "record.json") in str(error.value)


def test_other_versions_records_are_refused_with_the_reason(tmp_path: Path) -> None:
    a_record().save(tmp_path)
    path = tmp_path / "record.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "pixels": {}}))
    with pytest.raises(RunError, match="pixels is unknown"):
        Record.load(tmp_path)
    path.write_text(json.dumps({name: value for name, value in values.items() if name != "threshold"}))
    with pytest.raises(RunError, match="threshold is missing"):
        Record.load(tmp_path)
    for name, wrong, words in [
        ("classes", "happy", "classes is 'happy'"),
        ("identity", values["identity"] | {"config": {"epoch": 2}}, "identity.config: TrainConfig has no field epoch"),
        ("selected", {"by": "last epoch"}, "selected.epoch is missing"),
        ("metrics", {"fold": {"single-crop": {"n": 4}}}, "metrics.fold.single-crop.accuracy is missing"),
    ]:
        path.write_text(json.dumps({**values, name: wrong}))
        with pytest.raises(RunError, match=words):
            Record.load(tmp_path)
    path.write_text(json.dumps({**values, "format": FORMAT + 1, "color": "blue"}))
    with pytest.raises(RunError, match="a newer version wrote it. Upgrade with `pip install --upgrade fertools`"):
        Record.load(tmp_path)
    path.write_text(json.dumps({name: value for name, value in values.items() if name not in ("notes", "format")}))
    assert Record.load(tmp_path) == a_record()  # from before these fields


def test_predictions_come_back(tmp_path: Path) -> None:
    made = {
        "PrivateTest/single-crop": np.log(np.full((3, 2), 0.5, np.float32)),
        "PrivateTest/labels": np.array([0, 1, 1]),
    }
    save_predictions(tmp_path, made)
    found = load_predictions(tmp_path)
    assert found.keys() == made.keys()
    for name, values in made.items():
        assert np.array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_groups_come_back_and_may_be_missing(tmp_path: Path) -> None:
    assert load_groups(tmp_path) == {}
    (tmp_path / "groups.json").write_text('{"fold-0": [3, 3, 5]}')
    assert load_groups(tmp_path)["fold-0"].tolist() == [3, 3, 5]


# --- environment ---


def test_environment_is_plain_and_names_the_code() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert {"commit", "changed", "python", "libraries", "cores", "threads", "cpu", "gpu"} <= found.keys()
    assert found["version"] == fertools.__version__


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *settings, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def recorded_version(code: Path) -> tuple[str | None, bool | None]:
    """What a record made by the package in ``code`` would say of its version."""
    program = (
        "import json, fertools.records as records; found = records.environment();"
        "print(json.dumps([records.__file__, found['commit'], found['changed']]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=code,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(code)},
    )
    file, commit, changed = json.loads(done.stdout)
    assert Path(file).is_relative_to(code)
    return commit, changed


def test_a_record_has_the_commit_of_the_package_and_not_of_what_surrounds_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "essay.txt").write_text("Somebody's own project, with a virtual environment in it.")
    git(tmp_path, "add", "essay.txt")
    git(tmp_path, "commit", "-qm", "essay")
    ignore = shutil.ignore_patterns("__pycache__")
    site = tmp_path / ".venv" / "lib" / "site-packages"
    shutil.copytree(Path(fertools.__file__).parent, site / "fertools", ignore=ignore)
    assert recorded_version(site) == (None, None)
    git(tmp_path, "add", "-f", ".venv")
    git(tmp_path, "commit", "-qm", "even if they track it")
    assert recorded_version(site) == (None, None)

    shutil.move(site / "fertools", tmp_path / "fertools")
    assert recorded_version(tmp_path) == (None, None)  # untracked
    git(tmp_path, "add", "fertools")
    git(tmp_path, "commit", "-qm", "now it is the package's repository")
    assert recorded_version(tmp_path) == (git(tmp_path, "rev-parse", "HEAD").strip(), False)
    with open(tmp_path / "fertools" / "records.py", "a") as file:
        file.write("\n# changed\n")
    assert recorded_version(tmp_path) == (git(tmp_path, "rev-parse", "HEAD").strip(), True)
