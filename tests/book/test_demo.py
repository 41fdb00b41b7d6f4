"""The demo page: its JavaScript against Python, in Node and in Chromium, and the page as a reader uses it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from fertools.data import faces
from fertools.data.faces import Box
from fertools.inference.predictor import Predictor
from fertools.models.weights import load_network

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Route

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
DEMO = BOOK / "_static" / "demo"
RUN = ROOT / "data" / "runs" / "wide-fer2013"
SAMPLES = {"Eileen Collins": DEMO / "samples" / "collins.jpg", "Grace Hopper": DEMO / "samples" / "hopper.jpg"}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node on the PATH")


# --- The files that are made -------------------------------------------------------------------


def import_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BOOK / "_tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo_files() -> ModuleType:
    return import_tool("demo_files")


def test_vendored_files_are_the_named_ones(demo_files: ModuleType) -> None:
    vendor = DEMO / "vendor"
    sums = dict(line.split()[::-1] for line in (vendor / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256((vendor / name).read_bytes()).hexdigest() for name in sums}
    own = {"README.md", "SHA256SUMS", "LICENSE-Apache-2.0.txt"}
    assert {path.name for path in vendor.iterdir()} == set(sums) | own
    readme = (vendor / "README.md").read_text()
    for package, version in demo_files.PACKAGES.items():
        assert f"`{package}` {version}" in readme


def test_the_page_says_what_the_record_says(demo_files: ModuleType) -> None:
    shown, recorded = json.loads((DEMO / "model" / "model.json").read_text()), demo_files.model_card(RUN)
    assert set(shown) == set(recorded)
    for name, value in recorded.items():
        assert shown[name] == (value if isinstance(value, str) or name == "classes" else pytest.approx(value)), name


# --- JavaScript against Python -----------------------------------------------------------------


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[[Path], AbstractContextManager[str]]
) -> Iterator[str]:
    """A plain static server of the page as the book has it, without the book's theme: its address."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "_static").symlink_to(BOOK / "_static")
    (folder / "book").mkdir()
    raw = re.search(r"^```\{raw\} html\n(.*?)^```$", (BOOK / "demo.md").read_text(), re.DOTALL | re.MULTILINE)
    assert raw
    module = import_tool("content_policy")  # the browser's own check that nothing comes from elsewhere
    policy = "; ".join(f"{kind} {sources}" for kind, sources in module.POLICY.items())
    icon = f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,">'
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{icon}<title>Demo</title></head>'
    (folder / "book" / "demo.html").write_text(f"{page}<body>{raw[1]}</body></html>")
    (folder / "empty.html").write_text(f"{page}<body></body></html>")
    with serve(folder) as address:
        yield address.removesuffix("/")


@pytest.fixture(scope="module")
def camera_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Chromium takes for its camera: the portrait of Eileen Collins, in a loop."""
    path = tmp_path_factory.mktemp("camera") / "video.mjpeg"
    data = io.BytesIO()
    Image.open(SAMPLES["Eileen Collins"]).resize((480, 480)).crop((0, 0, 480, 360)).save(data, "JPEG", quality=95)
    path.write_bytes(data.getvalue() * 10)
    return path


@pytest.fixture(scope="module")
def browser(chromium: Browser, executable: str, camera_video: Path) -> Iterator[Browser]:
    """As ``chromium``, with a camera."""
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with chromium.browser_type.launch(
        executable_path=executable,
        args=["--no-sandbox", *fake, f"--use-file-for-fake-video-capture={camera_video}"],
    ) as browser:
        yield browser


JavaScript = Callable[[str, Any], Any]


def in_node(body: str, argument: Any) -> Any:
    """What the body of an async JavaScript function of ``base``, ``read`` and ``input`` returns, run by Node."""
    program = f"""
        import {{ readFileSync }} from "node:fs";
        const base = {json.dumps(DEMO.as_posix() + "/")};
        const read = async (path) => new Uint8Array(readFileSync(base + path)).buffer;
        const input = JSON.parse(readFileSync(0, "utf8"));
        const output = await (async () => {{ {body} }})();
        console.log(JSON.stringify(output));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", program],
        input=json.dumps(argument),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=[pytest.param("node", marks=needs_node), "chromium"])
