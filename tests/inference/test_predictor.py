"""From photos and videos to labels: in Python and on the command line, on a portrait in the public domain.

Most tests use a toy network and a made-up detector: what they check is the way there and back.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import cbook
from PIL import Image

from fertools.cli import main
from fertools.data import FaceSet
from fertools.data.faces import Box, crop, images_in, to_gray
from fertools.errors import DataError, RunError, WeightsError
from fertools.evaluation.model_card import BEGIN, END, card_tables
from fertools.inference.detection import detect_faces
from fertools.inference.drawing import annotate
from fertools.inference.output import COLUMNS, describe, to_table
from fertools.inference.predictor import SHIPPED, Face, ImageSource, Prediction, Predictor
from fertools.models.baselines import BaselineConfig
from fertools.models.registry import build
from fertools.models.weights import ModelMetadata, load_weights, save_network, save_weights
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.records import load_predictions

ROOT = Path(__file__).parents[2]
RUN = ROOT / "data" / "runs" / SHIPPED
ASTRONAUT: np.ndarray = skimage.data.astronaut()
PORTRAIT = np.ascontiguousarray(ASTRONAUT[40:220, 130:310])  # her face, RGB, 180x180
CLASSES = ["cross", "glad", "calm"]
BOX = Box(45, 36, 136, 127, 1.0)  # about where dlib sees the face of PORTRAIT
SMALL = NetworkConfig(classes=3, width=2, scales=(12, 24), units=1, hidden=8)
TOY = ModelMetadata(SMALL, tuple(CLASSES), mean=120.0, std=60.0, temperature=0.5, threshold=0.6)


def toy_net() -> MultiScaleFusionNet:
    torch.manual_seed(0)
    net = MultiScaleFusionNet(SMALL)
    torch.nn.init.normal_(net.head[-1].weight, std=2)  # so that images differ in their probabilities
    return net


def one_face(gray: np.ndarray) -> list[Box]:
    """A detector that sees a face wherever an image is as large as one."""
    return [BOX] if min(gray.shape) >= 130 else []


@pytest.fixture(scope="module")
def toy() -> Predictor:
    return Predictor(toy_net(), TOY, detector=one_face, device="cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy run in data/runs."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "data" / "runs" / "toy"
    folder.mkdir(parents=True)
    save_network(folder / "model.safetensors", toy_net(), TOY)
    return home


def shifted(by: int) -> np.ndarray:
    """The portrait from another place: the same size, another crop."""
    return np.ascontiguousarray(ASTRONAUT[40:220, 130 + by : 310 + by])


# --- Where the network comes from -------------------------------------------------------------


def test_a_network_is_found_by_name_folder_and_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    for name in ("toy", home / "data/runs/toy", "data/runs/toy", home / "data/runs/toy/model.safetensors"):
        assert Predictor.from_pretrained(name).classes == tuple(CLASSES)


def test_the_shipped_network_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Predictor.from_pretrained().classes[3] == "happy"


def test_the_current_folder_comes_first(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(home / "data/runs/toy", tmp_path / "data/runs" / SHIPPED)
    monkeypatch.chdir(tmp_path)
    assert Predictor.from_pretrained().classes == tuple(CLASSES)


def test_what_is_missing_is_named_with_the_places_searched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(RunError) as error:
        Predictor.from_pretrained("nosuch")
    for folder in (Path("data/runs/nosuch"), ROOT / "data/runs/nosuch"):
        assert str(folder) in str(error.value)
    assert SHIPPED in str(error.value).split("runs are: ")[1]


def test_a_file_that_is_not_one_of_our_networks(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights at"):
        Predictor.from_pretrained(tmp_path / "a.safetensors")
    (tmp_path / "b.pth").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="Pickled weights"):
        Predictor.from_pretrained(tmp_path / "b.pth")
    values = TOY.to_dict()
    del values["mean"]
    save_weights(tmp_path / "c.safetensors", toy_net().state_dict(), values)
    with pytest.raises(WeightsError, match="mean"):
        Predictor.from_pretrained(tmp_path / "c.safetensors")
    save_weights(tmp_path / "d.safetensors", toy_net().state_dict(), TOY.to_dict() | {"classes": ["a"]})
    with pytest.raises(WeightsError, match=r"classes=\('a',\), but the network has 3"):
        Predictor.from_pretrained(tmp_path / "d.safetensors")


def test_the_weights_alone_decide_on_the_threshold(home: Path, tmp_path: Path) -> None:
    shutil.copy(home / "data/runs/toy/model.safetensors", tmp_path)
    assert Predictor.from_pretrained(tmp_path / "model.safetensors").threshold == 0.6
    (tmp_path / "predictions.npz").write_bytes(b"PK")  # not read
    assert Predictor.from_pretrained(tmp_path / "model.safetensors", threshold=0.25).threshold == 0.25
    assert Predictor.from_pretrained(tmp_path / "model.safetensors", threshold=0).threshold == 0


def test_a_run_in_the_folder_that_the_environment_names_comes_first(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "data/runs/toy", tmp_path / SHIPPED)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("FERTOOLS_RUNS", str(tmp_path))
    assert Predictor.from_pretrained().classes == tuple(CLASSES)


def test_a_run_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no weights: there is no .*model.safetensors"):
        Predictor.from_pretrained(tmp_path)


def test_a_baseline_predicts_too(tmp_path: Path) -> None:
    config = BaselineConfig("mini_xception", classes=3, end_size=3)
    net = build(config).eval()
    save_network(tmp_path / "model.safetensors", net, replace(TOY, network=config))
    predictor = Predictor.from_pretrained(tmp_path, detector=one_face, device="cpu")
    crops = np.random.default_rng(0).integers(0, 256, (3, 48, 48), dtype=np.uint8)
    with torch.no_grad():
        wanted = (net(torch.from_numpy((crops[:, None] - 120.0) / 60).float()) / 0.5).softmax(1)
    np.testing.assert_allclose(predictor.classify(crops), wanted, atol=1e-5)
    assert len(predictor.predict(PORTRAIT).faces) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(home: Path, tmp_path: Path, value: float) -> None:
    tensors, metadata = load_weights(home / "data/runs/toy/model.safetensors")
    tensors["head.5.bias"][1] = value
    save_weights(tmp_path / "model.safetensors", tensors, metadata)
    with pytest.raises(WeightsError, match=r"values that are not finite, in head\.5\.bias"):
        Predictor.from_pretrained(tmp_path)


def test_an_output_that_is_not_finite_is_refused() -> None:
    net = toy_net()
    torch.nn.init.constant_(net.head[1].weight, 3e38)  # finite itself
    with pytest.raises(WeightsError, match="output is not finite"):
        Predictor(net, TOY, device="cpu").classify(np.full((1, 48, 48), 200, np.uint8))


def test_bf16_gives_nearly_the_same_probabilities() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (8, 48, 48), dtype=np.uint8)
    exact = Predictor(toy_net(), TOY, device="cpu").classify(crops)
    fast = Predictor(toy_net(), TOY, device="cpu", precision="bf16").classify(crops)
    assert 0 < np.abs(exact - fast).max() < 0.1
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, auto, not 'fp8'"):
        Predictor(toy_net(), TOY, precision="fp8")  # type: ignore[arg-type]


# --- Labels -----------------------------------------------------------------------------------


def test_classify_is_softmax_of_the_networks_scores_by_the_temperature(toy: Predictor) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, 48, 48), dtype=np.uint8)
    x = (crops.astype(np.float64) - TOY.mean) / TOY.std
    with torch.no_grad():
        scores = toy.net.double()(torch.from_numpy(x)[:, None]).numpy() / TOY.temperature
    toy.net.float()
    wanted = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(toy.classify(crops), wanted, atol=1e-5)
    assert toy.classify(crops[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "crops", [np.zeros((2, 40, 40), np.uint8), np.zeros((2, 48, 48)), np.zeros((48, 48), np.uint8)]
)
def test_classify_refuses_what_is_no_batch_of_crops(toy: Predictor, crops: np.ndarray) -> None:
    with pytest.raises(ValueError, match="images must"):
        toy.classify(crops)


def test_a_face_has_the_probabilities_of_its_crop(toy: Predictor) -> None:
    (face,) = toy.predict(PORTRAIT).faces
    (wanted,) = toy.classify(crop(to_gray(PORTRAIT), BOX)[None])
    assert face.box == BOX
    assert list(face.probabilities) == CLASSES
    np.testing.assert_allclose(list(face.probabilities.values()), wanted, atol=1e-6)
    assert face.label == CLASSES[wanted.argmax()]
    assert face.confidence == pytest.approx(wanted.max())
    assert sum(face.probabilities.values()) == pytest.approx(1)


def test_it_abstains_only_below_the_threshold() -> None:
    confidence = Predictor(toy_net(), TOY, detector=one_face).predict(PORTRAIT).faces[0].confidence
    for threshold, abstains in [(0.0, False), (confidence, False), (np.nextafter(confidence, 1), True), (1.01, True)]:
        predictor = Predictor(toy_net(), TOY, threshold=threshold, detector=one_face)
        assert predictor.predict(PORTRAIT).faces[0].abstain == abstains


def test_a_list_keeps_its_order_whatever_the_batch(toy: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(shifted(9)).save(path)
    sources: list[ImageSource] = [
        PORTRAIT,
        "nosuch.png",
        path,
        np.zeros((9, 9), np.uint8),
        Image.fromarray(shifted(18)),
        str(path),
    ]
    results = toy.predict(sources)
    assert [r.source for r in results] == ["image 0", "nosuch.png", str(path), "image 3", "image 4", str(path)]
    assert [len(r.faces) for r in results] == [1, 0, 1, 0, 1, 1]
    assert [r.message for r in results] == [None, "no such file", None, "no face found", None, None]
    assert [r.failed for r in results] == [False, True, False, False, False, False]
    alone = [toy.predict(source) for source in sources]
    for batch in (1, 2, 32):
        for found, by_itself in zip(toy.stream(sources, batch), alone, strict=True):
            for face, wanted in zip(found.faces, by_itself.faces, strict=True):
                assert list(face.probabilities.values()) == pytest.approx(list(wanted.probabilities.values()), abs=1e-6)
    assert results[0].faces[0].probabilities != results[2].faces[0].probabilities
    assert results[2] == results[5]
    with pytest.raises(ValueError, match="batch must be at least 1"):
        next(toy.stream(sources, 0))


def test_a_stream_takes_no_more_images_than_a_batch(toy: Predictor) -> None:
    taken = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(0)
            yield PORTRAIT

    results = toy.stream(endless(), batch=3)
    next(results)
    assert len(taken) == 3


@pytest.mark.parametrize("source", [3, None, [PORTRAIT, 3]])
def test_anything_but_an_image_is_a_type_error(toy: Predictor, source: Any) -> None:
    with pytest.raises(TypeError):
        toy.predict(source)


def test_processes_change_nothing(with_dlib: Predictor, tmp_path: Path) -> None:
    for by in range(5):
        Image.fromarray(shifted(by)).save(tmp_path / f"{by}.png")
    images: list[ImageSource] = [*sorted(tmp_path.glob("*.png")), "nosuch.png", PORTRAIT, Image.fromarray(PORTRAIT)]
    alone, taken = list(with_dlib.stream(images)), []

    def counted() -> Iterator[ImageSource]:
        for image in images:
            taken.append(image)
            yield image

    together = with_dlib.stream(counted(), batch=4, workers=2)
    found = [next(together)]
    assert len(taken) == 4
    found += together
    assert [p.source for p in found] == [p.source for p in alone]
    for one, other in zip(found, alone, strict=True):
        assert (one.message, one.failed, [f.box for f in one.faces]) == (
            other.message, other.failed, [f.box for f in other.faces]
        )  # fmt: skip
        for face, wanted in zip(one.faces, other.faces, strict=True):
            assert list(face.probabilities.values()) == pytest.approx(list(wanted.probabilities.values()), abs=1e-6)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        next(with_dlib.stream(images, workers=0))


def test_processes_end_with_the_caller(with_dlib: Predictor) -> None:
    before = set(multiprocessing.active_children())
    results = with_dlib.stream([PORTRAIT] * 9, batch=3, workers=2)
    assert next(results).faces
    assert len(set(multiprocessing.active_children()) - before) == 2
    results.close()  # type: ignore[attr-defined]  # what a loop's `break` comes to, and Ctrl-C
    assert not set(multiprocessing.active_children()) - before


def test_worker_processes_do_not_import_pytorch() -> None:
    code = "import sys, fertools.inference.detection; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_image_never_ends_a_batch(tmp_path: Path) -> None:
    def poor(gray: np.ndarray) -> list[Box]:
        if gray.shape == (150, 150):
            raise MemoryError
        if gray.shape == (160, 160):
            raise OSError("disk on fire")
        return one_face(gray)

    os.mkfifo(tmp_path / "pipe.png")
    images: list[ImageSource] = [PORTRAIT, PORTRAIT[:150, :150], tmp_path / "pipe.png", PORTRAIT[:160, :160], PORTRAIT]
    found = list(Predictor(toy_net(), TOY, detector=poor, device="cpu").stream(images))
    assert [len(p.faces) for p in found] == [1, 0, 0, 0, 1]
    assert [p.message for p in found] == [
        None, "not enough memory; make the image smaller", "not a regular file", "disk on fire", None
    ]  # fmt: skip


def test_a_postscript_file_is_not_opened(toy: Predictor, tmp_path: Path) -> None:
    Image.fromarray(PORTRAIT).save(tmp_path / "x.eps")  # Pillow would run Ghostscript on it
    shutil.copy(tmp_path / "x.eps", tmp_path / "x.png")
    for prediction in toy.predict([tmp_path / "x.eps", tmp_path / "x.png"]):
        assert prediction.message == "not an image in any known format"


def test_a_prediction_is_short_in_words_and_drawn_in_a_notebook(toy: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "<a>.png"
    Image.fromarray(PORTRAIT).save(path)
    for source in (path, PORTRAIT, Image.fromarray(PORTRAIT)):
        prediction = toy.predict(source)
        assert len(repr(prediction)) < 120 + len(str(path))
        assert "image" not in prediction.to_dict()
        html = prediction._repr_html_()
        data = base64.b64decode(re.findall(r"data:image/jpeg;base64,([^\"]+)", html)[0])
        with Image.open(io.BytesIO(data)) as shown:
            assert shown.size == (180, 180)
            wanted = annotate(source, prediction)
            assert np.abs(np.asarray(shown, float) - np.asarray(wanted, float)).mean() < 8
        widths = [float(width) for width in re.findall(r"width:([0-9.]+)px", html)]
        assert widths == pytest.approx([100 * p for p in prediction.faces[0].probabilities.values()], abs=0.051)
        assert "<a>" not in html
    prediction = toy.predict(path)
    path.unlink()
    assert "<img" not in prediction._repr_html_()
    assert next(toy.stream([PORTRAIT])).image is None
    assert "no face found" in toy.predict(np.zeros((9, 9), np.uint8))._repr_html_()


# --- The table of bad inputs ------------------------------------------------------------------


def image_file(suffix: str, image: Image.Image, **how: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image.save(folder / f"x{suffix}", **how)
        return folder / f"x{suffix}"

    return make


def content(data: bytes, name: str = "x.jpg") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def turned() -> Callable[[Path], Path]:
    """Stored on its side, with the EXIF orientation that puts it upright."""
    return image_file(".jpg", COLOR.rotate(90, expand=True), exif=exif_turned())


def exif_turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


COLOR = Image.fromarray(PORTRAIT)
GRAY = to_gray(PORTRAIT)
ALPHA = np.dstack([PORTRAIT, np.full((180, 180), 255, np.uint8)])
NOISE = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)

# what it is: how it is made, faces, the word for it where there are none, whether it failed
INPUTS: dict[str, tuple[Callable[[Path], Path], int, str | None, bool]] = {
    "color": (image_file(".png", COLOR), 1, None, False),
    "gray": (image_file(".png", Image.fromarray(GRAY)), 1, None, False),
    "RGBA": (image_file(".png", Image.fromarray(ALPHA)), 1, None, False),
    "16 bit": (image_file(".png", Image.fromarray(GRAY.astype(np.uint16) * 257)), 1, None, False),
    "palette": (image_file(".gif", COLOR.quantize(64)), 1, None, False),
    "CMYK": (image_file(".jpg", COLOR.convert("CMYK")), 1, None, False),
    "turned by EXIF": (turned(), 1, None, False),
    "two faces": (image_file(".png", Image.fromarray(np.hstack([PORTRAIT, PORTRAIT]))), 2, None, False),
    "no face": (image_file(".png", Image.fromarray(NOISE)), 0, "no face found; faces must be upright", False),
    "one pixel": (image_file(".png", Image.new("L", (1, 1))), 0, "no face found", False),
    "very wide": (image_file(".png", Image.new("L", (100_000, 80))), 0, "no face found; faces must be upright", False),
    "long name": (lambda folder: folder / f"{'x' * 300}.png", 0, "file name too long", True),
    "missing": (lambda folder: folder / "nosuch.png", 0, "no such file", True),
    "folder": (lambda folder: folder, 0, "a folder, not an image", True),
    "empty": (content(b""), 0, "the file is empty", True),
    "no image": (content(b"Dear all,"), 0, "not an image in any known format", True),
    "cut short": (content(jpeg(COLOR)[:3000]), 0, "cannot be read as an image", True),
    "huge": (content(b"P5 10000 10000 255\n", "x.pgm"), 0, "more than 89,478,485 pixels", True),
    "far too huge": (content(b"P5 99999 99999 255\n", "x.pgm"), 0, "more than 89,478,485 pixels", True),
    "32 bit": (image_file(".tif", Image.fromarray(GRAY.astype(np.float32))), 0, "unknown in 32-bit images", True),
}


@pytest.fixture(scope="module")
def with_dlib() -> Predictor:
    return Predictor(toy_net(), TOY)


@pytest.mark.parametrize("what", INPUTS)
def test_inputs(what: str, with_dlib: Predictor, tmp_path: Path) -> None:
    make, faces, problem, failed = INPUTS[what]
    path = make(tmp_path)
    result = with_dlib.predict(path)
    assert result.source == str(path)
    assert len(result.faces) == faces
    assert result.failed == failed
    if problem is None:
        assert result.message is None
        for face in result.faces:  # upright, wherever the pixels are stored
            assert abs(face.box.left % 180 - BOX.left) <= 5
            assert abs(face.box.top - BOX.top) <= 5
    else:
        assert problem in str(result.message)
        assert str(path) not in str(result.message)  # the source says it


def test_inputs_as_arrays_and_pillow_images(with_dlib: Predictor, tmp_path: Path) -> None:
    side_on = Image.open(turned()(tmp_path))
    good = with_dlib.predict([PORTRAIT / 255, GRAY.astype(np.uint16) * 257, ALPHA, side_on])
    assert [len(r.faces) for r in good] == [1, 1, 1, 1]
    bad = with_dlib.predict([PORTRAIT.astype(int), np.zeros((2, 48, 48), np.uint8), np.full((9, 9), np.nan)])
    assert [r.failed for r in bad] == [True, True, True]
    assert ["uint8" in str(bad[0].message), "(2, 48, 48)" in str(bad[1].message), "nan" in str(bad[2].message)] == [
        True
    ] * 3
    with Image.open(content(jpeg(COLOR)[:3000])(tmp_path)) as damaged:  # Pillow reads pixels late
        result = with_dlib.predict(damaged)
    assert result.failed
    assert "truncated" in str(result.message)


WRITTEN: dict[str, dict[str, Any]] = {
    "PNG": {},
    "GIF": {"save_all": True, "append_images": [COLOR.resize((32, 24))]},
    "JPEG": {"exif": exif_turned()},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {},
    "PPM": {},
}


@pytest.mark.filterwarnings("ignore")  # Pillow's, about metadata
@pytest.mark.parametrize("kind", WRITTEN)
@settings(deadline=None, max_examples=80, derandomize=True, database=None)
@given(data=st.data())
def test_changed_bytes_give_a_result_or_one_line(kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    COLOR.resize((32, 24)).save(buffer, kind, **WRITTEN[kind])
    content = bytearray(buffer.getvalue())
    places = st.integers(0, len(content) - 1)
    for at, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        content[at] = byte
    del content[data.draw(places | st.just(len(content))) :]
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        found = detect_faces(file.name, 0, lambda gray: [])
        assert found.message
        assert len(found.message.splitlines()) == 1
        try:
            image = Image.open(file.name)
        except Exception:
            assert found.failed
            return
        with image:  # the same image, already open; its pixels are read later
            assert detect_faces(image, 0, lambda gray: []).failed == found.failed


# --- Videos and cameras ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at ten frames a second: the portrait moves to the side by a pixel a frame."""
    path = tmp_path_factory.mktemp("video") / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (180, 180))
    assert writer.isOpened()
    for i in range(30):
        writer.write(cv2.cvtColor(shifted(i), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_a_video_gives_its_frames_with_their_times(toy: Predictor, video: Path) -> None:
    results = list(toy.predict_video(video, step=7))
    assert [r.frame for r in results] == [0, 7, 14, 21, 28]
    assert [r.seconds for r in results] == pytest.approx([0, 0.7, 1.4, 2.1, 2.8], abs=0.01)
    assert {r.source for r in results} == {str(video)}
    for result in results:  # like the image that went in, except for what the video's compression took
        (still,) = toy.predict(shifted(result.frame or 0)).faces
        found = result.faces[0].probabilities.values()
        assert list(found) == pytest.approx(list(still.probabilities.values()), abs=0.1)
    with pytest.raises(ValueError, match="step must be at least 1"):
        toy.predict_video(video, step=0)


def test_a_video_becomes_a_table(toy: Predictor, video: Path) -> None:
    table = to_table(toy.predict_video(video, step=10))
    assert list(table.columns) == [*COLUMNS, *CLASSES]
    assert table["frame"].tolist() == [0, 10, 20]
    assert table["seconds"].tolist() == pytest.approx([0, 1, 2], abs=0.01)
    assert table["label"].tolist() == table[CLASSES].idxmax(axis=1).tolist()
    assert table["confidence"].tolist() == table[CLASSES].max(axis=1).tolist()
    assert (table["abstain"] == (table["confidence"] < toy.threshold)).all()


def test_a_table_has_a_row_per_face_and_none_for_the_rest(toy: Predictor) -> None:
    table = to_table([*toy.predict([PORTRAIT, np.zeros((9, 9), np.uint8)]), Prediction("x", message="no such file")])
    assert len(table) == 1
    assert table["frame"].isna().all()
    assert table[["left", "top", "right", "bottom"]].to_numpy().tolist() == [[45, 36, 136, 127]]
    assert list(to_table([]).columns) == list(COLUMNS)


class FakeCapture:
    """A camera that sends three frames."""

    def __init__(self, _: int) -> None:
        self.sent, self.released = 0, False
        FakeCapture.last = self

    last: FakeCapture

    def isOpened(self) -> bool:
        return True

    def get(self, _: int) -> float:
        return -1.0

    def grab(self) -> bool:
        self.sent += 1
        return self.sent <= 3

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, PORTRAIT[..., ::-1]

    def release(self) -> None:
        self.released = True


def test_a_camera_runs_until_it_is_left_or_stops(toy: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    frames = toy.predict_video(1)
    first = next(frames)
    assert (first.source, first.frame, len(first.faces)) == ("camera 1", 0, 1)
    assert FakeCapture.last.sent == 1  # one frame at a time
    frames.close()  # type: ignore[attr-defined]  # what a loop's `break` comes to
    assert FakeCapture.last.released
    found: list[Prediction] = []
    with pytest.raises(DataError, match="camera 1 stopped sending after 3 frames"):
        found.extend(toy.predict_video(1))
    assert FakeCapture.last.released


def test_a_camera_that_cannot_be_opened(toy: Predictor) -> None:
    with pytest.raises(DataError, match="camera 987 cannot be opened: is one connected"):
        toy.predict_video(987)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda folder: folder / "nosuch.mp4", "nosuch.mp4: no such file"),
        (lambda folder: folder, "a folder, not a video"),
        (content(b"", "x.mp4"), "x.mp4: the file is empty"),
        (content(b"Dear all," * 99, "x.mp4"), "x.mp4: not a video in a format that OpenCV can read, or damaged"),
    ],
    ids=["missing", "folder", "empty", "no video"],
)
def test_what_is_no_video_is_said_at_once(
    toy: Predictor, tmp_path: Path, make: Callable[[Path], Path], word: str
) -> None:
    with pytest.raises(DataError, match=re.escape(word)):
        toy.predict_video(make(tmp_path))


