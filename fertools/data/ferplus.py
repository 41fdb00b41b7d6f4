"""FER+: ten annotators' votes for every row of FER2013.

Barsoum, Zhang, Canton Ferrer and Zhang, "Training deep networks for facial expression recognition
with crowd-sourced label distribution", ICMI 2016. The file ``fer2013new.csv`` has one line for each
line of ``fer2013.csv``, in the same order, and no image.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fertools.data import fer2013
from fertools.data.faceset import DataError, FaceSet

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
WHERE = "FER+ is had from https://github.com/microsoft/FERPlus (fer2013new.csv)"
_HEADER = ["Usage", "Image name", *VOTE_CLASSES]
_IN_FER2013 = ("neutral", "happy", "surprise", "sad", "anger", "disgust", "fear")  # which has no contempt
_TO_FER2013 = np.array([*map(fer2013.CLASSES.index, _IN_FER2013), -1])


def load_votes(path: Path | str = "data/ferplus/fer2013new.csv") -> tuple[np.ndarray, np.ndarray]:
    """Reads the votes and the split that stands beside them.

    Returns:
        votes: int64, (N, 10), how many annotators chose each of :data:`VOTE_CLASSES`;
        usage: (N,) strings, the split of each row. N is 35,887 for the published file.

    Raises:
        DataError: the file is missing, laid out otherwise or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no FER+ votes here: {path.resolve()} is not a file. {WHERE}.")
    votes, usage = [], []
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if header != _HEADER:
            raise DataError(
                f"{path} is laid out otherwise: its first line is {','.join(header)[:60]!r}. "
                f"Wanted: {','.join(_HEADER)!r}. {WHERE}."
            )
        for fields in lines:
            counts = fields[2:]
            if len(fields) != len(_HEADER) or not all(count.isdecimal() for count in counts):
                raise DataError(
                    f"{path}, line {lines.line_num}: {','.join(fields)[:60]!r} is not a split, a name "
                    f"and {len(VOTE_CLASSES)} numbers of votes. Fetch it again: {WHERE}."
                )
            usage.append(fields[0])
            votes.append([int(count) for count in counts])
    return np.array(votes, dtype=np.int64).reshape(-1, len(VOTE_CLASSES)), np.array(usage, dtype=np.str_)


def with_votes(faces: FaceSet, path: Path | str = "data/ferplus/fer2013new.csv") -> FaceSet:
    """The same faces with the votes on each, row by row; the labels stay FER2013's.

    Args:
        faces: a whole FER2013, read from a csv that holds every split.
        path: ``fer2013new.csv``.

    Raises:
        DataError: as :func:`load_votes`; or the rows of ``faces`` are not those of the file: they
            come from the folder form, whose order is another, or some are missing.
    """
    if faces.split is None or not faces.source.endswith(".csv"):
        raise DataError(
            f"{faces.source or faces.name}: FER+ names its images by their row in fer2013.csv, and the "
            "rows of another form stand in another order. Read fer2013.csv or icml_face_data.csv."
        )
    votes, usage = load_votes(path)
    if len(votes) != len(faces):
        raise DataError(
            f"{path} has votes on {len(votes):,} images, {faces.source} gives {len(faces):,}; "
            "they are joined row by row, so both must be whole."
        )
    differ = np.flatnonzero(usage != faces.split)
    if len(differ):
        row = int(differ[0])
        raise DataError(
            f"{path} says that image {row + 1:,} is of {usage[row]}, {faces.source} that it is of "
            f"{faces.split[row]}: these are not the same rows. Fetch the published files again."
        )
    return replace(faces, name="ferplus", votes=votes, vote_classes=VOTE_CLASSES)


def plurality(votes: np.ndarray) -> np.ndarray:
    """The FER2013 class that most annotators chose, or -1 where FER2013 has none for their choice.

    The majority voting of Barsoum et al., section 4.1: the largest of the eight emotions' counts;
    "unknown" and "not a face" are no emotion and do not stand for election. Equal counts go to the
    first in the order of :data:`VOTE_CLASSES`. Contempt gives -1, and so does an image on which
    nobody chose an emotion. The result agrees with FER2013's own label on 62.5 % of its images.

    Args:
        votes: (N, 10), in the order of :data:`VOTE_CLASSES`.

    Returns:
        int64, (N,): indices into ``fertools.data.fer2013.CLASSES``, or -1.
    """
    emotions = votes[:, : len(_TO_FER2013)]
    return np.where(emotions.any(axis=1), _TO_FER2013[emotions.argmax(axis=1)], -1)


