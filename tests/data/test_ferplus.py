from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fertools.data import DataError, FaceSet, fer2013, ferplus
from fertools.evaluation.calibration import apply_temperature
from fertools.records import Record, load_predictions

HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
PUBLISHED = Path(__file__).parents[2] / "data" / "ferplus" / "fer2013new.csv"


@pytest.fixture
def whole(tiny_fer2013: FaceSet, tmp_path: Path) -> FaceSet:
    """The tiny set, as if read from a csv."""
    return replace(tiny_fer2013, source=str(tmp_path / "fer2013.csv"))


def write_votes(file: Path, faces: FaceSet) -> np.ndarray:
    assert faces.split is not None
    votes = np.random.default_rng(1).multinomial(10, np.full(10, 0.1), len(faces))
    rows = [
        f"{split},fer{row:07}.png,{','.join(str(n) for n in counts)}"
        for row, (split, counts) in enumerate(zip(faces.split, votes, strict=True))
    ]
    rows[3] = rows[3].replace("fer0000003.png", "")  # as in the published file for images that are not faces
    file.write_text("\n".join([HEADER, *rows, ""]))
    return votes


def test_votes_are_joined_row_by_row(tmp_path: Path, whole: FaceSet) -> None:
    assert whole.split is not None
    file = tmp_path / "fer2013new.csv"
    written = write_votes(file, whole)
    votes, usage = ferplus.load_votes(file)
    assert votes.dtype == np.int64
    assert np.array_equal(votes, written)
    assert np.array_equal(usage, whole.split)
    joined = ferplus.join_votes(whole, file)
    assert joined.votes is not None
    assert np.array_equal(joined.votes, written)
    assert ",".join(joined.vote_classes) == HEADER.removeprefix("Usage,Image name,")
    assert (joined.name, joined.fingerprint) == ("ferplus", whole.fingerprint)
    assert np.array_equal(joined.labels, whole.labels)


