"""The capstone: its sweeps can be run in an hour, its forms are checked, and its example says what the records say."""

from __future__ import annotations

import importlib.util
import re
import sys
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jupytext
import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from fertools.evaluation.claims import check_text, numbers
from fertools.evaluation.comparisons import operations
from fertools.recipes import recipe
from fertools.records import Record
from fertools.training.sweeps import Sweep

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "data" / "runs"
PAGE = ROOT / "book" / "capstone.md"
FOLDER = ROOT / "book" / "capstone"
SWEEPS = [Sweep.read(path) for path in sorted((FOLDER / "claims").glob("*.toml"))]
FORM, REPORT = FOLDER / "example_preregistration.md", FOLDER / "example_report.md"


def load(path: Path) -> ModuleType:
    """A script of the book as a module."""
    spec = importlib.util.spec_from_file_location(f"capstone_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for dataclasses
    spec.loader.exec_module(module)
    return module


register = load(FOLDER / "register.py")


# --- The claims --------------------------------------------------------------------------------


def core_minutes(sweep: Sweep) -> float:
    """What a sweep takes on one core like that of the records: proportional to epochs and operations."""
    measured = {"synthetic": "fusion-seeds/fusion-weighted*", "synthetic-sequences": "ckplus48-subject/fold-*"}[
        sweep.data
    ]
    records = [Record.load(path) for path in sorted(RUNS.glob(measured))]
    an_epoch = np.median([record.seconds / 60 / len(record.history) for record in records])

    @cache  # a sweep has many runs of few networks
    def macs(network: Any) -> int:
        config = replace(recipe("cpu-fer2013"), network=network).to_dict()
        return operations(SimpleNamespace(identity={"config": config}, classes=range(8)))

    base = macs(recipe("cpu-fer2013").network)  # the network of those records
    return sum(an_epoch * run.config.epochs * macs(run.config.network) / base for run in sweep.runs)


def test_there_are_eight_claims() -> None:
    assert len(SWEEPS) == 8


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.name)
def test_sweep_fits_into_an_hour_of_two_cores(sweep: Sweep) -> None:
    assert core_minutes(sweep) <= 120


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.name)
def test_sweep_trains_what_nobody_has_seen_and_has_pairs(sweep: Sweep) -> None:
    seeds = {run.seed for run in sweep.runs}
    assert min(seeds) >= 10
    known = {record.parent.name for record in RUNS.rglob("record.json")}
    assert not known & {run.name for run in sweep.runs if "seed" in run.name}
    assert len(sweep.runs) % len(seeds) == 0


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.name)
def test_page_says_how_many_runs_a_sweep_has(sweep: Sweep) -> None:
    (row,) = (line for line in PAGE.read_text().splitlines() if f"(capstone/claims/{sweep.name}.toml) |" in line)
    assert numbers(row)[-1] == str(len(sweep.runs))


def test_rubric_has_a_hundred_points() -> None:
    rubric = PAGE.read_text().split("## How it is graded")[1]
    assert sum(int(points) for points in re.findall(r"^\| [^|]+: (\d+) \|", rubric, re.MULTILINE)) == 100


# --- The forms ---------------------------------------------------------------------------------


def test_empty_form_and_report_lack_every_section() -> None:
    for name, number in [("preregistration.md", 10), ("report.md", 6 + 6 + 1)]:  # the summary, the rest, and the title
        text = (FOLDER / name).read_text()
        assert len(register.missing(text, text)) == number


@pytest.fixture
def form(tmp_path: Path) -> Path:
    """A complete form of a group."""
    path = tmp_path / "form.md"
    path.write_text(FORM.read_text())
    return path


