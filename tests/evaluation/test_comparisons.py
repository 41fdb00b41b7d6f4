from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fertools.evaluation.comparisons import (
    ablation,
    class_text,
    cluster_interval,
    compare_runs,
    folds_table,
    mcnemar,
    operations,
    paired_bootstrap,
    paper_tables,
    per_class,
    pooled,
    recall_intervals,
    rows,
    tables_text,
)
from fertools.errors import RunError
from fertools.evaluation.metrics import evaluate, wilson_interval
from fertools.network import MultiScaleFusionNet, NetworkConfig, Resample
from fertools.recipes import TrainConfig
from fertools.records import Record, save_predictions

PAPER = Path(__file__).parents[1] / "data" / "paper_results.csv"
CLASSES = ("happy", "sad", "surprise")
rng = np.random.default_rng(0)


def make_run(
    folder: Path,
    labels: np.ndarray,
    correct: np.ndarray,
    part: str = "PrivateTest",
    data: str = "fer2013",
    **config: Any,
) -> None:
    """A finished run whose network is right where ``correct`` says, and one class further elsewhere."""
    predicted = np.where(correct, labels, (labels + 1) % len(CLASSES))
    p = np.full((len(labels), len(CLASSES)), 0.1) + 0.7 * np.eye(len(CLASSES))[predicted]
    found = vars(evaluate(p, labels, CLASSES))
    folder.mkdir(parents=True)
    save_predictions(folder, {f"{part}/labels": labels, f"{part}/single-crop": np.log(p), f"{part}/ten-crop": np.log(p)})
    seed = config.pop("seed", 0)
    Record(
        name=folder.name,
        recipe="paper-fer2013",
        overrides=[],
        identity={
            "config": TrainConfig(epochs=1).to_dict() | config,
            "seed": seed,
            "data": f"sha256:{data}",
            "init": None,
        },
        data={"name": data},
        classes=list(CLASSES),
        pixels={"mean": 0.0, "std": 1.0},
        parameters=100 + len(folder.name),
        history=[{"epoch": 1}],
        selected={"epoch": 1, "by": "last epoch"},
        metrics={part: {"one": found, "ten-crop": found}},
        temperature=None,
        environment={},
        seconds=1.0,
        resumed=0,
    ).save(folder)


def make_folds(
    folder: Path, right: Sequence[np.ndarray], people: Sequence[np.ndarray] | None, prefix: str = "", **config: Any
) -> None:
    """A sweep over ``len(right)`` of four folds by subject."""
    path = folder / "groups.json"
    groups = json.loads(path.read_text()) if path.exists() else {}
    for fold, correct in enumerate(right):
        labels = np.arange(len(correct)) % 3
        settings = {"protocol": "subject", "folds": 4} | config
        make_run(folder / f"{prefix}fold-{fold}", labels, correct, "fold", "ckplus48", fold=fold, **settings)
        if people is not None:
            groups[f"{prefix}fold-{fold}"] = people[fold].tolist()
    if groups:
        path.write_text(json.dumps(groups))


# --- Statistics ---


@settings(max_examples=30)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20))
def test_mcnemar_is_the_binomial_tail_written_out(only_a: int, only_b: int, both: int) -> None:
    if only_a + only_b + both == 0:
        return
    a = np.array([True] * only_a + [False] * only_b + [True] * both)
    b = np.array([False] * only_a + [True] * only_b + [True] * both)
    found, n = mcnemar(a, b), only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(b, a).p == found.p


@pytest.mark.parametrize("grouped", [False, True])
def test_the_bootstrap_is_the_one_that_draws_rows(grouped: bool) -> None:
    """Against a loop that draws images, or whole groups of unequal size, and takes the mean."""
    a, b = rng.random(60) < 0.8, rng.random(60) < 0.6
    groups = np.sort(rng.integers(0, 15, 60)) if grouped else np.arange(60)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    values = []
    for _ in range(4000):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        values.append(a[drawn].mean() - b[drawn].mean())
    found = paired_bootstrap(a, b, groups if grouped else None)
    assert found.value == pytest.approx(a.mean() - b.mean())
    np.testing.assert_allclose([found.low, found.high], np.quantile(values, [0.025, 0.975]), atol=0.02)


def test_the_bootstrap_knows_pairs_and_their_order() -> None:
    a, b = rng.random(500) < 0.8, rng.random(500) < 0.75
    one, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert one == paired_bootstrap(a, b)  # the same draws
    assert one.value == -other.value
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.01)
    same = paired_bootstrap(a, a)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    triple = paired_bootstrap(np.repeat(a, 3), np.repeat(b, 3), np.repeat(np.arange(500), 3))
    assert (triple.low, triple.high) == pytest.approx((one.low, one.high))  # copies tell nothing new


