"""The wheel, installed in an empty environment and used in an empty folder, as a new user does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import Path

import pytest

from fertools import __version__

ROOT = Path(__file__).parents[1]
SHIPPED = "fertools/shipped/"
SHIPPED_PARTS = (
    "data/synthetic/",
    "data/sweeps/",
    "data/ferplus_",
    "data/runs/cpu-fer2013/",
    "data/runs/wide-fer2013/",
)
IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}

pytestmark = pytest.mark.xdist_group("wheel")  # built once, by one process


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """What Git tracks, or would with `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a Git checkout")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, tracked: set[str]) -> tuple[Path, Path]:
    """The wheel and the source archive, built from a copy with research data placed where users place it."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked:
        if name.split("/")[0] not in ("book", "tests"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    for name in (
        "fer2013/fer2013.csv",
        "fer2013/icml_face_data.csv",
        "CK+/cohn-kanade-images/S005/001/S005_001_00000001.png",
        "CK+48/happy/S010_004_00000017.png",
        "ferplus/fer2013new.csv",
        "facekit/ict_facekit_basis.npz",
        "runs/wide-fer2013/checkpoint.safetensors",
        "runs/mine/model.safetensors",
        "synthetic/.ckplus.cache.npz",
        "fer2013.csv",
    ):
        (source / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "data" / name).write_text("must not be passed on")
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_is_small_and_has_what_it_needs(archives: tuple[Path, Path]) -> None:
    wheel, sdist = archives
    assert wheel.name == f"fertools-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 25e6
    assert sdist.stat().st_size < 25e6
    names = set(zipfile.ZipFile(wheel).namelist())
    files = ("record.json", "predictions.npz", "model.safetensors")
    runs = {f"{SHIPPED}runs/{run}/{name}" for run in ("cpu-fer2013", "wide-fer2013") for name in files}
    assert runs | {"fertools/py.typed", f"{SHIPPED}synthetic/Training.jpg", f"{SHIPPED}paper_results.csv"} <= names


def test_the_archives_have_what_git_tracks_and_nothing_else(archives: tuple[Path, Path], tracked: set[str]) -> None:
    wheel, sdist = archives
    shipped = {name for name in tracked if name.startswith(SHIPPED_PARTS)} | {
        "data/ckplus48_pixels.json",
        "data/fer2013_audit.json",
        "data/paper_results.csv",
    }
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    in_wheel = {name for name in in_wheel if not name.startswith(f"fertools-{__version__}.dist-info/")}
    as_in_source = {name.replace(SHIPPED, "data/", 1) if name.startswith(SHIPPED) else name for name in in_wheel}
    code = {name for name in tracked if name.startswith("fertools/")}
    assert as_in_source == shipped | code
    top = {"PKG-INFO", "pyproject.toml", ".gitignore", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    with tarfile.open(sdist) as opened:
        in_sdist = {name.partition("/")[2] for name in opened.getnames()}
    assert in_sdist == shipped | code | top


def test_every_shipped_image_is_a_synthetic_face(archives: tuple[Path, Path]) -> None:
    """No image of a research data set: each has its checksum in the data card's list."""
    lines = [line.split(maxsplit=1) for line in (ROOT / "data/synthetic/SHA256SUMS").read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    with zipfile.ZipFile(archives[0]) as wheel:
        images = [name for name in wheel.namelist() if Path(name).suffix.lower() in IMAGES]
        assert len(images) > 100
        for name in images:
            inside = name.removeprefix(f"{SHIPPED}synthetic/")
            assert hashlib.sha256(wheel.read(name)).hexdigest() == listed[inside], name
        for name in wheel.namelist():  # FER2013's images are in tables, as text
            if name.endswith(".csv"):
                assert "pixels" not in wheel.read(name).decode().splitlines()[0].lower(), name


def test_metadata(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[0]) as wheel:
        found = HeaderParser().parsestr(wheel.read(f"fertools-{__version__}.dist-info/METADATA").decode())
    assert found["Version"] == __version__
    extras = "all book explain export faces labs plots ray render tensorboard test"
    assert sorted(found.get_all("Provides-Extra", [])) == extras.split()
    unconditional = {line for line in found.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert not [line for line in unconditional if line.startswith(("dlib", "opencv", "captum", "onnx", "matplotlib"))]


Shell = Callable[..., str]


@pytest.fixture(scope="module")
def shell(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs a command in an empty folder, in a virtual environment with the wheel.

    The environment takes all other packages from the one the tests run in, after its own; what is
    installed there as `fertools` (this checkout) is out of its sight, since .pth files count only in
    an environment's own folder.
    """
    home = tmp_path_factory.mktemp("new-user")
    environment = tmp_path_factory.mktemp("venv")
    venv.create(environment, with_pip=False, symlinks=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    install = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install"]
    install += ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(archives[0])]
    subprocess.run(install, check=True)
    scheme = {"base": str(environment), "platbase": str(environment)}
    own = Path(sysconfig.get_path("purelib", vars=scheme))
    theirs = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "dependencies.pth").write_text("\n".join(theirs))
    hidden = ("FERTOOLS_DATA", "FERTOOLS_RUNS", "PYTHONPATH", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables["PATH"] = f"{scripts}{os.pathsep}{variables['PATH']}"

    def run(*words: str, code: int = 0, folder: Path = home) -> str:
        program = shutil.which(words[0], path=str(scripts)) or words[0]
        done = subprocess.run(
            [program, *words[1:]], cwd=folder, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    found = run("python", "-c", "import fertools; print(fertools.__file__)")
    assert Path(found.strip()).is_relative_to(own)
    return run


def test_help_and_version(shell: Shell) -> None:
    assert "Exit codes" in shell("fertools", "--help")
    assert __version__ in shell("fertools", "--version")


def test_predict_labels_a_photo(shell: Shell, tmp_path: Path) -> None:
    from PIL import Image
    from skimage import data

    Image.fromarray(data.astronaut()).save(tmp_path / "photo.jpg")
    (face,) = json.loads(shell("fertools", "predict", "photo.jpg", "--json", folder=tmp_path))["faces"]
    assert face["label"] == "happy"


def test_a_pretrained_predictor_and_the_public_names(shell: Shell) -> None:
    shell(
        "python",
        "-c",
        "from fertools import MultiScaleFusionNet, NetworkConfig, Predictor, __version__, load, train\n"
        "assert len(Predictor.from_pretrained().classes) == 7",
    )


def test_train_writes_to_runs_and_the_run_can_be_used(shell: Shell, tmp_path: Path) -> None:
    tiny = ["--epochs=1", "--batch-size=128", "--set=network.width=2,2", "--set=network.scales=12,24"]
    tiny += ["--set=network.units=1", "--set=network.hidden=4"]
    shell("fertools", "train", *tiny, "--minutes=0.0001", code=75, folder=tmp_path)
    out = shell("fertools", "train", "--resume", "cpu-synthetic", folder=tmp_path)
    assert "cpu-synthetic: cpu-synthetic on synthetic" in out
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    record = json.loads((tmp_path / "runs" / "cpu-synthetic" / "record.json").read_text())
    assert record["environment"]["version"] == __version__
    assert record["environment"]["commit"] is None  # that of a repository around the environment is not ours
    assert "PublicTest" in shell("fertools", "evaluate", "cpu-synthetic", "--split", "PublicTest", folder=tmp_path)


def test_compare_and_data(shell: Shell) -> None:
    out = shell("fertools", "compare")
    assert "72.67 %" in out
    assert "wide-fer2013" in out
    out = shell("fertools", "data")
    assert "synthetic: 10,000 images" in out
    assert "fer2013: not available" in out