def test_complete_form_is_frozen_once(form: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register.main([str(form)])
    assert capsys.readouterr().out == "Complete.\n"
    register.main([str(form), "--freeze"])
    said = capsys.readouterr().out
    assert re.fullmatch(r"[0-9a-f]{64}  form\.md  \d{4}-\d\d-\d\d \d\d:\d\d UTC\n", said)
    assert form.with_suffix(".sha256").read_text() == said
    with pytest.raises(SystemExit, match="is already frozen"):
        register.main([str(form), "--freeze"])


def test_line_ends_of_another_system_give_the_same_hash(form: Path) -> None:
    before = register.digest(register.read(form))
    form.write_bytes(form.read_bytes().replace(b"\n", b"\r\n"))
    assert register.digest(register.read(form)) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("One point. Weighted fusion", "TODO Weighted fusion", "'5. Smallest difference that matters' isn't filled in"),
        ("## 7. Stopping rule\n", "", "'7. Stopping rule' is missing"),
        (
            "We stop when all nine runs have finished. Nobody opens a record before.",
            "",
            "'7. Stopping rule' isn't filled",
        ),
    ],
)
def test_incomplete_form_is_not_frozen(form: Path, old: str, new: str, message: str) -> None:
    assert old in form.read_text()
    form.write_text(form.read_text().replace(old, new))
    with pytest.raises(SystemExit, match=message):
        register.main([str(form), "--freeze"])
    assert not form.with_suffix(".sha256").exists()


def test_report_belongs_to_its_form(form: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="isn't frozen"):
        register.main([str(form), "--report", str(REPORT)])
    register.freeze(form)
    register.main([str(form), "--report", str(REPORT)])
    assert capsys.readouterr().out == "Complete.\n"

    other = tmp_path / "report.md"
    other.write_text(re.sub(r"[0-9a-f]{64}", "", REPORT.read_text()) + "more " * 900)
    with pytest.raises(SystemExit, match=r"doesn't quote the form's SHA-256(.|\n)*two pages have about 1,100"):
        register.main([str(form), "--report", str(other)])
    form.write_text(form.read_text().replace("One point.", "Two points."))
    with pytest.raises(SystemExit, match="was changed after it was frozen"):
        register.main([str(form), "--report", str(REPORT)])


def test_form_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"form\.md can't be read: No such file"):
        register.main([str(tmp_path / "form.md")])


# --- The example -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the cells of the page define: the power, and the analysis."""
    mpl.use("Agg")
    names: dict[str, Any] = {}
    for cell in jupytext.read(PAGE).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    return names