def test_the_interval_of_independent_images_is_wilsons() -> None:
    correct = rng.random(3000) < 0.7
    found = cluster_interval(correct, np.arange(3000))
    np.testing.assert_allclose(found, wilson_interval(int(correct.sum()), 3000), atol=1e-4)


@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(2, 4))
def test_copies_of_an_image_tell_nothing_new(correct: list[bool], copies: int) -> None:
    once = cluster_interval(np.array(correct), np.arange(len(correct)))
    often = cluster_interval(np.repeat(correct, copies), np.repeat(np.arange(len(correct)), copies))
    assert often == pytest.approx(once)
    low, high = once
    assert 0 <= low <= np.mean(correct) + 1e-9
    assert np.mean(correct) - 1e-9 <= high <= 1
    assert high - low > 0


def test_the_cluster_interval_holds_the_truth_where_wilsons_does_not() -> None:
    """95 of 100 times, for persons of three to twelve images, some of whom are hard."""
    truth, hits, naive = 0.85, 0, 0
    for _ in range(400):
        sizes = rng.integers(3, 13, 60)
        groups = np.repeat(np.arange(60), sizes)
        correct = rng.random(len(groups)) < rng.beta(1.7, 0.3, 60)[groups]
        low, high = cluster_interval(correct, groups)
        hits += low <= truth <= high
        low, high = wilson_interval(int(correct.sum()), len(correct))
        naive += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.985
    assert naive / 400 < 0.85


def test_recall_intervals_go_by_group_within_each_class() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 0, 2])
    people = np.array([5, 5, 5, 6, 6, 6, 5, 7, 8, 8, 8])
    found = recall_intervals(labels, predicted, people, 4)
    assert found[0] == cluster_interval(np.array([True, False]), np.array([5, 6]))  # three frames count as one
    assert found[1] == cluster_interval(np.array([True, True]), np.array([5, 7]))
    assert all(math.isnan(end) for end in found[2] + found[3])  # one person, nobody


def test_wrong_arguments_are_named() -> None:
    right = np.ones(4, bool)
    with pytest.raises(ValueError, match="must be bool of one shape"):
        mcnemar(right, np.ones(5, bool))
    with pytest.raises(ValueError, match="must be bool"):
        paired_bootstrap(right, np.ones(4))
    with pytest.raises(ValueError, match="4 images need as many groups, not 3"):
        paired_bootstrap(right, right, np.arange(3))
    with pytest.raises(ValueError, match="at least two groups"):
        cluster_interval(right, np.zeros(4))


# --- Folds ---


def test_pooled_puts_all_folds_together(tmp_path: Path) -> None:
    right = [rng.random(n) < 0.8 for n in (30, 33, 27, 30)]
    people = [np.repeat(np.arange(10), 3)[: len(r)] for r in right[:3:2]]
    people = [people[0], 10 + np.repeat(np.arange(11), 3), 21 + people[1], 30 + people[0]]
    make_folds(tmp_path / "s", right, people)
    found = pooled("s", runs=tmp_path)
    every = np.concatenate(right)
    assert found.accuracy == every.mean()
    assert np.array_equal(found.correct, every)
    accuracies = [r.mean() for r in right]
    assert found.mean == pytest.approx(np.mean(accuracies))
    assert found.std == pytest.approx(np.std(accuracies, ddof=1))
    assert found.interval == cluster_interval(every, np.concatenate(people))
    assert found.grouped_by == "person"
    assert found.protocol == "4 folds by subject, last epoch"
    each = [np.array(Record.load(tmp_path / "s" / f"fold-{k}").metrics["fold"]["single-crop"]["confusion"]) for k in range(4)]
    assert np.array_equal(found.confusion, sum(each))
    assert rows("s", tmp_path) == [""]


def test_pooled_without_persons_goes_by_folds_and_says_what_is_missing(tmp_path: Path) -> None:
    right = [rng.random(30) < 0.8 for _ in range(3)]
    make_folds(tmp_path / "s", right, None)
    found = pooled("s", runs=tmp_path)
    assert found.grouped_by == "fold"
    assert found.interval == cluster_interval(np.concatenate(right), np.repeat([0, 1, 2], 30))
    assert found.protocol.endswith("only 3 of the folds")


