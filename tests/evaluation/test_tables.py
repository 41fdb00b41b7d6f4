from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fertools.evaluation.metrics import wilson_interval
from fertools.evaluation.tables import class_text, folds_table, paper_tables, per_class, results_table, tables_text
from fertools.records import Record

Make = Callable[..., None]
PAPER = Path(__file__).parents[2] / "data" / "paper_results.csv"
CLASSES = ("happy", "sad", "surprise")


def test_the_papers_tables_contain_our_rows_in_order_with_their_protocol(
    tmp_path: Path, make_run: Make, make_folds: Make, rng: np.random.Generator
) -> None:
    labels = rng.integers(0, 3, 1000)
    right = np.arange(1000) < 721
    make_run(tmp_path / "single", labels, right, epochs=200)
    make_run(tmp_path / "seeds" / "seed-1", labels, right, seed=1, epochs=3)
    make_run(tmp_path / "elsewhere", labels, right, data="synthetic")
    make_folds(tmp_path / "folds", [np.arange(100) < n for n in (93, 95, 97)], None)
    tables = paper_tables(tmp_path, PAPER)
    assert tables.groupby("table")["ours"].sum().to_dict() == {"Table 1": 4, "Table 2": 1}
    for _, table in tables.groupby("table"):
        assert table["accuracy"].is_monotonic_decreasing
    first = tables[tables["table"] == "Table 1"]["method"].tolist()
    assert first[:4] == ["Proposed method", "Liu et al. 2020", "Sun et al. 2020", first[3]]
    assert set(first[3:7]) == {"single", "seeds/seed-1"}
    mine = tables[tables["method"] == "single"].iloc[0]
    assert (mine["low"], mine["high"]) == pytest.approx([100 * end for end in wilson_interval(721, 1000)])
    assert mine["protocol"].startswith("PrivateTest, ")
    cut = "; only 3 of the recipe's 200 epochs"
    protocols = tables.set_index("method")["protocol"]
    assert [cut in " ".join(protocols[[name]]) for name in ("single", "seeds/seed-1")] == [False, True]
    folds = tables[tables["method"] == "folds"].iloc[0]
    assert (folds["accuracy"], folds["mean"], folds["std"]) == pytest.approx((95, 95, 2))
    assert (
        folds["protocol"]
        == "ckplus48, 4 subject-independent folds, last epoch; only 3 of them finished; interval by fold"
    )
    theirs = tables[~tables["ours"]]
    stated = theirs[theirs["protocol"] != "not stated"]
    assert stated[["table", "method", "protocol"]].to_numpy().tolist() == [
        ["Table 2", "Proposed method", "ten folds by image"]
    ]
    text = tables_text(tables)
    assert "* folds " in text
    assert "For 13 of the 14" in text


def test_the_readmes_table_has_the_sweeps_that_have_all_folds(tmp_path: Path, make_folds: Make) -> None:
    right = [np.arange(100) < n for n in (93, 95, 97, 99)]
    make_folds(tmp_path / "all", right, [np.arange(100)] * 4)
    make_folds(tmp_path / "most", right[:3], [np.arange(100)] * 3)
    *_, row = lines = folds_table(tmp_path).splitlines()
    assert len(lines) == 3  # with the two of the heading
    name, parameters, by, start, accuracy, folds = (cell.strip() for cell in row.strip("|").split("|"))
    assert (name, parameters, by, start) == ("`all`", "106", "subject", "random")
    assert accuracy.startswith("96.00 (")
    mean, std = map(float, folds.split(", "))
    assert (mean, std) == pytest.approx((96, np.std([93, 95, 97, 99], ddof=1)), abs=0.01)


def test_the_papers_tables_work_without_a_run(tmp_path: Path) -> None:
    tables = paper_tables(tmp_path, PAPER)
    assert len(tables) == 25
    assert not tables["ours"].any()
    assert "*" not in tables_text(tables).replace("(*)", "")


def test_per_class_compares_recall_with_the_papers() -> None:
    table = per_class([[80, 20, 0], [10, 30, 10], [0, 0, 0]], CLASSES, "FER2013", PAPER)
    happy = table.to_dict("index")["happy"]
    assert (happy["recall"], happy["paper"], happy["difference"]) == (80, 87, -7)
    assert (happy["low"] / 100, happy["high"] / 100) == pytest.approx(wilson_interval(80, 100))
    assert table.loc["sad", "recall"] == 60
    assert math.isnan(table.loc["sad", "paper"])
    assert math.isnan(table.loc["surprise", "recall"])
    assert table["images"].tolist() == [100, 50, 0]
    table = per_class(np.eye(3, dtype=int), CLASSES, "CK+", PAPER)
    assert table["note"].tolist() == ["almost 100%", "", "almost 100%"]
    table = per_class(np.eye(3, dtype=int), CLASSES, "CK+", PAPER, intervals=[(0.1, 0.9), (0.2, 1.0), (0.3, 1.0)])
    assert table["low"].tolist() == pytest.approx([10, 20, 30])
    assert table["high"].tolist() == pytest.approx([90, 100, 100])


def test_recall_of_a_run_or_a_sweep_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: Make, make_folds: Make
) -> None:
    monkeypatch.chdir(tmp_path)  # the paper's numbers come with the package
    make_run(tmp_path / "single", np.arange(30) % 3, np.arange(30) >= 3)
    text = class_text("single", runs=tmp_path)
    assert "90.00" in text
    assert "paper: 87.00, ours +3.00" in text
    make_run(tmp_path / "voted", np.arange(30) % 3, np.arange(30) >= 3, data="ferplus")  # FER2013's labels too
    assert class_text("voted", runs=tmp_path) == text.replace("single", "voted")
    assert "intervals, by image" in text
    make_folds(tmp_path / "folds", [np.ones(30, bool)] * 4, None)
    assert "paper: almost 100%" in class_text("folds", runs=tmp_path)


def test_the_results_table_has_a_row_for_each_run_on_fer2013(tmp_path: Path, make_run: Make) -> None:
    labels, right = np.arange(100) % 3, np.arange(100) < 75
    for name, part, data in [("b", "PrivateTest", "fer2013"), ("a", "fold", "fer2013"), ("c", "PrivateTest", "toy")]:
        make_run(tmp_path / name, labels, right, part, data)
        record = Record.load(tmp_path / name)
        metrics = record.metrics | {f"{part}, deduplicated": record.metrics[part]}
        replace(record, metrics=metrics).save(tmp_path / name)
    low, high = wilson_interval(75, 100)
    cell = f"75.00 ({100 * low:.2f} to {100 * high:.2f})"
    heading, _, *rows = results_table(tmp_path).splitlines()
    assert heading.count("|") == 8
    assert rows == [f"| `b` | 101 | 0 | 1 of 1 | {cell} | {cell} | {cell} |"]
    assert results_table(tmp_path / "nothing") == ""
