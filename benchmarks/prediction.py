"""The time to label a face: detection, classification by several backends, many photos, and start-up.

    make bench

The photos are one frame of each rendered sequence in ``data/synthetic`` (640x490, one face). All methods take
turns on each frame, so that they are measured on the same images and cores in the same minutes; a time is
the median. Classification is of one face: from the grayscale crop of 48x48 pixels to probabilities.

OpenCV's detector, YuNet, needs a weights file that no package contains: pass
``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo with ``--yunet``. OpenCV 5 has no cascades anymore.

With FER2013 in ``data/`` it also prints the accuracy of each exported file on PrivateTest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from fertools.data.faces import Box, crop, detect, read_image
from fertools.inference.detection import available_cores

if TYPE_CHECKING:
    from fertools.inference.predictor import Predictor

Method = Callable[[np.ndarray], Any]
SEQUENCES = Path("data/synthetic/CK+/cohn-kanade-images")
PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="wide-fer2013")
    parser.add_argument("--rounds", type=int, default=10, help="repetitions of each method on each frame")
    parser.add_argument("--photos", type=int, default=1000, help="how many to label on one core and on all")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, onnxruntime and OpenCV; dlib has one")
    parser.add_argument("--yunet", type=Path, metavar="FILE", help="weights of OpenCV's face detector")
    call = parser.parse_args()

    import cv2
    import torch  # not at the top: the worker processes import this file too

    from fertools.inference.predictor import Predictor

    torch.set_num_threads(call.threads)
    cv2.setNumThreads(call.threads)
    predictor = Predictor.from_pretrained(call.run, device="cpu")
    # The last frame of a sequence shows the expression in full.
    files = [sorted(sequence.glob("*.png"))[-1] for sequence in sorted(SEQUENCES.glob("*/*"))]
    frames = [read_image(file) for file in files]
    boxes = [detect(frame) for frame in frames]
    faces = [crop(frame, found[0]) for frame, found in zip(frames, boxes, strict=True) if found]
    height, width = frames[0].shape
    print(f"{len(frames)} frames of {width}x{height}, a face detected in {len(faces)}; {call.rounds} rounds")
    print(f"{call.threads} thread(s) on {available_cores()} core(s)\n")

    with tempfile.TemporaryDirectory() as folder:
        sessions = {p: open_session(call.run, p, Path(folder), call.threads) for p in PRECISIONS}
        detectors: dict[str, Method] = {"dlib, doubled once": detect, "dlib, as it is": lambda frame: detect(frame, 0)}
        if call.yunet:
            detectors["OpenCV (YuNet)"] = yunet(call.yunet, width, height)
        classifiers: dict[str, Method] = {"PyTorch": lambda face: predictor.classify(face[None])}
        classifiers |= {f"onnxruntime {p}": runner(session) for p, session in sessions.items()}

        detection = measure(detectors, frames, call.rounds)
        classification = measure(classifiers, faces, call.rounds)
        (whole,) = measure({"": predictor.predict}, frames, call.rounds).values()

        print(f"{'detect the faces of a frame':<34} {'ms':>7}")
        for name, ms in detection.items():
            print(f"  {name:<32} {ms:>7.2f}")
        if not call.yunet:
            print("  OpenCV (YuNet)                   skipped: pass its weights with --yunet")
        print(f"\n{'classify one face':<34} {'ms':>7} {'to PyTorch':>11} {'to fp32':>9}  detection's part")
        search = detection["dlib, doubled once"]  # what Predictor does
        for name, ms in classification.items():
            faster = [classification["PyTorch"] / ms, classification["onnxruntime fp32"] / ms]
            print(f"  {name:<32} {ms:>7.2f} {faster[0]:>10.2f}x {faster[1]:>8.2f}x  {search / (search + ms):.1%}")
        print(f"\nPredictor.predict of a frame: {whole:.2f} ms, {1000 / whole:.1f} frames/s\n")
        many_photos(predictor, files, call.photos)
        start_up(files[0])
        accuracies(call.run, sessions)


def many_photos(predictor: Predictor, files: list[Path], count: int) -> None:
    """Prints the photos per second of :meth:`Predictor.stream` on one core and on all; in turns, best of three."""
    files = [files[i % len(files)] for i in range(count)]
    seconds: dict[int, float] = {}
    for workers in (1, available_cores()) * 3:
        start = time.perf_counter()
        labeled = sum(len(prediction.faces) for prediction in predictor.stream(files, workers=workers))
        seconds[workers] = min(time.perf_counter() - start, seconds.get(workers, float("inf")))
    one, every = (count / seconds[workers] for workers in (1, available_cores()))
    print(f"{count} photos, {labeled} faces, in photos/s:")
    print(f"  one core {one:.1f}, {available_cores()} cores {every:.1f}, ratio {every / one:.2f}x")


def start_up(photo: Path) -> None:
    """Prints how long ``fertools predict`` takes for one photo, of which PyTorch's import is the most."""
    commands = {"import torch": ["-c", "import torch"], "fertools predict": ["-m", "fertools", "predict", str(photo)]}
    for name, words in commands.items():
        times = []
        for _ in range(5):
            start, before = time.perf_counter(), os.times()
            subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
            after = os.times()
            computing = after.children_user + after.children_system - before.children_user - before.children_system
            times.append((time.perf_counter() - start, computing))
        print(f"{name}: {min(times)[0]:.2f} s, of which {min(times)[1]:.2f} s on the CPU")
    print()


