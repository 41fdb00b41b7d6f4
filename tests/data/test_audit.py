from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fertools.data import SPLITS, DataError, FaceSet
from fertools.data.audit import audit_faces, leaked, near_duplicates, summary


def face_set(images: np.ndarray, labels: list[int], split: list[str] | None) -> FaceSet:
    return FaceSet(
        name="some",
        images=images,
        labels=np.array(labels, dtype=np.int64),
        classes=("a", "b", "c"),
        split=None if split is None else np.array(split, dtype=np.str_),
    )


PATTERNS = np.random.default_rng(0).integers(0, 256, (6, 48, 48), dtype=np.uint8)
PATTERNS[0] = 7  # blank
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from(SPLITS)), max_size=25)


@given(ROWS)
def test_audit_agrees_with_comparing_all_pairs(rows: list[tuple[int, int, str]]) -> None:
    pattern = [row[0] for row in rows]
    labels = [row[1] for row in rows]
    split = [row[2] for row in rows]
    found = audit_faces(face_set(PATTERNS[np.array(pattern, dtype=int)], labels, split))
    everyone = range(len(rows))
    groups = {p: [i for i in everyone if pattern[i] == p] for p in set(pattern)}

    assert (found.images, found.distinct) == (len(rows), len(groups))
    assert {tuple(g) for g in found.duplicates} == {tuple(g) for g in groups.values() if len(g) > 1}
    assert {tuple(g) for g in found.conflicting} == {
        tuple(g) for g in groups.values() if len({labels[i] for i in g}) > 1
    }
    assert found.constant.tolist() == [i for i in everyone if pattern[i] == 0]
    assert found.within == {
        s: sum(any(pattern[j] == pattern[i] and split[j] == s for j in range(i)) for i in everyone if split[i] == s)
        for s in set(split)
    }
    assert found.across == {
        (a, b): sum(
            split[i] == a and any(split[j] == b and pattern[j] == pattern[i] for j in everyone) for i in everyone
        )
        for a in set(split)
        for b in set(split)
        if a != b
    }


def test_leaked_are_the_rows_that_are_also_in_the_other_split() -> None:
    pattern = np.array([1, 2, 3, 2, 4, 1, 5, 3])
    split = ["Training"] * 3 + ["PublicTest"] * 2 + ["PrivateTest"] * 3
    faces = face_set(PATTERNS[pattern], [0] * 8, split)
    assert leaked(faces, "PrivateTest").tolist() == [True, False, True]
    assert leaked(faces, "PublicTest").tolist() == [True, False]
    assert leaked(faces, "PrivateTest", into="PublicTest").tolist() == [False, False, False]
    test = faces.of_split("PrivateTest")
    assert np.array_equal(test.select(~leaked(faces, "PrivateTest")).images, PATTERNS[[5]])
    with pytest.raises(DataError, match="cannot leak into itself"):
        leaked(faces, "Training")
    with pytest.raises(DataError, match="has no split 'Other'"):
        leaked(faces, "PublicTest", into="Other")
    with pytest.raises(DataError, match="has no splits"):
        leaked(replace(faces, split=None), "PublicTest")


@pytest.mark.parametrize("distance", [0, 4, 24, 64])
def test_near_duplicates_agree_with_imagehash(distance: int) -> None:
    images = np.random.default_rng(2).integers(0, 256, (300, 48, 48), dtype=np.uint8)
    images[200:] = np.clip(images[:100].astype(int) + np.arange(100)[:, None, None] % 30, 0, 255)
    rows = np.arange(0, 300, 1 if distance < 64 else 10)
    hashes = {row: imagehash.phash(Image.fromarray(images[row])) for row in rows}
    expected = {(a, b) for a in rows for b in rows if a < b and hashes[a] - hashes[b] <= distance}
    found = near_duplicates(images, rows, distance)
    assert len(found) == len(expected)
    assert {(a, b) for a, b in found} == expected


def test_a_brighter_copy_is_near_and_not_identical() -> None:
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    face = (100 * np.exp(-3 * (x**2 + y**2)) + 40 * np.sin(7 * x + 2) * np.cos(5 * y) + 60).astype(np.uint8)
    images = np.stack([face, face + 20, face, PATTERNS[1], PATTERNS[0], PATTERNS[0] + 1])
    found = audit_faces(face_set(images, [0] * 6, ["Training", "PublicTest"] * 3))
    assert found.near.tolist() == [[0, 1]]  # not row 2, which is row 0 again, nor the blank ones
    assert found.near_across == 1
    assert found.constant.tolist() == [4, 5]


def test_a_set_without_splits_and_a_report() -> None:
    faces = face_set(PATTERNS[[1, 1, 2]], [0, 1, 0], None)
    found = audit_faces(faces)
    assert (found.within, found.across, found.near_across) == ({}, {}, 0)
    assert [line.split() for line in str(found).splitlines()[:5]] == [
        ["some"],
        ["3", "images"],
        ["2", "distinct", "images"],
        ["1", "groups", "of", "identical", "images"],
        ["1", "of", "these", "groups", "have", "conflicting", "labels"],
    ]
    assert "identical to one of" not in str(found)
    split = replace(faces, split=np.array(["Training", "PublicTest", "Training"]))
    assert "1  PublicTest images are identical to one of Training" in str(audit_faces(split))


def test_summary_counts_what_leaks_and_with_which_label() -> None:
    split = ["Training", "Training", "PublicTest", "PublicTest", "PublicTest"]
    faces = face_set(PATTERNS[[1, 2, 1, 2, 3]], [0, 1, 0, 2, 2], split)
    found = summary(faces)
    assert found["across"] == {"PublicTest": {"Training": 2}, "Training": {"PublicTest": 2}}
    assert found["same_label"] == {"PublicTest": {"Training": 1}, "Training": {"PublicTest": 1}}
    assert found["counts"]["PublicTest"] == {"a": 1, "b": 0, "c": 2}
    assert (found["images"], found["distinct"], found["groups"], found["conflicting"]) == (5, 3, 2, 1)
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(DataError, match="no splits"):
        summary(replace(faces, split=None))


def test_the_published_set_has_the_duplicates_that_are_known(
    published_fer2013: FaceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fertools.data.audit.near_duplicates", lambda *_: np.empty((0, 2), np.int64))  # slow
    found = audit_faces(published_fer2013)
    assert found.distinct == 34_034
    assert found.across["PrivateTest", "Training"] == 288
    assert found.across["PublicTest", "Training"] == 280
    assert found.across["PrivateTest", "PublicTest"] == 44
    assert len(found.conflicting) == 57
    assert len(found.constant) == 12
    kept = json.loads((Path(__file__).parents[2] / "data" / "fer2013_audit.json").read_text())
    slow = {"near": None, "near_across": None}
    assert summary(published_fer2013, found) | slow == kept | slow
    assert leaked(published_fer2013, "PrivateTest").sum() == 288
    assert leaked(published_fer2013, "PublicTest").sum() == 280
