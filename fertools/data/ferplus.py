"""FER+: the votes of ten annotators for every image of FER2013.

Barsoum, Zhang, Canton Ferrer and Zhang, "Training deep networks for facial expression recognition
with crowd-sourced label distribution", ICMI 2016. The file ``fer2013new.csv`` has one line for each
line of ``fer2013.csv``, in the same order, and no images.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fertools.data import fer2013
from fertools.data.faceset import DataError, FaceSet
from fertools.paths import find_data

if TYPE_CHECKING:
    import pandas as pd

VOTE_CLASSES = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",  # not a face
)
WHERE = "Download FER+ from https://github.com/microsoft/FERPlus (fer2013new.csv)"
_HEADER = ["Usage", "Image name", *VOTE_CLASSES]
_IN_FER2013 = ("neutral", "happy", "surprise", "sad", "anger", "disgust", "fear")  # which has no contempt
_TO_FER2013 = np.array([*map(fer2013.CLASSES.index, _IN_FER2013), -1])


def load_votes(path: Path | str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reads the votes, and the split that the file names for each image.

    Args:
        path: ``fer2013new.csv``; by default in the folder ``ferplus`` that :func:`fertools.paths.find_data` finds.

    Returns:
        votes: int64, (N, 10), how many annotators chose each of :data:`VOTE_CLASSES`;
        usage: strings, (N,), the split of each row. N is 35,887 for the published file.

    Raises:
        DataError: the file is missing, damaged, or in an unexpected layout.
    """
    path = find_data("ferplus/fer2013new.csv") if path is None else Path(path)
    if not path.is_file():
        raise DataError(f"FER+ is not available: {path.resolve()} is not a file. {WHERE}.")
    votes, usage = [], []
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if header != _HEADER:
            raise DataError(
                f"{path} has an unexpected layout: its first line is {','.join(header)[:60]!r}. "
                f"Expected: {','.join(_HEADER)!r}. {WHERE}."
            )
        for fields in lines:
            counts = fields[2:]
            if len(fields) != len(_HEADER) or not all(count.isdecimal() for count in counts):
                raise DataError(
                    f"{path}, line {lines.line_num}: {','.join(fields)[:60]!r} is not a split, a name, "
                    f"and {len(VOTE_CLASSES)} numbers of votes. The file is damaged. {WHERE}."
                )
            usage.append(fields[0])
            votes.append([int(count) for count in counts])
    return np.array(votes, dtype=np.int64).reshape(-1, len(VOTE_CLASSES)), np.array(usage, dtype=np.str_)


def join_votes(faces: FaceSet, path: Path | str | None = None) -> FaceSet:
    """Adds the votes to the images of FER2013, row by row; the labels remain FER2013's.

    Args:
        faces: the complete FER2013, read from a csv that contains every split.
        path: as in :func:`load_votes`.

    Returns:
        The set ``ferplus``.

    Raises:
        DataError: see :func:`load_votes`; or the rows of ``faces`` are not those of the file, because they were
            read from the folder format, which has another order, or because some are missing.
    """
    if faces.split is None or not faces.source.endswith(".csv"):
        raise DataError(
            f"{faces.source or faces.name}: FER+ identifies images by their row in fer2013.csv, and the "
            "folder format has another order. Read fer2013.csv or icml_face_data.csv."
        )
    path = find_data("ferplus/fer2013new.csv") if path is None else Path(path)
    votes, usage = load_votes(path)
    if len(votes) != len(faces):
        raise DataError(
            f"{path} has votes for {len(votes):,} images, but {faces.source} has {len(faces):,} images; "
            "they are joined row by row, so both must be complete."
        )
    differ = np.flatnonzero(usage != faces.split)
    if len(differ):
        row = int(differ[0])
        raise DataError(
            f"{path} says that image {row + 1:,} belongs to {usage[row]}, but {faces.source} says "
            f"{faces.split[row]}: these are not the same rows. Download the published files again."
        )
    return replace(faces, name="ferplus", votes=votes, vote_classes=VOTE_CLASSES)


