"""An image with a box and a label drawn on each face.

Torchvision's ``draw_bounding_boxes`` has no dashed boxes, so that a label and an abstention would differ by
color alone; it writes labels over the face, at 10 pixels whatever the image's size, and past its edge.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fertools.data.faces import open_image, to_gray, upright
from fertools.files import atomic_write
from fertools.inference.detection import ImageSource
from fertools.inference.output import label_text

if TYPE_CHECKING:
    from fertools.inference.predictor import Prediction

_Point = tuple[float, float]


def annotate(image: ImageSource, prediction: Prediction) -> Image.Image:
    """The image, upright and in color, with a box and a label on each face.

    A labeled face has a solid box and white text on blue; a face on which the network abstains has a dashed
    box and black text on gray. The two can be told apart without color.

    Args:
        image: a file, an array, or a Pillow image: the one that was predicted.
        prediction: from :meth:`fertools.inference.predictor.Predictor.predict`.

    Raises:
        DataError: it can't be read.
    """
    drawn = _to_rgb(image)
    draw = ImageDraw.Draw(drawn)
    for face in prediction.faces:
        box = face.box
        line = max(2, box.side // 60)
        font = ImageFont.load_default(max(12.0, box.side / 10))
        stroke, background, ink = ("black", "#d0d0d0", "black") if face.abstain else ("#00527d", "#00527d", "white")
        corners = [(box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)]
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            for a, b in _dashes(start, end, 4 * line) if face.abstain else [(start, end)]:
                draw.line([a, b], fill="white", width=line + 2)  # visible on dark images, the next one on light ones
                draw.line([a, b], fill=stroke, width=line)
        text = label_text(face)
        _, _, width, height = draw.textbbox((0, 0), text, font, anchor="lt")
        left = max(min(box.left, drawn.width - width - 2 * line), 0)  # above the box, but inside the image
        top = max(box.top - height - 2 * line, 0)
        draw.rectangle([left, top, left + width + 2 * line, top + height + 2 * line], fill=background)
        draw.text((left + line, top + line), text, ink, font, anchor="lt")
    return drawn


def save_annotated(path: str | os.PathLike[str], prediction: Prediction, folder: Path) -> Path:
    """Saves the result of :func:`annotate` in a folder, e.g. ``photo.png`` for ``photo.jpg``; returns its path.

    The file is written completely or not at all, and never replaces another one: if ``photo.png`` exists,
    the first free name of ``photo-2.png``, ``photo-3.png``, ... is used.
    """
    image = annotate(path, prediction)
    stem = Path(path).stem
    target, number = folder / f"{stem}.png", 1
    while target.exists():
        number += 1
        target = folder / f"{stem}-{number}.png"
    with atomic_write(target) as part:
        image.save(part)
    return target


def _to_rgb(image: ImageSource) -> Image.Image:
    """A copy, upright, in mode RGB."""
    if isinstance(image, str | os.PathLike):
        with open_image(image) as opened:
            return _to_rgb(opened)
    gray = to_gray(image)  # a clear error for what the next lines can't read, and the pixels where there is no color
    if isinstance(image, np.ndarray):
        if image.ndim == 2 or image.shape[2] == 1:
            return Image.fromarray(gray).convert("RGB")
        white = 1 if np.issubdtype(image.dtype, np.floating) else np.iinfo(image.dtype).max
        image = Image.fromarray(np.rint(image * (255 / white)).astype(np.uint8))
    image = upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(gray)
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _dashes(start: _Point, end: _Point, length: int) -> list[tuple[_Point, _Point]]:
    """Every second piece of a line that is cut into an odd number of pieces of about ``length`` pixels."""
    a, b = np.array(start), np.array(end)
    pieces = 2 * (int(np.hypot(*(b - a))) // (2 * length)) + 1
    at = a + (b - a) * np.linspace(0, 1, pieces + 1)[:, None]
    return [(tuple(at[i].tolist()), tuple(at[i + 1].tolist())) for i in range(0, pieces, 2)]
