"""What the results pages say in numbers comes from records: a measured number is computed, never typed."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
READS_RECORDS = re.compile(r"from fertools\.(records|evaluation\.(comparisons|tables)) import")
# A percentage in the prose; "{glue:text}`...` %" has no digits, and code and formulas are taken out before.
PERCENTAGE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?: to \d+(?:\.\d+)?)?\s*(?:%|percent\b|points?\b)")
LEVELS = {"0", "50", "95", "100"}  # of intervals and tests, and the ends of a scale
NOT_MEASURED = {"fer2013": {"70", "72", "97"}, "synthetic": {"30", "60"}}  # supposed in an exercise, or aimed at


def prose(page: Path) -> str:
    """The Markdown of a page, without code, formulas and roles."""
    cells = [cell.source for cell in jupytext.read(page).cells if cell.cell_type == "markdown"]
    text = re.sub(r"^(```|\$\$).*?^\1", "", "\n\n".join(cells), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`|\$[^$]*\$", "", text)


def percentages(text: str) -> set[str]:
    return {match.group(1) for match in PERCENTAGE.finditer(text)}


RESULTS = [page for page in sorted((ROOT / "book").glob("*.md")) if READS_RECORDS.search(page.read_text())]


def test_a_typed_number_is_seen() -> None:
    found = percentages("It reaches 71.3 %, 4 points more, and 81.2 to 83.0 percent of the rest.")
    assert found == {"71.3", "4", "81.2"}
    assert not percentages("Three of 10 folds; 48x48 pixels; seed 0, width 16 in chapter 7.")


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_no_measured_number_is_typed(page: Path) -> None:
    stated = pd.read_csv(ROOT / "data" / "paper_results.csv")["accuracy"].dropna()
    allowed = LEVELS | {f"{value:.2f}" for value in stated} | {f"{value:g}" for value in stated}
    typed = percentages(prose(page)) - allowed - NOT_MEASURED.get(page.stem, set())
    assert not typed, f"{page.name} says {sorted(typed)} percent or points in its prose: compute it, or use glue"
