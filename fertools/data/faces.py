"""From a photo to 48x48 grayscale faces, as section 3.2 of the paper prepares CK+.

    read -> grayscale -> detect (dlib) -> choose -> padded square -> crop -> 48x48

"The Dlib toolkit is used for face detection ... the face region of each frame are clipped and rescaled."
The paper doesn't say how large the square is and where it is centered; we measured that on the data sets
(:data:`MARGIN`, :data:`LIFT`). dlib and OpenCV are imported only when a face is detected or cropped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.data.faceset import DataError
from fertools.errors import require

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# The image formats that are opened. Pillow knows more, among them EPS, for which it runs Ghostscript.

_GREEDY = ("JPEG2000", "WEBP")  # their decoders take 16 bytes of memory for a pixel, the others at most 8

SEARCHED_PIXELS = 16_000_000
SEARCHED_SIDE = 30_000
# How large an image is when dlib searches it: 2 s, and 0.2 GB. dlib also writes past the end of its memory where an
# image is about 80,000 pixels wide.

STRIP_PIXELS = 4_000_000
# Images become gray in strips of about so many pixels: at once, 89 million pixels would take 2 GB.

MARGIN = 0.1
LIFT = 0.1
# The median position of dlib's box in the images of CK+48 and FER2013, from detecting faces in an enlarged sample
# of both: there is a margin of a tenth of the box's side on each side, and the center of the image is a tenth
# above the box's (0.11 in CK+48, 0.06 in FER2013), since dlib's box is low: it goes from the brows to below the
# chin.


@dataclass(frozen=True)
class Box:
    """The location of a face in pixels: columns left to right - 1, rows top to bottom - 1.

    A box may extend past the edge of the image. ``score`` is the detector's confidence, above 0: about 1 to 2
    for a clear face, near 0 for what may not be a face.
    """

    left: int
    top: int
    right: int
    bottom: int
    score: float = 0.0

    @property
    def side(self) -> int:
        """The longer side; dlib's boxes are square except for rounding."""
        return max(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True, eq=False)
class Extracted:
    """The faces that :func:`extract` found in one image.

    Attributes:
        source: the file, or ``"image 3"`` for the fourth image of the list.
        boxes: all faces, highest score first.
        crops: uint8, (faces, 48, 48), in the order of ``boxes``.
        problem: why there are no faces; None if there are.
    """

    source: str
    boxes: tuple[Box, ...]
    crops: np.ndarray
    problem: str | None


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file in grayscale, upright: uint8, (H, W).

    Uses Pillow rather than OpenCV, because it says why a file can't be read, and keeps 16-bit and transparent
    pixels, which :func:`to_gray` then treats as it treats arrays. EXIF orientation is applied.

    Args:
        path: a file in one of :data:`FORMATS`, whatever its name.

    Raises:
        DataError: the file is missing, a folder, a device or pipe, empty, damaged, in another format, or larger than
            89 million pixels, Pillow's limit against images that fill the memory (half of it for JPEG 2000 and WebP).
    """
    with open_image(path) as image:
        return to_gray(image)


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """``Image.open`` for images from strangers; what goes wrong inside the ``with`` is a DataError, too.

    It may be used in several threads, which ``warnings.catch_warnings`` would not allow.

    Raises:
        DataError: see :func:`read_image`.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("not a regular file")  # a pipe would block, and a device never end
        with Image.open(path, formats=_formats()) as image:
            limit, cost = Image.MAX_IMAGE_PIXELS, 2 if image.format in _GREEDY else 1
            if limit and cost * image.width * image.height > limit:  # Pillow only warns up to twice as many
                raise DataError(f"more than {limit // cost:,} pixels; make it smaller first")
            yield image
    except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError
        raise DataError(f"{os.fspath(path)}: {_cause(path, error)}") from error