def test_a_video_that_is_cut_short_gives_what_is_there_and_then_says_so(
    toy: Predictor, video: Path, tmp_path: Path
) -> None:
    whole = video.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 3])
    frames: list[int | None] = []
    with pytest.raises(DataError, match=r"cut.avi ends after 0\.\d of 3\.0 seconds: the file is damaged"):
        frames.extend(result.frame for result in toy.predict_video(cut))
    assert frames == list(range(len(frames)))
    assert 5 <= len(frames) <= 10


# --- Copies with boxes and labels -------------------------------------------------------------


def stroke(image: Image.Image, face: Face) -> float:
    """The fraction of the box's lower edge that is drawn over."""
    before, after = PORTRAIT[face.box.bottom], np.asarray(image)[face.box.bottom]
    changed = (before != after).any(1)[face.box.left : face.box.right]
    return float(changed.mean())


def test_copies_draw_labels_and_abstentions_differently(toy: Predictor, tmp_path: Path) -> None:
    path = image_file(".png", COLOR)(tmp_path)
    result = toy.predict(path)
    sure, unsure = (replace(result, faces=(replace(result.faces[0], abstain=a),)) for a in (False, True))
    full, dashed = annotate(path, sure), annotate(path, unsure)
    assert full.size == dashed.size == COLOR.size
    assert full.mode == "RGB"
    assert stroke(full, sure.faces[0]) > 0.95
    assert 0.4 < stroke(dashed, unsure.faces[0]) < 0.75
    inside = np.s_[BOX.top + 5 : BOX.bottom - 5, BOX.left + 5 : BOX.right - 5]
    np.testing.assert_array_equal(np.asarray(full)[inside], PORTRAIT[inside])
    assert describe(sure).startswith(f"{path}: {sure.faces[0].label} ")
    assert describe(unsure).startswith(f"{path}: unsure ({sure.faces[0].label} ")


