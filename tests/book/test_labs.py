"""The labs: solutions pass, stubs fail, wrong answers fail with the explanation meant for them."""

from __future__ import annotations

import ast
import contextlib
import html
import importlib
import io
import json
import linecache
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from nbformat import NotebookNode
from toy import toy_faces

import fertools.data
import fertools.data.synthetic
import fertools.inference.export
from fertools.inference.export import export_onnx  # the function itself, which the labs don't get here

ROOT = Path(__file__).parents[2]
LABS = ROOT / "book" / "labs"
sys.path.insert(0, str(LABS))  # as in a student's folder, next to the notebook
make_labs = importlib.import_module("make_labs")


@cache
def term(seed: int) -> dict[str, Any]:
    """The labs of a seed."""
    return {lab.name: lab for lab in make_labs.labs(seed=seed)}


ALL = term(0)
ANSWERS = {  # what each check examines
    (lab.name, name): answers
    for lab in ALL.values()
    for kind, text in lab.cells
    if kind == "check"
    for name, answers in make_labs.checks_of(text)
}
CALLS = {  # how a notebook calls it
    (lab, name): f"check.{name}({', '.join(answers)})" for (lab, name), answers in ANSWERS.items()
}
CHECKS = list(CALLS)
CLASSES = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")


# --- Running a notebook in this process -------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _every_warning() -> Iterator[None]:
    """Some of PyTorch's warnings come once in a process: in whichever test is the first."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@contextlib.contextmanager
def student_desk() -> Iterator[None]:
    """The working directory, figures, and data of a notebook, with toys instead of the synthetic faces."""
    faces = toy_faces(96, CLASSES)
    rng = np.random.default_rng(0)
    attributes = pd.DataFrame({name: rng.random(len(faces)) for name in ("albedo", "yaw", "exposure")})
    attributes["occlusion"] = np.where(np.arange(len(faces)) % 3, "none", "hand")
    mpl.use("Agg")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        Path("data").symlink_to(ROOT / "data")
        patch.setattr(fertools.data, "load", lambda name: faces)
        patch.setattr(fertools.data.synthetic, "table", lambda part: attributes)
        patch.setattr(fertools.inference.export, "export_onnx", quick_export)
        yield


@cache
def onnx_file(run: Path) -> bytes:
    """What the library exports. It takes ten seconds, and is the same in every term."""
    with tempfile.TemporaryDirectory() as folder:
        return export_onnx(run, Path(folder, "network.onnx")).read_bytes()


def quick_export(run: Path, path: Path) -> Path:
    path.write_bytes(onnx_file(run.resolve()))
    return path


def run(code: str, names: dict[str, Any], where: str) -> str:
    """Runs a cell and returns what it printed; the source is there for messages and `inspect`."""
    linecache.cache[where] = (len(code), None, code.splitlines(keepends=True), where)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, where, "exec"), names)
    return said.getvalue()


def checks(lab: Any) -> ModuleType:
    """The module ``labN_checks``, as next to the notebook."""
    module = ModuleType(f"{lab.name}_checks")
    run(lab.checks, module.__dict__, f"{lab.name}_checks.py")
    sys.modules[module.__name__] = module
    return module


@cache
def went(lab: str, *, solved: bool, seed: int = 0) -> tuple[dict[str, Any], dict[str, str]]:
    """Runs a lab from top to bottom: its variables, and what each check said."""
    return work(term(seed)[lab], solved=solved, stops=solved)


def work(lab: Any, *, solved: bool, stops: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """``went`` of any lab; ``stops``: an error in a cell is one here, too."""
    checks(lab)
    names: dict[str, Any] = {"__name__": "__main__"}
    said: dict[str, str] = {}
    with student_desk():
        for i, cell in enumerate(lab.notebook(solved=solved).cells):
            if cell.cell_type != "code":
                continue
            where = f"<{lab.name} cell {i} {'solution' if solved else 'stub'}>"
            if cell.source.startswith("check.") and "report" not in cell.source:
                for call in cell.source.splitlines():
                    said[call[6 : call.index("(")]] = run(call, names, where)
                continue
            try:
                run(cell.source, names, where)
            except Exception:  # a cell that uses what a student has not written yet
                if stops:
                    raise
    return names, {name: flat(words) for name, words in said.items()}


def flat(words: str) -> str:
    return " ".join(words.split())


@pytest.mark.parametrize(("lab", "check"), CHECKS)
def test_solution_passes(lab: str, check: str) -> None:
    said = went(lab, solved=True)[1][check]
    assert said.startswith(f"Passed, {check}:"), said


@pytest.mark.parametrize(("lab", "check"), CHECKS)
def test_untouched_stub_is_said_to_be_not_done(lab: str, check: str) -> None:
    said = went(lab, solved=False)[1][check]
    assert said.startswith(f"Not yet, {check}: not done yet."), said


# --- Wrong answers ----------------------------------------------------------------------------

WRONG = [
    (lab, check, wrong["says"], wrong["change"])
    for lab, checks_of_lab in tomllib.loads(Path(__file__).with_name("wrong_answers.toml").read_text()).items()
    for check, wrongs in checks_of_lab.items()
    for wrong in wrongs
]


def ask(lab: str, check: str, changes: list[list[str]], seed: int = 0) -> str:
    """What a check says when each old text of the solution's cells is replaced by the new one."""
    cells = [make_labs.solution(text) for kind, text in term(seed)[lab].cells if kind == "code" and "# BEGIN" in text]
    wrong = list(cells)
    for old, new in changes:
        (at,) = (i for i, text in enumerate(wrong) if old in text)  # in one cell alone
        wrong[at] = wrong[at].replace(old, new)
    names = dict(went(lab, solved=True, seed=seed)[0])
    with student_desk():
        for i, text in enumerate(wrong):
            if text != cells[i]:
                run(text, names, f"<{lab} {check} {i}>")
        return flat(run(CALLS[lab, check], names, "<check>"))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong[0]}-{wrong[1]}-{wrong[2]}")
