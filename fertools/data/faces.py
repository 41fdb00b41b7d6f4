"""From a photograph to 48x48 gray faces, as section 3.2 of the paper prepares CK+.

    read -> gray -> detect (dlib) -> choose -> square, padded -> crop -> 48x48

"The Dlib toolkit is used for face detection ... the face region of each frame are clipped and rescaled."
The paper says no more; how large the square is and where it sits is measured here on the data sets
(:data:`MARGIN`, :data:`LIFT`). dlib and OpenCV are imported only when a face is looked for or cropped.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.data.faceset import DataError

MARGIN = 0.1
LIFT = 0.1
# The median place of dlib's box inside the pictures of CK+48 and of FER2013, found by detecting faces in
# a sample of both, enlarged: a tenth of the box's side is left on each side, and the picture's centre is
# a tenth of it above the box's (0.11 in CK+48, 0.06 in FER2013), since dlib's box hangs low: it begins at
# the brows and ends below the chin.


@dataclass(frozen=True)
class Box:
    """Where a face is, in pixels: columns left to right - 1, rows top to bottom - 1.

    A box may reach over the picture's edge. ``score`` is the detector's confidence, above 0: about 1 to 2
    for a clear face, near 0 for what may be none.
    """

    left: int
    top: int
    right: int
    bottom: int
    score: float = 0.0

    @property
    def side(self) -> int:
        """The longer side; dlib's boxes are square but for rounding."""
        return max(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True, eq=False)
class Extracted:
    """What :func:`extract` found in one picture.

    Attributes:
        source: the file, or ``"image 3"`` for the fourth of the list.
        boxes: every face found, surest first.
        crops: uint8, (faces, 48, 48), in the order of ``boxes``.
        problem: why there are no faces, in words; None where there are.
    """

    source: str
    boxes: tuple[Box, ...]
    crops: np.ndarray
    problem: str | None


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture file as gray values, upright: uint8, (H, W).

    Read with Pillow rather than OpenCV: it says why a file cannot be read, and keeps 16-bit and
    transparent pixels for :func:`to_gray` to treat as it treats arrays. EXIF orientation is applied.

    Raises:
        DataError: the file is missing, a folder, empty, damaged, no picture, or larger than
            Pillow's limit against pictures that fill the memory, 89 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return to_gray(image)
    except Exception as error:  # Pillow's decoders raise many kinds, from OSError to SyntaxError
        raise DataError(f"{os.fspath(path)}: {_cause(path, error)}") from error


