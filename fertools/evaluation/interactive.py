"""What a static figure of the book was drawn from, for the script that lets a reader move it.

The cell that computed a figure's numbers shows a :class:`PageData` as well. In Jupyter and on paper it's invisible, and
the static figure stays. In the built book, ``book/_static/interactive`` takes the figure's place.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

SMALLEST = -32.0  # a log probability; below it, all of them are 0 for a reader


@dataclass(frozen=True)
class PageData:
    """Data in a page: ``_repr_html_`` is an element without anything to see.

    Attributes:
        kind: the script that uses it, ``book/_static/interactive/KIND.js``.
        data: what JSON can express.

    >>> PageData("fusion", {"w": 1})._repr_html_()
    '<div class="page-data" data-kind="fusion"><script type="application/json">{"w":1}</script></div>'
    """

    kind: str
    data: Mapping[str, Any]

    def _repr_html_(self) -> str:
        text = json.dumps(self.data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        return (
            f'<div class="page-data" data-kind="{escape(self.kind)}">'
            f'<script type="application/json">{text}</script></div>'
        )


def pack_log_probabilities(log_probabilities: np.ndarray) -> str:
    """Thousandths, as 16-bit integers in base64: 2 bytes for a number that takes 7 as text.

    Args:
        log_probabilities: (N, classes), natural logarithms; below :data:`SMALLEST` they are cut off.

    >>> len(pack_log_probabilities(np.log(np.full((100, 7), 1 / 7))))
    1868
    """
    whole = np.rint(1000 * np.maximum(log_probabilities, SMALLEST)).astype("<i2")
    return base64.b64encode(whole.tobytes()).decode("ascii")


def pack_images(images: np.ndarray, across: int, quality: int = 60) -> str:
    """Images side by side in one WebP, as a ``data:`` address.

    Args:
        images: uint8, (N, H, W), 0 black to 255 white.
        across: how many in a row; the last row is filled up with black.
        quality: 0 to 100; at 60, a face of 48x48 pixels takes about 400 bytes.

    >>> pack_images(np.zeros((3, 48, 48), np.uint8), across=2)[:23]
    'data:image/webp;base64,'
    """
    import io

    from PIL import Image

    n, height, width = images.shape
    down = -(-n // across)
    sheet = np.zeros((down * across, height, width), np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(down, across, height, width).swapaxes(1, 2).reshape(down * height, across * width)
    data = io.BytesIO()
    Image.fromarray(sheet).convert("RGB").save(data, "WEBP", quality=quality, method=6)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