def shares(faces: FaceSet) -> np.ndarray:
    """How much of each of FER2013's labels the annotators see in an image: targets for training.

    The label distribution of Barsoum et al., as their scheme "cross-entropy loss" takes it, over FER2013's
    seven labels: contempt, "unknown" and "not a face" are left out. An image for which nothing is left keeps
    FER2013's label.

    Args:
        faces: what :func:`with_votes` gives, or a part of it.

    Returns:
        float32, (N, 7), in the order of ``fertools.data.fer2013.CLASSES``; rows add up to 1.

    Raises:
        DataError: the set has no votes.
    """
    if faces.votes is None:
        raise DataError(f"{faces.name} has no votes; read it with fertools.data.load('ferplus')")
    counts = np.zeros((len(faces), len(fer2013.CLASSES)), np.float32)
    counts[:, _TO_FER2013[: len(_IN_FER2013)]] = faces.votes[:, : len(_IN_FER2013)]
    silent = np.flatnonzero(~counts.any(axis=1))
    counts[silent, faces.labels[silent]] = 1
    return counts / counts.sum(axis=1, keepdims=True)


def agreement(faces: FaceSet) -> pd.DataFrame:
    """How far ten annotators agree with FER2013's label and with each other: counts, and no image.

    Args:
        faces: what :func:`with_votes` gives.

    Returns:
        One row for each combination that occurs of ``label`` (FER2013's), ``choice`` (the annotators', see
        :func:`plurality`; "contempt" and "none" are no label of FER2013) and ``votes`` (for that choice), with
        the number of ``images``; over these images, ``annotators``: all votes, ``for_label``: those for FER2013's
        label, and ``pairs``: the mean probability that two annotators of an image say the same.

    Raises:
        DataError: the set has no votes.
    """
    import pandas as pd

    if faces.votes is None:
        raise DataError(f"{faces.name} has no votes; read it with fertools.data.load('ferplus')")
    votes = faces.votes
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


def answers(faces: FaceSet, probabilities: np.ndarray) -> pd.DataFrame:
    """How a network's answers stand to FER2013's labels and to ten annotators: counts, and no image.

    Args:
        faces: what :func:`with_votes` gives, or a part of it.
        probabilities: (N, 7), of the same images in the same order.

    Returns:
        One row for each combination that occurs of ``choice`` (the annotators', as in :func:`agreement`), ``votes``
        (for that choice) and ``tenth`` (0 to 9, of the top probability: 5 is from 0.5 up to 0.6, 9 holds 1), with
        the number of ``images``; how often among them the network's answer is FER2013's label (``right``), how often
        it is the choice (``as_most``), how often FER2013's label is the choice (``label_as_most``), and how often all
        three are one (``all_same``); ``annotators``: all votes, ``for_answer`` and ``for_label``: those for the
        network's answer and for FER2013's label; ``confidence``, the sum of the top probabilities; and
        ``cross_entropy``, the sum of -sum_k q_k log p_k over the images, in nats, with the :func:`shares` q of
        the votes and the probabilities p.

    Raises:
        DataError: the set has no votes.
        ValueError: the probabilities are of another shape.
    """
    import pandas as pd

    if faces.votes is None:
        raise DataError(f"{faces.name} has no votes; read it with fertools.data.load('ferplus')")
    wanted = (len(faces), len(fer2013.CLASSES))
    if probabilities.shape != wanted:
        raise ValueError(f"{len(faces)} images need probabilities of shape {wanted}, not {probabilities.shape}")
    votes, answer, top = faces.votes, probabilities.argmax(1), probabilities.max(1)
    emotions = votes[:, : len(_TO_FER2013)]
    most = plurality(votes)
    column = np.argsort(_TO_FER2013[: len(_IN_FER2013)])  # of a label of FER2013 in the votes
    rows = np.arange(len(faces))
    images = pd.DataFrame(
        {
            "choice": _choices(emotions),
            "votes": emotions.max(axis=1),
            "tenth": np.minimum((10 * top).astype(int), 9),
            "images": 1,
            "right": answer == faces.labels,
            "as_most": answer == most,
            "label_as_most": faces.labels == most,
            "all_same": (answer == most) & (faces.labels == most),
            "annotators": votes.sum(1),
            "for_answer": votes[rows, column[answer]],
            "for_label": votes[rows, column[faces.labels]],
            "confidence": top.astype(float),
            "cross_entropy": -(shares(faces) * np.log(probabilities.clip(min=1e-12))).sum(1, dtype=float),
        }
    )
    counts = images.groupby(["choice", "votes", "tenth"]).sum()
    return counts.round({"confidence": 4, "cross_entropy": 4}).reset_index()


def _choices(emotions: np.ndarray) -> np.ndarray:
    """The name of the commonest of the eight emotions, (N,), or "none"; takes their counts (N, 8)."""
    names = np.array([*_IN_FER2013, "contempt", "none"])
    return names[np.where(emotions.any(axis=1), emotions.argmax(axis=1), len(_TO_FER2013))]