def javascript(request: pytest.FixtureRequest) -> Iterator[JavaScript]:
    """As :func:`in_node`, in Node and in Chromium."""
    if request.param == "node":
        yield in_node
        return
    site = request.getfixturevalue("site")
    page = request.getfixturevalue("browser").new_page()
    page.goto(f"{site}/empty.html")

    def in_chromium(body: str, argument: Any) -> Any:
        program = f"async ([base, input]) => {{ const read = undefined; {body} }}"
        return page.evaluate(program, [f"{site}/_static/demo/", argument])

    yield in_chromium
    page.close()


def as_canvas(image: np.ndarray) -> dict[str, Any]:
    """RGB, uint8 (H, W, 3), as a canvas gives it to JavaScript."""
    height, width, _ = image.shape
    opaque = np.full((height, width, 1), 255, np.uint8)
    pixels = np.concatenate([image, opaque], 2).tobytes()
    return {"data": base64.b64encode(pixels).decode(), "width": width, "height": height}


CANVAS = """
    const asCanvas = (image) => ({ ...image, data: Uint8ClampedArray.from(atob(image.data), (c) => c.charCodeAt(0)) });
"""  # what as_canvas gave


def test_crops_equal_pythons(javascript: JavaScript) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (150, 190, 3), np.uint8)
    # Squares of 20 to 168 pixels: enlarged, copied (40: 48), halved (80: 96), cut, and across every edge.
    boxes = [(30, 30, 17), (60, 50, 40), (50, 40, 80), (40, 30, 81), (20, 10, 140), (-30, 20, 60), (150, 100, 70)]
    boxes += [(int(x), int(y), int(side)) for x, y, side in rng.integers((-20, -20, 20), (150, 120, 90), (12, 3))]
    cases = [{"left": x, "top": y, "right": x + side, "bottom": y + side} for x, y, side in boxes]
    body = """
        const { crop } = await import(base + "crop.js");
        const image = asCanvas(input.image);
        return input.cases.map((box) => Array.from(crop(image, box)));
    """
    crops = np.array(javascript(CANVAS + body, {"image": as_canvas(noise), "cases": cases})).reshape(-1, 48, 48)
    expected = np.stack([faces.crop(faces.to_gray(noise), Box(**case)) for case in cases])
    difference = crops - expected.astype(int)
    assert np.abs(difference).max() <= 1  # Python rounds the gray levels before it resizes as well
    assert abs(difference.mean()) < 0.02


LOOK = """
    const { load } = await import(base + "classify.js");
    const { findFace } = await import(base + "detect.js");
    const models = await load(read);
    const outputs = [];
    for (const crop of input.crops) {
        const { logits, probabilities } = await models.network(crop);
        outputs.push({ logits: Array.from(logits), probabilities: Array.from(probabilities) });
    }
    const found = [];
    for (const image of input.images) {
        found.push(await findFace(models.detector, asCanvas(image), [1, 2]));
    }
    return { outputs, found };
"""


