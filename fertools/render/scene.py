"""One image: pose, light, camera, occlusion, background, and the camera's imperfections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from fertools.errors import require
from fertools.render.head import Array
from fertools.render.paint import Paint, Person, surface

CENTER = (0.0, 0.4, 7.0)  # what the camera looks at, cm: the center of the square that is cropped around a face
SIDE = 17.5  # the side of that square, cm
OCCLUSIONS = ("none", "glasses", "sunglasses", "hand", "brim")


@dataclass(frozen=True)
class Scene:
    """What differs between images of one person. Angles are in degrees."""

    yaw: float  # turned to the head's left
    pitch: float  # looking up
    roll: float
    gaze: tuple[float, float]  # of the eyes in the head, to its left and up
    light: tuple[float, float]  # direction of the key light: to the camera's right, and upwards
    contrast: float  # the key light's fraction of all light: 0 even, 1 no fill
    exposure: float
    occlusion: str  # one of OCCLUSIONS
    place: tuple[float, float]  # position of the occluding hand or brim, cm from its usual place
    shift: tuple[float, float]  # of the face, as fractions of the image's side
    zoom: float  # size of the face
    background: int  # its seed; if negative, a uniform gray of -background


def renderer() -> Any:
    """PyVista, which renders without a display.

    Raises:
        MissingExtraError: it is not installed.
    """
    return require("pyvista", "render")


class Studio:
    """A renderer that is set up once for many images.

    Args:
        paint: the masks of the face model.
        size: of the images, (width, height) in pixels.
        oversample: by how much they are rendered larger, for smooth edges.

    Raises:
        MissingExtraError: PyVista is not installed.
    """

    def __init__(self, paint: Paint, size: tuple[int, int], oversample: int) -> None:
        pv = renderer()
        self.paint, self.shape = paint, size
        self.size = size = (size[0] * oversample, size[1] * oversample)
        model = paint.model
        self._plotter = pv.Plotter(off_screen=True, window_size=list(size), lighting="none")
        self._plotter.render_window.SetMultiSamples(0)
        self._meshes = []
        shine = {"skin": (0.12, 12), "eyes": (0.6, 60), "mouth": (0.25, 30), "lashes": (0.0, 1)}
        for part, chosen in model.parts.items():
            used, faces = np.unique(model.faces[chosen], return_inverse=True)
            faces = faces.reshape(-1, 4)
            # Triangles, which repeat a corner, are split like quadrilaterals; their second half is empty.
            mesh = pv.PolyData.from_regular_faces(model.neutral[used], np.vstack([faces[:, :3], faces[:, [0, 2, 3]]]))
            self._meshes.append((used, mesh))
            mesh.point_data["rgb"] = np.zeros((len(used), 3), np.uint8)
            mesh.point_data["Normals"] = model.normals(model.neutral)[used]
            mesh.point_data.active_normals_name = "Normals"
            specular, power = shine[part]
            self._plotter.add_mesh(
                mesh, scalars="rgb", rgb=True, smooth_shading=False, ambient=0.0, diffuse=1.0, specular=specular,
                specular_power=power, show_scalar_bar=False,
            ).prop.interpolation = "Phong"  # fmt: skip
        self._pv = pv
        self._lights = [pv.Light(light_type="scene light") for _ in range(3)]
        for light in self._lights:
            self._plotter.add_light(light)
        self._extras: list = []

    def take(self, person: Person, shapes: dict[str, float], scene: Scene) -> Array:
        """Renders the light in every pixel: float32, (H, W), 0 to 1, before the camera's imperfections."""
        cv2 = require("cv2", "render")

        vertices, albedo = surface(self.paint, person, shapes, np.array(scene.gaze))
        turn = rotation(scene.yaw, scene.pitch, scene.roll)
        pivot = np.array([0.0, -4.0, 1.0])  # the top of the neck
        vertices = ((vertices - pivot) @ turn.T + pivot).astype(np.float32)
        normals = self.paint.model.normals(vertices)
        gray = np.round(255 * albedo).astype(np.uint8)
        for used, mesh in self._meshes:
            mesh.points = vertices[used]
            mesh.point_data["Normals"] = normals[used]
            mesh.point_data.active_normals_name = "Normals"
            mesh.point_data["rgb"] = np.repeat(gray[used, None], 3, 1)
        self._dress(person, scene, vertices, turn, pivot)
        self._light(scene)
        self._aim(scene)
        self._plotter.render()
        image = self._plotter.screenshot(return_img=True, transparent_background=True)
        light = np.where(image[..., 3] > 127, image[..., 0] / np.float32(255), background(self.size, scene.background))
        return cv2.resize(light, self.shape, interpolation=cv2.INTER_AREA)

    def _light(self, scene: Scene) -> None:
        key, fill, sky = self._lights
        total = 1.25 * scene.exposure
        for light, (side, up), fraction in (
            (key, scene.light, scene.contrast),
            (fill, (-0.6 * scene.light[0], 10), 0.65 * (1 - scene.contrast)),
            (sky, (0, 60), 0.35 * (1 - scene.contrast)),
        ):
            side, up = np.radians(side), np.radians(up)
            direction = np.array([np.sin(side) * np.cos(up), np.sin(up), np.cos(side) * np.cos(up)])
            light.position = tuple(100 * direction)
            light.focal_point = (0, 0, 0)
            light.positional = False
            light.intensity = total * fraction

    def _aim(self, scene: Scene) -> None:
        camera = self._plotter.camera
        width, height = self.size
        side = SIDE / scene.zoom * height / min(width, height)  # cm that the image is high
        angle = 20.0
        distance = side / 2 / np.tan(np.radians(angle / 2))
        x, y = CENTER[0] - scene.shift[0] * side, CENTER[1] - scene.shift[1] * side
        camera.view_angle = angle
        camera.focal_point = (x, y, CENTER[2])
        camera.position = (x, y, CENTER[2] + distance)
        camera.up = (0, 1, 0)
        camera.clipping_range = (distance - 30, distance + 60)

    def _dress(self, person: Person, scene: Scene, vertices: Array, turn: Array, pivot: Array) -> None:
        """Adds what isn't part of the face model: long hair, scarves, glasses, brims, and hands."""
        for actor in self._extras:
            self._plotter.remove_actor(actor, render=False)
        self._extras = []

        def add(mesh, gray: float, shine: float = 0.05) -> None:  # type: ignore[no-untyped-def]
            self._extras.append(
                self._plotter.add_mesh(mesh, color=(gray,) * 3, smooth_shading=True, specular=shine, render=False)
            )

        def cloth(points: Array) -> Any:  # (rows, columns, 3) on the head -> a surface through them
            placed = world(points.reshape(-1, 3)).reshape(points.shape)
            return pv.StructuredGrid(*np.moveaxis(placed, -1, 0)).extract_surface(algorithm="dataset_surface")

        pv = self._pv
        marks = vertices[self.paint.model.landmarks]

        def world(points: Array) -> Array:
            return (np.asarray(points, float) - pivot) @ turn.T + pivot

        if person.hair in ("long", "scarf"):
            scale = np.ptp(marks[:17, 0]) / 14.7 if abs(scene.yaw) < 5 else 1.0
            around = np.radians(np.linspace(64 if person.hair == "scarf" else 72, 288, 90))
            down = np.linspace(0, 1, 25)
            grid_a, grid_d = np.meshgrid(around, down)
            rng = np.random.default_rng(person.seed)
            strands = 1 + 0.012 * np.sin(grid_a * 31 + rng.uniform(0, 6) + 2 * grid_d) * (person.hair == "long")
            # Below the hair of the scalp at the top, and wider further down.
            bulge = (0.78 + 0.24 * np.tanh(5 * grid_d)) * (1 + 0.12 * np.sin(np.pi * grid_d) * person.hair_length)
            radius = 8.6 * scale * strands * bulge
            points = np.stack([radius * np.sin(grid_a), 10.5 - 27 * grid_d, 0.3 + 1.05 * radius * np.cos(grid_a)], -1)
            add(cloth(points), person.hair_albedo)
        if person.hair == "cap" or scene.occlusion == "brim":
            width = np.linspace(-1, 1, 21)
            x = 7.5 * width
            low = 8.6 + scene.place[1] if scene.occlusion == "brim" else 10.2
            back = np.stack([x, np.full_like(x, low + 1.2), 9.6 - 6.5 * width**2], 1)
            front = np.stack([0.95 * x, low - 0.5 - 0.8 * np.abs(width) ** 2, 9.4 + 6.0 * (1 - width**2)], 1)
            add(cloth(np.stack([back, front])), person.hair_albedo)
        if person.glasses >= 0 or scene.occlusion in ("glasses", "sunglasses"):
            frame = max(person.glasses, 0.03)
            for eye in (marks[36:42], marks[42:48]):
                center = eye.mean(0) + turn @ (0, -0.15, 1.5)
                angles = np.linspace(0, 2 * np.pi, 40)
                ring = np.stack([2.1 * np.cos(angles), 1.55 * np.sin(angles), 0 * angles], 1)
                ring = np.sign(ring) * np.abs(ring / (2.1, 1.55, 1)) ** 0.8 * (2.1, 1.55, 1)
                ring = ring @ turn.T + center
                add(pv.Spline(ring, 80).tube(radius=0.13), frame, 0.4)
                if scene.occlusion == "sunglasses":
                    add(pv.PolyData(np.vstack([center, ring]), faces=_fan(len(ring))), 0.05, 0.6)
            bridge = [m.mean(0) + turn @ (s * 2.0, 0.1, 1.5) for m, s in ((marks[36:42], 1), (marks[42:48], -1))]
            add(pv.Line(*bridge).tube(radius=0.12), frame, 0.4)
            for m, s in ((marks[36:42], -1), (marks[42:48], 1)):
                start = m.mean(0) + turn @ (s * 2.1, 0.3, 1.4)
                add(pv.Line(start, start + turn @ (s * 2.0, 0.3, -9)).tube(radius=0.12), frame, 0.4)
        if scene.occlusion == "hand":
            rng = np.random.default_rng(abs(scene.background) + 1)
            base = np.array([scene.place[0], -5.5 + scene.place[1], 13.6])
            lean = rng.uniform(-50, 50)
            along = rotation(0, 0, lean) @ np.array([0.0, 1.0, 0.0])
            across = rotation(0, 0, lean) @ np.array([1.0, 0.0, 0.0])
            for finger, length in zip((-1.5, -0.5, 0.5, 1.5), (3.4, 4.2, 4.4, 3.6), strict=True):
                start = base + across * finger * 1.55
                tip = start + along * length
                tube = pv.Line(world(start), world(tip)).tube(radius=0.78)
                add(tube, person.albedo)
                add(pv.Sphere(radius=0.78, center=world(tip)), person.albedo)
            palm = pv.Line(world(base - along * 7), world(base + 0.3 * along)).tube(radius=3.0)
            palm.points = palm.points - 1.5 * (turn @ (0, 0, 1))
            add(palm, person.albedo)