@pytest.fixture(scope="module")
def phrases(page: dict[str, Any]) -> list[tuple[str, tuple[float, ...]]]:
    """Every measured number of the example, with what the records say."""
    runs = {
        k: [RUNS / "fusion-seeds" / f"fusion-{k}_seed-{s}" for s in range(3)]
        for k in ("weighted", "concatenate", "add")
    }
    accuracies = {name: [page["accuracy"](run) for run in folders] for name, folders in runs.items()}
    records = {name: [Record.load(run) for run in folders] for name, folders in runs.items()}
    minutes = [record.seconds / 60 for group in records.values() for record in group]
    compare, power = page["compare"], page["power"]
    rival = compare(runs["weighted"], runs["concatenate"])
    plain = compare(runs["weighted"], runs["add"])
    two = compare(*([runs[name][seed] for seed in (0, 2)] for name in ("weighted", "add")))
    for found in (rival, plain, two):
        assert page["verdict"](*found[1:], smallest=1) == "cannot tell"
    gaps = np.subtract(accuracies["weighted"], accuracies["concatenate"])
    reach = page["t"].ppf(0.975, 2) * gaps.std(ddof=1) / np.sqrt(3)
    ablation = {
        n: page["accuracy"](RUNS / "synthetic-ablations" / f"{n}_seed-0") for n in ("baseline", "fusion-concatenate")
    }
    validation = [epoch["validation_accuracy"] for epoch in records["add"][1].history]
    assert validation[3:] == [0.125] * 5
    assert min(validation[:3]) > 0.3
    assert (np.array(accuracies["weighted"]) > [accuracies["concatenate"], accuracies["add"]]).all()
    assert not Record.load(RUNS / "synthetic-ablations" / "baseline_seed-0").environment["bf16"]
    return [
        ("Nine trainings of about 6 minutes", (np.median(minutes),)),
        ("is 1.5 points. With three pairs", (page["ONE_PAIR"],)),
        ("the power to see one point is 11 %. It is 82 % only for five points", (100 * power(1, 3), 100 * power(5, 3))),
        ("the accuracy of guessing, 12.5 %", (100 / 8,)),
        ("58 minutes of one core in total", (sum(minutes),)),
        ("was 1.8 points ahead of concatenation (95 % interval -0.8 to 4.5)", (rival[0], 95, *rival[1:])),
        ("and 20.4 points ahead of addition (-50.7 to 91.5)", plain),
        ("more than 0.8 points worse than concatenation", (-rival[1],)),
        ("with weighted fusion they have 525,519 parameters, with concatenation 525,504, and with addition 512,016",
         tuple(group[0].parameters for group in records.values())),
        ("| weighted | 92.0 | 92.5 | 92.9 |", tuple(accuracies["weighted"])),
        ("| concatenation | 90.9 | 90.5 | 90.5 |", tuple(accuracies["concatenate"])),
        ("| addition | 87.5 | 39.1 | 89.6 |", tuple(accuracies["add"])),
        ("| concatenation | 1.8 | -0.8 to 4.5 |", rival),
        ("| addition | 20.4 | -50.7 to 91.5 |", plain),
        ("PublicTest was at 12.5 %", (100 * validation[-1],)),
        ("end 4.5 and 3.3 points below their partners",
         tuple(accuracies["weighted"][s] - accuracies["add"][s] for s in (0, 2))),
        ("An interval from two pairs, -7.3 to 15.1 points", two[1:]),
        ("better than concatenation (0.2 to 3.5)", (gaps.mean() - reach, gaps.mean() + reach)),
        ("concatenation is 1.5 points ahead", (ablation["fusion-concatenate"] - ablation["baseline"],)),
        ("That is 40 runs, four hours of one core", (2 * 20,)),
    ]  # fmt: skip


def test_example_says_what_the_records_say(phrases: list[tuple[str, tuple[float, ...]]]) -> None:
    text = " ".join((FORM.read_text() + REPORT.read_text()).split())
    for phrase, values in phrases:
        assert phrase.lower() in text.lower(), phrase
        check_text(phrase, *values)


def test_no_measured_number_of_the_example_is_unchecked(phrases: list[tuple[str, tuple[float, ...]]]) -> None:
    checked = {number for phrase, _ in phrases for number in numbers(phrase)} | {"95"}
    text = " ".join(re.sub(r"```.*?```", "", FORM.read_text() + REPORT.read_text(), flags=re.DOTALL).split())
    text = re.sub(r"sections? \d(\.\d)?( and \d\.\d)?", "", text)
    measured = re.findall(r"(?<![\w.])-?\d+\.\d+(?![.\w])|\d+(?= %| points)", text)
    assert measured
    assert not set(measured) - checked


def test_forty_runs_are_four_hours_and_twenty_pairs_see_a_point(page: dict[str, Any]) -> None:
    minutes = np.median([record.seconds / 60 for record in map(Record.load, sorted((RUNS / "fusion-seeds").glob("*")))])
    assert 3.5 < 40 * minutes / 60 < 4.5
    assert page["power"](1, 20) > 0.8


# --- What students get -------------------------------------------------------------------------


def test_zip_has_the_capstone_and_its_notebook_runs_there(tmp_path: Path) -> None:
    load(ROOT / "book" / "labs" / "make_labs.py").make(tmp_path / "labs")
    with zipfile.ZipFile(tmp_path / "labs" / "fertools-labs.zip") as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "fertools-labs"
    links = re.findall(r"\]\((capstone/[\w/.]+)\)", (folder / "capstone.ipynb").read_text())
    assert len(set(links)) >= 3 + len(SWEEPS)
    assert not [link for link in links if not (folder / link).is_file()]
    notebook = nbformat.read(folder / "capstone.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "cannot tell" in said
