"""Reading, grayscale conversion, detection, and cropping, on two portraits in the public domain."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fertools.data.faces import Box, choose, crop, detect, extract, read_image, to_gray
from fertools.data.faceset import DataError
from fertools.errors import MissingExtraError

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (23, 31, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (23, 31), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (23, 31), dtype=np.uint16)

ASTRONAUT: np.ndarray = skimage.data.astronaut()  # RGB, 512x512; her eyes are at about
EYES = (203, 105), (240, 107)  # column, row
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"  # 512 wide, 600 high


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601, unrounded."""
    red, green, blue = (rgb[..., i].astype(float) for i in range(3))
    return (299 * red + 587 * green + 114 * blue) / 1000


def assert_gray(found: np.ndarray, exact: np.ndarray, within: float = 0.501) -> None:
    assert found.dtype == np.uint8
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact, atol=within, rtol=0)


# --- Gray levels of arrays --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "exact"),
    [
        (GRAY, GRAY),
        (GRAY[..., None], GRAY),
        (RGB, luma(RGB)),
        (DEEP, DEEP / 257),
        (np.stack([DEEP] * 3, -1), DEEP / 257),
        (GRAY / 255, GRAY),
        ((RGB / 255).astype(np.float32), luma(RGB)),
        ((RGB / 255).astype(np.float16), luma(RGB)),
    ],
    ids=["gray", "one channel", "rgb", "uint16", "uint16 rgb", "float64", "float32 rgb", "float16 rgb"],
)
def test_gray_of_arrays(image: np.ndarray, exact: np.ndarray) -> None:
    assert_gray(to_gray(image), exact, within=0.7 if image.dtype == np.float16 else 0.501)


def test_gray_agrees_with_opencv_to_one_level() -> None:
    assert_gray(to_gray(ASTRONAUT), cv2.cvtColor(ASTRONAUT, cv2.COLOR_RGB2GRAY), within=1)


@pytest.mark.parametrize("white", [255, 65535, 1.0])
def test_transparency_is_composited_on_white(white: float) -> None:
    kind = {255: np.uint8, 65535: np.uint16, 1.0: np.float64}[white]
    image = np.zeros((1, 3, 4), kind)
    image[0, :, 3] = np.array([0, 0.2, 1]) * white  # black: transparent, a fifth, opaque
    assert to_gray(image).tolist() == [[255, 204, 0]]


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), "needs pixels"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), bool), "bool"),
        (np.full((4, 4), 200.0), "0 to 1"),
        (np.full((4, 4), -0.1), "0 to 1"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), np.inf), "inf"),
    ],
)
def test_other_arrays_are_refused(image: np.ndarray, word: str) -> None:
    with pytest.raises(DataError, match=word):
        to_gray(image)


# --- Files ------------------------------------------------------------------------------------


def test_gray_and_color_files(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "gray.png")
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    Image.fromarray(RGB).save(tmp_path / "größe 1.bmp")
    Image.fromarray(GRAY > 99).save(tmp_path / "bits.png")
    assert_gray(read_image(tmp_path / "gray.png"), GRAY)
    assert_gray(read_image(str(tmp_path / "rgb.png")), luma(RGB))
    assert_gray(read_image(tmp_path / "größe 1.bmp"), luma(RGB))
    assert_gray(read_image(tmp_path / "bits.png"), 255.0 * (GRAY > 99))


def test_palette_files(tmp_path: Path) -> None:
    palette = Image.fromarray(GRAY % 16, mode="P")
    colors = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    palette.putpalette(colors.tobytes())
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "hole.png", transparency=3)
    exact = luma(colors)[GRAY % 16]
    assert_gray(read_image(tmp_path / "plain.png"), exact)
    assert_gray(read_image(tmp_path / "hole.png"), np.where(GRAY % 16 == 3, 255, exact))


def test_files_with_alpha(tmp_path: Path) -> None:
    alpha = GRAY.astype(float)[..., None]
    Image.fromarray(np.dstack([RGB, GRAY])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([RGB[..., 0], GRAY]), mode="LA").save(tmp_path / "la.png")
    laid = (RGB * alpha + 255 * (255 - alpha)) / 255
    assert_gray(read_image(tmp_path / "rgba.png"), luma(laid))
    assert_gray(read_image(tmp_path / "la.png"), laid[..., 0])


def test_files_of_16_bits(tmp_path: Path) -> None:
    color = RNG.integers(0, 65536, (23, 31, 3), dtype=np.uint16)
    Image.fromarray(DEEP).save(tmp_path / "deep.png")
    Image.fromarray(DEEP).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 31 23 65535\n" + DEEP.astype(">u2").tobytes())
    cv2.imwrite(str(tmp_path / "color.png"), color[..., ::-1])
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        assert_gray(read_image(tmp_path / name), DEEP / 257)
    # Pillow keeps the upper 8 bits of each color: up to 1 away, and 0.5 for rounding the gray.
    assert_gray(read_image(tmp_path / "color.png"), luma(color / 257), within=1.5)