def plurality(votes: np.ndarray) -> np.ndarray:
    """The FER2013 class that most annotators chose, or -1 if their choice is not a class of FER2013.

    This is the majority voting of Barsoum et al., section 4.1: the largest count of the eight emotions, where
    "unknown" and "not a face" don't count. Ties go to the first in the order of :data:`VOTE_CLASSES`. The result
    is -1 for contempt, and for an image for which nobody chose an emotion. It agrees with FER2013's own label for
    62.5 % of the images.

    >>> votes = np.array([[6, 3, 0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 9, 1, 0]])
    >>> [fer2013.CLASSES[label] if label >= 0 else None for label in plurality(votes)]
    ['neutral', None]

    Args:
        votes: (N, 10), in the order of :data:`VOTE_CLASSES`.

    Returns:
        int64, (N,): indices into ``fertools.data.fer2013.CLASSES``, or -1.
    """
    emotions = votes[:, : len(_TO_FER2013)]
    return np.where(emotions.any(axis=1), _TO_FER2013[emotions.argmax(axis=1)], -1)


def vote_distribution(faces: FaceSet) -> np.ndarray:
    """The distribution of the votes over FER2013's seven labels, as soft targets for training.

    The label distribution of Barsoum et al., as in their scheme "cross-entropy loss", over FER2013's labels:
    votes for contempt, "unknown", and "not a face" are dropped. An image that has no votes left gets its FER2013
    label.

    Args:
        faces: the result of :func:`join_votes`, or some of its rows.

    Returns:
        float32, (N, 7), in the order of ``fertools.data.fer2013.CLASSES``; rows sum to 1.

    Raises:
        DataError: the set has no votes.
    """
    counts = np.zeros((len(faces), len(fer2013.CLASSES)), np.float32)
    counts[:, _TO_FER2013[: len(_IN_FER2013)]] = _votes(faces)[:, : len(_IN_FER2013)]
    empty = np.flatnonzero(~counts.any(axis=1))
    counts[empty, faces.labels[empty]] = 1
    return counts / counts.sum(axis=1, keepdims=True)


def annotator_agreement(faces: FaceSet) -> pd.DataFrame:
    """How often ten annotators agree with FER2013's label and with each other, as counts without any images.

    Args:
        faces: the result of :func:`join_votes`, or some of its rows.

    Returns:
        A row for each combination that occurs of ``label`` (FER2013's), ``choice`` (the annotators', see
        :func:`plurality`; "contempt" and "none" are not labels of FER2013) and ``votes`` (for that choice), with
        the number of ``images``. Over these images, ``annotators`` is the number of all votes, ``for_label`` of
        those for FER2013's label, and ``pairs`` the mean probability that two annotators of an image agree.

    Raises:
        DataError: the set has no votes.
    """
    import pandas as pd

    votes = _votes(faces)
    emotions = votes[:, : len(_TO_FER2013)]
    total = votes.sum(1)
    column = np.argsort(_TO_FER2013[: len(_IN_FER2013)])[faces.labels]  # of the votes for FER2013's label
    images = pd.DataFrame(
        {
            "label": np.array(faces.classes)[faces.labels],
            "choice": _choices(emotions),
            "votes": emotions.max(axis=1),
            "images": 1,
            "annotators": total,
            "for_label": votes[np.arange(len(votes)), column],
            "pairs": (votes * (votes - 1)).sum(1) / (total * (total - 1)),
        }
    )
    by_kind = images.groupby(["label", "choice", "votes"])
    table = by_kind[["images", "annotators", "for_label"]].sum().assign(pairs=by_kind["pairs"].mean().round(4))
    return table.reset_index()


