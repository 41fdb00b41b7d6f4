from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fertools.errors import RunError
from fertools.evaluation.comparisons import ablation, compare_runs, operations, pool_folds, variants
from fertools.evaluation.statistics import cluster_interval, mcnemar, paired_bootstrap
from fertools.models.resampling import Resample
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.records import Record

RUNS = Path(__file__).parents[2] / "data" / "runs"

Make = Callable[..., None]
CLASSES = ("happy", "sad", "surprise")


# --- Folds ---


def test_pooling_puts_all_folds_together(tmp_path: Path, make_folds: Make, rng: np.random.Generator) -> None:
    right = [rng.random(n) < 0.8 for n in (30, 33, 27, 30)]
    people = [np.repeat(np.arange(10), 3)[: len(r)] for r in right[:3:2]]
    people = [people[0], 10 + np.repeat(np.arange(11), 3), 21 + people[1], 30 + people[0]]
    make_folds(tmp_path / "s", right, people)
    found = pool_folds("s", runs=tmp_path)
    every = np.concatenate(right)
    assert found.accuracy == every.mean()
    assert np.array_equal(found.correct, every)
    accuracies = [r.mean() for r in right]
    assert found.mean == pytest.approx(np.mean(accuracies))
    assert found.std == pytest.approx(np.std(accuracies, ddof=1))
    assert found.interval == cluster_interval(every, np.concatenate(people))
    assert found.grouped_by == "subject"
    assert found.protocol == "4 subject-independent folds, last epoch"
    each = [
        np.array(Record.load(tmp_path / "s" / f"fold-{k}").metrics["fold"]["single-crop"]["confusion"])
        for k in range(4)
    ]
    assert np.array_equal(found.confusion, sum(each))
    assert variants("s", tmp_path) == [""]


def test_folds_without_known_subjects_are_the_groups(
    tmp_path: Path, make_folds: Make, rng: np.random.Generator
) -> None:
    right = [rng.random(30) < 0.8 for _ in range(3)]
    make_folds(tmp_path / "s", right, None)
    found = pool_folds("s", runs=tmp_path)
    assert found.grouped_by == "fold"
    assert found.interval == cluster_interval(np.concatenate(right), np.repeat([0, 1, 2], 30))
    assert found.protocol.endswith("only 3 of them finished")


def test_pooling_takes_one_variant_and_refuses_a_mixture(tmp_path: Path, make_run: Make, make_folds: Make) -> None:
    right = [np.arange(30) % 4 > 0] * 2
    make_folds(tmp_path / "s", right, None, "a_", network={"units": 1})
    make_folds(tmp_path / "s", right, None, "b_", network={"units": 2})
    assert variants("s", tmp_path) == ["a", "b"]
    assert pool_folds("s", "b", runs=tmp_path).name == "s/b"
    with pytest.raises(RunError, match="0 finished folds of the variant ''; its variants: 'a', 'b'"):
        pool_folds("s", runs=tmp_path)
    make_run(tmp_path / "s" / "a_fold-2", np.arange(30) % 3, right[0], "fold", "ckplus48", fold=2, network={"units": 9})
    with pytest.raises(RunError, match="are not two folds of one experiment"):
        pool_folds("s", "a", runs=tmp_path)


def test_folds_from_before_a_field_was_there_are_pooled_with_those_from_after(tmp_path: Path, make_folds: Make) -> None:
    right = [np.arange(30) % 4 > 0] * 2
    make_folds(tmp_path / "s", right, None)
    path = tmp_path / "s" / "fold-0" / "record.json"
    older = json.loads(path.read_text())
    del older["identity"]["config"]["targets"], older["identity"]["config"]["network"]["drop_path"]
    path.write_text(json.dumps(older))
    assert len(pool_folds("s", runs=tmp_path).labels) == 60
    older["identity"]["config"]["epochs"] = 9
    path.write_text(json.dumps(older))
    with pytest.raises(RunError, match="are not two folds of one experiment"):
        pool_folds("s", runs=tmp_path)


# --- Two networks ---


def test_two_runs_are_ranked_only_where_the_images_allow_it(
    tmp_path: Path, make_run: Make, rng: np.random.Generator
) -> None:
    labels = rng.integers(0, 3, 2000)
    worse = rng.random(2000) < 0.6
    better = worse | (rng.random(2000) < 0.2)
    like, few = worse.copy(), worse.copy()
    like[np.flatnonzero(~worse)[:10]] = True
    like[np.flatnonzero(worse)[:12]] = False
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


def test_sweeps_are_compared_by_subject(tmp_path: Path, make_folds: Make, rng: np.random.Generator) -> None:
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
    assert found.grouped_by == "subject"
    assert found.ranked
    one = compare_runs("good/fold-1", "bad/plain_fold-1", runs=tmp_path)
    assert one.difference == paired_bootstrap(good[1], bad[1], people[1])
    with pytest.raises(RunError, match="not tested on the same images"):
        compare_runs("good", "other", runs=tmp_path)
    with pytest.raises(RunError, match="not tested on the same images"):
        compare_runs("good/fold-1", "good/fold-2", runs=tmp_path)
    with pytest.raises(RunError, match="does not say which test images show the same person"):
        compare_runs("good", "unknown", runs=tmp_path)
    with pytest.raises(RunError, match="no finished run or sweep 'nosuch'; there are: bad, good, other, unknown"):
        compare_runs("good", "nosuch", runs=tmp_path)


def test_an_ablation_pairs_seeds_and_resamples_an_image_with_all_of_them(
    tmp_path: Path, make_run: Make, rng: np.random.Generator
) -> None:
    labels = rng.integers(0, 3, 300)
    right: dict[tuple[str, int], np.ndarray] = {}
    for row, p in {"baseline": 0.7, "more": 0.9}.items():
        for seed in (0, 1):
            right[row, seed] = rng.random(300) < p
            make_run(tmp_path / "s" / f"{row}_seed-{seed}", labels, right[row, seed], data="synthetic", seed=seed)
    make_run(tmp_path / "s" / "late_seed-1", labels, right["more", 0], data="synthetic", seed=1)
    table = ablation("s", runs=tmp_path).set_index("variant")
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
    with pytest.raises(RunError, match="no finished run of the variant 'none'; it has: baseline, late, more"):
        ablation("s", "none", runs=tmp_path)


def test_operations_are_those_counted_by_hand(tmp_path: Path, make_run: Make, rng: np.random.Generator) -> None:
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


def test_operations_of_a_baseline_are_those_of_one_image() -> None:
    """VGG-13 by hand: 3x3 convolutions on maps of 48, 24, 12, and 6 pixels, and one linear layer."""
    layers = [(48, 1, 64), (48, 64, 64), (24, 64, 128), (24, 128, 128)]
    layers += [(12, 128, 256), (12, 256, 256), (12, 256, 256), *[(6, 256, 256)] * 3]
    counted = sum(size**2 * 9 * source * target for size, source, target in layers) + 256 * 7
    assert operations(Record.load(RUNS / "fer2013-vgg13")) == counted
