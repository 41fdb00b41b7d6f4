"""Predictions as text and as table rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from fertools.inference.predictor import Face, Prediction

COLUMNS = ("source", "frame", "seconds", "left", "top", "right", "bottom", "score", "label", "confidence", "abstain")


def describe(prediction: Prediction) -> str:
    """The prediction in words, one line per face."""
    if prediction.message:
        return f"{prediction.source}: {prediction.message}"
    return "\n".join(
        f"{prediction.source}: {label_text(face)}, a face of {face.box.side} pixels at "
        f"({face.box.left}, {face.box.top})"
        for face in prediction.faces
    )


def label_text(face: Face) -> str:
    """``"happy 93%"``, or ``"unsure (sad 41%, neutral 38%)"`` if it abstains."""
    if not face.abstain:
        return f"{face.label} {face.confidence:.0%}"
    first, second = sorted(face.probabilities.items(), key=lambda item: -item[1])[:2]
    return f"unsure ({first[0]} {first[1]:.0%}, {second[0]} {second[1]:.0%})"


def rows(prediction: Prediction) -> list[dict[str, Any]]:
    """One flat dictionary per face: :data:`COLUMNS`, then one probability per class."""
    return [
        {
            "source": prediction.source,
            "frame": prediction.frame,
            "seconds": prediction.seconds,
            **asdict(face.box),
            "label": face.label,
            "confidence": face.confidence,
            "abstain": face.abstain,
            **face.probabilities,
        }
        for face in prediction.faces
    ]


def to_table(predictions: Iterable[Prediction]) -> pd.DataFrame:
    """One row per face: :data:`COLUMNS`, then one probability per class. An image without a face has no row.

    ``frame`` and ``seconds`` are missing values, except for videos.
    """
    import pandas as pd

    table = pd.DataFrame([row for prediction in predictions for row in rows(prediction)])
    table = table if len(table) else pd.DataFrame(columns=list(COLUMNS))
    return table.astype({"frame": "Int64", "seconds": "Float64"})