def test_networks_compute_what_python_does(javascript: JavaScript) -> None:
    """Logits and probabilities equal PyTorch's; the face is where dlib sees it, wherever it is moved."""
    gray = [faces.read_image(path) for path in SAMPLES.values()]
    boxes = [faces.detect(image)[0] for image in gray]
    crops = np.stack([faces.crop(image, box) for image, box in zip(gray, boxes, strict=True)])
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 48), np.uint8)
    crops = np.concatenate([crops, noise])

    portraits = [np.asarray(Image.open(path)) for path in SAMPLES.values()]
    room = np.full((300, 500, 3), 128, np.uint8)
    shrunk = np.asarray(Image.open(SAMPLES["Grace Hopper"]).resize((114, 133)))
    room[150 : 150 + 133, 350 : 350 + 114] = shrunk  # a face of 43 pixels in the corner of 500
    moved = faces.detect(faces.to_gray(shrunk), 2)[0]
    boxes.append(Box(moved.left + 350, moved.top + 150, moved.right + 350, moved.bottom + 150))
    empty = np.random.default_rng(0).integers(90, 160, (200, 200, 3), np.uint8)
    images = [as_canvas(image) for image in (*portraits, room, empty)]

    result = javascript(CANVAS + LOOK, {"crops": crops.reshape(len(crops), -1).tolist(), "images": images})

    net, metadata = load_network(RUN / "model.safetensors")
    with torch.inference_mode():
        pixels = (torch.from_numpy(crops).float()[:, None] - metadata.mean) / metadata.std
        logits = net.eval()(pixels).numpy()
    np.testing.assert_allclose([output["logits"] for output in result["outputs"]], logits, atol=1e-3)
    expected = Predictor.from_pretrained(RUN, "cpu").classify(crops)
    np.testing.assert_allclose([output["probabilities"] for output in result["outputs"]], expected, atol=1e-3)

    *found, nothing = result["found"]
    assert nothing is None
    for face, box in zip(found, boxes, strict=True):
        assert abs((face["right"] - face["left"]) / box.side - 1) < 0.2
        assert abs(face["left"] + face["right"] - box.left - box.right) / 2 < 0.1 * box.side
        assert abs(face["top"] + face["bottom"] - box.top - box.bottom) / 2 < 0.1 * box.side


# --- The page ----------------------------------------------------------------------------------

WATCH = """
    const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    window.tracks = [];
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        if (window.refuse) throw new DOMException("no", window.refuse);
        const stream = await original(wanted);
        window.tracks.push(...stream.getTracks());
        return stream;
    };
"""


class Visit:
    """A page of the site, with what it asked for and what it complained of."""

    def __init__(self, browser: Browser, site: str, script: str = WATCH) -> None:
        self.page = browser.new_page(viewport={"width": 390, "height": 800})
        self.page.set_default_timeout(60_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complain(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complain("error", str(error)))
        self.page.add_init_script(script)
        self.page.goto(f"{site}/book/demo.html")

    def complain(self, kind: str, words: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(words)

    def text(self, part: str) -> str:
        return str(self.page.text_content(f"#demo-{part}")).strip()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def wait_for(self, part: str, words: str) -> None:
        """Until a part of the page contains the words."""
        self.page.wait_for_function(
            "([part, words]) => document.getElementById(part).textContent.includes(words)", arg=[f"demo-{part}", words]
        )


@pytest.fixture(scope="module")
def started(browser: Browser, site: str) -> Iterator[Visit]:
    """The demo, started by keyboard. At the end: no complaint, and nothing asked of any other place."""
    visit = Visit(browser, site)
    visit.page.wait_for_selector("#demo-start", state="visible")
    assert not [url for url in visit.requests if re.search("vendor|model|samples", url)]  # loads only on click
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.id") == "demo-start"
    visit.page.keyboard.press("Enter")
    visit.wait_for("status", "Eileen Collins: one face")
    yield visit
    visit.page.close()
    assert visit.complaints == []
    asked = {url.removeprefix("blob:").split("/book/")[0].split("/_static/")[0] for url in visit.requests}
    assert {re.sub(r"/[0-9a-f-]{36}$", "", url) for url in asked} == {site}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_gets_pythons_label(started: Visit, name: str) -> None:
    started.button(name).click()
    started.wait_for("status", f"{name}: one face")
    predictor = Predictor.from_pretrained(RUN, "cpu")
    (face, *_) = predictor.predict(SAMPLES[name]).faces
    assert started.text("label") == ("unsure" if face.abstain else face.label)
    assert face.label in started.text("label") + started.text("note")

    # The bars are Python's probabilities for the very pixels that the page shows as the network's input.
    shown = started.page.evaluate("document.getElementById('demo-crop').toDataURL()")
    crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.split(",")[1]))).convert("L"))
    cells = started.page.locator("#demo-bars tr").all_inner_texts()
    bars = {row.split()[0]: float(row.split()[1]) for row in cells}
    (expected,) = predictor.classify(crop[None])
    assert bars == pytest.approx(dict(zip(predictor.metadata.classes, 100 * expected, strict=True)), abs=0.6)
    assert started.button(name).get_attribute("aria-pressed") == "true"