def _pixels(image: Image.Image) -> np.ndarray:
    """Pillow's many modes as one of those that :func:`to_gray` takes."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)  # "I;16", or "I", as which Pillow opens some pictures of 16 bits
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise DataError("32-bit values have no known white; save it with 8 or 16 bits")
        return values.astype(np.uint16)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def _cause(path: str | os.PathLike[str], error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if Path(path).is_dir():
        return "a folder, not a picture"
    if Path(path).is_file() and not Path(path).stat().st_size:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in any known format"
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink it first"
    return f"cannot be read as a picture: {error}"


def to_gray(image: np.ndarray | Image.Image) -> np.ndarray:
    """The gray values of an array or of a Pillow image, upright: uint8, (H, W).

    Gray is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, what JPEG, Pillow and OpenCV use), rounded.
    Transparent pixels are laid on white, as a page shows them: the colour stored under full
    transparency is arbitrary and never meant to be seen.

    Args:
        image: (H, W), (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4); uint8 up to 255, uint16 up to
            65535 or floating point from 0 to 1. A Pillow image may have any mode but 32-bit values.

    Raises:
        DataError: another shape or type, no pixels, or a value that is out of range or not finite.
    """
    image = _pixels(ImageOps.exif_transpose(image)) if isinstance(image, Image.Image) else np.asarray(image)
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
        raise DataError(f"an image must be (H, W) or (H, W, 1, 3 or 4), but has shape {image.shape}")
    if not image.size:
        raise DataError(f"an image needs pixels, but has shape {image.shape}")
    if image.dtype in (np.uint8, np.uint16):
        white = np.iinfo(image.dtype).max
    elif np.issubdtype(image.dtype, np.floating):
        white = 1
        if not (image.min() >= 0 and image.max() <= 1):  # so written, NaN fails too
            raise DataError(
                f"an image of {image.dtype} must lie in 0 to 1, but runs from {image.min()} to {image.max()}"
            )
    else:
        raise DataError(f"an image must be uint8, uint16 or floating point from 0 to 1, but is {image.dtype}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2 and image.dtype == np.uint8:
        return image
    gray = image.astype(np.float32) * np.float32(255 / white)
    if image.ndim == 3:
        alpha = gray[..., 3] / 255 if image.shape[2] == 4 else 1
        gray = gray[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
        gray = alpha * gray + (1 - alpha) * 255
    return np.rint(gray).astype(np.uint8)


@cache
def _detector() -> Any:
    try:
        import dlib
    except ImportError as error:
        raise ImportError(
            "finding faces needs dlib: pip install dlib-bin, or conda install -c conda-forge dlib"
        ) from error
    return dlib.get_frontal_face_detector()


def detect(gray: np.ndarray, upsample: int = 1) -> list[Box]:
    """All faces that dlib's frontal detector finds, surest first; an empty list where it finds none.

    The detector slides a window over histograms of oriented gradients (Dalal and Triggs 2005; King,
    "Max-margin object detection", 2015) and finds upright faces of 80 pixels and more.

    Args:
        gray: uint8, (H, W).
        upsample: how often the picture is doubled first. 1 finds faces from 40 pixels, at over four
            times the cost of 0: about 0.1 s rather than 0.02 s for 640x490.
    """
    boxes, scores, _ = _detector().run(np.ascontiguousarray(gray), upsample, 0.0)
    found = [Box(b.left(), b.top(), b.right() + 1, b.bottom() + 1, s) for b, s in zip(boxes, scores, strict=True)]
    return sorted(found, key=lambda box: -box.score)


def choose(boxes: Iterable[Box]) -> Box | None:
    """The face, for pictures that are of one person: the largest, and None where there is none.

    Boxes with less than half the highest score do not count: dlib now and then takes a sleeve for a face
    of the same size, but is far less sure of it.
    """
    boxes = list(boxes)
    highest = max((box.score for box in boxes), default=0.0)
    sure = [box for box in boxes if box.score >= highest / 2]
    return max(sure, key=lambda box: (box.side, box.score), default=None)


def crop(gray: np.ndarray, box: Box, *, margin: float = MARGIN, lift: float = LIFT) -> np.ndarray:
    """The square around a face, rescaled: uint8, (48, 48).

    Where the square leaves the picture, the picture's edge is repeated: a black border would be a
    strong edge of its own, which no face of the data sets has. Shrinking averages over areas,
    enlarging is bicubic.

    Args:
        gray: uint8, (H, W).
        box: from :func:`detect`.
        margin: how much more than the box is shown on each side, as a share of the box's side.
        lift: how far the square's centre is above the box's, as a share of the box's side.

    Raises:
        ValueError: nothing is left of the box, or it lies outside the picture.
    """
    import cv2

    height, width = gray.shape
    side = round(box.side * (1 + 2 * margin))
    if side < 1 or box.left >= width or box.top >= height or box.right <= 0 or box.bottom <= 0:
        raise ValueError(f"{box} with margin {margin} leaves nothing of a {width}x{height} picture")
    # Offsets depend on the box's size alone: a picture that is shifted gives the same crop.
    left = box.left + int(np.floor((box.right - box.left - side) / 2))
    top = box.top + int(np.floor((box.bottom - box.top - side) / 2 - lift * box.side))
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    how = cv2.INTER_AREA if side >= IMAGE_SIZE else cv2.INTER_CUBIC
    resized: np.ndarray = cv2.resize(gray[np.ix_(rows, columns)], (IMAGE_SIZE,) * 2, interpolation=how)
    return resized


def extract(
    images: Iterable[str | os.PathLike[str] | np.ndarray],
    *,
    upsample: int = 1,
    margin: float = MARGIN,
    lift: float = LIFT,
    progress: bool = True,
) -> list[Extracted]:
    """Every face of every picture, in the order given.

    A picture that cannot be read, and one without a face, gives an empty result that says so, and the
    rest goes on.

    Args:
        images: files (see :func:`read_image`) and arrays (see :func:`to_gray`), mixed as you like.
        upsample: see :func:`detect`.
        margin: see :func:`crop`.
        lift: see :func:`crop`.
        progress: show a bar.

    Raises:
        TypeError: one picture rather than a list of them.
    """
    if isinstance(images, (str, os.PathLike, np.ndarray)):
        raise TypeError("extract takes a list of files or arrays; put a single one in a list: [image]")
    results = []
    for i, image in enumerate(tqdm(images, desc="faces", unit="image", disable=not progress)):
        is_file = isinstance(image, (str, os.PathLike))
        source = os.fspath(image) if is_file else f"image {i}"
        boxes: list[Box] = []
        crops = np.empty((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        problem = None
        try:
            gray = read_image(image) if is_file else to_gray(image)
            boxes = detect(gray, upsample)
        except DataError as error:
            problem = str(error)
        else:
            if boxes:
                crops = np.stack([crop(gray, box, margin=margin, lift=lift) for box in boxes])
            else:
                smallest = 80 // 2**upsample
                problem = f"no face found; faces are seen upright, from the front, from {smallest} pixels on"
        results.append(Extracted(source, tuple(boxes), crops, problem))
    return results