def test_wrong_answer_gets_the_explanation_meant_for_it(wrong: tuple[str, str, str, list[list[str]]]) -> None:
    lab, check, message, changes = wrong
    said = ask(lab, check, changes)
    assert said.startswith(f"Not yet, {check}:"), said
    assert message in said


@pytest.mark.xdist_group("lab1")
def test_page_quotes_what_a_check_says() -> None:
    """book/labs/index.md shows what a student reads after padding too much."""
    said = ask("lab1", "padding", [["(kernel - 1) // 2", "kernel - 1"]])
    assert said in flat((LABS / "index.md").read_text().replace("\n   > ", " "))


@pytest.mark.parametrize(("lab", "check"), CHECKS)
def test_every_check_has_three_wrong_answers(lab: str, check: str) -> None:
    assert sum(wrong[:2] == (lab, check) for wrong in WRONG) >= 3


RIGHT = [  # unlike the solution, but as good
    ("lab2", "repair", [["nn.BatchNorm2d(channels)", "nn.GroupNorm(1, channels)"], ["train(RepairedFusion)", "0.9"]]),
    ("lab3", "gray", [["np.rint(weighted).astype(np.uint8)", "cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)"]]),
    ("lab3", "gray", [["np.rint(weighted)", "np.floor(weighted + 0.5)"]]),
    ("lab4", "epoch", [["in batches:\n        loss", "in [*batches]:\n        loss"]]),
    (
        "lab4",
        "network",
        [
            ["self.norm = nn.BatchNorm2d(8)\n", "self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.3)\n"],
            ["F.dropout(x, 0.3, training=self.training)", "self.drop(x)"],
        ],
    ),
    (
        "lab7",
        "comparing",
        [["np.abs(candidate - reference).max()", "np.linalg.norm((candidate - reference).ravel(), np.inf)"]],
    ),
    ("lab7", "tolerance", [["TOLERANCE = 1e-3", "TOLERANCE = np.float32(2e-4)"]]),
    ("lab7", "scaling", [["round(-low / scale)", "np.clip(np.rint(-low / scale), 0, 255)"]]),
    ("lab7", "roundtrip", [["np.rint(values / scale) + zero_point", "np.floor(values / scale + zero_point + 0.5)"]]),
    ("lab7", "roundtrip", [["q.astype(float) - zero_point", "q.astype(np.int32) - zero_point"]]),
    (
        "lab7",
        "channels",
        [["np.abs(weight).max(axis=(1, 2, 3))", "np.linalg.norm(weight.reshape(len(weight), -1), np.inf, 1)"]],
    ),
    ("lab7", "paired", [["d.std() /", "d.std(ddof=1) /"]]),
    (
        "lab7",
        "timing",
        [
            [
                "for _ in range(warmup + rounds)",
                "[f() for f in [first] * warmup + [second] * warmup]\n    for _ in range(rounds)",
            ],
            ["(-1, 2))[warmup:]", "(-1, 2))"],
        ],
    ),
    ("lab7", "ratio", [["np.percentile(ratios, 90)", "np.sort(ratios)[int(0.9 * len(ratios))]"]]),
    (
        "lab7",
        "page",
        [
            [
                "gray.reshape(48, side // 48, 48, -1).mean(axis=(1, 3))",
                "cv2.resize(gray, (48, 48), interpolation=cv2.INTER_AREA)",
            ]
        ],
    ),
    ("lab7", "page", [["small.astype(np.float32)", "np.rint(small).astype(np.float32)"]]),
]