def open_session(run: str, precision: Any, folder: Path, threads: int) -> Any:
    """An exported network; int8 uses the run's training images for its ranges, or else the synthetic ones."""
    import onnxruntime

    from fertools.data import load
    from fertools.errors import DataError
    from fertools.inference.export import export_onnx
    from fertools.records import Record

    images = None
    if precision == "int8":
        name = Record.load(run).data["name"]
        try:
            images = load(name).of_split("Training").images
        except DataError:
            name = "synthetic"
            images = load(name).of_split("Training").images
        print(f"int8 uses the training images of {name}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = export_onnx(run, folder / f"{precision}.onnx", precision, images)
    print(f"{precision}: {path.stat().st_size:,} bytes")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(session: Any) -> Method:
    return lambda face: session.run(["probabilities"], {"pixels": face[None, None].astype(np.float32)})


def yunet(weights: Path, width: int, height: int) -> Method:
    """OpenCV's detector. It needs three color channels."""
    import cv2

    detector = cv2.FaceDetectorYN.create(str(weights), "", (width, height))

    def find(frame: np.ndarray) -> list[Box]:
        found = detector.detect(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))[1]
        rows = [] if found is None else found[:, [0, 1, 2, 3, -1]].tolist()
        return [Box(round(x), round(y), round(x + w), round(y + h), score) for x, y, w, h, score in rows]

    return find


def measure(methods: dict[str, Method], images: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Milliseconds per image for each method: the median over rounds and images."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method(images[0])  # warm up
    for _ in tqdm(range(rounds), desc="measure", leave=False):
        for image in images:
            for name, method in methods.items():
                start = time.perf_counter()
                method(image)
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(some)) for name, some in times.items()}


def accuracies(run: str, sessions: dict[str, Any]) -> None:
    """Prints the accuracy of each exported network on FER2013's PrivateTest, and its agreement with PyTorch."""
    from fertools.data import load
    from fertools.errors import DataError
    from fertools.paths import find_run
    from fertools.records import Record, load_predictions

    record = Record.load(run)
    try:
        faces = load(record.data["name"])
    except DataError as error:
        print(f"accuracies skipped: {error}")
        return
    if faces.fingerprint != record.identity["data"]["content"]:
        print(f"accuracies skipped: {faces.source} is not the data of {record.name}")
        return
    test = faces.of_split("PrivateTest")
    recorded = load_predictions(find_run(run))["PrivateTest/single-crop"].argmax(1)
    print(f"PrivateTest, {len(test):,} images; PyTorch, as recorded: {np.mean(recorded == test.labels):.2%}")
    pixels = test.images[:, None].astype(np.float32)
    for name, session in sessions.items():
        parts = [pixels[i : i + 64] for i in range(0, len(pixels), 64)]
        found = [session.run(["logits"], {"pixels": part})[0] for part in tqdm(parts, desc=name, leave=False)]
        labels = np.concatenate(found).argmax(1)
        same = int((labels == recorded).sum())
        print(f"  {name}: {np.mean(labels == test.labels):.2%}, {same:,} labels equal to PyTorch's")


if __name__ == "__main__":
    main()
