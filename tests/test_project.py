"""The files around the library agree with each other, and nothing is tracked that must not be."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from fertools import __version__
from fertools.evaluation.claims import check_text
from fertools.evaluation.tables import folds_table, results_table
from fertools.records import Record

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEVELOPERS = {"test", "book", "labs"}  # extras that the library does not import

CONDA = {
    "build": "python-build",
    "dlib-bin": "dlib",
    "opencv-python-headless": "opencv",
    "ray": "ray-core",
    "torch": "pytorch",
}  # from pip's names
IMPORTS = {  # from the name that is imported to pip's; cycler is part of Matplotlib's interface
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "cycler": "matplotlib",
    "dlib": "dlib-bin",
    "sklearn": "scikit-learn",
}
THROUGH = {"onnxscript": "torch.onnx"}  # PyTorch imports it for us


def bounds(lines: list[str]) -> dict[str, SpecifierSet]:
    """The version bounds of each package, by its normalized name."""
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r.specifier for r in requirements if r.name != PROJECT["name"]}


def expanded(extra: str) -> set[str]:
    """The packages of an extra, and of the extras that it names."""
    found = set()
    for line in PROJECT["optional-dependencies"][extra]:
        wanted = Requirement(line)
        if wanted.name == PROJECT["name"]:
            found |= {name for inner in wanted.extras for name in expanded(inner)}
        else:
            found.add(canonicalize_name(wanted.name))
    return found


EXTRAS = {extra: expanded(extra) for extra in PROJECT["optional-dependencies"]}
CORE = set(bounds(PROJECT["dependencies"]))
EVERYTHING = PROJECT["dependencies"] + [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
SOURCES = {file.relative_to(ROOT): file.read_text() for file in sorted((ROOT / "fertools").rglob("*.py"))}


def package(module: str) -> str:
    """pip's name for what ``import module`` needs."""
    name = module.split(".")[0]
    return IMPORTS.get(name, name)


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """The packages of other people that the nodes import, also by ``require("module", "extra")``."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif required := requirement(node):
            found.add(required[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            found |= {str(name.value) for name in node.args if isinstance(name, ast.Constant)}
    return {package(name) for name in found if name.split(".")[0] not in sys.stdlib_module_names | {"fertools"}}


def requirement(node: ast.AST) -> tuple[str, str] | None:
    """Module and extra of a call of ``errors.require``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
        module, extra = node.args
        if isinstance(module, ast.Constant) and isinstance(extra, ast.Constant):
            return str(module.value), str(extra.value)
    return None


IMPORTED = {name for source in SOURCES.values() for name in imports(ast.walk(ast.parse(source)))}


def test_every_import_of_the_library_is_a_dependency() -> None:
    of_users = {name for extra, names in EXTRAS.items() if extra not in DEVELOPERS for name in names}
    assert CORE | of_users >= IMPORTED


def test_every_dependency_of_the_library_is_imported() -> None:
    of_users = {name for extra, names in EXTRAS.items() if extra not in DEVELOPERS for name in names}
    unused = (CORE | of_users) - IMPORTED
    assert unused == THROUGH.keys()
    for name in unused:
        assert any(THROUGH[name] in source for source in SOURCES.values()), name


def test_a_plain_install_can_import_every_module_but_those_that_draw() -> None:
    """Packages of extras are imported where they are used, and then with the extra's name."""
    optional = {name for names in EXTRAS.values() for name in names} - CORE
    for file, source in SOURCES.items():
        tree = ast.parse(source)
        if file.name not in ("plots.py", "diagrams.py"):
            assert not imports(tree.body) & optional, file
        for node in ast.walk(tree):
            if required := requirement(node):
                module, extra = required
                assert package(module) in EXTRAS[extra], f"{file}: {module} is not in the extra {extra}"


def test_all_is_every_extra_for_users() -> None:
    users = EXTRAS.keys() - DEVELOPERS - {"all"}
    assert EXTRAS["all"] == {name for extra in users for name in EXTRAS[extra]}


def test_constraints_pin_every_dependency_within_its_bounds() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = bounds(lines)
    for name, specifier in pins.items():
        assert [s.operator for s in specifier] == ["=="], f"{name} is not pinned"
        assert "+" not in str(specifier), f"{name} is pinned to a build that only some hosts have"
    for name, wanted in bounds(EVERYTHING).items():
        (pin,) = pins[name]
        assert wanted.contains(Version(pin.version)), f"{name}{wanted} does not allow {pin}"


def test_conda_environment_has_the_same_packages_and_bounds() -> None:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (by_pip,) = (line for line in lines if isinstance(line, dict))
    found = bounds([line for line in lines if isinstance(line, str)] + by_pip["pip"])
    assert found.pop("python") == SpecifierSet(PROJECT["requires-python"])
    found.pop("pip")
    assert found == {CONDA.get(name, name): wanted for name, wanted in bounds(EVERYTHING).items()}


def test_binder_installs_the_checkout(tmp_path: Path) -> None:
    """Binder makes the environment of environment.yml, which lacks fertools itself, and then runs postBuild."""
    (tmp_path / "pip").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n')
    (tmp_path / "pip").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([ROOT / "postBuild"], cwd=ROOT, env=os.environ | {"PATH": path}, check=True)
    assert (tmp_path / "said").read_text() == "install --no-deps -e .\n"


def test_citation_has_the_version_and_license_of_the_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Hirota", "Dai", "Jia"]


def test_readme_names_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(code(ROOT / "README.md"))))
    assert {"test", "book"} <= named <= targets


