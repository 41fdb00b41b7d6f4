"""One image: geometry and camera against other computations, the renderer on a head made for the tests."""

from __future__ import annotations

import dataclasses
import io
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from fertools.render.head import FaceModel
from fertools.render.paint import Paint, Person, draw_person
from fertools.render.scene import Camera, Scene, Studio, background, photograph, renderer, rotation, through_jpeg

ANGLE = st.floats(-80, 80)
PERFECT = Camera(gamma=1.0, blur=0.0, detail=1.0, noise=0.0, quality=100)
FRONT = Scene(
    yaw=0, pitch=0, roll=0, gaze=(0, 0), light=(0, 20), contrast=0.4, exposure=0.8, occlusion="none", place=(0, 0),
    shift=(0, 0), zoom=0.6, background=-100,
)  # fmt: skip


# --- Geometry ---------------------------------------------------------------------------------


@given(yaw=ANGLE, pitch=ANGLE, roll=ANGLE)
def test_rotations_are_roll_then_pitch_then_yaw(yaw: float, pitch: float, roll: float) -> None:
    found = rotation(yaw, pitch, roll)
    assert found @ found.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(found) == pytest.approx(1)
    y, p, r = np.radians((yaw, -pitch, roll))
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    assert found == pytest.approx(about_y @ about_x @ about_z, abs=1e-12)


def test_rotations_have_the_documented_directions() -> None:
    ahead, left, up = np.array([0, 0, 1]), np.array([1, 0, 0]), np.array([0, 1, 0])
    assert rotation(90, 0, 0) @ ahead == pytest.approx(left)
    assert rotation(0, 90, 0) @ ahead == pytest.approx(up)
    assert rotation(0, 0, 90) @ left == pytest.approx(up)


# --- Background -------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31))
def test_backgrounds_are_light_of_the_images_shape(seed: int) -> None:
    found = background((40, 24), seed)
    assert found.shape == (24, 40)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.array_equal(found, background((40, 24), seed))


def test_backgrounds_differ_and_are_not_flat() -> None:
    many = np.stack([background((48, 48), seed) for seed in range(60)])
    assert many.mean((1, 2)).std() > 0.15
    assert np.median(many.std((1, 2))) > 0.03


def test_a_negative_seed_is_an_even_gray() -> None:
    assert background((5, 4), -51) == pytest.approx(np.full((4, 5), 0.2))


# --- Camera -----------------------------------------------------------------------------------


def shot(light: np.ndarray, **faults: float) -> np.ndarray:
    return photograph(light, dataclasses.replace(PERFECT, **faults), np.random.default_rng(0)).astype(float)


def test_a_perfect_camera_keeps_the_light() -> None:
    light = np.linspace(-0.1, 1.1, 64 * 64, dtype=np.float32).reshape(64, 64)
    found = photograph(light, PERFECT, np.random.default_rng(0))
    assert found.dtype == np.uint8
    assert np.abs(found - 255 * np.clip(light, 0, 1)).max() <= 1.5


@pytest.mark.parametrize("gamma", [0.5, 0.85, 1.4])
def test_gamma_is_a_power_of_the_light(gamma: float) -> None:
    for light in (0.04, 0.3, 0.9):
        found = shot(np.full((16, 16), light, np.float32), gamma=gamma)
        assert found == pytest.approx(np.full((16, 16), 255 * light**gamma), abs=1)


@pytest.mark.parametrize("noise", [2.0, 8.0])
def test_noise_has_the_given_standard_deviation(noise: float) -> None:
    found = shot(np.full((200, 200), 0.5, np.float32), noise=noise)
    assert found.mean() == pytest.approx(127.5, abs=0.2)
    assert found.std() == pytest.approx(np.hypot(noise, np.sqrt(1 / 12)), rel=0.05)  # and that of rounding
    assert np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1] == pytest.approx(0, abs=0.05)


def test_blur_is_scipys_gaussian() -> None:
    light = (np.random.default_rng(1).random((64, 64)) > 0.5).astype(np.float32)
    found, expected = shot(light, blur=1.5), 255 * gaussian_filter(light, 1.5, mode="mirror", truncate=5)
    assert np.abs(found - expected)[8:-8, 8:-8].max() < 3


def test_less_detail_loses_what_is_fine_and_keeps_what_is_coarse() -> None:
    y, x = np.mgrid[0:48, 0:48]
    fine = (x % 2).astype(np.float32)
    coarse = (0.5 + 0.4 * np.sin(y / 10)).astype(np.float32)
    assert shot(fine, detail=0.5).std() < 5 < shot(fine).std()
    assert np.abs(shot(coarse, detail=0.5) - shot(coarse))[2:-2].max() < 8


def test_jpeg_is_pillows() -> None:
    image = gaussian_filter(np.random.default_rng(2).integers(0, 256, (48, 48)).astype(float), 1).astype(np.uint8)
    for quality in (40, 75, 96):
        code = io.BytesIO()
        Image.fromarray(image).save(code, "JPEG", quality=quality)
        assert np.abs(through_jpeg(image, quality) - np.asarray(Image.open(code)).astype(float)).max() <= 1
    poor, good = (np.abs(through_jpeg(image, quality) - image.astype(float)).mean() for quality in (10, 90))
    assert poor > 3 * good


