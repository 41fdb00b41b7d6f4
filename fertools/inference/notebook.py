"""A prediction as a notebook shows it: the image with its boxes, and the probabilities as bars."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fertools.errors import DataError
from fertools.inference.drawing import annotate
from fertools.inference.output import describe, label_text

if TYPE_CHECKING:
    from fertools.inference.predictor import Face, Prediction

THUMBNAIL = 480  # pixels, the longer side of the image in a notebook


def to_html(prediction: Prediction) -> str:
    """The image with its boxes, and a bar for each probability of each face, as a notebook shows it.

    The image is missing where it is no longer available: a file that was deleted, a frame of a video.
    """
    parts = [f"<p>{escape(line)}</p>" for line in describe(prediction).splitlines()]
    parts += [_image_html(prediction), *(_bars_html(face) for face in prediction.faces)]
    return f'<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">{"".join(parts)}</div>'


def _image_html(prediction: Prediction) -> str:
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