def test_pooled_takes_one_row_and_refuses_a_mixture(tmp_path: Path) -> None:
    right = [np.arange(30) % 4 > 0] * 2
    make_folds(tmp_path / "s", right, None, "a_", units=1)
    make_folds(tmp_path / "s", right, None, "b_", units=2)
    assert rows("s", tmp_path) == ["a", "b"]
    assert pooled("s", "b", runs=tmp_path).name == "s/b"
    with pytest.raises(RunError, match="0 finished folds of the row ''; its rows are: 'a', 'b'"):
        pooled("s", runs=tmp_path)
    make_run(tmp_path / "s" / "a_fold-2", np.arange(30) % 3, right[0], "fold", "ckplus48", fold=2, units=9)
    with pytest.raises(RunError, match="are not two folds of one experiment"):
        pooled("s", "a", runs=tmp_path)


def test_folds_from_before_a_field_was_there_are_pooled_with_those_from_after(tmp_path: Path) -> None:
    right = [np.arange(30) % 4 > 0] * 2
    make_folds(tmp_path / "s", right, None)
    path = tmp_path / "s" / "fold-0" / "record.json"
    older = json.loads(path.read_text())
    del older["identity"]["config"]["targets"], older["identity"]["config"]["network"]["drop_path"]
    path.write_text(json.dumps(older))
    assert len(pooled("s", runs=tmp_path).labels) == 60
    older["identity"]["config"]["epochs"] = 9
    path.write_text(json.dumps(older))
    with pytest.raises(RunError, match="are not two folds of one experiment"):
        pooled("s", runs=tmp_path)


# --- Two networks ---


def test_two_runs_are_ranked_only_where_the_images_allow_it(tmp_path: Path) -> None:
    labels = rng.integers(0, 3, 2000)
    worse = rng.random(2000) < 0.6
    better = worse | (rng.random(2000) < 0.2)
    like = worse ^ (rng.random(2000) < 0.01)
    few = worse.copy()
    few[np.flatnonzero(~worse)[:4]] = True  # the bootstrap alone would rank these four images
    for name, correct in {"worse": worse, "better": better, "like": like, "few": few}.items():
        make_run(tmp_path / name, labels, correct)
    found = compare_runs("better", "worse", runs=tmp_path)
    assert found.ranked
    assert found.verdict.startswith("better is right more often than worse")
    assert compare_runs("worse", "better", runs=tmp_path).verdict.startswith("better is right more often than worse")
    assert found.test == mcnemar(better, worse)
    assert found.difference == paired_bootstrap(better, worse)
    assert found.accuracies == (better.mean(), worse.mean())
    assert "PrivateTest, 2,000 images" in str(found)
    found = compare_runs("like", "worse", runs=tmp_path)
    assert found.difference.low < 0 < found.difference.high
    assert not found.ranked
    assert "do not allow a ranking of like and worse" in str(found)
    found = compare_runs("few", "worse", runs=tmp_path)
    assert found.difference.low > 0
    assert not found.ranked


def test_sweeps_are_compared_by_person(tmp_path: Path) -> None:
    people = [np.repeat(np.arange(10), 3) + 10 * fold for fold in range(4)]
    good = [rng.random(30) < 0.9 for _ in people]
    bad = [rng.random(30) < 0.4 for _ in people]
    make_folds(tmp_path / "good", good, people)
    make_folds(tmp_path / "bad", bad, people, "plain_")
    make_folds(tmp_path / "other", bad, people, seed=1)
    make_folds(tmp_path / "unknown", bad, None)
    found = compare_runs("good", "bad/plain", runs=tmp_path)
    assert found.names == ("good", "bad/plain")
    a, b = np.concatenate(good), np.concatenate(bad)
    assert found.difference == paired_bootstrap(a, b, np.concatenate(people))
    assert found.grouped_by == "person"
    assert found.ranked
    one = compare_runs("good/fold-1", "bad/plain_fold-1", runs=tmp_path)
    assert one.difference == paired_bootstrap(good[1], bad[1], people[1])
    with pytest.raises(RunError, match="not tested on the same images"):
        compare_runs("good", "other", runs=tmp_path)
    with pytest.raises(RunError, match="not tested on the same images"):
        compare_runs("good/fold-1", "good/fold-2", runs=tmp_path)
    with pytest.raises(RunError, match="does not say which test images are of one person"):
        compare_runs("good", "unknown", runs=tmp_path)
    with pytest.raises(RunError, match="no finished run or sweep 'nosuch'; there are: bad, good, other, unknown"):
        compare_runs("good", "nosuch", runs=tmp_path)