@cache
def _formats() -> tuple[str, ...]:
    """The formats that the installed version of Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def images_in(folder: Path) -> list[Path]:
    """The files directly in a folder that have the extension of one of :data:`FORMATS`, sorted by name."""
    _formats()  # registers the extensions
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())


def _pixels(image: Image.Image) -> np.ndarray:
    """The pixels of an image of any mode, as an array that :func:`to_gray` accepts."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)  # mode "I;16", or "I", which Pillow also uses for some 16-bit images
        if image.mode == "I" and values.min() >= 0 and values.max() <= 255:
            return values.astype(np.uint8)  # 8 bits in a 32-bit file; as 16 bits all of it would be black
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise DataError("the brightness of white is unknown in 32-bit images; save it with 8 or 16 bits")
        return values.astype(np.uint16)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def _cause(path: str | os.PathLike[str], error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "you don't have permission to read it"
    if not os.path.exists(path):  # unlike Path.exists, also for a name that is too long or no text
        return str(getattr(error, "strerror", None) or error).lower()
    if os.path.isdir(path):
        return "a folder, not an image"
    if not os.path.isfile(path):
        return "not a regular file"
    if not os.path.getsize(path):
        return "the file is empty"
    return _damage(error)


def _damage(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not an image in any known format"
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first"
    if isinstance(error, MemoryError):
        return "not enough memory; make it smaller first"
    words = " ".join(str(error).split())  # some decoders write several lines, and some none
    return f"cannot be read as an image: {words or type(error).__name__}"


def to_gray(image: np.ndarray | Image.Image) -> np.ndarray:
    """Converts an array or a Pillow image to grayscale, upright: uint8, (H, W).

    Gray is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, as in JPEG, Pillow, and OpenCV), rounded. Transparent
    pixels are composited on white, as on a web page: the color stored under full transparency is arbitrary
    and never meant to be seen.

    >>> to_gray(np.full((2, 2, 3), [1.0, 0.0, 0.0])).tolist()
    [[76, 76], [76, 76]]

    Args:
        image: (H, W), (H, W, 1), RGB (H, W, 3), or RGBA (H, W, 4); uint8 up to 255, uint16 up to
            65535, or floating point from 0 to 1. A Pillow image may have any mode except 32-bit ones.

    Raises:
        DataError: another shape or type, no pixels, a value that is out of range or not finite, or a Pillow image
            whose file is damaged.
    """
    if not isinstance(image, Image.Image):
        return _array_to_gray(np.asarray(image))
    try:
        image = upright(image)
        width, height = image.size
        if not (width and height):
            raise DataError(f"an image needs pixels, but has {width}x{height}")
        if image.mode == "F" or image.mode.startswith("I"):
            return _array_to_gray(_pixels(image))
        gray = np.empty((height, width), np.uint8)
        for top, end in _strips(height, width):
            gray[top:end] = _array_to_gray(_pixels(image.crop((0, top, width, end))))
        return gray
    except (DataError, MemoryError):
        raise
    except Exception as error:  # an open file is decoded only now, and decoders raise anything
        raise DataError(_damage(error)) from error


def _array_to_gray(image: np.ndarray) -> np.ndarray:
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
        raise DataError(f"an image must be (H, W) or (H, W, 1, 3 or 4), but has shape {image.shape}")
    if not image.size:
        raise DataError(f"an image needs pixels, but has shape {image.shape}")
    if image.dtype in (np.uint8, np.uint16):
        white = np.iinfo(image.dtype).max
    elif np.issubdtype(image.dtype, np.floating):
        white = 1
        if not (image.min() >= 0 and image.max() <= 1):  # also false for NaN
            raise DataError(
                f"an image of {image.dtype} must have values from 0 to 1, but has {image.min()} to {image.max()}"
            )
    else:
        raise DataError(f"an image must be uint8, uint16, or floating point from 0 to 1, but is {image.dtype}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2 and image.dtype == np.uint8:
        return image
    height, width = image.shape[:2]
    gray = np.empty((height, width), np.uint8)
    for top, end in _strips(height, width):
        strip = image[top:end].astype(np.float32) * np.float32(255 / white)
        if image.ndim == 3:
            alpha = strip[..., 3] / 255 if image.shape[2] == 4 else 1
            strip = strip[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
            strip = alpha * strip + (1 - alpha) * 255
        gray[top:end] = np.rint(strip)
    return gray


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The first row of each strip of an image, and the one after its last."""
    rows = max(1, STRIP_PIXELS // max(width, 1))
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; the same object where nothing is to be done."""
    image.load()  # a PNG file's orientation may come after its pixels
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


NO_FACE = "no face found; faces must be upright, frontal, and at least {} pixels high"

_idle_detectors: list[Any] = []  # dlib's detector is not thread-safe, so each thread takes one and puts it back


@contextmanager
def _detector() -> Iterator[Any]:
    dlib = require("dlib", "faces")
    try:
        detector = _idle_detectors.pop()
    except IndexError:
        detector = dlib.get_frontal_face_detector()
    try:
        yield detector
    finally:
        _idle_detectors.append(detector)


def detect(gray: np.ndarray, upsample: int = 1) -> list[Box]:
    """Detects all faces with dlib's frontal detector, highest score first.

    The detector slides a window over histograms of oriented gradients (Dalal and Triggs 2005; King,
    "Max-margin object detection", 2015) and finds upright faces of at least 80 pixels.

    Args:
        gray: uint8, (H, W).
        upsample: how many times the image size is doubled first. 1 finds faces of at least 40 pixels, at more
            than four times the cost of 0: about 0.1 s instead of 0.02 s for 640x490. Where this would give more
            than :data:`SEARCHED_PIXELS`, the image is enlarged less, or made smaller: see :func:`smallest_face`.

    Returns:
        The boxes; empty if there is no face.

    Raises:
        MissingExtraError: dlib is not installed.
    """
    scale = _search_scale(gray, upsample)
    if scale == 2**upsample:
        searched, scale = gray, 1.0  # dlib enlarges it
    else:
        height, width = (max(1, round(n * scale)) for n in gray.shape)
        searched = np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2))
        upsample = 0
    with _detector() as detector:
        boxes, scores, _ = detector.run(np.ascontiguousarray(searched), upsample, 0.0)
    found = []
    for b, score in zip(boxes, scores, strict=True):
        left, top, right, bottom = (round(n / scale) for n in (b.left(), b.top(), b.right() + 1, b.bottom() + 1))
        found.append(Box(left, top, right, bottom, score))
    return sorted(found, key=lambda box: -box.score)


def _search_scale(gray: np.ndarray, upsample: int) -> float:
    """By how much an image is enlarged before dlib searches it."""
    height, width = gray.shape
    return min(2.0**upsample, math.sqrt(SEARCHED_PIXELS / max(1, gray.size)), SEARCHED_SIDE / max(1, height, width))


def smallest_face(gray: np.ndarray, upsample: int = 1) -> int:
    """How many pixels high a face must be for :func:`detect` to find it: 40 in images of up to 4 million pixels.

    >>> smallest_face(np.zeros((490, 640), np.uint8)), smallest_face(np.zeros((3000, 4000), np.uint8))
    (40, 70)
    """
    return math.ceil(80 / _search_scale(gray, upsample))


def choose(boxes: Iterable[Box]) -> Box | None:
    """The face, for images of one person: the largest, or None if there is none.

    Boxes with less than half of the highest score don't count: dlib occasionally takes a sleeve for a face
    of the same size, but with a much lower score.
    """
    boxes = list(boxes)
    highest = max((box.score for box in boxes), default=0.0)
    sure = [box for box in boxes if box.score >= highest / 2]
    return max(sure, key=lambda box: (box.side, box.score), default=None)


def crop(gray: np.ndarray, box: Box, *, margin: float = MARGIN, lift: float = LIFT) -> np.ndarray:
    """Crops the square around a face and resizes it: uint8, (48, 48).

    Where the square extends past the image, the edge pixels are repeated: a black border would add a strong
    edge that no face of the data sets has. Downsampling averages over areas, upsampling is bicubic.

    Args:
        gray: uint8, (H, W).
        box: from :func:`detect`.
        margin: what is added to the box on each side, as a fraction of the box's side.
        lift: how far the center of the square is above the box's, as a fraction of the box's side.

    Raises:
        ValueError: the box is empty or outside the image.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = require("cv2", "faces")
    height, width = gray.shape
    side = round(box.side * (1 + 2 * margin))
    if side < 1 or box.left >= width or box.top >= height or box.right <= 0 or box.bottom <= 0:
        raise ValueError(f"{box} with margin {margin} leaves nothing of an image of {width}x{height} pixels")
    # Offsets depend only on the size of the box, so that a shifted image gives the same crop.
    left = box.left + int(np.floor((box.right - box.left - side) / 2))
    top = box.top + int(np.floor((box.bottom - box.top - side) / 2 - lift * box.side))
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    method = cv2.INTER_AREA if side >= IMAGE_SIZE else cv2.INTER_CUBIC
    resized: np.ndarray = cv2.resize(gray[np.ix_(rows, columns)], (IMAGE_SIZE,) * 2, interpolation=method)
    return resized


def extract(
    images: Iterable[str | os.PathLike[str] | np.ndarray | Image.Image],
    *,
    upsample: int = 1,
    margin: float = MARGIN,
    lift: float = LIFT,
    progress: bool = True,
) -> list[Extracted]:
    """Detects and crops all faces of all images, in the given order.

    An image that can't be read, or has no face, gives an empty result that says so, and the others are still
    processed.

    Args:
        images: files (see :func:`read_image`), and arrays or Pillow images (see :func:`to_gray`), in any combination.
        upsample: see :func:`detect`.
        margin: see :func:`crop`.
        lift: see :func:`crop`.
        progress: show a progress bar.

    Raises:
        TypeError: a single image instead of a list.
        MissingExtraError: dlib or OpenCV is not installed.
    """
    if isinstance(images, (str, os.PathLike, np.ndarray, Image.Image)):
        raise TypeError("extract takes a list of images; for a single image, use [image]")
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
                problem = NO_FACE.format(smallest_face(gray, upsample))
        results.append(Extracted(source, tuple(boxes), crops, problem))
    return results
