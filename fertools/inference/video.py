"""The frames of a video file or a camera, one at a time, in grayscale."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fertools.data.faces import to_gray
from fertools.errors import DataError, require

if TYPE_CHECKING:
    import cv2

Video = str | os.PathLike[str] | int  # a file, or the number of a camera


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        number: from 0.
        seconds: when it is shown, from the start of the video.
        gray: uint8, (H, W).
    """

    number: int
    seconds: float
    gray: np.ndarray


def source_name(source: Video) -> str:
    """The file's path, or ``"camera 0"``."""
    return f"camera {source}" if isinstance(source, int) else os.fspath(source)


def read_frames(source: Video, step: int = 1) -> Iterator[Frame]:
    """The frames 0, ``step``, 2 ``step``, ... of a video file or a camera. Only one frame is in memory.

    Args:
        source: a file, or the number of a camera, starting at 0. A camera continues until you stop
            iterating, e.g. with ``break``.
        step: skip the frames in between.

    Raises:
        DataError: the file or the camera can't be opened. While iterating, after all readable frames:
            the file ends before its stated duration, or the camera stopped sending.
        MissingExtraError: OpenCV is not installed.
        ValueError: ``step`` is below 1.
    """
    if step < 1:
        raise ValueError(f"step must be at least 1, not {step}")
    return _frames(_open(source), source, step)  # opened here, not at the first frame: a wrong name fails at once


def _frames(capture: cv2.VideoCapture, source: Video, step: int) -> Iterator[Frame]:
    cv2 = require("cv2", "faces")
    is_camera, name = isinstance(source, int), source_name(source)
    rate = capture.get(cv2.CAP_PROP_FPS)
    duration = capture.get(cv2.CAP_PROP_FRAME_COUNT) / rate if rate > 0 else 0.0  # in seconds; 0 if unknown
    start, number, seconds = time.monotonic(), 0, 0.0
    try:
        while capture.grab():
            seconds = time.monotonic() - start if is_camera else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if number % step == 0:
                decoded, pixels = capture.retrieve()
                if not decoded:
                    break
                yield Frame(number, seconds, to_gray(pixels[..., ::-1]))  # OpenCV's colors are blue, green, red
            number += 1
    finally:
        capture.release()
    if is_camera:
        raise DataError(f"{name} stopped sending after {number} frames")
    if not number:
        raise DataError(f"{name}: no frame can be read; the file is damaged, or OpenCV lacks its codec")
    # Containers round the duration, and some include the sound, so that a small difference is not damage.
    if duration - seconds > max(1.0, 0.05 * duration):
        raise DataError(f"{name} ends after {seconds:.1f} of {duration:.1f} seconds: the file is damaged")


def _open(source: Video) -> cv2.VideoCapture:
    """An open video file or camera."""
    cv2 = require("cv2", "faces")
    if isinstance(source, int):
        problem = f"camera {source} cannot be opened: is one connected, free, and may this program use it?"
        capture = cv2.VideoCapture(source)
    else:
        path = Path(source)
        if not path.exists():
            raise DataError(f"{path}: no such file")
        if not path.is_file():
            raise DataError(f"{path}: {'a folder' if path.is_dir() else 'not a regular file'}, not a video")
        if not path.stat().st_size:
            raise DataError(f"{path}: the file is empty")
        problem = f"{path}: not a video in a format that OpenCV can read, or damaged"
        capture = cv2.VideoCapture(os.fspath(path))
    if not capture.isOpened():
        raise DataError(problem)
    return capture