@pytest.mark.parametrize("what", [what for what, row in INPUTS.items() if row[1]])
def test_copies_of_every_kind_of_image_are_upright_and_in_color(what: str, toy: Predictor, tmp_path: Path) -> None:
    path = INPUTS[what][0](tmp_path)
    image = annotate(path, replace(toy.predict(path), faces=()))
    assert image.mode == "RGB"
    wanted = Image.fromarray(PORTRAIT if what not in ("gray", "16 bit") else np.dstack([GRAY] * 3))
    if what == "two faces":
        wanted = Image.fromarray(np.hstack([PORTRAIT, PORTRAIT]))
    assert image.size == wanted.size
    assert np.abs(np.asarray(image, float) - np.asarray(wanted, float)).mean() < 8


def test_a_face_at_the_edge_keeps_its_words_inside(toy: Predictor, tmp_path: Path) -> None:
    path = image_file(".png", Image.new("RGB", (200, 60)))(tmp_path)
    face = Face(Box(150, -20, 230, 60), {"happy": 0.9, "sad": 0.1}, "happy", 0.9, False)
    image = np.asarray(annotate(path, Prediction("x", (face,))))
    letters = (image > 200).all(2)[:20, :148]  # left of the box, white on the words' ground
    assert letters.any()


# --- The command ------------------------------------------------------------------------------

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fertools(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `fertools predict` with the toy run in an empty folder; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str) -> tuple[int, str, str]:
        toy_run = ["--model", str(home / "data/runs/toy")]
        monkeypatch.setattr(sys, "argv", ["fertools", "predict", *toy_run, *words])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        if isinstance(end.value.code, str):
            return 1, out, err + end.value.code
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two portraits in a folder with something else, a file that isn't an image, and an image without a face."""
    (tmp_path / "both").mkdir()
    Image.fromarray(shifted(5)).save(tmp_path / "both" / "b.JPG")
    Image.fromarray(PORTRAIT).save(tmp_path / "both" / "a.png")
    (tmp_path / "both" / "notes.txt").write_text("notes")
    (tmp_path / "bad.jpg").write_text("Dear all,")
    Image.fromarray(NOISE).save(tmp_path / "noise.png")
    return ["bad.jpg", "both", "noise.png"]