def test_8_bits_in_a_32_bit_file_are_not_black(tmp_path: Path) -> None:
    Image.fromarray(GRAY.astype(np.int32)).save(tmp_path / "wide.tif")
    assert_gray(read_image(tmp_path / "wide.tif"), GRAY)


UPRIGHT = {  # the EXIF standard's table: what to do to the stored pixels
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].T,
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("stored", [GRAY, DEEP], ids=["8 bit", "16 bit"])
def test_exif_orientation(tmp_path: Path, orientation: int, stored: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    exact = UPRIGHT[orientation](stored / (257 if stored.dtype == np.uint16 else 1))
    assert_gray(read_image(tmp_path / "a.png"), exact)


def test_what_is_not_an_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    Image.fromarray(RGB).save(tmp_path / "eps.eps")
    (tmp_path / "eps.eps").rename(tmp_path / "eps.jpg")  # Pillow goes by the content, and would start Ghostscript
    os.mkfifo(tmp_path / "pipe")
    whole = HOPPER.read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(RGB).save(tmp_path / "whole.png")
    damaged = bytearray((tmp_path / "whole.png").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "damaged.png").write_bytes(damaged)
    Image.fromarray(GRAY.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(GRAY.astype(np.int32) * 1000000).save(tmp_path / "wide.tif")
    for name, cause in {
        "missing.png": "no such file",
        "empty.png": "the file is empty",
        "text.jpg": "not an image in any known format",
        "eps.jpg": "not an image in any known format",
        "pipe": "not a regular file",
        "half.jpg": "truncated",
        "damaged.png": "cannot be read as an image",
        "float.tif": "32-bit",
        "wide.tif": "32-bit",
        ".": "a folder, not an image",
    }.items():
        with pytest.raises(DataError, match=cause) as refused:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("x" * 300 + ".png", "file name too long"),
        ("link.png", "too many levels of symbolic links"),
        ("a\0.png", "embedded null byte"),
    ],
)
def test_a_name_that_cannot_be_a_file_is_refused_too(tmp_path: Path, name: str, cause: str) -> None:
    (tmp_path / "link.png").symlink_to("link.png")
    with pytest.raises(DataError, match=cause):
        read_image(tmp_path / name)