def test_rows_in_another_order_or_number_are_refused(tmp_path: Path, whole: FaceSet) -> None:
    file = tmp_path / "fer2013new.csv"
    write_votes(file, whole)
    with pytest.raises(DataError, match="folder format has another order"):
        ferplus.join_votes(replace(whole, source=str(tmp_path)), file)
    with pytest.raises(DataError, match="votes for 63 images, but .* has 21 images; .* both must be complete"):
        ferplus.join_votes(whole.of_split("Training"), file)
    swapped = np.arange(len(whole))
    swapped[[20, 21]] = [21, 20]
    with pytest.raises(DataError, match="image 21 belongs to Training, but .* says PublicTest: these are not the same"):
        ferplus.join_votes(whole.select(swapped), file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Training,fer0000001.png,1,2,3", "line 3: 'Training,fer0000001.png,1,2,3' is not"),
        ("Training,fer0000001.png,0,0,x,0,0,0,0,0,0,10", "line 3"),
        ("Training,fer0000001.png,0,0,-1,0,0,0,0,0,0,10", "line 3"),
        ("Training,fer0000001.png,0,0,1,0,0,0,0,0,0,10,0", "line 3: .* 10 numbers of votes"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "fer2013new.csv"
    file.write_text(f"{HEADER}\nTraining,fer0000000.png,0,0,0,0,0,0,0,0,0,10\n{line}\n")
    with pytest.raises(DataError, match=message):
        ferplus.load_votes(file)


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a file\. Download FER\+ from .*microsoft/FERPlus"):
        ferplus.load_votes(tmp_path / "fer2013new.csv")
    for content in ("", "emotion,pixels,Usage\n", "\x00\xff\n"):
        (tmp_path / "fer2013new.csv").write_text(content)
        with pytest.raises(DataError, match="unexpected layout.*Expected: 'Usage,Image name,neutral"):
            ferplus.load_votes(tmp_path / "fer2013new.csv")


def test_plurality_is_the_emotion_with_most_votes() -> None:
    def named(**counts: int) -> np.ndarray:
        return np.array([counts.get(name, 0) for name in ferplus.VOTE_CLASSES])

    expected = {
        "neutral": named(neutral=6, happiness=4),
        "happy": named(happiness=5, sadness=4, NF=1),
        "surprise": named(surprise=4, fear=3, anger=3),
        "sad": named(sadness=10),
        "anger": named(anger=1, unknown=5, NF=4),  # not emotions
        "disgust": named(disgust=5, fear=5),  # equal counts: the first
        "fear": named(fear=5, contempt=5),
        "": named(contempt=6, fear=4),
    }
    found = ferplus.plurality(np.stack([*expected.values(), named(unknown=3, NF=7)]))
    assert [fer2013.CLASSES[i] if i >= 0 else "" for i in found] == [*expected, ""]


def test_vote_distribution_is_the_votes_for_fer2013s_labels_over_their_sum() -> None:
    rng = np.random.default_rng(5)
    votes = rng.multinomial(10, np.full(10, 0.1), 40)
    votes[3] = [0, 0, 0, 0, 0, 0, 0, 5, 3, 2]  # contempt, unknown, no face: nothing is left
    faces = FaceSet(
        "x", np.zeros((40, 48, 48), np.uint8), np.arange(40) % 7, fer2013.CLASSES,
        votes=votes, vote_classes=ferplus.VOTE_CLASSES,
    )  # fmt: skip
    found = ferplus.vote_distribution(faces)
    assert found.dtype == np.float32
    column = {"happy": "happiness", "sad": "sadness"}
    for i, row in enumerate(votes):
        counts = [row[ferplus.VOTE_CLASSES.index(column.get(name, name))] for name in fer2013.CLASSES]
        expected = np.eye(7)[faces.labels[3]] if i == 3 else np.array(counts) / sum(counts)
        np.testing.assert_allclose(found[i], expected, rtol=1e-6)
    with pytest.raises(DataError, match="no votes"):
        ferplus.vote_distribution(replace(faces, votes=None))


def test_annotator_agreement_counts_images_votes_and_pairs_of_annotators(whole: FaceSet, tmp_path: Path) -> None:
    file = tmp_path / "fer2013new.csv"
    write_votes(file, whole)
    faces = ferplus.join_votes(whole, file)
    assert faces.votes is not None
    found = ferplus.annotator_agreement(faces)
    assert found["images"].sum() == len(faces)
    assert found["annotators"].sum() == faces.votes.sum()
    same = found[found["label"] == found["choice"]]["images"].sum()
    assert same == (ferplus.plurality(faces.votes) == faces.labels).sum()

    column = {"happy": "happiness", "sad": "sadness"}  # the two names that differ in FER+
    names = [faces.classes[label] for label in faces.labels]
    for_label = [row[ferplus.VOTE_CLASSES.index(column.get(n, n))] for row, n in zip(faces.votes, names, strict=True)]
    assert found["for_label"].sum() == sum(for_label)

    alike = []  # by listing every pair of annotators
    for row in faces.votes:
        said = np.repeat(np.arange(len(row)), row)
        alike.append(np.mean([a == b for i, a in enumerate(said) for b in said[:i]]))
    assert (found["pairs"] * found["images"]).sum() / len(faces) == pytest.approx(np.mean(alike), abs=1e-4)
    with pytest.raises(DataError, match="no votes"):
        ferplus.annotator_agreement(whole)


def test_prediction_agreement_counts_what_a_loop_over_the_images_counts(whole: FaceSet, tmp_path: Path) -> None:
    file = tmp_path / "fer2013new.csv"
    write_votes(file, whole)
    faces = ferplus.join_votes(whole, file)
    assert faces.votes is not None
    p = np.random.default_rng(2).dirichlet(np.full(7, 0.3), len(faces))
    p[0] = np.eye(7)[3]  # certain
    found = ferplus.prediction_agreement(faces, p)

    other = {"happy": "happiness", "sad": "sadness"}
    expected: dict[tuple[str, int, int], list[float]] = {}
    for row, label, q in zip(faces.votes, faces.labels, p, strict=True):
        by_name = dict(zip(ferplus.VOTE_CLASSES, row.tolist(), strict=True))
        emotions = ferplus.VOTE_CLASSES[:8]
        most = max(emotions, key=lambda name: by_name[name])  # the first of equals
        predicted, label_name = (other.get(faces.classes[k], faces.classes[k]) for k in (int(q.argmax()), label))
        back = {long: short for short, long in other.items()}
        key = (back.get(most, most) if by_name[most] else "none", by_name[most], min(9, int(q.max() * 10)))
        line = [1, predicted == label_name, by_name[most] and predicted == most, by_name[most] and label_name == most]
        line += [bool(line[1] and line[2])]
        line += [sum(by_name.values()), by_name[predicted], by_name[label_name], q.max()]
        counts = [by_name[other.get(name, name)] for name in faces.classes]
        target = np.array(counts) / sum(counts) if any(counts) else np.eye(7)[label]
        line += [-(target * np.log(q.clip(min=1e-12))).sum()]
        expected[key] = [a + float(b) for a, b in zip(expected.get(key, [0.0] * 10), line, strict=True)]
    assert {tuple(row[:3]): row[3:] for row in found.itertuples(index=False)} == {
        key: pytest.approx(line, abs=1e-4) for key, line in expected.items()
    }
    with pytest.raises(DataError, match="no votes"):
        ferplus.prediction_agreement(whole, p)
    with pytest.raises(ValueError, match=r"need probabilities of shape \(63, 7\), not \(63, 8\)"):
        ferplus.prediction_agreement(faces, np.ones((63, 8)) / 8)


def test_pair_agreement_counts_what_a_loop_over_the_images_counts(whole: FaceSet, tmp_path: Path) -> None:
    file = tmp_path / "fer2013new.csv"
    write_votes(file, whole)
    faces = ferplus.join_votes(whole, file)
    assert faces.votes is not None
    p = np.random.default_rng(2).dirichlet(np.full(7, 0.3), len(faces))
    found = ferplus.pair_agreement(faces, p, enough=3)
    other = {"happy": "happiness", "sad": "sadness"}
    expected: dict[tuple[str, str, int, int], list[float]] = {}
    for row, q in zip(faces.votes, p, strict=True):
        by_name = dict(zip(ferplus.VOTE_CLASSES, row.tolist(), strict=True))
        for k, first in enumerate(faces.classes):
            for j, second in list(enumerate(faces.classes))[k + 1 :]:
                a, b = by_name[other.get(first, first)], by_name[other.get(second, second)]
                if a + b >= 3:
                    share = q[k] / (q[k] + q[j])
                    line = expected.setdefault(
                        (first, second, round(10 * a / (a + b)), min(9, int(10 * share))), [0, 0]
                    )
                    line[0] += 1
                    line[1] += share
    assert {tuple(row[:4]): row[4:] for row in found.itertuples(index=False)} == {
        key: pytest.approx(tuple(line), abs=1e-4) for key, line in expected.items()
    }
    with pytest.raises(DataError, match="no votes"):
        ferplus.pair_agreement(whole, p)
    with pytest.raises(ValueError, match=r"need probabilities of shape \(63, 7\), not \(63, 8\)"):
        ferplus.pair_agreement(faces, np.ones((63, 8)) / 8)


def test_the_published_votes(published_fer2013: FaceSet) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("data/ferplus/fer2013new.csv is not there: this test reads the published votes")
    faces = ferplus.join_votes(published_fer2013, PUBLISHED)
    assert faces.votes is not None
    assert faces.votes.shape == (35_887, 10)
    assert np.bincount(faces.votes.sum(axis=1)).tolist() == [0] * 9 + [1, 35_886]  # one image has nine
    agree = ferplus.plurality(faces.votes) == faces.labels
    assert agree.mean() == pytest.approx(0.625, abs=0.0005)
    kept = pd.read_csv(PUBLISHED.parents[1] / "ferplus_agreement.csv")
    pd.testing.assert_frame_equal(ferplus.annotator_agreement(faces), kept, check_dtype=False)


def test_the_stored_agreement_of_predictions(published_fer2013: FaceSet) -> None:
    """data/ferplus_predictions.csv is what the recorded runs and the published votes give."""
    if not PUBLISHED.is_file():
        pytest.skip("data/ferplus/fer2013new.csv is not there: this test reads the published votes")
    faces = ferplus.join_votes(published_fer2013, PUBLISHED).of_split("PrivateTest")
    kept = pd.read_csv(PUBLISHED.parents[1] / "ferplus_predictions.csv")
    assert {"cpu-fer2013", "wide-fer2013"} <= set(kept.run)
    for name, rows in kept.groupby("run"):
        run = PUBLISHED.parents[1] / "runs" / str(name)
        temperature = Record.load(run).temperature
        assert temperature
        p = np.exp(apply_temperature(load_predictions(run)["PrivateTest/single-crop"], temperature))
        found = rows.drop(columns="run").reset_index(drop=True)
        pd.testing.assert_frame_equal(ferplus.prediction_agreement(faces, p), found, check_dtype=False, rtol=1e-3)
