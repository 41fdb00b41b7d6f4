"""Predictions as text, as table rows, and as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from fertools.inference.predictor import Face, Prediction

COLUMNS = ("source", "frame", "seconds", "left", "top", "right", "bottom", "score", "label", "confidence", "abstain")
THUMBNAIL = 480  # pixels, the longer side of the image in a notebook


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


def to_html(prediction: Prediction) -> str:
    """The image with its boxes, and a bar for each probability of each face, as a notebook shows it.

    The image is missing where it is no longer available: a file that was deleted, a frame of a video.
    """
    parts = [f"<p>{escape(line)}</p>" for line in describe(prediction).splitlines()]
    parts += [_image_html(prediction), *(_bars_html(face) for face in prediction.faces)]
    return f'<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">{"".join(parts)}</div>'


def _image_html(prediction: Prediction) -> str:
    from fertools.errors import DataError
    from fertools.inference.drawing import annotate

    image = prediction.image
    if image is None and prediction.frame is None and not prediction.failed and Path(prediction.source).is_file():
        image = prediction.source
    if image is None:
        return ""
    try:
        drawn = annotate(image, prediction)
    except DataError:  # the file has changed since
        return ""
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(describe(prediction))}" src="data:image/jpeg;base64,{data}">'


def _bars_html(face: Face) -> str:
    bars = "".join(
        f"<tr><td>{escape(name)}</td><td>{p:.0%}</td>"
        f'<td style="text-align:left"><div style="width:{100 * p:.1f}px;height:0.8em;background:'
        f'{"#00527d" if name == face.label and not face.abstain else "#999"}"></div></td></tr>'
        for name, p in face.probabilities.items()
    )
    return f"<table><caption>{escape(label_text(face))}</caption>{bars}</table>"