@pytest.mark.parametrize("right", RIGHT, ids=lambda right: f"{right[0]}-{right[1]}: {right[2][0][1]}")
def test_other_right_answers_pass(right: tuple[str, str, list[list[str]]]) -> None:
    said = ask(*right)
    assert said.startswith(f"Passed, {right[1]}:"), said


# --- From term to term ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("lab", ALL)
def test_solution_passes_in_every_term(lab: str, seed: int) -> None:
    said = went(lab, solved=True, seed=seed)[1]
    assert all(words.startswith("Passed") for words in said.values()), said


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("lab", ALL)
def test_answers_of_the_term_before_fail(lab: str, seed: int) -> None:
    """In every lab, those of seed 0 fail two checks or more with seed 1, and so do those of seed 1 with seed 2."""
    before, now = term(seed - 1)[lab].cells, term(seed)[lab]
    copied = [old if "# BEGIN SOLUTION" in new[1] else new for old, new in zip(before, now.cells, strict=True)]
    said = work(replace(now, cells=copied), solved=True, stops=False)[1]
    assert sum(not words.startswith("Passed") for words in said.values()) >= 2, said


@pytest.mark.parametrize("lab", ALL)
def test_wrong_answers_fail_in_another_term(lab: str) -> None:
    """All those whose text occurs there, most of the table."""
    known, passed = 0, []
    wrongs = [wrong for wrong in WRONG if wrong[0] == lab]
    for _, check, message, changes in wrongs:
        with contextlib.suppress(ValueError):  # the text isn't in one cell alone
            known += bool(said := ask(lab, check, changes, seed=1))
            passed += [(check, message)] * said.startswith("Passed")
    assert not passed
    assert known > len(wrongs) / 2


def test_a_seed_and_the_next_one_have_no_choice_in_common() -> None:
    text = "{{ x: 1 | 2 | 3 | 4 }} and {{ x }}, {{ y: a\n  b | c | d }}"
    found = [make_labs.drawn(text, seed) for seed in range(8)]
    assert found[:4] == ["1 and 1, a\n  b", "3 and 3, d", "4 and 4, c", "2 and 2, d"]
    assert len(set(found)) == 1 + 2 * 3
    for here, following in zip(found, found[1:], strict=False):
        assert not set(here.split(" and ")[1].split(", ")) & set(following.split(" and ")[1].split(", "))


@pytest.mark.parametrize("text", ["{{ x }}", "{{ x: 1 | 2 }}", "{{ x: 1 | 2 | 3 }} {{ x: 1 | 2 | 3 | 4 }}"])
def test_lists_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="three choices"):
        make_labs.drawn(text, 1)


# --- Mutants ----------------------------------------------------------------------------------

OPPOSITES: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Pow: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.And: ast.Or,
    ast.Eq: ast.NotEq,
    ast.In: ast.NotIn,
    ast.Lt: ast.LtE,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