def test_keys_choose_and_the_focus_is_seen(started: Visit) -> None:
    page = started.page
    started.button("Use the camera").focus()
    reached = []
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        target = "document.querySelector('#demo-file:focus-visible + label') ?? document.activeElement"
        assert page.evaluate(f"getComputedStyle({target}).outlineStyle") == "solid"
    assert reached == ["demo-file", "Grace Hopper", "Eileen Collins"]
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    started.wait_for("status", "Grace Hopper: one face")
    started.wait_for("spoken", "label: neutral")  # said once, politely, to those who listen
    assert page.get_attribute("#demo-spoken", "aria-live") == "polite"


def test_the_page_fits_a_phone(started: Visit) -> None:
    assert started.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_own_photos(started: Visit) -> None:
    def upload(name: str, data: bytes) -> None:
        file = {"name": name, "mimeType": "image/jpeg", "buffer": data}
        started.page.set_input_files("#demo-file", files=[file])

    def jpeg(image: Image.Image, **options: Any) -> bytes:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=95, **options)
        return data.getvalue()

    portrait = Image.open(SAMPLES["Eileen Collins"])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees to see it upright
    upload("turned.jpg", jpeg(portrait.transpose(Image.Transpose.ROTATE_90), exif=exif))
    started.wait_for("status", "turned.jpg: one face")
    assert started.text("label") == "happy"
    assert started.text("credit") == ""

    upload("wall.jpg", jpeg(Image.new("RGB", (300, 200), "gray")))
    started.wait_for("status", "wall.jpg: no face found")
    assert started.text("label") == "no face"

    upload("wall.jpg", jpeg(portrait))
    started.wait_for("label", "happy")
    whole = jpeg(portrait)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>document.title = "ran"</script></svg>'
    for name, kind, data, problem in [
        ("text.jpg", "image/jpeg", b"no image at all", "cannot be read as an image"),
        ("page.png", "image/png", b"<script>document.title = 'ran'</script>", "cannot be read as an image"),
        ("empty.jpg", "image/jpeg", b"", "cannot be read as an image"),
        ("header.jpg", "image/jpeg", whole[:100], "cannot be read as an image"),
        ("half.jpg", "image/jpeg", whole[: len(whole) // 2], "is damaged, or in another format"),
        ("drawing.svg", "image/svg+xml", svg, "is damaged, or in another format"),
    ]:
        started.page.set_input_files("#demo-file", files=[{"name": name, "mimeType": kind, "buffer": data}])
        started.wait_for("status", f"{name} {problem}")
        assert nothing_is_shown(started)
    assert started.page.title() != "ran"


def test_large_photos_are_refused_before_they_fill_the_memory(started: Visit) -> None:
    started.page.evaluate(
        "() => { window.bitmap = createImageBitmap; window.tried = 0;"
        "window.createImageBitmap = () => { window.tried++; return Promise.reject(); }; }"
    )
    # The browser cannot take the first, though it's sound, and must not try the second.
    for side, tried in ((4500, 1), (9500, 1)):
        data = io.BytesIO()
        Image.new("1", (side, side)).save(data, "PNG")
        file = {"name": f"{side}.png", "mimeType": "image/png", "buffer": data.getvalue()}
        started.page.set_input_files("#demo-file", files=[file])
        started.wait_for("status", f"{side}.png is too large for this browser: {side} x {side} pixels")
        assert started.page.evaluate("window.tried") == tried
        assert nothing_is_shown(started)
    started.page.evaluate("() => { window.createImageBitmap = window.bitmap; }")


def nothing_is_shown(visit: Visit) -> bool:
    """Neither image, label, nor bars: not those of an earlier image."""
    ink = visit.page.evaluate(
        """() => [...document.querySelectorAll("#demo-image, #demo-crop")].some((canvas) => {
            const [width, height] = [canvas.width, canvas.height];
            const empty = Object.assign(document.createElement("canvas"), { width, height });
            return canvas.toDataURL() !== empty.toDataURL();
        })"""
    )
    words = [visit.text(part) for part in ("label", "note", "credit", "bars")]
    widths = visit.page.evaluate("[...document.querySelectorAll('#demo-bars span')].map(bar => bar.offsetWidth)")
    return not ink and words[:3] == ["", "", ""] and "%" not in words[3] and max(widths) <= 2


def test_a_name_is_text_however_long(started: Visit) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "gray").save(buffer, "JPEG")
    for name in ("<img src=x onerror=document.title='ran'>.jpg", f"{'W' * 200}.jpg"):
        file = {"name": name, "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
        started.page.set_input_files("#demo-file", files=[file])
        started.wait_for("status", f"{name}: no face found")
        assert started.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert started.page.title() != "ran"


def test_the_camera_is_watched_and_let_go(started: Visit) -> None:
    page = started.page
    page.focus("#demo-camera")
    page.keyboard.press("Enter")
    started.wait_for("speed", "frames per second")
    assert float(started.text("speed").split()[0]) > 0
    started.wait_for("label", "happy")  # the video shows the portrait of Eileen Collins
    assert page.get_attribute("#demo-camera", "aria-pressed") == "true"
    page.keyboard.press("Enter")
    started.wait_for("status", "The camera is off.")
    assert started.text("speed") == ""

    def live() -> int:
        return int(page.evaluate("window.tracks.filter((track) => track.readyState === 'live').length"))

    assert live() == 0
    page.click("#demo-camera")
    started.wait_for("speed", "frames per second")
    assert live() == 1
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')); delete document.hidden;"
    )
    started.wait_for("status", "The camera was stopped")
    assert live() == 0
    page.click("#demo-camera")
    started.wait_for("speed", "frames per second")
    started.button("Grace Hopper").click()
    started.wait_for("status", "Grace Hopper: one face")
    assert live() == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("NotAllowedError", "The camera was not allowed."),
        ("NotFoundError", "There is no camera on this device."),
        ("NotReadableError", "another program may be using it"),
        ("AbortError", "The camera cannot be used"),
    ],
)
def test_a_camera_that_fails_is_told_in_words(started: Visit, error: str, words: str) -> None:
    started.page.evaluate(f"window.refuse = '{error}'")
    started.page.click("#demo-camera")
    started.wait_for("status", words)
    assert started.page.get_attribute("#demo-camera", "aria-pressed") == "false"
    started.page.evaluate("window.refuse = undefined")


