"""From a photo or a video to expression labels: detect the faces, crop, classify, abstain if not confident.

For instance::

    predictor = Predictor.from_pretrained()
    for face in predictor.predict("photo.jpg").faces:
        print(face.label, face.confidence, face.abstain)

Faces are cropped like the training images (:mod:`fertools.data.faces`) and normalized with the statistics
of the training images, which the weights file contains. A label is what people would call the expression
in the image; it is not what the person feels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from PIL import Image

from fertools import IMAGE_SIZE
from fertools.data.faces import Box, detect
from fertools.errors import RunError, WeightsError
from fertools.evaluation.prediction import predict_log_proba
from fertools.hardware import computes_bf16, pick_device
from fertools.inference.detection import Detected, Detector, ImageSource, detect_batches, detect_in
from fertools.inference.fusing import FusedNetwork, fuse
from fertools.inference.output import label_text
from fertools.inference.video import Video, read_frames, source_name
from fertools.models.weights import ModelMetadata, load_network
from fertools.paths import find_run

SHIPPED = "wide-fer2013"  # the run whose network is part of the package

Precision = Literal["fp32", "bf16", "auto"]


@dataclass(frozen=True)
class Face:
    """One face and its label.

    Attributes:
        box: its location as the detector found it, in pixels of the upright image.
        probabilities: class name -> calibrated probability; they add up to 1.
        label: the most probable class.
        confidence: the probability of ``label``.
        abstain: the confidence is below the threshold; don't rely on ``label`` then.
    """

    box: Box
    probabilities: dict[str, float]
    label: str
    confidence: float
    abstain: bool

    def __repr__(self) -> str:
        return f"Face({label_text(self)}, {self.box.side} pixels at ({self.box.left}, {self.box.top}))"


@dataclass(frozen=True)
class Prediction:
    """The faces of one image, or of one frame of a video. A notebook shows the image with boxes and bars.

    Attributes:
        source: the file; ``"image 3"`` for the fourth array of a list; ``"camera 0"``.
        faces: highest detection score first; empty if there are none.
        message: why there are no faces; None if there are.
        failed: the image could not be read. False if it was read and has no face.
        frame: the number of the frame, from 0; None for an image.
        seconds: when the frame is shown, from the start of the video; None for an image.
        image: the array or Pillow image that was passed to :meth:`Predictor.predict`; None for a file, which
            ``source`` names, and from :meth:`Predictor.stream`, so that a stream doesn't fill the memory.
    """

    source: str
    faces: tuple[Face, ...] = ()
    message: str | None = None
    failed: bool = False
    frame: int | None = None
    seconds: float | None = None
    image: ImageSource | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        frame = "" if self.frame is None else f", frame {self.frame}"
        found = self.message or ", ".join(label_text(face) for face in self.faces)
        return f"Prediction({self.source}{frame}: {found})"

    def _repr_html_(self) -> str:
        from fertools.inference.notebook import to_html

        return to_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without ``image``."""
        values = asdict(replace(self, image=None))
        del values["image"]
        return values