ORDER = ["bad.jpg", os.path.join("both", "a.png"), os.path.join("both", "b.JPG"), "noise.png"]


def test_command_in_words(fertools: Command, files: list[str]) -> None:
    code, out, _ = fertools(*files)
    assert code == 1  # one could not be read
    header, *lines = out.splitlines()
    assert "Labels that people would give" in header
    assert "not what anybody feels" in header
    assert [line.split(": ")[0] for line in lines] == ORDER
    assert lines[0].endswith("not an image in any known format")
    assert re.search(r": (unsure \()?(cross|glad|calm) \d+%", lines[1])
    assert "no face found" in lines[3]
    assert fertools(*files[1:])[0] == 0  # no face is a result


def test_command_in_json_lines(fertools: Command, files: list[str], home: Path) -> None:
    code, out, _ = fertools(*files, "--json")
    assert code == 1
    found = [json.loads(line) for line in out.splitlines()]
    wanted = Predictor.from_pretrained(home / "data/runs/toy").predict(ORDER)
    assert found == [json.loads(json.dumps(result.to_dict())) for result in wanted]
    assert [len(result["faces"]) for result in found] == [0, 1, 1, 0]


def test_command_in_csv(fertools: Command, files: list[str]) -> None:
    code, out, err = fertools(*files, "--csv", "--threshold", "1")
    assert code == 1
    table = pd.read_csv(io.StringIO(out))
    assert list(table.columns) == [*COLUMNS, *CLASSES]
    assert table["source"].tolist() == ORDER[1:3]
    assert table["abstain"].tolist() == [True, True]
    assert "bad.jpg: not an image" in err
    assert "noise.png: no face found" in err
    code, out, _ = fertools("noise.png", "--csv")
    assert list(csv.reader([out.strip()])) == [[*COLUMNS, *CLASSES]]  # the header alone


