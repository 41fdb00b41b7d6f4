"""Finding and cropping the faces of many images, on all cores.

dlib keeps Python's lock while it searches, so that threads would wait for each other: this takes processes.
They import this module, which must not import PyTorch: that would take longer than searching 20 photos.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

import numpy as np
from PIL import Image

from fertools.data.faces import NO_FACE, Box, crop, detect, read_image, smallest_face, to_gray
from fertools.errors import DataError

ImageSource = str | os.PathLike[str] | np.ndarray | Image.Image
Detector = Callable[[np.ndarray], list[Box]]  # grayscale, uint8 (H, W), to boxes, highest score first


@dataclass(frozen=True, eq=False)
class Detected:
    """The faces of one image.

    Attributes:
        source: the file, or ``"image 3"`` for the fourth array of a list.
        boxes: highest score first.
        crops: uint8, (48, 48), one for each box.
        message: why there are no faces; None if there are.
        failed: the image could not be read.
    """

    source: str
    boxes: tuple[Box, ...] = ()
    crops: tuple[np.ndarray, ...] = ()
    message: str | None = None
    failed: bool = False


def detect_faces(image: ImageSource, number: int, detector: Detector = detect) -> Detected:
    """Reads an image, finds its faces, and crops them. An image that can't be read gives a message.

    Args:
        image: a file, an array, or a Pillow image.
        number: names an image without a file.
        detector: by default dlib's.

    Raises:
        TypeError: ``image`` is something else.
    """
    source = os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"
    try:
        if isinstance(image, str | os.PathLike):
            gray = read_image(image)
        elif isinstance(image, np.ndarray | Image.Image):
            gray = to_gray(image)
        else:
            raise TypeError(f"an image is a file, an array, or a Pillow image, not {type(image).__name__}")
        return detect_in(gray, source, detector)
    except MemoryError:
        return Detected(source, message="not enough memory; make the image smaller", failed=True)
    except (DataError, OSError) as error:
        return Detected(source, message=str(error).removeprefix(f"{source}: "), failed=True)


def detect_in(gray: np.ndarray, source: str, detector: Detector = detect) -> Detected:
    """The faces of a grayscale image, uint8 (H, W)."""
    boxes = detector(gray)
    if not boxes:
        message = NO_FACE.format(smallest_face(gray)) if detector is detect else "no face found"
        return Detected(source, message=message)
    return Detected(source, tuple(boxes), tuple(crop(gray, box) for box in boxes))


def detect_batches(
    images: Iterable[ImageSource], detector: Detector = detect, batch: int = 32, workers: int = 1
) -> Iterator[list[Detected]]:
    """:func:`detect_faces` of each image, in their order, several at a time.

    At most ``batch`` images have been taken from ``images`` and not yet been yielded.

    Args:
        images: may be endless.
        detector: with several processes, a function that can be pickled.
        batch: at least 1.
        workers: processes; 1 for none besides this one. Starting them takes about a second. In a script, the
            call then has to be inside ``if __name__ == "__main__":``, see :mod:`multiprocessing`.

    Raises:
        DataError: a worker process was killed.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    numbered = ((image, number) for number, image in enumerate(images))
    if workers == 1:
        while group := [detect_faces(image, number, detector) for image, number in islice(numbered, batch)]:
            yield group
        return
    # "spawn", because a fork of a process with threads, such as PyTorch's, can deadlock.
    pool = ProcessPoolExecutor(min(workers, batch), get_context("spawn"), initializer=_prepare_worker)
    pending: deque[Future[Detected]] = deque()
    try:
        while True:
            for image, number in islice(numbered, batch - len(pending)):
                pending.append(pool.submit(detect_faces, image, number, detector))
            if not pending:
                return
            # Half a batch at a time: the workers continue with the other half while the caller classifies.
            yield [pending.popleft().result() for _ in range(min(len(pending), max(batch // 2, 1)))]
    except BrokenProcessPool:
        raise DataError("a worker process was killed, perhaps for lack of memory; use fewer workers") from None
    finally:  # also if interrupted, or if the caller stops early: images in the queue are dropped
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends the others
    ignore_pillow_warnings()


def ignore_pillow_warnings() -> None:
    """For a command's output: Pillow warns of damaged metadata, whether or not it can read the pixels."""
    warnings.filterwarnings("ignore", module="PIL")


def available_cores() -> int:
    """How many logical cores this process may use. Unlike :mod:`fertools.hardware`, this needs no PyTorch."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