class Predictor:
    """A trained network with everything needed to label the faces in an image.

    :meth:`from_pretrained` creates one from a run or a weights file.

    Args:
        net: the network; it is moved to ``device``. A copy that predicts faster (see
            :func:`fertools.inference.fusing.fuse`) is made for the first prediction; later changes of
            ``net`` don't affect it.
        metadata: its classes, normalization, temperature, and threshold.
        threshold: abstain if the calibrated confidence is below; 0 never does. By default that of ``metadata``.
        detector: finds faces in grayscale, uint8 (H, W), highest score first.
        device: by default a GPU if there is one.
        precision: ``"fp32"``; ``"bf16"``, which on hardware with bf16 arithmetic classifies about twice as
            fast and may change a label where two classes are nearly equally probable; or ``"auto"``,
            bf16 on such hardware and fp32 elsewhere. In photos, detection takes so much longer than
            classification that bf16 gains little.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        metadata: ModelMetadata,
        *,
        threshold: float | None = None,
        detector: Detector = detect,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
        self.device = pick_device(None if device is None else str(device))
        self.net = net.to(self.device).eval()
        self.metadata = metadata
        self.threshold = metadata.threshold if threshold is None else threshold
        self.detector = detector
        self.precision = precision

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = SHIPPED,
        device: str | torch.device | None = None,
        *,
        threshold: float | None = None,
        detector: Detector = detect,
        precision: Precision = "fp32",
    ) -> Predictor:
        """A predictor from the name or folder of a run, or from a ``.safetensors`` file. Nothing is downloaded.

        A name is searched for as described in :mod:`fertools.paths`.

        Args:
            name_or_path: a run of :func:`fertools.training.trainer.train`, or its weights; by default the
                network that is part of the package.
            device, threshold, detector, precision: see :class:`Predictor`.

        Raises:
            RunError: there is no such run, or it has no weights.
            WeightsError: see :func:`fertools.models.weights.load_network`.
        """
        path = Path(name_or_path)
        if not path.is_file() and path.suffix != ".safetensors":
            path = find_run(path) / "model.safetensors"
            if not path.is_file():
                raise RunError(f"the run {name_or_path} has no weights: there is no {path}")
        net, metadata = load_network(path)
        return cls(net, metadata, threshold=threshold, detector=detector, device=device, precision=precision)

    def __repr__(self) -> str:
        return f"Predictor({type(self.net).__name__}, {len(self.classes)} classes, {self.device}, {self.precision})"

    @property
    def classes(self) -> tuple[str, ...]:
        """The label names, in the order of the probabilities."""
        return self.metadata.classes

    @cached_property
    def _fused(self) -> FusedNetwork:
        bf16 = self.precision == "bf16" or (self.precision == "auto" and computes_bf16(self.device))
        return fuse(self.net, torch.bfloat16 if bf16 else torch.float32)

    def classify(self, crops: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of cropped faces, float32 (N, classes).

        Args:
            crops: uint8, (N, 48, 48), 0 black to 255 white; :func:`fertools.data.faces.crop` makes them.

        Raises:
            ValueError: another shape or type.
            WeightsError: the network's output is not finite.
        """
        if isinstance(crops, np.ndarray) and crops.shape == (0, IMAGE_SIZE, IMAGE_SIZE):
            return np.empty((0, len(self.classes)), np.float32)
        log_p = predict_log_proba(self._fused, crops, mean=self.metadata.mean, std=self.metadata.std)
        if not np.isfinite(log_p).all():
            raise WeightsError("the network's output is not finite: its weights are damaged or too large")
        # Not calibration.apply_temperature: importing SciPy takes longer than classifying a photo.
        scaled = torch.from_numpy(log_p).double() / self.metadata.temperature
        return scaled.softmax(1).float().numpy()

    @overload
    def predict(self, source: ImageSource) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is iterable

    @overload
    def predict(self, source: Iterable[ImageSource]) -> list[Prediction]: ...

    def predict(self, source: ImageSource | Iterable[ImageSource]) -> Prediction | list[Prediction]:
        """The labeled faces of one image, or of each image of a list, in its order.

        An image that can't be read, or that has no face, gives a prediction that says so; the others are
        still processed.

        Args:
            source: a file, a Pillow image, or an array (see :func:`fertools.data.faces.to_gray`), or a list
                of them. For faces that are already cropped, use :meth:`classify`.

        Raises:
            TypeError: something else.
        """
        if isinstance(source, str | os.PathLike | np.ndarray | Image.Image):
            (prediction,) = self.predict([source])
            return prediction
        sources = list(source)
        return [
            prediction if isinstance(image, str | os.PathLike) else replace(prediction, image=image)
            for image, prediction in zip(sources, self.stream(sources), strict=True)
        ]

    def stream(self, sources: Iterable[ImageSource], batch: int = 32, workers: int = 1) -> Iterator[Prediction]:
        """Like :meth:`predict` of a list, but yields predictions as they are ready.

        At most ``batch`` images have been taken from ``sources`` and not yet been yielded; their faces are
        classified together.

        Args:
            sources: as in :meth:`predict`; may be endless.
            batch, workers, and errors: see :func:`fertools.inference.detection.detect_batches`. With
                ``workers=available_cores()``, all cores detect faces; ``fertools predict`` does that.
        """
        for group in detect_batches(sources, self.detector, batch, workers):
            yield from self._label(group)

    def predict_video(self, source: Video, step: int = 1) -> Iterator[Prediction]:
        """The labeled faces of a video file or a camera, frame by frame. Only one frame is in memory.

        Each frame is processed on its own; faces are not tracked.

        Args:
            source, step, and errors: see :func:`fertools.inference.video.read_frames`.
        """
        frames = read_frames(source, step)  # opened here, not at the first frame: a wrong name fails at once

        def label() -> Iterator[Prediction]:
            with closing(frames):  # type: ignore[type-var]  # a generator
                for frame in frames:
                    (prediction,) = self._label([detect_in(frame.gray, source_name(source), self.detector)])
                    yield replace(prediction, frame=frame.number, seconds=frame.seconds)

        return label()

    def _label(self, group: Sequence[Detected]) -> Iterator[Prediction]:
        """Classifies the faces of several images together."""
        crops = [face for found in group for face in found.crops]
        probabilities = iter(self.classify(np.stack(crops)) if crops else ())
        for found in group:
            faces = tuple(self._face(box, next(probabilities)) for box in found.boxes)
            yield Prediction(found.source, faces, found.message, found.failed)

    def _face(self, box: Box, p: np.ndarray) -> Face:
        best = int(p.argmax())
        probabilities = dict(zip(self.classes, p.tolist(), strict=True))
        confidence = float(p[best])
        return Face(box, probabilities, self.classes[best], confidence, confidence < self.threshold)
