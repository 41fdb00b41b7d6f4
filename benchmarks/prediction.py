"""What it takes to label a face in a frame: finding the face, and classifying it in each of several ways.

    make bench

One frame of each rendered film in ``data/synthetic`` (640x490, one face). Every way runs on every frame in
turn, so that all are measured on the same images and the same cores in the same minutes; a time is the
median. A classification is of one face: from the gray crop of 48x48 pixels to its probabilities.

OpenCV's detector, YuNet, needs a file of weights that no package brings: name it with ``--yunet`` (it is
``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo). OpenCV 5 has no cascades any more.

With FER2013 in ``data/`` it also prints what each exported file makes of PrivateTest.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fertools.data.faces import Box, crop, detect, read_image

Way = Callable[[np.ndarray], Any]
FILMS = Path("data/synthetic/CK+/cohn-kanade-images")
PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="cpu-fer2013")
    parser.add_argument("--rounds", type=int, default=10, help="how often each way sees each frame")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, onnxruntime and OpenCV; dlib has one")
    parser.add_argument("--yunet", type=Path, metavar="FILE", help="weights of OpenCV's face detector")
    call = parser.parse_args()

    import cv2
    import torch

    from fertools.inference.predictor import Predictor

    torch.set_num_threads(call.threads)
    cv2.setNumThreads(call.threads)
    predictor = Predictor.from_pretrained(call.run, device="cpu")
    # The last frame of a film shows the expression in full.
    frames = [read_image(sorted(film.glob("*.png"))[-1]) for film in sorted(FILMS.glob("*/*"))]
    boxes = [detect(frame) for frame in frames]
    faces = [crop(frame, found[0]) for frame, found in zip(frames, boxes, strict=True) if found]
    height, width = frames[0].shape
    print(f"{len(frames)} frames of {width}x{height}, a face found in {len(faces)}; {call.rounds} rounds")
    print(f"{call.threads} thread(s) on {cores()} core(s)\n")

    with tempfile.TemporaryDirectory() as folder:
        sessions = {p: open_session(call.run, p, Path(folder), call.threads) for p in PRECISIONS}
        detectors: dict[str, Way] = {"dlib, doubled once": detect, "dlib, as it is": lambda frame: detect(frame, 0)}
        if call.yunet:
            detectors["OpenCV (YuNet)"] = yunet(call.yunet, width, height)
        classifiers: dict[str, Way] = {"PyTorch": lambda face: predictor.classify(face[None])}
        classifiers |= {f"onnxruntime {p}": runner(session) for p, session in sessions.items()}

        finding = measure(detectors, frames, call.rounds)
        labelling = measure(classifiers, faces, call.rounds)
        (whole,) = measure({"": predictor.predict}, frames, call.rounds).values()

        print(f"{'find the faces of a frame':<34} {'ms':>7}")
        for name, ms in finding.items():
            print(f"  {name:<32} {ms:>7.2f}")
        if not call.yunet:
            print("  OpenCV (YuNet)                   left out: name its weights with --yunet")
        print(f"\n{'classify one face':<34} {'ms':>7} {'to PyTorch':>11} {'to fp32':>9}  detection's share")
        search = finding["dlib, doubled once"]  # what Predictor does
        for name, ms in labelling.items():
            faster = [labelling["PyTorch"] / ms, labelling["onnxruntime fp32"] / ms]
            print(f"  {name:<32} {ms:>7.2f} {faster[0]:>10.2f}x {faster[1]:>8.2f}x  {search / (search + ms):.1%}")
        print(f"\nPredictor.predict of a frame: {whole:.2f} ms, {1000 / whole:.1f} frames/s\n")
        accuracies(call.run, sessions)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_session(run: str, precision: Any, folder: Path, threads: int) -> Any:
    """An exported network; int8 takes its ranges from the run's training images, or else the synthetic ones."""
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
        print(f"int8 takes its ranges from the training images of {name}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = export_onnx(run, folder / f"{precision}.onnx", precision, images)
    print(f"{precision}: {path.stat().st_size:,} bytes")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(session: Any) -> Way:
    return lambda face: session.run(["probabilities"], {"pixels": face[None, None].astype(np.float32)})


def yunet(weights: Path, width: int, height: int) -> Way:
    """OpenCV's detector; it takes colours, so that a gray frame is written three times."""
    import cv2

    detector = cv2.FaceDetectorYN.create(str(weights), "", (width, height))

    def find(frame: np.ndarray) -> list[Box]:
        found = detector.detect(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))[1]
        rows = [] if found is None else found[:, [0, 1, 2, 3, -1]].tolist()
        return [Box(round(x), round(y), round(x + w), round(y + h), score) for x, y, w, h, score in rows]

    return find


def measure(ways: dict[str, Way], images: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Milliseconds of each way per image: the median over the rounds and the images."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(images[0])  # the first call also loads and plans
    for _ in tqdm(range(rounds), desc="measure", leave=False):
        for image in images:
            for name, way in ways.items():
                start = time.perf_counter()
                way(image)
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(some)) for name, some in times.items()}


def accuracies(run: str, sessions: dict[str, Any]) -> None:
    """Prints how many of FER2013's PrivateTest each exported network labels right, and as PyTorch did."""
    from fertools.data import load
    from fertools.errors import DataError
    from fertools.records import Record, load_predictions, find_run

    record = Record.load(run)
    try:
        faces = load(record.data["name"])
    except DataError as error:
        print(f"accuracies left out: {error}")
        return
    if faces.fingerprint != record.identity["data"]:
        print(f"accuracies left out: {faces.source} is not the data of {record.name}")
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
        print(f"  {name}: {np.mean(labels == test.labels):.2%}, {same:,} labels as PyTorch's")


if __name__ == "__main__":
    main()
