"""The questions of a chapter: what is written, what a reader gets, and what an author is told."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from bs4.element import Tag

TOOLS = Path(__file__).parents[2] / "book" / "_tools"


@pytest.fixture(scope="module")
def questions() -> Any:
    import sys

    spec = importlib.util.spec_from_file_location("book_questions", TOOLS / "questions.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


QUIZ = """# Page

```{quiz} Which *one*?
- [ ] This. — No: **it** is
  not.
- [x] That. — Right, $x$.
```

```{predict} What will happen?
- Nothing
- Something
```
"""


def build(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[BeautifulSoup, str]:
    """A page of this text, built by Sphinx, and the warnings."""
    import io

    from sphinx.application import Sphinx

    monkeypatch.syspath_prepend(str(TOOLS))
    (folder / "index.md").write_text(text)
    warnings = io.StringIO()
    settings = {"extensions": ["myst_parser", "questions"], "myst_enable_extensions": ["dollarmath"]}
    app = Sphinx(folder, None, folder / "html", folder / "trees", "html", settings, status=None, warning=warnings)
    app.build()
    return BeautifulSoup((folder / "html" / "index.html").read_text(), "html.parser"), warnings.getvalue()


@pytest.mark.filterwarnings("ignore")  # Sphinx's and docutils' own
def test_reader_gets_each_choice_with_its_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    html, warnings = build(QUIZ, tmp_path, monkeypatch)
    assert not warnings
    quiz, guess = html.select(".question")
    assert "quiz" in quiz["class"]
    wrong, right = quiz.select("details.choice")
    assert wrong.summary.get_text(strip=True) == "This."
    assert [part.get_text() for part in wrong.select("p, .visually-hidden")] == ["Not quite:", "No: it is not."]
    assert isinstance(wrong.p, Tag)
    assert wrong.p.strong
    assert "right" in right["class"]
    assert right.select_one(".math")
    assert not quiz.select("[open]")  # nobody sees an answer before choosing

    assert "predict" in guess["class"]
    names = {radio["name"] for radio in guess.select("label input[type=radio]")}
    assert len(names) == 1
    assert [label.get_text(strip=True) for label in guess.select("label")] == ["Nothing", "Something"]
    assert guess.fieldset
    assert guess.fieldset.legend


def test_no_question_contains_code() -> None:
    """A backtick in the first line of a fence ends the fence, and the choices become a list of tasks."""
    for page in TOOLS.parent.rglob("*.md"):
        for line in page.read_text().splitlines():
            assert not (line.startswith(("```{quiz}", "```{predict}")) and "`" in line[3:]), f"{page.name}: {line}"


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("quiz", ["- [x] Only. — Right."], "at least two choices"),
        ("quiz", ["- A. — No.", "- [x] B. — Yes."], "mark each choice"),
        ("quiz", ["- [ ] A.", "- [x] B. — Yes."], "needs a reply"),
        ("quiz", ["- [ ] A. — No.", "- [ ] B. — No."], "exactly one"),
        ("quiz", ["- [x] A. — Yes.", "- [x] B. — Yes."], "exactly one"),
        ("predict", ["- Only"], "at least two choices"),
        ("predict", ["- [x] A", "- B"], "no right answer"),
    ],
)
def test_author_is_told_what_is_wrong(questions: Any, name: str, choices: list[str], message: str) -> None:
    error = getattr(questions, f"{name}_error")(questions.read_choices(choices))
    assert message in error


def test_a_line_outside_of_the_list_is_an_error(questions: Any) -> None:
    with pytest.raises(ValueError, match="neither a choice"):
        questions.read_choices(["- [x] A. — Yes.", "B"])
    assert questions.read_choices(["", "- A", "", "- B"])[1].text == "B"


@pytest.mark.filterwarnings("ignore")
def test_a_broken_question_is_a_warning_of_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, warnings = build(QUIZ.replace("[x]", "[ ]"), tmp_path, monkeypatch)
    assert "quiz: exactly one choice must be right" in warnings
