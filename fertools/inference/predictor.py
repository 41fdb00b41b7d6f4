"""From a photograph or a film to expression labels: find the faces, crop, classify, abstain where unsure.

For instance::

    predictor = Predictor.from_pretrained("cpu-fer2013")
    for face in predictor.predict("photo.jpg").faces:
        print(face.label, face.confidence, face.abstain)

Faces are cut out as training saw them (:mod:`fertools.data.faces`) and normalised by the gray levels of
the training images, which the weights carry. A label says what people would call the expression in the
picture; it does not say what the person feels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fertools import IMAGE_SIZE
from fertools.data.faces import Box, crop, detect, read_image, to_gray
from fertools.errors import DataError, RunError
from fertools.evaluation.calibration import apply_temperature
from fertools.evaluation.prediction import predict_log_proba
from fertools.files import atomic_write
from fertools.models.weights import load_network
from fertools.paths import run_folders

if TYPE_CHECKING:
    import cv2
    import pandas as pd


Picture = str | os.PathLike[str] | np.ndarray | Image.Image


@dataclass(frozen=True)
class Face:
    """One face and its label.

    Attributes:
        box: where it is, as the detector found it, in pixels of the upright picture.
        probabilities: class name -> calibrated probability; they add up to 1.
        label: the most probable class.
        confidence: its probability.
        abstain: the confidence is below the threshold; ``label`` should then not be relied on.
    """

    box: Box
    probabilities: dict[str, float]
    label: str
    confidence: float
    abstain: bool


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture, or in one frame of a film.

    Attributes:
        source: the file; ``"image 3"`` for an array, the fourth of its list; ``"camera 0"``.
        faces: surest detection first; empty where there are none.
        problem: why there are no faces, in words; None where there are.
        failed: the picture could not be read. False where it was read and shows no face.
        frame: the number of the frame, from 0; None for a picture.
        seconds: when the frame is shown, from the beginning; None for a picture.
    """

    source: str
    faces: tuple[Face, ...] = ()
    problem: str | None = None
    failed: bool = False
    frame: int | None = None
    seconds: float | None = None


