from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from fertools.evaluation.metrics import wilson_interval
from fertools.evaluation.statistics import cluster_interval, mcnemar, paired_bootstrap, recall_intervals


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
def test_the_bootstrap_is_the_one_that_draws_variants(grouped: bool, rng: np.random.Generator) -> None:
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


@pytest.mark.parametrize("grouped", [False, True])
def test_the_bootstrap_is_scipys(grouped: bool, rng: np.random.Generator) -> None:
    a = rng.random(600) < 0.8
    b = a ^ (rng.random(600) < 0.15)
    groups = np.sort(rng.integers(0, 80, 600)) if grouped else np.arange(600)
    sums = np.bincount(groups, weights=a.astype(int) - b)
    sizes = np.bincount(groups)
    there = sizes > 0
    peer = bootstrap(
        (sums[there], sizes[there]),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        batch=500,
        rng=0,
    ).confidence_interval
    found = paired_bootstrap(a, b, groups, draws=20_000)
    np.testing.assert_allclose([found.low, found.high], [peer.low, peer.high], atol=0.0015)


def test_the_bootstrap_knows_pairs_and_their_order(rng: np.random.Generator) -> None:
    a, b = rng.random(500) < 0.8, rng.random(500) < 0.75
    one, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert one == paired_bootstrap(a, b)  # the same draws
    assert one.value == -other.value
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.01)
    same = paired_bootstrap(a, a)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    triple = paired_bootstrap(np.repeat(a, 3), np.repeat(b, 3), np.repeat(np.arange(500), 3))
    assert (triple.low, triple.high) == pytest.approx((one.low, one.high))  # copies add no information


def test_the_interval_of_independent_images_is_wilson_s(rng: np.random.Generator) -> None:
    correct = rng.random(3000) < 0.7
    found = cluster_interval(correct, np.arange(3000))
    np.testing.assert_allclose(found, wilson_interval(int(correct.sum()), 3000), atol=1e-4)


@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(2, 4))
def test_copies_of_an_image_add_no_information(correct: list[bool], copies: int) -> None:
    once = cluster_interval(np.array(correct), np.arange(len(correct)))
    often = cluster_interval(np.repeat(correct, copies), np.repeat(np.arange(len(correct)), copies))
    assert often == pytest.approx(once)
    low, high = once
    assert 0 <= low <= np.mean(correct) + 1e-9
    assert np.mean(correct) - 1e-9 <= high <= 1
    assert high - low > 0


def test_the_cluster_interval_covers_the_truth_where_wilson_s_does_not(rng: np.random.Generator) -> None:
    """95 of 100 times, for people with three to twelve images each, some of whom are hard."""
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