def test_command_says_nothing_of_metadata(fertools: Command, tmp_path: Path) -> None:
    COLOR.save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12")  # ends in its first entry
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(tmp_path / "odd.jpg") as image:
        image.getexif()
    code, out, err = fertools("odd.jpg", "x" * 300, "odd.jpg")
    assert (code, err) == (1, "")
    assert ["odd.jpg: " in line for line in out.splitlines()[1:]] == [True, False, True]
    assert "file name too long" in out


def test_command_shows_progress_of_many_on_standard_error(fertools: Command, tmp_path: Path) -> None:
    Image.fromarray(NOISE[:20, :20]).save(tmp_path / "n.png")
    code, out, err = fertools(*["n.png"] * 40)
    assert code == 0
    assert len(out.splitlines()) == 41
    assert "40/40" in err
    assert fertools("n.png")[2] == ""


def test_command_writes_copies_and_keeps_existing_files(fertools: Command, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "both" / "a.png", tmp_path / "other" / "a.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert fertools(*files, "other", "--annotate", "both")[0] == 1
    assert {path: path.read_bytes() for path in before} == before
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path not in before}
    assert made == {os.path.join("both", name) for name in ("a-2.png", "b.png", "a-3.png")}
    with Image.open(tmp_path / "both" / "b.png") as copy:
        assert copy.size == (180, 180)