def prediction_agreement(faces: FaceSet, probabilities: np.ndarray) -> pd.DataFrame:
    """How often a network agrees with FER2013's labels and with ten annotators, as counts without any images.

    Args:
        faces: the result of :func:`join_votes`, or some of its rows.
        probabilities: (N, 7), for the same images in the same order.

    Returns:
        A row for each combination that occurs of ``choice`` (the annotators', as in :func:`annotator_agreement`),
        ``votes`` (for that choice) and ``bin`` (of the confidence, 0 to 9: 5 is from 0.5 up to 0.6, and 9
        includes 1), with sums over its images:

        - ``images``: their number;
        - ``correct``: the prediction is FER2013's label;
        - ``prediction_is_choice``, ``label_is_choice``, ``all_agree``: the prediction is the annotators' choice,
          FER2013's label is, both are;
        - ``annotators``: all votes; ``for_prediction`` and ``for_label``: the votes for the prediction and for
          FER2013's label;
        - ``confidence``: the predicted class's probability;
        - ``cross_entropy``: -sum_k q_k log p_k in nats, with the :func:`vote_distribution` q and the
          probabilities p.

    Raises:
        DataError: the set has no votes.
        ValueError: the probabilities have another shape.
    """
    import pandas as pd

    votes = _votes(faces)
    _require_shape(faces, probabilities)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    emotions = votes[:, : len(_TO_FER2013)]
    choice = plurality(votes)
    column = np.argsort(_TO_FER2013[: len(_IN_FER2013)])  # of a label of FER2013 in the votes
    rows = np.arange(len(faces))
    images = pd.DataFrame(
        {
            "choice": _choices(emotions),
            "votes": emotions.max(axis=1),
            "bin": np.minimum((10 * confidence).astype(int), 9),
            "images": 1,
            "correct": predicted == faces.labels,
            "prediction_is_choice": predicted == choice,
            "label_is_choice": faces.labels == choice,
            "all_agree": (predicted == choice) & (faces.labels == choice),
            "annotators": votes.sum(1),
            "for_prediction": votes[rows, column[predicted]],
            "for_label": votes[rows, column[faces.labels]],
            "confidence": confidence.astype(float),
            "cross_entropy": -(vote_distribution(faces) * np.log(probabilities.clip(min=1e-12))).sum(1, dtype=float),
        }
    )
    counts = images.groupby(["choice", "votes", "bin"]).sum()
    return counts.round({"confidence": 4, "cross_entropy": 4}).reset_index()


def pair_agreement(faces: FaceSet, probabilities: np.ndarray, enough: int = 8) -> pd.DataFrame:
    """Where people hesitate between two labels, does a network? Counts without any images.

    For each pair of labels: the images for which at least ``enough`` of the ten annotators chose one of the two.

    Args:
        faces: the result of :func:`join_votes`, or some of its rows.
        probabilities: (N, 7), for the same images in the same order.
        enough: the least number of votes for the two labels together.

    Returns:
        A row for each combination that occurs of ``first`` and ``second``, the pair in the order of
        ``fertools.data.fer2013.CLASSES``; ``votes``, the first label's tenths of the votes for the two, 0 to 10; and
        ``bin``, the first label's tenth of the probability for the two, 0 to 9. ``images`` is their number, and
        ``share`` the sum of p_first / (p_first + p_second) over them.

    Raises:
        DataError: the set has no votes.
        ValueError: the probabilities have another shape.
    """
    import itertools

    import pandas as pd

    votes = _votes(faces)
    _require_shape(faces, probabilities)
    column = np.argsort(_TO_FER2013[: len(_IN_FER2013)])  # of a label of FER2013 in the votes
    tables = []
    for one, two in itertools.combinations(range(len(fer2013.CLASSES)), 2):
        first, both = votes[:, column[one]], votes[:, column[[one, two]]].sum(1)
        chosen = both >= enough
        share = probabilities[:, one].astype(float) / (probabilities[:, one].astype(float) + probabilities[:, two])
        tables.append(
            pd.DataFrame(
                {
                    "first": fer2013.CLASSES[one],
                    "second": fer2013.CLASSES[two],
                    "votes": np.rint(10 * first[chosen] / both[chosen]).astype(int),
                    "bin": np.minimum((10 * share[chosen]).astype(int), 9),
                    "images": 1,
                    "share": share[chosen],
                }
            )
        )
    counts = pd.concat(tables).groupby(["first", "second", "votes", "bin"], sort=False).sum()
    return counts.round({"share": 4}).reset_index()


def _require_shape(faces: FaceSet, probabilities: np.ndarray) -> None:
    shape = (len(faces), len(fer2013.CLASSES))
    if probabilities.shape != shape:
        raise ValueError(f"{len(faces)} images need probabilities of shape {shape}, not {probabilities.shape}")


def _votes(faces: FaceSet) -> np.ndarray:
    if faces.votes is None:
        raise DataError(f"{faces.name} has no votes; read it with fertools.data.load('ferplus')")
    return faces.votes


def _choices(emotions: np.ndarray) -> np.ndarray:
    """The emotion with the most votes, (N,), or "none"; takes the counts of the eight emotions, (N, 8)."""
    names = np.array([*_IN_FER2013, "contempt", "none"])
    return names[np.where(emotions.any(axis=1), emotions.argmax(axis=1), len(_TO_FER2013))]
