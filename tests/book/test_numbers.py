"""What a chapter says in numbers is held to what was measured.

Each phrase that a cell checks is on the page; on the pages that read records no measured percentage is left unchecked.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import jupytext
import pandas as pd
import pytest

from fertools.evaluation.claims import numbers

ROOT = Path(__file__).parents[2]
READS_RECORDS = re.compile(r"from fertools\.(records|evaluation\.(comparisons|tables)) import")
PERCENTAGE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?: to \d+(?:\.\d+)?)?\s*(?:%|percent\b|points?\b)")
LEVELS = {"0", "50", "95", "100"}  # of intervals and tests, and the ends of a scale
# Supposed in an exercise or a question, aimed at, or measured by others; by page.
NOT_MEASURED: dict[str, set[str]] = {
    "calibration": {"25", "80"},
    "fer2013": {"72", "97"},
    "fer2013_results": {"72.6", "90"},
    "uncertainty": {"5", "70", "80"},
}


def squeeze(text: str) -> str:
    return " ".join(text.split())


@cache
def cells(page: Path) -> list[tuple[str, str, dict[str, object]]]:
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in jupytext.read(page).cells]


def text_of(page: Path) -> str:
    """All that a page says: its Markdown and the captions of its figures."""
    captions = [meta.get("mystnb", {}).get("figure", {}).get("caption", "") for _, _, meta in cells(page)]  # type: ignore[attr-defined]
    return squeeze("\n".join([source for kind, source, _ in cells(page) if kind == "markdown"] + captions))


def prose(page: Path) -> str:
    """The page's Markdown without what states nothing: code, formulas, quizzes, and questions."""
    text = "\n\n".join(source for kind, source, _ in cells(page) if kind == "markdown")
    text = re.sub(r"^(`{3,}|\$\$).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return squeeze(re.sub(r"`[^`]*`|\$[^$]*\$", "", text))


def phrases(page: Path) -> set[str]:
    """The phrases that the page's cells check."""
    code = "\n".join(source for kind, source, _ in cells(page) if kind == "code")
    calls = [node for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", code, flags=re.MULTILINE)))]
    named = [c for c in calls if isinstance(c, ast.Call) and isinstance(c.func, ast.Name) and c.func.id == "check_text"]
    first = [c.args[0] for c in named]
    assert all(isinstance(a, ast.Constant) and isinstance(a.value, str) for a in first), (
        "check_text needs its text typed"
    )
    return {squeeze(a.value) for a in first if isinstance(a, ast.Constant)}


CHAPTERS = [p for p in sorted((ROOT / "book").glob("*.md")) if p.read_text().startswith("---\njupytext:")]
RESULTS = [page for page in CHAPTERS if READS_RECORDS.search(page.read_text())]


def test_a_typed_number_is_seen() -> None:
    found = {m.group(1) for m in PERCENTAGE.finditer("It reaches 71.3 %, 4 points more, and 81.2 to 83.0 percent.")}
    assert found == {"71.3", "4", "81.2"}
    assert not PERCENTAGE.findall("Three of 10 folds; 48x48 pixels; seed 0, width 16 in chapter 7.")


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_what_a_cell_checks_is_on_the_page(page: Path) -> None:
    missing = [phrase for phrase in phrases(page) if phrase not in text_of(page)]
    assert not missing, f"{page.name} checks phrases that it doesn't contain: {missing}"


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_no_measured_percentage_is_unchecked(page: Path) -> None:
    stated = pd.read_csv(ROOT / "data" / "paper_results.csv")["accuracy"].dropna()
    allowed = LEVELS | {f"{value:.2f}" for value in stated} | {f"{value:g}" for value in stated}
    checked = {number for phrase in phrases(page) for number in numbers(phrase)}
    typed = {match.group(1) for match in PERCENTAGE.finditer(prose(page))}
    left = typed - allowed - checked - NOT_MEASURED.get(page.stem, set())
    assert not left, f"{page.name} says {sorted(left)} percent or points without a check_text that holds them"