def test_formats_that_need_more_memory_have_half_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB.shape[0] * RGB.shape[1])
    for suffix in ("png", "jpg", "webp", "jp2"):
        Image.fromarray(RGB).save(tmp_path / f"x.{suffix}")
    assert read_image(tmp_path / "x.png").shape == read_image(tmp_path / "x.jpg").shape == RGB.shape[:2]
    for suffix in ("webp", "jp2"):
        with pytest.raises(DataError, match="more than 356 pixels"):
            read_image(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize(
    ("error", "words"), [(SyntaxError("broken\n PNG file"), "broken PNG file"), (EOFError(), "EOFError")]
)
def test_an_open_image_is_refused_in_one_line_whatever_its_decoder_raises(error: Exception, words: str) -> None:
    class Damaged(Image.Image):
        def load(self) -> Any:
            raise error

    with pytest.raises(DataError) as refused:
        to_gray(Damaged())
    assert str(refused.value) == f"cannot be read as an image: {words}"


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_strips_change_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = np.dstack([RGB, GRAY])
    image = Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(rgba).convert(mode)
    if mode == "P":
        image.info["transparency"] = int(np.asarray(image)[3, 3])
    whole, whole_array = to_gray(image), to_gray(rgba)
    monkeypatch.setattr("fertools.data.faces.STRIP_PIXELS", 100)  # three rows of 31
    assert_gray(to_gray(image), whole)
    assert_gray(to_gray(rgba), whole_array)


def test_gray_needs_little_more_memory_than_the_image() -> None:
    image = np.zeros((3000, 4000, 4), np.uint8)
    tracemalloc.start()
    to_gray(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6  # in float32, the image alone would be 192 MB, and there would be several


# --- Detection --------------------------------------------------------------------------------


def holds_eyes(box: Box, shift: int = 0) -> bool:
    return all(box.left < x + shift < box.right and box.top < y < (box.top + box.bottom) / 2 for x, y in EYES)


@pytest.mark.parametrize("upsample", [0, 1])
def test_a_portrait_has_one_face_around_the_eyes(upsample: int) -> None:
    (box,) = detect(to_gray(ASTRONAUT), upsample)
    assert holds_eyes(box)
    assert box.right - box.left == box.bottom - box.top == box.side
    assert box.score > 1


def test_the_box_moves_with_the_face() -> None:
    gray = to_gray(ASTRONAUT)
    boxes = detect(np.pad(gray, ((0, 0), (40, 0))), 0)
    assert holds_eyes(boxes[0], shift=40)
    assert not holds_eyes(boxes[0])


def test_several_faces_highest_score_first_and_the_largest() -> None:
    hopper, astronaut = read_image(HOPPER), to_gray(ASTRONAUT)
    boxes = detect(np.hstack([np.pad(astronaut, ((0, 88), (0, 0))), hopper]), 0)
    assert len(boxes) >= 2
    assert boxes == sorted(boxes, key=lambda box: box.score, reverse=True)
    assert holds_eyes(boxes[0])  # her face is the surer,
    largest = choose(boxes)  # and Hopper's the larger
    assert largest is not None
    assert largest.left > 512 + 161 - 20
    assert largest.side > 2 * boxes[0].side


def test_upsampling_finds_small_faces() -> None:
    small = cv2.resize(to_gray(ASTRONAUT), (256, 256), interpolation=cv2.INTER_AREA)
    assert detect(small, 0) == []
    (box,) = detect(small, 1)
    assert all(box.left < x / 2 < box.right and box.top < y / 2 < box.bottom for x, y in EYES)


@pytest.mark.parametrize(("pixels", "smallest"), [(200_000, 92), (600_000, 53), (2_000_000, 40)])
def test_large_images_are_searched_in_a_smaller_size(
    pixels: int, smallest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gray = to_gray(ASTRONAUT)  # 262,144 pixels, and 1,048,576 when doubled
    (exact,) = detect(gray, 1)
    monkeypatch.setattr("fertools.data.faces.SEARCHED_PIXELS", pixels)
    (found,) = detect(gray, 1)
    assert holds_eyes(found)
    assert found.side == pytest.approx(exact.side, rel=0.25)  # a step of dlib's pyramid is 1.2
    assert (found == exact) == (pixels == 2_000_000)
    (nothing,) = extract([np.zeros_like(gray)], progress=False)
    assert f"at least {smallest} pixels high" in str(nothing.problem)


@pytest.mark.parametrize("shape", [(80, 120_000), (120_000, 80), (1, 5_000_000)])
def test_dlib_gets_no_image_for_which_it_overwrites_memory(shape: tuple[int, int]) -> None:
    """It can crash in images wider than about 80,000 pixels: see ``SEARCHED_SIDE``."""
    assert detect(np.zeros(shape, np.uint8), 1) == []


@pytest.mark.parametrize("shape", [(490, 640), (1, 1), (3, 200), (0, 5)])
def test_noise_has_no_face(shape: tuple[int, int]) -> None:
    assert detect(RNG.integers(0, 256, shape, dtype=np.uint8), 1) == []


def test_choose() -> None:
    assert choose([]) is None
    small, large, doubtful = Box(0, 0, 9, 9, 1.5), Box(0, 0, 20, 20, 1.0), Box(9, 9, 40, 40, 0.1)
    assert choose([doubtful]) == doubtful
    assert choose([small, large, doubtful]) == choose([doubtful, large, small]) == large
    surer = Box(5, 5, 25, 25, 1.4)
    assert choose(iter([small, large, surer])) == surer


# --- Crop -------------------------------------------------------------------------------------


def area_mean(square: np.ndarray) -> np.ndarray:
    """A square's mean over 48x48 equal areas, by how much of each pixel lies in each."""
    edges = np.arange(49) * len(square) / 48
    pixel = np.arange(len(square))
    weights = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.maximum(weights, 0) * 48 / len(square)
    return weights @ square.astype(float) @ weights.T


def test_crop_is_the_mean_over_areas_of_the_documented_square() -> None:
    gray = RNG.integers(0, 256, (300, 280), dtype=np.uint8)
    box = Box(60, 80, 160, 180)
    # A tenth of 100 more on each side, and 10 higher: columns 50 to 170, rows 60 to 180.
    assert_gray(crop(gray, box), area_mean(gray[60:180, 50:170]), within=1)
    assert_gray(crop(gray, box, margin=0, lift=0), area_mean(gray[80:180, 60:160]), within=1)
    assert_gray(crop(gray, box, margin=0.25, lift=-0.1), area_mean(gray[65:215, 35:185]), within=1)


def test_crop_of_a_ramp_reads_off_its_own_columns_and_rows() -> None:
    ramp = np.arange(256, dtype=np.uint8)
    across = np.tile(ramp, (256, 1))
    box = Box(40, 70, 160, 190)
    centers = (np.arange(48) + 0.5) * 144 / 48 - 0.5  # 120 and a tenth of it on each side
    assert_gray(crop(across, box), np.tile(28 + centers, (48, 1)), within=1)
    assert_gray(crop(across.T, box), np.tile(70 - 24 + centers, (48, 1)).T, within=1)


def test_small_faces_are_enlarged_bicubically() -> None:
    gray = RNG.integers(64, 192, (60, 60), dtype=np.uint8)
    square = torch.from_numpy(gray[20:44, 10:34].astype(np.float32))[None, None]
    exact = F.interpolate(square, (48, 48), mode="bicubic", align_corners=False)[0, 0].clamp(0, 255)
    assert_gray(crop(gray, Box(10, 20, 34, 44), margin=0, lift=0), exact.numpy(), within=1)


def test_exactly_48_pixels_are_unchanged() -> None:
    gray = RNG.integers(0, 256, (90, 90), dtype=np.uint8)
    np.testing.assert_array_equal(crop(gray, Box(20, 30, 68, 78), margin=0, lift=0), gray[30:78, 20:68])


@given(
    side=st.integers(10, 90),
    left=st.integers(-30, 90),
    top=st.integers(-30, 90),
    margin=st.floats(0, 0.5),
    lift=st.floats(-0.3, 0.3),
    dx=st.integers(0, 40),
    dy=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_shifted_image_same_crop_and_edges_repeat(
    side: int, left: int, top: int, margin: float, lift: float, dx: int, dy: int
) -> None:
    gray = np.random.default_rng(side).integers(0, 256, (100, 95), dtype=np.uint8)
    box = Box(left, top, left + side, top + side)
    if box.right <= 0 or box.bottom <= 0:
        return
    found = crop(gray, box, margin=margin, lift=lift)
    assert found.shape == (48, 48)
    wide = np.pad(gray, ((200 + dy, 200), (200 + dx, 200)), mode="edge")
    moved = Box(left + 200 + dx, top + 200 + dy, left + 200 + dx + side, top + 200 + dy + side)
    np.testing.assert_array_equal(crop(wide, moved, margin=margin, lift=lift), found)


@pytest.mark.parametrize("box", [Box(50, 0, 60, 10), Box(-20, 0, 0, 20), Box(0, 40, 9, 49), Box(5, 5, 5, 5)])
def test_a_box_outside_the_image_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="image of 50x40 pixels"):
        crop(np.zeros((40, 50), np.uint8), box)


# --- All together -----------------------------------------------------------------------------


def test_extract_finds_all_faces_and_never_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(ASTRONAUT, 1)).save(tmp_path / "lying.jpg", exif=exif, quality=95)
    (tmp_path / "bad.png").write_text("no")
    alpha = np.dstack([ASTRONAUT, np.full((512, 512), 255, np.uint8)])
    two = np.hstack([np.pad(to_gray(ASTRONAUT), ((0, 88), (0, 0))), read_image(HOPPER)])
    noise = RNG.integers(0, 256, (120, 160), dtype=np.uint8)
    found = extract(
        [
            HOPPER,
            tmp_path / "bad.png",
            ASTRONAUT,
            str(tmp_path / "lying.jpg"),
            noise,
            alpha / 255,
            two,
            two[0],
        ],
        upsample=0,
    )
    hopper, bad, plain, lying, none, rgba, several, flat = found
    assert [f.source for f in found[:4]] == [
        str(HOPPER), str(tmp_path / "bad.png"), "image 2", str(tmp_path / "lying.jpg")
    ]  # fmt: skip
    for one in (hopper, plain, lying, rgba):
        assert one.problem is None
        assert len(one.boxes) == len(one.crops) == 1
    assert len(several.boxes) == len(several.crops) >= 2
    for result in found:
        assert result.crops.dtype == np.uint8
        assert result.crops.shape == (len(result.boxes), 48, 48)
        assert (result.problem is None) == bool(result.boxes)
    np.testing.assert_array_equal(rgba.crops, plain.crops)
    assert np.corrcoef(lying.crops.ravel(), plain.crops.ravel())[0, 1] > 0.95
    assert bad.problem is not None
    assert str(tmp_path / "bad.png") in bad.problem
    assert none.problem is not None
    assert none.problem.startswith("no face found")
    assert flat.problem is not None
    assert "shape" in flat.problem
    assert "8/8" in capsys.readouterr().err


def test_extract_can_be_silent_and_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert extract([], progress=False) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("one", ["a.png", Path("a.png"), ASTRONAUT, Image.fromarray(ASTRONAUT)])
def test_extract_refuses_one_image(one: object) -> None:
    with pytest.raises(TypeError, match="list"):
        extract(one)  # type: ignore[arg-type]


@pytest.mark.parametrize(("module", "use"), [
    ("dlib", lambda: detect(np.zeros((9, 9), np.uint8))),
    ("cv2", lambda: crop(np.zeros((9, 9), np.uint8), Box(0, 0, 9, 9))),
])  # fmt: skip
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, use: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{module}: pip install 'fertools\[faces\]'"):
        use()
