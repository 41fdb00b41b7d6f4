"""The plan of every image: it depends only on the seed and the image's number."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fertools.data.ckplus import CLASSES, SEQUENCES
from fertools.data.faceset import SPLITS
from fertools.render import plan
from fertools.render.expressions import LABELS
from fertools.render.plan import PER_SUBJECT, PORTRAITS, SequencePlan, plan_frames, plan_portrait, plan_sequences
from fertools.render.scene import OCCLUSIONS


@pytest.fixture(scope="module")
def rows(shapes: tuple[str, ...]) -> list[dict[str, Any]]:
    return [plan_portrait(index, 0, shapes).row for index in range(PORTRAITS)]


@pytest.fixture(scope="module")
def cast() -> list[SequencePlan]:
    return plan_sequences(0)


def test_a_portrait_planned_alone_equals_the_one_planned_in_order(shapes: tuple[str, ...]) -> None:
    in_order = {index: repr(plan_portrait(index, 3, shapes)) for index in range(120, 160)}
    plan._person.cache_clear()
    for index in (159, 120, 131):
        assert repr(plan_portrait(index, 3, shapes)) == in_order[index]


def test_another_seed_plans_other_images(shapes: tuple[str, ...]) -> None:
    a, b = plan_portrait(5, 0, shapes), plan_portrait(5, 1, shapes)
    assert (a.row["split"], a.row["subject"], a.row["label"]) == (b.row["split"], b.row["subject"], b.row["label"])
    assert a.person.albedo != b.person.albedo
    assert a.scene != b.scene
    assert [f.label for f in plan_sequences(0)] != [f.label for f in plan_sequences(1)]


def test_splits_are_80_10_10_and_share_no_person(rows: list[dict[str, Any]]) -> None:
    assert Counter(row["split"] for row in rows) == {"Training": 8000, "PublicTest": 1000, "PrivateTest": 1000}
    people = {split: {row["subject"] for row in rows if row["split"] == split} for split in SPLITS}
    assert [len(people[split]) for split in SPLITS] == [800, 100, 100]
    assert len(set.union(*people.values())) == 1000


def test_labels_are_balanced_in_each_split(rows: list[dict[str, Any]]) -> None:
    found = Counter((row["split"], row["label"]) for row in rows)
    assert found == {(split, label): n for split, n in zip(SPLITS, (1000, 125, 125), strict=True) for label in LABELS}


def test_each_person_shows_every_label(rows: list[dict[str, Any]]) -> None:
    for start in range(0, PORTRAITS, PER_SUBJECT):
        shown = rows[start : start + PER_SUBJECT]
        assert len({row["subject"] for row in shown}) == 1
        assert len({(row["albedo"], row["hair"]) for row in shown}) == 1
        assert {row["label"] for row in shown} == set(LABELS)


def test_the_attributes_are_within_range(rows: list[dict[str, Any]]) -> None:
    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    for name, limit in {"yaw": 40, "pitch": 20, "roll": 20, "light_side": 80, "light_up": 70}.items():
        assert np.abs(column(name)).max() <= limit
        assert column(name).std() > 3
    for name in (*LABELS, "light_contrast", "albedo", "detail"):
        assert column(name).min() >= 0
        assert column(name).max() <= 1
    assert column("quality").min() >= 1
    assert column("quality").max() <= 100
    assert set(column("occlusion")) == set(OCCLUSIONS)
    assert 0.1 < np.mean(column("occlusion") != "none") < 0.4
    for row in rows[::37]:
        assert row[row["label"]] == (1 if row["label"] == "neutral" else max(row[name] for name in LABELS))


def test_the_sequences_have_the_counts_of_ckplus(cast: list[SequencePlan]) -> None:
    assert len(cast) == 327
    assert tuple(Counter(f.label for f in cast)[label] for label in CLASSES) == SEQUENCES
    assert {f.subject for f in cast} == set(range(1, 119))
    assert len({(f.subject, f.label) for f in cast}) == 327  # nobody shows a label twice
    assert len({f.name for f in cast}) == 327
    assert [f.name for f in cast] == sorted(f.name for f in cast)
    for subject in range(1, 119):
        numbers = [f.number for f in cast if f.subject == subject]
        assert numbers == [*range(1, len(numbers) + 1)]
    assert plan_sequences(0) == cast


def test_names_are_like_those_of_ckplus() -> None:
    assert SequencePlan(5, 1, "happy").name == "S005_001"
    assert SequencePlan(118, 12, "sad").name == "S118_012"


@settings(max_examples=30)
@given(number=st.integers(0, 326), seed=st.integers(0, 100))
def test_sequences_go_from_neutral_to_the_peak(number: int, seed: int, shapes: tuple[str, ...]) -> None:
    which = plan_sequences(seed)[number]
    frames = plan_frames(which, seed, shapes)
    assert repr(frames) == repr(plan_frames(which, seed, shapes))
    assert 8 <= len(frames) <= 12
    moved = np.array([[frame.shapes[shape] for shape in frames[-1].shapes] for frame in frames])
    assert not moved[0].any()
    assert (np.diff(moved, axis=0) >= 0).all()
    assert (moved[-3:] >= 0.9 * moved[-1]).all()
    assert moved[-1].max() > 0.1

    rows = [frame.row for frame in frames]
    assert [row["frame"] for row in rows] == [*range(1, len(frames) + 1)]
    assert {row["frames"] for row in rows} == {len(frames)}
    shown = [row[which.label] for row in rows]
    assert shown[0] == 0
    assert shown == sorted(shown)
    assert 0.6 <= shown[-1] <= 1
    # One person in one room, who hardly moves.
    for name in ("sequence", "subject", "label", "albedo", "hair", "light_side", "light_up", "exposure"):
        assert len({row[name] for row in rows}) == 1
    assert np.ptp([row["yaw"] for row in rows]) < 10
    assert {row["occlusion"] for row in rows} <= {"none", "glasses"}


def test_sequences_of_one_subject_share_person_and_room(cast: list[SequencePlan], shapes: tuple[str, ...]) -> None:
    subject = Counter(f.subject for f in cast).most_common(1)[0][0]
    first, second, *_ = (plan_frames(f, 0, shapes)[0] for f in cast if f.subject == subject)
    assert repr(first.person) == repr(second.person)
    for name in ("light", "contrast", "exposure", "background"):
        assert getattr(first.scene, name) == getattr(second.scene, name)
    assert first.scene.yaw != second.scene.yaw


def test_nobody_is_in_both_portraits_and_sequences(cast: list[SequencePlan], shapes: tuple[str, ...]) -> None:
    portrayed = {plan_portrait(index, 0, shapes).person.seed for index in range(0, PORTRAITS, PER_SUBJECT)}
    actors = {plan_frames(f, 0, shapes)[0].person.seed for f in cast[::30]}
    assert not portrayed & actors