class Predictor:
    """A trained network with all that it takes to label the faces in a picture.

    :meth:`from_pretrained` makes one from a run.

    Args:
        net: the network; it is moved to ``device``.
        classes: its label names.
        mean, std: of its training images, in gray levels.
        temperature: its logits are divided by it, see :func:`fertools.evaluation.metrics.fit_temperature`.
        threshold: it abstains where the calibrated confidence is below; 0 never does.
        detector: finds faces in gray values, uint8 (H, W); surest first.
        device: by default a GPU where there is one.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        classes: Sequence[str],
        *,
        mean: float,
        std: float,
        temperature: float = 1.0,
        threshold: float = 0.0,
        detector: Callable[[np.ndarray], list[Box]] = detect,
        device: str | torch.device | None = None,
    ) -> None:
        self.net = net.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self.classes = tuple(classes)
        self.mean, self.std = mean, std
        self.temperature = temperature
        self.threshold = threshold
        self.detector = detector

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "cpu-fer2013",
        device: str | torch.device | None = None,
        *,
        threshold: float | None = None,
        detector: Callable[[np.ndarray], list[Box]] = detect,
    ) -> Predictor:
        """A predictor from the name of a run, from its folder or from a ``.safetensors`` file. Nothing is downloaded.

        A name is looked for in ``data/runs`` of the current folder, then in that of the checkout which
        the library belongs to.

        Args:
            name_or_path: a run of :func:`fertools.training.trainer.train`, or its weights.
            device: by default a GPU where there is one.
            threshold: the confidence below which to abstain. By default the lowest at which
                :data:`TARGET` of the answers on PublicTest were right, see
                :func:`fertools.evaluation.metrics.abstention_threshold`; 0 where the run left no predictions of
                PublicTest beside its weights.
            detector: finds faces in gray values, uint8 (H, W); surest first.

        Raises:
            RunError: there are no weights of that name, or its predictions are damaged.
            WeightsError: the file is no network of ours, see :func:`fertools.models.weights.load_network`.
        """
        path = _find(name_or_path)
        net, metadata = load_network(path)
        classes, mean, std, temperature = metadata.classes, metadata.mean, metadata.std, metadata.temperature
        if threshold is None:
            threshold = metadata.threshold
        return cls(
            net,
            classes,
            mean=mean,
            std=std,
            temperature=temperature,
            threshold=threshold,
            detector=detector,
            device=device,
        )

    def classify(self, crops: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float32 (N, classes), of faces that are cut out already.

        Args:
            crops: uint8, (N, 48, 48), 0 black to 255 white; :func:`fertools.data.faces.crop` makes them.

        Raises:
            ValueError: another shape or type.
        """
        if isinstance(crops, np.ndarray) and crops.shape == (0, IMAGE_SIZE, IMAGE_SIZE):
            return np.empty((0, len(self.classes)), np.float32)
        log_p = predict_log_proba(self.net, crops, mean=self.mean, std=self.std)
        return np.exp(apply_temperature(log_p, self.temperature))

    @overload
    def predict(self, source: Picture) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is iterable

    @overload
    def predict(self, source: Iterable[Picture]) -> list[Prediction]: ...

    def predict(self, source: Picture | Iterable[Picture]) -> Prediction | list[Prediction]:
        """The labelled faces of one picture, or of each picture of a list, in its order.

        A picture that cannot be read, and one without a face, gives a result that says so, and the rest
        goes on.

        Args:
            source: a file, a Pillow image or an array (see :func:`fertools.data.faces.to_gray`), or a list
                of them. Faces that are cut out already belong to :meth:`classify`.

        Raises:
            TypeError: something else.
        """
        if isinstance(source, str | os.PathLike | np.ndarray | Image.Image):
            return next(self.stream([source]))
        return list(self.stream(source))

    def stream(self, sources: Iterable[Picture], batch: int = 32) -> Iterator[Prediction]:
        """As :meth:`predict` of a list, but gives results as they come, and holds no more than ``batch`` at a time.

        Pictures are read and searched one by one; the faces of ``batch`` pictures are classified together.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        numbered = enumerate(sources)
        while seen := [self._see(source, number) for number, source in islice(numbered, batch)]:
            yield from self._label(seen)

    def predict_video(self, source: str | os.PathLike[str] | int, every: int = 1) -> Iterator[Prediction]:
        """The labelled faces of a film, or of a camera, frame by frame: one frame is in memory at a time.

        Each frame is looked at by itself: no face is followed from one to the next.

        Args:
            source: a video file, or the number of a camera, 0 the first. A camera goes on until you stop
                asking, with ``break``.
            every: look at one frame out of so many.

        Raises:
            DataError: the file or camera cannot be opened. While iterating, after the frames that could be
                read: the film breaks off before its end, or the camera stops sending.
            ValueError: ``every`` is below 1.
        """
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        capture = _open(source)  # here rather than at the first frame: a wrong name shows at once
        return self._frames(capture, source, every)

    def _frames(
        self, capture: cv2.VideoCapture, source: str | os.PathLike[str] | int, every: int
    ) -> Iterator[Prediction]:
        import cv2

        is_camera = isinstance(source, int)
        name = f"camera {source}" if isinstance(source, int) else os.fspath(source)
        rate = capture.get(cv2.CAP_PROP_FPS)
        length = capture.get(cv2.CAP_PROP_FRAME_COUNT) / rate if rate > 0 else 0.0  # seconds; 0 where unknown
        start, frame, seconds = time.monotonic(), 0, 0.0
        try:
            while capture.grab():
                seconds = time.monotonic() - start if is_camera else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if frame % every == 0:
                    decoded, pixels = capture.retrieve()
                    if not decoded:
                        break
                    found = self._search(Prediction(name, frame=frame, seconds=seconds), to_gray(pixels[..., ::-1]))
                    yield from self._label([found])
                frame += 1
        finally:
            capture.release()
        if is_camera:
            raise DataError(f"{name} stopped sending after {frame} frames")
        if not frame:
            raise DataError(f"{name}: no frame can be read; the file is damaged, or OpenCV lacks its codec")
        # Containers round their length, and some count the sound, so that a little less is no damage.
        if length - seconds > max(1.0, 0.05 * length):
            raise DataError(f"{name} breaks off at {seconds:.1f} of {length:.1f} seconds: the file is damaged")

    def _see(self, source: Picture, number: int) -> _Seen:
        """Reads a picture and finds its faces."""
        result = Prediction(os.fspath(source) if isinstance(source, str | os.PathLike) else f"image {number}")
        try:
            if isinstance(source, str | os.PathLike):
                gray = read_image(source)
            elif isinstance(source, np.ndarray | Image.Image):
                gray = to_gray(source)
            else:
                raise TypeError(f"a picture is a file, an array or a Pillow image, not {type(source).__name__}")
        except (DataError, OSError) as error:  # OSError: Pillow opened a file that it finds damaged now
            problem = str(error).removeprefix(f"{result.source}: ")
            return replace(result, problem=problem, failed=True), [], []
        return self._search(result, gray)

    def _search(self, result: Prediction, gray: np.ndarray) -> _Seen:
        boxes = self.detector(gray)
        if not boxes:
            limits = "; they are seen upright, from the front, from 40 pixels on" if self.detector is detect else ""
            result = replace(result, problem=f"no face found{limits}")
        return result, boxes, [crop(gray, box) for box in boxes]

    def _label(self, seen: Sequence[_Seen]) -> Iterator[Prediction]:
        """Classifies the faces of several pictures at once and hands them back to their pictures."""
        crops = [face for _, _, faces in seen for face in faces]
        rows = iter(self.classify(np.stack(crops)) if crops else ())
        for result, boxes, _ in seen:
            yield replace(result, faces=tuple(self._face(box, next(rows)) for box in boxes))

    def _face(self, box: Box, p: np.ndarray) -> Face:
        best = int(p.argmax())
        probabilities = dict(zip(self.classes, p.tolist(), strict=True))
        confidence = float(p[best])
        return Face(box, probabilities, self.classes[best], confidence, confidence < self.threshold)


_Seen = tuple[Prediction, list[Box], list[np.ndarray]]  # a result without labels yet, its boxes, its crops


# --- Where things are -------------------------------------------------------------------------


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    """The weights that a name or a path means."""
    path = Path(name_or_path)
    if path.is_file() or path.suffix == ".safetensors":
        return path
    folders = [path] if path.is_dir() else [folder / path for folder in run_folders()]
    for folder in folders:
        if (folder / "model.safetensors").is_file():
            return folder / "model.safetensors"
    looked = " and ".join(str(folder / "model.safetensors") for folder in folders)
    known = {found.parent.name for runs in run_folders() for found in runs.glob("*/model.safetensors")}
    here = ", ".join(sorted(known)) or "none"
    raise RunError(f"there is no trained network {path}: looked for {looked}; here are: {here}")


def _open(source: str | os.PathLike[str] | int) -> cv2.VideoCapture:
    """An open film or camera, or a DataError that says why there is none."""
    import cv2

    if isinstance(source, int):
        why = f"camera {source} cannot be opened: is one connected, free, and may this program use it?"
        capture = cv2.VideoCapture(source)
    else:
        path = Path(source)
        if not path.exists():
            raise DataError(f"{path}: no such file")
        if path.is_dir():
            raise DataError(f"{path}: a folder, not a film")
        if not path.stat().st_size:
            raise DataError(f"{path}: the file is empty")
        why = f"{path}: not a film in a format that OpenCV knows, or damaged"
        capture = cv2.VideoCapture(os.fspath(path))
    if not capture.isOpened():
        raise DataError(why)
    return capture


def pictures_in(folder: Path) -> list[Path]:
    """The files directly in a folder whose names end like pictures that Pillow can read, by name."""
    endings = {
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")
    }
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())


# --- What to make of the results --------------------------------------------------------------

COLUMNS = ("source", "frame", "seconds", "left", "top", "right", "bottom", "score", "label", "confidence", "abstain")


def rows(prediction: Prediction) -> list[dict[str, Any]]:
    """One flat dictionary per face: :data:`COLUMNS`, then a probability per class."""
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
    """One row per face: :data:`COLUMNS`, then a probability per class. What has no face has no row.

    ``frame`` and ``seconds`` are missing values for pictures.
    """
    import pandas as pd

    table = pd.DataFrame([row for prediction in predictions for row in rows(prediction)])
    table = table if len(table) else pd.DataFrame(columns=list(COLUMNS))
    return table.astype({"frame": "Int64", "seconds": "Float64"})


def describe(prediction: Prediction) -> str:
    """The result in words, one line per face."""
    if prediction.problem:
        return f"{prediction.source}: {prediction.problem}"
    return "\n".join(
        f"{prediction.source}: {_words(face)}, a face of {face.box.side} pixels at ({face.box.left}, {face.box.top})"
        for face in prediction.faces
    )


def _words(face: Face) -> str:
    """``"happy 93 %"``, or ``"unsure (sad 41 %, neutral 38 %)"``."""
    if not face.abstain:
        return f"{face.label} {face.confidence:.0%}"
    first, second = sorted(face.probabilities.items(), key=lambda item: -item[1])[:2]
    return f"unsure ({first[0]} {first[1]:.0%}, {second[0]} {second[1]:.0%})"


def annotate(path: str | os.PathLike[str], prediction: Prediction) -> Image.Image:
    """The picture, upright and in colour, with a box and words on each of its faces.

    A face with an answer has a full box on dark ground, one without a dashed box and grey ground:
    the two are told apart without colour.

    Raises:
        DataError: the file cannot be read.
    """
    gray = read_image(path)  # refuses, with a clear word, what the next lines would not
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F" or image.mode.startswith("I"):
            image = Image.fromarray(gray)
        elif image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("RGB")
    draw = ImageDraw.Draw(image)
    for face in prediction.faces:
        box = face.box
        line = max(2, box.side // 60)
        font = ImageFont.load_default(max(12.0, box.side / 10))
        stroke, ground, letters = ("black", "#d0d0d0", "black") if face.abstain else ("#00527d", "#00527d", "white")
        corners = [(box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)]
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            for a, b in _dashes(start, end, 4 * line) if face.abstain else [(start, end)]:
                draw.line([a, b], fill="white", width=line + 2)  # seen on dark pictures, and below it on light ones
                draw.line([a, b], fill=stroke, width=line)
        words = _words(face)
        _, _, width, height = draw.textbbox((0, 0), words, font, anchor="lt")
        left = max(min(box.left, image.width - width - 2 * line), 0)  # above the box, but inside the picture
        top = max(box.top - height - 2 * line, 0)
        draw.rectangle([left, top, left + width + 2 * line, top + height + 2 * line], fill=ground)
        draw.text((left + line, top + line), words, letters, font, anchor="lt")
    return image


def save_annotated(path: str | os.PathLike[str], prediction: Prediction, folder: Path) -> Path:
    """Writes :func:`annotate`'s picture into a folder and gives its path: ``photo.png`` of ``photo.jpg``.

    It is written whole or not at all, and never over a file that is there: the next free one of
    ``photo-2.png``, ``photo-3.png``, ... is taken.
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


_Point = tuple[float, float]


def _dashes(start: _Point, end: _Point, length: int) -> list[tuple[_Point, _Point]]:
    """Every second piece of a line that is cut into an odd number of about ``length`` pixels."""
    a, b = np.array(start), np.array(end)
    pieces = 2 * (int(np.hypot(*(b - a))) // (2 * length)) + 1
    at = a + (b - a) * np.linspace(0, 1, pieces + 1)[:, None]
    return [(tuple(at[i].tolist()), tuple(at[i + 1].tolist())) for i in range(0, pieces, 2)]