def test_readme_python_runs() -> None:
    (lines,) = (block for block in code(ROOT / "README.md") if "import torch" in block)
    names: dict[str, object] = {}
    exec(lines, names)
    assert names["scores"].shape == (1, 7)  # type: ignore[attr-defined]


def test_the_list_of_runs_shows_what_the_records_contain(tracked: list[str]) -> None:
    """Every line is computed from a record, and every tracked record has its line."""
    readme = (ROOT / "data" / "runs" / "README.md").read_text()
    for mark, table, file in [("results", results_table, "record.json"), ("folds", folds_table, "groups.json")]:
        shown = readme.split(f"<!-- {mark} -->\n")[1].split(f"\n<!-- /{mark} -->")[0].splitlines()
        wanted = table(ROOT / "data" / "runs").splitlines()
        kept = [line for line in wanted[2:] if f"data/runs/{line.split('`')[1]}/{file}" in tracked]
        right = "\n".join(wanted[:2] + kept)
        assert "\n".join(shown) == right, f"put this between the marks {mark} in data/runs/README.md:\n{right}"


def test_readme_prose_has_the_records_numbers() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())

    def state(phrase: str, value: float) -> None:
        assert phrase in text
        check_text(phrase, 100 * value)

    def accuracy(run: str, test_set: str) -> float:
        return Record.load(run, ROOT / "data" / "runs").metrics[test_set]["single-crop"]["accuracy"]

    pixels = json.loads((ROOT / "data" / "ckplus48_pixels.json").read_text())["accuracy"]["image"]
    votes = pd.read_csv(ROOT / "data" / "ferplus_predictions.csv").query("run == 'wide-fer2013'").sum(numeric_only=True)
    state("similar training image gets 98.5 %", pixels["nearest neighbor"])
    state("accuracy stays at 25.3 % on CK+", accuracy("ckplus48-literal/fold-0", "fold"))
    state("the same network reaches 87.9 %", accuracy("ckplus48-paper-image/fold-0", "fold"))
    state("own label to 62.4 % of the test images", votes["label_is_choice"] / votes["images"])
    state("Our network gets 68.0 %", accuracy("wide-fer2013", "PrivateTest"))


def code(page: Path) -> list[str]:
    """The fenced blocks and the code spans of a Markdown page."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return blocks + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def test_paper_results_are_the_papers() -> None:
    table = pd.read_csv(ROOT / "data" / "paper_results.csv")
    assert table.groupby("table").size().to_dict() == {"Table 1": 11, "Table 2": 14, "Section 3.3": 5}
    overall = table[table["class"].isna()]
    for dataset, best, second in [("FER2013", 72.67, 72.56), ("CK+", 96.00, 95.90)]:  # section 3.4
        ranked = overall[overall["dataset"] == dataset].sort_values("accuracy", ascending=False)
        assert ranked["accuracy"].tolist()[:2] == [best, second]
        assert ranked["method"].iloc[0] == "Proposed method"
    classes = table[table["class"].notna() & (table["dataset"] == "FER2013")]
    assert classes.set_index("class")["accuracy"].to_dict() == {"happy": 87, "surprise": 82}
    assert table["accuracy"].isna().equals(table["note"].notna())  # a number, or the paper's words for it


# --- What git tracks ---------------------------------------------------------------------------

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp"}
PICKLES = {".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
# Never a photograph of a data set: two portraits in the public domain; all under data/synthetic is rendered,
# and SHA256SUMS lists it.
PORTRAITS = {f"book/_static/demo/samples/{name}.jpg" for name in ("collins", "hopper")}
RENDERED = {"book/_static/faces.png"}  # book/_tools/faces_picture.py draws it from the synthetic faces
RENDERED |= {  # book/_tools/play_faces.py
    f"book/_static/play/{kind}-{person}.webp" for kind in ("covers", "faces", "person") for person in range(1, 6)
}


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files in git, and those that `git add .` would put there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: nothing tells which files are tracked")
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def test_no_tracked_file_is_large(tracked: list[str]) -> None:
    large = [name for name in tracked if (ROOT / name).stat().st_size > 5 << 20]
    assert not large, f"over 5 MiB: {large}"


def test_no_image_is_tracked_but_those_listed(tracked: list[str]) -> None:
    sums = (ROOT / "data/synthetic/SHA256SUMS").read_text().splitlines()
    rendered = {f"data/synthetic/{line.split('  ', 1)[1]}" for line in sums}
    found = {name for name in tracked if Path(name).suffix.lower() in IMAGES}
    assert found == PORTRAITS | RENDERED | {name for name in rendered if Path(name).suffix in IMAGES}


def test_no_pickle_is_tracked(tracked: list[str]) -> None:
    assert not [name for name in tracked if Path(name).suffix.lower() in PICKLES]


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("data/fer2013/fer2013.csv", True),
        ("data/CK+/Emotion/x.txt", True),
        ("data/CK+48/happy/x.png", True),
        ("data/ferplus/fer2013new.csv", True),
        ("data/runs/a/checkpoint.safetensors", True),
        ("data/runs/a/record.json", False),
        ("data/runs/a/predictions.npz", False),
        ("data/runs/a/model.safetensors", False),
        ("fertools/data/faces.py", False),
        ("weights.pth", True),
    ],
)
def test_git_ignores_data_sets_and_unfinished_runs(tracked: list[str], path: str, ignored: bool) -> None:
    found = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT, check=False)
    assert (found.returncode == 0) == ignored