# --- The renderer -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio(toy_head: FaceModel) -> Studio:
    pytest.importorskip("pyvista", reason="rendering needs PyVista: pip install 'fertools[render]'")
    return Studio(Paint(toy_head), (48, 48), 2)


@pytest.fixture(scope="module")
def person() -> Person:
    return dataclasses.replace(
        draw_person(np.random.default_rng(0)),
        identity=np.zeros(60), albedo=0.6, hair="bald", hair_length=0.0, beard=0.0, glasses=-1.0, resting={},
    )  # fmt: skip


def take(studio: Studio, person: Person, **changes: object) -> np.ndarray:
    return studio.take(person, {}, dataclasses.replace(FRONT, **changes))


def silhouette(studio: Studio, person: Person, **changes: object) -> np.ndarray:
    """Where the wall does not show."""
    dark, bright = (take(studio, person, **changes, background=wall) for wall in (-20, -220))
    return np.abs(dark - bright) < 0.02


def center(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)


def test_an_image_is_light(studio: Studio, person: Person) -> None:
    found = take(studio, person)
    assert found.shape == (48, 48)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert found[0, [0, -1]] == pytest.approx(100 / 255, abs=0.01)  # the wall
    assert found[20:30, 16:32].std() > 0.02  # a face


def test_a_size_is_width_and_height(toy_head: FaceModel, person: Person) -> None:
    pytest.importorskip("pyvista", reason="rendering needs PyVista: pip install 'fertools[render]'")
    assert take(Studio(Paint(toy_head), (64, 49), 1), person).shape == (49, 64)


def test_an_image_does_not_depend_on_earlier_ones(studio: Studio, person: Person) -> None:
    alone = take(studio, person, yaw=10)
    other = dataclasses.replace(person, hair="long", glasses=0.1)
    take(studio, other, yaw=-30, occlusion="hand", light=(60, 0), shift=(0.1, 0), zoom=1.2, background=7)
    assert np.array_equal(take(studio, person, yaw=10), alone)


def test_a_face_is_symmetric_under_frontal_light(studio: Studio, person: Person) -> None:
    found = take(studio, person, contrast=1.0)
    assert np.abs(found - found[:, ::-1]).mean() < 0.02


def test_light_comes_from_its_side(studio: Studio, person: Person) -> None:
    right = take(studio, person, light=(60, 0), contrast=0.9)
    assert right[15:35, 25:32].mean() > 1.2 * right[15:35, 16:23].mean()
    left = take(studio, person, light=(-60, 0), contrast=0.9)
    assert np.abs(left - right[:, ::-1]).mean() < 0.03


def test_more_exposure_is_more_light(studio: Studio, person: Person) -> None:
    face = np.s_[18:32, 18:30]
    dim, bright = (take(studio, person, exposure=exposure)[face].mean() for exposure in (0.4, 0.8))
    assert bright == pytest.approx(2 * dim, rel=0.1)


def test_zoom_and_shift_move_the_face(studio: Studio, person: Person) -> None:
    small, large = silhouette(studio, person, zoom=0.3), silhouette(studio, person, zoom=0.4)
    assert large.sum() / small.sum() == pytest.approx((0.4 / 0.3) ** 2, rel=0.06)
    moved = silhouette(studio, person, zoom=0.3, shift=(0.1, 0.05))
    down, right = center(moved) - center(small)
    assert right == pytest.approx(4.8, abs=0.5)
    assert down == pytest.approx(-2.4, abs=0.5)


def test_a_head_turns_to_its_left_and_looks_up(studio: Studio, person: Person) -> None:
    """Eyes are the darkest of a bare face without brows; they go where the head turns."""
    bare = dataclasses.replace(person, brow=0.0, lips=0.0, lid=0.0, age=0.0, albedo=0.9)

    def eyes(**changes: object) -> np.ndarray:
        found = take(studio, bare, contrast=0.0, zoom=0.9, background=-250, **changes)
        return center(found[8:28, 8:40] < 0.15)

    ahead = eyes()
    assert (eyes(yaw=15) - ahead)[1] > 1.5
    assert (eyes(yaw=-15) - ahead)[1] < -1.5
    assert (eyes(pitch=12) - ahead)[0] < -1
    assert (eyes(pitch=-12) - ahead)[0] > 1


@pytest.mark.parametrize(
    ("occlusion", "rows"),
    [("hand", slice(30, 48)), ("brim", slice(0, 20)), ("glasses", slice(9, 23)), ("sunglasses", slice(9, 23))],
)
def test_an_occlusion_hides_its_part(studio: Studio, person: Person, occlusion: str, rows: slice) -> None:
    clear, hidden = take(studio, person, zoom=0.9), take(studio, person, zoom=0.9, occlusion=occlusion)
    changed = np.abs(clear - hidden) > 0.03
    assert changed.mean() > 0.01
    assert changed[rows].sum() > 0.8 * changed.sum()


@pytest.mark.parametrize("hair", ["long", "cap", "scarf"])
def test_hair_glasses_and_hats_are_rendered(studio: Studio, person: Person, hair: str) -> None:
    bare = take(studio, person)
    worn = take(studio, dataclasses.replace(person, hair=hair, hair_albedo=0.05, hair_length=1.0))
    assert (np.abs(bare - worn) > 0.05).mean() > 0.02


def test_without_pyvista_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvista", None)
    with pytest.raises(ImportError, match=r"pip install 'fertools\[render\]'"):
        renderer()