def test_an_ablation_pairs_seeds_and_draws_an_image_once_for_all(tmp_path: Path) -> None:
    labels = rng.integers(0, 3, 300)
    right: dict[tuple[str, int], np.ndarray] = {}
    for row, p in {"baseline": 0.7, "more": 0.9}.items():
        for seed in (0, 1):
            right[row, seed] = rng.random(300) < p
            make_run(tmp_path / "s" / f"{row}_seed-{seed}", labels, right[row, seed], data="synthetic", seed=seed)
    make_run(tmp_path / "s" / "late_seed-1", labels, right["more", 0], data="synthetic", seed=1)
    table = ablation("s", runs=tmp_path).set_index("row")
    assert table.loc["more", "pairs"] == 2
    assert table.loc["late", "pairs"] == 1
    assert tuple(table.loc["baseline", ["difference", "low", "high"]]) == (0, 0, 0)
    more = np.concatenate([right["more", 0], right["more", 1]])
    base = np.concatenate([right["baseline", 0], right["baseline", 1]])
    wanted = paired_bootstrap(more, base, np.tile(np.arange(300), 2))
    np.testing.assert_allclose(
        table.loc["more", ["difference", "low", "high"]].astype(float),
        [100 * wanted.value, 100 * wanted.low, 100 * wanted.high],
    )
    with pytest.raises(RunError, match="no finished run of the row 'none'; it has: baseline, late, more"):
        ablation("s", "none", runs=tmp_path)


def test_operations_are_those_counted_by_hand(tmp_path: Path) -> None:
    network = NetworkConfig(scales=(12, 24), width=(3, 5), units=2, kernels=(3,), hidden=7)
    make_run(tmp_path / "run", rng.integers(0, 3, 20), np.ones(20, bool), network=asdict(network))
    net = MultiScaleFusionNet(replace(network, classes=len(CLASSES)))
    counted = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal counted
        if isinstance(module, Resample):  # A X, then (A X) A^T
            c, size = out.shape[1:3]
            counted += c * size * 48 * 48 + c * size * size * 48
        elif isinstance(module, nn.Conv2d | nn.Linear):  # every output sums over one filter
            counted += out.numel() * module.weight[0].numel()

    for module in net.modules():
        module.register_forward_hook(count)
    net.eval()(torch.zeros(1, 1, 48, 48))
    assert operations(Record.load(tmp_path / "run")) == counted > 0


# --- The paper ---


def test_the_papers_tables_hold_our_rows_in_order_with_their_protocol(tmp_path: Path) -> None:
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
    assert folds["protocol"] == "ckplus48, 4 folds by subject, last epoch; only 3 of the folds; interval by fold"
    theirs = tables[~tables["ours"]]
    stated = theirs[theirs["protocol"] != "not stated"]
    assert stated[["table", "method", "protocol"]].to_numpy().tolist() == [
        ["Table 2", "Proposed method", "ten folds by image"]
    ]
    text = tables_text(tables)
    assert "* folds " in text
    assert "For 13 of the 14" in text


def test_the_readmes_table_has_the_sweeps_that_have_all_folds(tmp_path: Path) -> None:
    right = [np.arange(100) < n for n in (93, 95, 97, 99)]
    make_folds(tmp_path / "all", right, [np.arange(100)] * 4)
    make_folds(tmp_path / "most", right[:3], [np.arange(100)] * 3)
    *_, row = lines = folds_table(tmp_path).splitlines()
    assert len(lines) == 3  # with the two of the heading
    name, parameters, by, start, accuracy, folds = (cell.strip() for cell in row.strip("|").split("|"))
    assert (name, parameters, by, start) == ("`all`", "106", "subject", "random weights")
    assert accuracy.startswith("96.00 (")
    mean, std = map(float, folds.split(", "))
    assert (mean, std) == pytest.approx((96, np.std([93, 95, 97, 99], ddof=1)), abs=0.01)


def test_the_tables_stand_alone_without_a_run(tmp_path: Path) -> None:
    tables = paper_tables(tmp_path, PAPER)
    assert len(tables) == 25
    assert not tables["ours"].any()
    assert "*" not in tables_text(tables).replace("(*)", "")


def test_recall_stands_beside_the_papers() -> None:
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


def test_recall_of_a_run_or_of_a_sweep_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PAPER.parents[1])
    make_run(tmp_path / "single", np.arange(30) % 3, np.arange(30) >= 3)
    text = class_text("single", runs=tmp_path)
    assert "90.00" in text
    assert "paper: 87.00, ours +3.00" in text
    make_run(tmp_path / "voted", np.arange(30) % 3, np.arange(30) >= 3, data="ferplus")  # FER2013's labels too
    assert class_text("voted", runs=tmp_path) == text.replace("single", "voted")
    assert "intervals, by image" in text
    make_folds(tmp_path / "folds", [np.ones(30, bool)] * 4, None)
    assert "paper: almost 100%" in class_text("folds", runs=tmp_path)