def _fan(n: int) -> Array:
    """Triangles from point 0 to each pair of adjacent points of 1 to n, in PyVista's format."""
    first = np.arange(1, n)
    return np.stack([np.full(n - 1, 3), np.zeros(n - 1, int), first, first + 1], 1).ravel()


def rotation(yaw: float, pitch: float, roll: float) -> Array:
    """A rotation matrix: roll first, then pitch (up), then yaw (to the head's left), in degrees."""
    matrix: Array = Rotation.from_euler("YXZ", (yaw, -pitch, roll), degrees=True).as_matrix()
    return matrix


def background(size: tuple[int, int], seed: int) -> Array:
    """A background (H, W), 0 to 1: a wall, a gradient, out-of-focus shapes, or straight edges."""
    cv2 = require("cv2", "render")

    width, height = size
    if seed < 0:
        return np.full((height, width), -seed / 255, np.float32)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    image = rng.uniform(0.05, 0.9) + rng.normal(0, 0.2) * x + rng.normal(0, 0.2) * y
    kind = rng.integers(4)
    if kind == 1:  # out of focus
        coarse = rng.uniform(0, 1, (rng.integers(3, 9), rng.integers(3, 9))).astype(np.float32)
        image = image * 0.4 + 0.6 * cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    elif kind == 2:  # edges of doors, windows, shelves
        for _ in range(rng.integers(1, 6)):
            side = rng.integers(2)
            at = rng.uniform(0, 1.2)
            image = image + rng.normal(0, 0.25) * ((x if side else y) > at)
    elif kind == 3:  # lamps and leaves
        for _ in range(rng.integers(4, 16)):
            center, spread = rng.uniform(0, 1.2, 2), rng.uniform(0.03, 0.15)
            image = image + rng.normal(0, 0.35) * (((x - center[0]) ** 2 + (y - center[1]) ** 2) < spread**2)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.002, 0.03) * height)
    return np.clip(image, 0, 1)


@dataclass(frozen=True)
class Camera:
    """A camera's imperfections."""

    gamma: float  # brightness is light to this power: below 1 brightens the shadows
    blur: float  # standard deviation, in pixels of the final image
    detail: float  # resolution before it was scaled to its size, as a fraction of it
    noise: float  # standard deviation, gray levels
    quality: int  # of JPEG, 1 to 100


def photograph(light: Array, camera: Camera, rng: np.random.Generator) -> Array:
    """The image that a camera makes of the light: uint8, (H, W)."""
    cv2 = require("cv2", "render")

    image = np.clip(light, 0, 1) ** camera.gamma
    height, width = image.shape
    if camera.detail < 1:
        small = (max(8, round(width * camera.detail)), max(8, round(height * camera.detail)))
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=1)
    if camera.blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), camera.blur)
    image = 255 * image + rng.normal(0, camera.noise, image.shape)
    return through_jpeg(np.clip(np.rint(image), 0, 255).astype(np.uint8), camera.quality)


def through_jpeg(image: Array, quality: int) -> Array:
    """An image after JPEG compression: uint8, (H, W)."""
    cv2 = require("cv2", "render")

    _, code = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))