def test_command_leaves_no_half_copy(
    fertools: Command, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Image.Image, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    code, out, err = fertools("both", "--annotate", "new")
    assert code == 1
    assert len(out.splitlines()) == 3  # the predictions are there
    assert err.count("no copy was written: [Errno 28] No space left") == 2
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "wanted", "message"),
    [
        ([], 2, "Missing argument 'FILE'"),
        (["a.png", "--json", "--csv"], 2, "choose one of --json and --csv"),
        (["a.png", "--threshold", "2"], 2, "--threshold"),
        (["a.png", "--annotate", "file/in"], 2, "--annotate"),
        (["a.png", "--model", "nosuch"], 1, "there is no run nosuch"),
    ],
)
def test_wrong_calls(fertools: Command, tmp_path: Path, words: list[str], wanted: int, message: str) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = fertools(*words)
    assert code == wanted
    assert message in err
    assert out == ""


def test_help_says_what_a_label_is(fertools: Command) -> None:
    code, out, _ = fertools("--help")
    assert code == 0
    assert "what people would call the expression" in out
    assert "not what the person feels" in " ".join(out.split())


def test_a_name_that_is_no_text_is_shown_all_the_same(fertools: Command, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.fromarray(NOISE).save(tmp_path / name)
    except OSError:
        pytest.skip("the file system takes names in UTF-8 alone")
    code, out, _ = fertools(name)
    assert code == 0
    assert "caf\\udce9.png: no face found" in out


def test_images_in_a_folder_are_those_that_end_like_one(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPEG", "c.txt", "video.mpg", "d.webp", "page.pdf"):
        (tmp_path / name).write_text("")
    (tmp_path / "sub.png").mkdir()
    assert [path.name for path in images_in(tmp_path)] == ["a.JPEG", "b.png", "d.webp"]


# --- The shipped network ----------------------------------------------------------------------


def test_shipped_network_labels_two_portraits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(ASTRONAUT).save("astronaut.png")
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        Path("hopper.jpg").write_bytes(file.read())
    monkeypatch.setattr(sys, "argv", ["fertools", "predict", "astronaut.png", "hopper.jpg", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    astronaut, hopper = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    for result, eyes in [(astronaut, (222, 106)), (hopper, (275, 205))]:
        (face,) = result["faces"]
        box = face["box"]
        assert box["left"] < eyes[0] < box["right"]
        assert box["top"] < eyes[1] < box["bottom"]
        assert not face["abstain"]
        assert len(face["probabilities"]) == 7
    assert astronaut["faces"][0]["label"] == "happy"  # she beams


def test_shipped_network_gives_what_its_record_says(published_fer2013: FaceSet) -> None:
    predictor = Predictor.from_pretrained(RUN)
    log_p = load_predictions(RUN)["PrivateTest/single-crop"][:100].astype(float) / predictor.metadata.temperature
    wanted = np.exp(log_p) / np.exp(log_p).sum(1, keepdims=True)
    found = predictor.classify(published_fer2013.of_split("PrivateTest").images[:100])
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_shipped_weights_are_small() -> None:
    assert (RUN / "model.safetensors").stat().st_size < 5e6


def test_the_model_card_shows_what_the_record_contains() -> None:
    card = (RUN / "README.md").read_text()
    assert card.split(BEGIN)[1].split(END)[0] == card_tables(RUN), "run fertools.evaluation.model_card.write_card"


def test_model_card_agrees_with_its_table_about_the_classes() -> None:
    predictions, predictor = load_predictions(RUN), Predictor.from_pretrained(RUN)
    log_p = predictions["PrivateTest/single-crop"].astype(float) / predictor.metadata.temperature
    p = np.exp(log_p) / np.exp(log_p).sum(1, keepdims=True)
    labels = predictions["PrivateTest/labels"]
    recall, kept = {}, {}
    for i, name in enumerate(predictor.classes):
        of = labels == i
        recall[name] = (p[of].argmax(1) == i).mean()
        kept[name] = (p[of].max(1) >= predictor.threshold).mean()
        row = f"| {name} | {of.sum():,} | {100 * recall[name]:.2f} ("
        assert row in (RUN / "README.md").read_text()
    # "Disgust, fear, and sadness are recognized far less often than happiness and surprise."
    assert max(recall[n] for n in ("disgust", "fear", "sad")) < min(recall["happy"], recall["surprise"]) - 0.2
    # "Keeps most faces labeled happy or surprise, but only about half of those labeled disgust, fear, or sad."
    assert min(kept["happy"], kept["surprise"]) > 0.7
    assert max(kept[name] for name in ("disgust", "fear", "sad")) < 0.52


def test_nothing_heavy_is_imported_for_a_prediction(home: Path, tmp_path: Path) -> None:
    """Start-up is most of the time of a single photo."""
    Image.fromarray(PORTRAIT).save(tmp_path / "photo.png")
    code = f"""
import sys
from fertools.inference.predictor import Predictor
before = {{"cv2", "dlib"}} & sys.modules.keys()
assert Predictor.from_pretrained({str(home / "data/runs/toy")!r}).predict({str(tmp_path / "photo.png")!r}).faces
sys.exit(str(before | {{"torchvision", "pandas", "sklearn", "scipy", "matplotlib"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "set()\n"