WORDS = {
    "argmax": "argmin",
    "bottom": "top",
    "eval": "train",
    "left": "right",
    "max": "min",
    "mean": "sum",
    "ones": "zeros",
    "right": "left",
    "rint": "floor",
    "round": "int",
    "std": "var",
    "sum": "mean",
    "top": "bottom",
    "train": "eval",
    "zeros": "ones",
}


def but(node: ast.AST, **fields: Any) -> Any:
    """A copy of a node with other fields."""
    return type(node)(**(dict(ast.iter_fields(node)) | fields))


def fewer(items: list[Any]) -> list[list[Any]]:
    """The list without each of its items."""
    return [items[:i] + items[i + 1 :] for i in range(len(items))]


def variations(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """What could be there by mistake instead of a node of a syntax tree; ``names`` are the cell's variables."""
    match node:
        case ast.BinOp(left, op, right):
            yield from (left, right)
            if type(op) in OPPOSITES:
                yield but(node, op=OPPOSITES[type(op)]())
        case ast.Compare(left, [op], [right]):
            if type(op) in OPPOSITES:
                yield but(node, ops=[OPPOSITES[type(op)]()])
            if not isinstance(op, ast.Eq):
                yield but(node, left=right, comparators=[left])
        case ast.BoolOp(_, values):
            yield from (*values, but(node, op=ast.Or()))
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(float(value)):
            yield from (ast.Constant(value / 2), ast.Constant(value + 1))
        case ast.Call(func, args, keywords):
            yield from args[:1]
            if isinstance(func, ast.Attribute):
                yield func.value
            yield from (but(node, args=some) for some in (*fewer(args), args[::-1]))
            yield from (but(node, keywords=some) for some in fewer(keywords))
        case ast.Subscript(value, _, ast.Load()):
            yield value
        case ast.Slice():
            yield from (but(node, lower=None), but(node, upper=None))
        case ast.List(items) | ast.Tuple(items):
            yield from (but(node, elts=some) for some in (*fewer(items), items[::-1]))
        case ast.Attribute(_, name) if name in WORDS:
            yield but(node, attr=WORDS[name])
        case ast.Name(name, ast.Load()):
            if name in WORDS:
                yield ast.Name(WORDS[name])
            if name in names:
                yield from (ast.Name(other) for other in names if other != name)
        case ast.If(test):
            yield from (but(node, test=ast.UnaryOp(ast.Not(), test)), but(node, test=ast.Constant(True)))
        case ast.AugAssign(target, _, value):
            yield from (ast.Pass(), ast.Assign([target], value, lineno=node.lineno))
        case ast.Assign() | ast.Return() | ast.Expr(ast.Call()):  # not a docstring, which is an Expr, too
            yield ast.Pass()


def mutants(cell: str) -> dict[tuple[str, str], str]:
    """A cell's solution with one mistake at a time, by the line where it is: {(old line, new line): code}."""
    kinds = [kind for kind, _ in make_labs.parts(cell) if kind != "stub"]
    tree = ast.parse(make_labs.solution(cell))
    before, nodes = ast.unparse(tree).splitlines(), list(ast.walk(tree))
    parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names = sorted(parameters | stored)
    found = {}
    for parent in nodes:
        for field, value in ast.iter_fields(parent):
            for i, node in enumerate(value if isinstance(value, list) else [value]):
                if not hasattr(node, "lineno") or kinds[node.lineno - 1] != "solution":
                    continue
                for other in variations(node, names):
                    setattr(parent, field, [*value[:i], other, *value[i + 1 :]] if isinstance(value, list) else other)
                    code = ast.unparse(tree)
                    setattr(parent, field, value)
                    for old, new in zip(before, code.splitlines(), strict=True):
                        if old != new:
                            found[old.strip(), new.strip()] = code
    return found


def defined(cell: str) -> set[str]:
    """The names of a cell's functions, classes, and global variables."""
    body = ast.parse(make_labs.solution(cell)).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


def passes(code: str, names: dict[str, Any], calls: list[str]) -> bool:
    """Whether a cell runs and passes its checks. A warning doesn't stop a notebook, so it doesn't count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run(code, names, "<mutant>")
            return all(run(call, names, "<check>").startswith("Passed") for call in calls)
        except Exception:
            return False


@pytest.mark.parametrize("lab", ALL)
def test_every_mutant_fails_or_has_a_reason_to_pass(lab: str) -> None:
    """Makes some 3,000 mistakes in the solutions, one at a time, and asks the checks about each.

    All of them run in every test run: that takes about 20 seconds of one core. A mutant that passes shows a hole in
    the checks, unless it is in survivors.toml, with the reason why it may pass.
    """
    solved = went(lab, solved=True)[0] | {"train": lambda fusion: 0.9}  # not a second for each mutant of lab 2
    alive = set()
    with student_desk():
        for kind, text in ALL[lab].cells:
            if kind != "code" or "# BEGIN" not in text:
                continue
            own = defined(text)
            calls = [CALLS[check] for check, answers in ANSWERS.items() if check[0] == lab and own & set(answers)]
            before = {name: value for name, value in solved.items() if name not in own}
            alive |= {lines for lines, code in mutants(text).items() if passes(code, dict(before), calls)}
    reasons = tomllib.loads(Path(__file__).with_name("survivors.toml").read_text())[lab]
    listed = {(unparsed(old), unparsed(new)) for reason in reasons for old, new in reason["mutants"]}
    assert not alive - listed, "these wrong answers pass:\n" + shown(alive - listed)
    assert not listed - alive, "these don't pass, or don't occur, and need no reason:\n" + shown(listed - alive)


def unparsed(line: str) -> str:
    """A line as this version of Python writes it."""
    return ast.unparse(ast.parse(f"{line} pass" if line.endswith(":") else line)).splitlines()[0]


def shown(lines: set[tuple[str, str]]) -> str:
    """As in survivors.toml."""
    return "\n".join(f"  {json.dumps(pair)}," for pair in sorted(lines))


# --- What is written --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("labs")
    make_labs.make(out)
    return out


def secrets(lab: Any) -> set[str]:
    """The nontrivial lines of solutions and model answers that a student is not given anyway."""
    given = "\n".join(make_labs.stub(text) if kind == "code" else text for kind, text in lab.cells if kind != "answer")
    lines = [line for kind, text in lab.cells if kind == "code" for line in make_labs.solution_lines(text)]
    lines += [line for kind, text in lab.cells if kind == "answer" for line in text.splitlines()]
    return {line for line in lines if len(line) >= 20 and line not in given}


def test_no_solution_is_in_any_student_file(made: Path) -> None:
    with zipfile.ZipFile(made / "fertools-labs.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith((".ipynb", ".py", ".md", ".txt"))]
        texts = {name: archive.read(name).decode() for name in names}
    texts |= {path.name: path.read_text() for path in (made / "student").iterdir()}
    texts |= {page: (LABS / page).read_text() for page in ("index.md", "instructors.md")}
    for name, text in texts.items():
        if name.endswith(".ipynb"):
            texts[name] = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
    for lab in ALL.values():
        assert len(secrets(lab)) > 10
        shown = [(name, line) for name, text in texts.items() for line in secrets(lab) if line in text]
        assert not shown


def test_no_solution_is_in_the_published_pages(built: Path) -> None:
    """Neither shown, searched, nor downloaded. A line or two may also be in a chapter; three are a leak."""
    files = [path for path in built.rglob("*") if path.suffix in (".html", ".md", ".ipynb", ".txt", ".js")]
    assert (built / "book" / "labs" / "index.html") in files
    for path in files:
        text = html.unescape(path.read_text(errors="replace"))
        for lab in ALL.values():
            assert sum(line in text for line in secrets(lab)) < 3, (
                f"{path} contains a part of the solution of {lab.name}"
            )


def test_solution_is_in_the_solution(made: Path) -> None:
    for lab in ALL.values():
        notebook = nbformat.read(made / "solution" / f"{lab.name}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells)
        assert all(line in text for line in secrets(lab))
        assert "SOLUTION" not in text
        assert "STUB" not in text


def test_zip_contains_what_a_student_needs(made: Path) -> None:
    with zipfile.ZipFile(made / "fertools-labs.zip") as archive:
        names = {name.removeprefix("fertools-labs/") for name in archive.namelist()}
    expected = {
        "README.md",
        "requirements.txt",
        "checking.py",
        "fertools/network.py",
        "data/runs/cpu-fer2013/record.json",
    }
    assert expected | {f"{lab}{end}" for lab in ALL for end in (".ipynb", "_checks.py")} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_everybody_may_read_what_is_in_the_zip(made: Path) -> None:
    with zipfile.ZipFile(made / "fertools-labs.zip") as archive:
        assert {entry.external_attr >> 16 & 0o777 for entry in archive.infolist()} == {0o644}


@pytest.mark.parametrize("lab", ALL.values(), ids=lambda lab: lab.name)
def test_points_are_those_of_the_answers(lab: Any) -> None:
    """A lab's source states them once; its notebook, its autograder, and the lists in model answers agree."""
    answers = [text for kind, text in lab.cells if kind == "answer"]
    assert len(answers) == len(lab.points)
    cells = [cell.source for cell in lab.notebook(solved=False).cells]
    assert [cell for cell in cells if "Your answer" in cell] == [make_labs.EMPTY.format(n) for n in lab.points]
    questions = "\n".join(cell.source for cell in lab.otter().cells if cell.cell_type == "raw")
    assert [int(n) for n in re.findall(r"points: (\d+)\nmanual", questions)] == lab.points
    for text, points in zip(answers, lab.points, strict=True):
        _, found, listed = text.partition("One point each for:")
        assert listed.split(".")[0].count(";") + 1 == points if found else points == 3


@pytest.mark.xdist_group("lab5")
def test_verdicts_in_the_model_answer_of_lab_5_are_those_of_its_function() -> None:
    verdict = went("lab5", solved=True)[0]["verdict"]
    text = "\n".join(text for kind, text in ALL["lab5"].cells if kind == "answer")
    quoted = re.findall(r'\(([-+]\d\.\d) to ([-+]\d\.\d)\): "([a-z ]+)"', flat(text))
    assert len(quoted) == 2
    for low, high, word in quoted:
        assert verdict(float(low) / 100, float(high) / 100) == word


def test_requirements_name_what_the_labs_import(made: Path) -> None:
    """In a list without them, the first cell of lab 3 would stop; with other versions, a later one might."""
    expected = {"torch", "numpy", "matplotlib", "opencv-python-headless", "dlib-bin", "scikit-image", "jupyterlab"}
    expected |= {"onnx", "onnxscript", "onnxruntime"}
    lines = (made / "student" / "requirements.txt").read_text().splitlines()
    assert expected <= {line.split("==")[0] for line in lines}
    assert set(lines) <= set((ROOT / "constraints.txt").read_text().splitlines())


def test_same_seed_gives_the_same_files(made: Path, tmp_path: Path) -> None:
    for folder, seed in [("default", 0), ("once", 2027), ("again", 2027)]:
        make_labs.make(tmp_path / folder, seed=seed)
    names = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    default, once, again = (
        {name: (tmp_path / folder / name).read_bytes() for name in names} for folder in ("default", "once", "again")
    )
    assert default == {name: (made / name).read_bytes() for name in names}
    assert once == again
    assert {str(name) for name in names if once[name] != default[name]} >= {
        f"{kind}/{lab}{end}" for kind in ("student", "solution") for lab in ALL for end in (".ipynb", "_checks.py")
    }


def test_checks_are_fixed_and_notebooks_have_no_output(made: Path) -> None:
    for path in made.glob("s*/*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs")
            if cell.source.startswith("check.") and "report" not in cell.source:
                assert cell.metadata == {"editable": False, "deletable": False}


def packed(archive: Path, name: str) -> NotebookNode:
    """A notebook in a zip file."""
    with zipfile.ZipFile(archive) as zipped:
        return nbformat.reads(zipped.read(f"{archive.stem}/{name}").decode(), as_version=4)


def test_outputs_are_for_teachers_and_figures_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for real, in a kernel and a folder with its files: the solved lab 1. Made again, it isn't run again."""
    monkeypatch.setattr(make_labs, "labs", lambda seed: [ALL["lab1"]])
    for execute in (True, False):
        make_labs.make(tmp_path, execute=execute)
        notebook = packed(tmp_path / "fertools-labs-instructors.zip", "lab1.ipynb")
        (last,) = notebook.cells[-1].outputs
        assert "5 of 5 checks passed" in last.text
        student = packed(tmp_path / "fertools-labs.zip", "lab1.ipynb")
        assert not any(cell.get("outputs") for cell in student.cells)
    make_labs.preview(ALL["lab1"], notebook, tmp_path)
    page = (tmp_path / "lab1.md").read_text()
    assert [(tmp_path / name).exists() for name in re.findall(r"\(([\w-]+\.png)\)", page)] == [True, True]
    assert not [line for line in secrets(ALL["lab1"]) if line in page]
    assert all(cell.source in page for cell in student.cells[1:])


def test_a_lab_for_colab_gets_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, its first cell gets the branch with the labs; next to its checks, it does nothing."""
    address, beside, alone = "https://example.org/fertools", tmp_path / "beside", tmp_path / "alone"
    make_labs.launchable(ALL["lab3"], beside, address)
    notebook = nbformat.read(beside / "lab3.ipynb", as_version=4)
    nbformat.validate(notebook)
    setup, *rest = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert rest == [cell.source for cell in ALL["lab3"].notebook(solved=False).cells if cell.cell_type == "code"]
    assert {path.name for path in beside.iterdir()} == {"lab3.ipynb", "lab3_checks.py", "checking.py"}
    ran: list[list[Any]] = []

    def run(command: list[Any], check: bool) -> None:
        ran.append(command)
        if "clone" in command:
            shutil.copytree(beside, command[-1] / "book" / "labs" / "preview")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    alone.mkdir()
    for folder, commands in [(beside, 0), (alone, 2)]:
        monkeypatch.chdir(folder)
        exec(setup, {})
        assert len(ran) == commands
    assert Path("lab3_checks.py").exists()
    assert ran[0] == ["git", "clone", "--depth=1", "--branch=notebooks", address, alone / "fertools-book"]
    branch = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["branch"]
    assert f"--branch={branch}" in ran[0]
    pushed = re.findall(r"git push .* (\w+)", (ROOT / ".github" / "workflows" / "book.yml").read_text())
    assert pushed == [branch]


# --- The mechanism ----------------------------------------------------------------------------


def test_markers_that_do_not_fit_are_refused() -> None:
    for text in ("# END SOLUTION", "# BEGIN SOLUTION\nx = 1", "# STUB\n# x = 1", "# BEGIN SOLUTION\n# BEGIN SOLUTION"):
        with pytest.raises(ValueError, match="SOLUTION|STUB"):
            make_labs.stub(text)


def test_stub_text_replaces_the_solution() -> None:
    text = "def f():\n    # BEGIN SOLUTION\n    return 1\n    # STUB\n    # return 0  # no\n    # END SOLUTION\n# after"
    assert make_labs.stub(text) == "def f():\n    return 0  # no\n# after"
    assert make_labs.solution(text) == "def f():\n    return 1\n# after"


def test_a_check_names_the_line_that_stopped() -> None:
    checking = importlib.import_module("checking")
    names: dict[str, Any] = {}
    run("def f():\n    return 1 / 0", names, "<student>")

    def calls(f: Any) -> None:
        f()

    said = checking.examine(calls, names["f"])
    assert (
        said
        == "the code stopped with ZeroDivisionError: division by zero\nIt was in f, line 2 of its cell: return 1 / 0"
    )


def test_otter_assigns_what_is_written_for_it(made: Path, tmp_path: Path) -> None:
    assign = pytest.importorskip("otter.assign", reason="otter-grader is not installed")
    for lab in ALL:
        master, result = made / "otter" / lab / f"{lab}.ipynb", tmp_path / lab
        assign.main(str(master), str(result), no_pdfs=True, no_run_tests=True)
        student = nbformat.read(tmp_path / lab / "student" / f"{lab}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in student.cells)
        assert not [line for line in secrets(ALL[lab]) if line in text]