def test_what_cannot_run_says_so(browser: Browser, site: str) -> None:
    visit = Visit(browser, site, "delete globalThis.WebAssembly;")
    visit.wait_for("status", "This browser cannot run the demo")
    assert not visit.page.is_visible("#demo-start")
    visit.page.close()

    visit = Visit(browser, site)
    answers = [None, "", "{}", "null", '{"classes": ["happy"]}', "<html>Sign in</html>"]  # not there, or not ours
    left = iter(answers)

    def answer(route: Route) -> None:
        body = next(left)
        route.abort() if body is None else route.fulfill(body=body)

    visit.page.route("**/model.json", answer)
    for _ in answers:
        visit.page.evaluate("document.getElementById('demo-status').textContent = ''")
        visit.page.click("#demo-start")
        visit.wait_for("status", "The demo could not be loaded")
        assert visit.page.is_enabled("#demo-start")
    visit.page.close()


@pytest.mark.parametrize("file", ["model.json", "network.onnx", "ort.wasm.min.mjs*", "ort-wasm-simd-threaded.mjs*"])
def test_after_a_failed_load_the_button_works_again(browser: Browser, site: str, file: str) -> None:
    visit = Visit(browser, site)
    failures: list[Route] = []

    def fail(route: Route) -> None:
        failures.append(route)
        route.abort()

    visit.page.route(f"**/{file}", fail, times=1)
    visit.page.click("#demo-start")
    visit.wait_for("status", "The demo could not be loaded")
    assert failures
    visit.page.click("#demo-start")
    visit.wait_for("status", "Eileen Collins: one face")
    visit.page.close()
