"""Makes the question bank's files for a course from ``book/quizzes``: ``python book/quizzes/make_quizzes.py``.

A bank is a Markdown file, ``PART.md``: a title; ``## NAME`` before the questions about ``book/NAME.md``; and questions,
``###``, whose choices are written as those of a chapter's quiz: ``- [x] right — reply``, ``- [ ] wrong — reply``. The
reply to a wrong choice says which mistake leads there.

The output, ``_build/labs/fertools-quizzes.zip``, has ``moodle.xml``, with a category for each part; ``PART.qti.zip``
for Canvas and others that read QTI 1.2; and ``self-test.ipynb``, where each choice unfolds to its reply.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import nbformat
from markdown_it import MarkdownIt
from nbformat.v4 import new_markdown_cell, new_notebook
from text2qti.config import Config
from text2qti.qti import QTI
from text2qti.quiz import Quiz

sys.path.insert(0, str(Path(__file__).parents[1] / "_tools"))
from archive import pack
from questions import Choice, quiz_error, read_choices  # the same parser as for the chapters' quizzes

HERE = Path(__file__).parent
PARTS = ("data", "network", "training", "measuring", "results", "use")  # in the book's order


@dataclass(frozen=True)
class Question:
    """A question about a chapter; the choices are in an order that doesn't give the right one away."""

    chapter: str
    text: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Bank:
    """The questions of one part of the book."""

    name: str
    title: str
    questions: tuple[Question, ...]

    @classmethod
    def read(cls, path: Path) -> Bank:
        """Reads ``PART.md``.

        Raises:
            ValueError: a question is before the first chapter, or its choices are not those of a quiz.
        """
        title, *chapters = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)
        found = []
        for chapter in chapters:
            name, *questions = re.split(r"^### ", chapter, flags=re.MULTILINE)
            for question in questions:
                text, *lines = question.split("\n")
                choices = read_choices(lines)
                if error := quiz_error(choices):
                    raise ValueError(f"{path}: {text!r}: {error}")
                random.Random(text).shuffle(choices)  # the same order each time, in all formats
                found.append(Question(name.strip(), text, tuple(choices)))
        if "### " in title or not found:
            raise ValueError(f"{path}: expected a title, ## and a chapter's name, and ### before each question")
        return cls(path.stem, title.strip().removeprefix("# "), tuple(found))


def html(text: str) -> str:
    """A line of Markdown as HTML."""
    return MarkdownIt().renderInline(text)


def moodle(banks: list[Bank]) -> bytes:
    """All banks in Moodle's XML, a category for each. Moodle shuffles the choices anew for each student."""
    quiz = ElementTree.Element("quiz")

    def add(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, tag, attributes)
        ElementTree.SubElement(element, "text").text = text
        return element

    for bank in banks:
        category = ElementTree.SubElement(quiz, "question", type="category")
        add(category, "category", f"$course$/fertools/{bank.title.replace('/', '//')}")
        for number, question in enumerate(bank.questions, 1):
            item = ElementTree.SubElement(quiz, "question", type="multichoice")
            add(item, "name", f"{bank.name} {number:02} ({question.chapter})")
            add(item, "questiontext", f"<p>{html(question.text)}</p>", format="html")
            for tag, value in {"defaultgrade": "1", "single": "true", "shuffleanswers": "true"}.items():
                ElementTree.SubElement(item, tag).text = value
            for choice in question.choices:
                fraction = "100" if choice.right else "0"
                answer = add(item, "answer", html(choice.text), fraction=fraction, format="html")
                add(answer, "feedback", html(choice.reply), format="html")
    ElementTree.indent(quiz)
    return ElementTree.tostring(quiz, encoding="utf-8", xml_declaration=True)


def qti(bank: Bank) -> bytes:
    """A bank as a QTI 1.2 package, by text2qti."""
    lines = [f"Quiz title: {bank.title}", "shuffle answers: true", ""]
    for question in bank.questions:
        lines.append(f"1. {question.text}")
        for letter, choice in zip("abcdef", question.choices, strict=False):
            lines += [f"{'*' if choice.right else ''}{letter}) {choice.text}", f"... {choice.reply}"]
        lines.append("")
    package = QTI(Quiz("\n".join(lines), config=Config(), source_name=f"{bank.name}.md"))
    with zipfile.ZipFile(io.BytesIO(package.zip_bytes())) as archive:
        return pack({name: archive.read(name) for name in archive.namelist()})


def notebook(banks: list[Bank]) -> bytes:
    """All banks as a notebook without code; a choice unfolds to its reply."""
    cells = [new_markdown_cell("# Test yourself\n\nChoose, and click: each choice unfolds to its reply.", id="title")]
    for bank in banks:
        cells.append(new_markdown_cell(f"## {bank.title}", id=bank.name))
        for number, question in enumerate(bank.questions, 1):
            parts = [f"**{number}.** {question.text}"]
            for choice in question.choices:
                mark = "✓" if choice.right else "✗"
                parts.append(f"<details><summary>{html(choice.text)}</summary>\n\n{mark} {choice.reply}\n\n</details>")
            cells.append(new_markdown_cell("\n\n".join(parts), id=f"{bank.name}-{number}"))
    return (nbformat.writes(new_notebook(cells=cells)) + "\n").encode()


def make(out: Path) -> Path:
    """Writes ``fertools-quizzes.zip`` into the folder ``out``, and returns its path."""
    banks = [Bank.read(HERE / f"{name}.md") for name in PARTS]
    files = {"moodle.xml": moodle(banks), "self-test.ipynb": notebook(banks)}
    files |= {f"{bank.name}.qti.zip": qti(bank) for bank in banks}
    out.mkdir(parents=True, exist_ok=True)
    path = out / "fertools-quizzes.zip"
    path.write_bytes(pack({f"fertools-quizzes/{name}": content for name, content in files.items()}))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=HERE.parents[1] / "_build" / "labs", help="the folder; default: _build/labs"
    )
    print(make(parser.parse_args().out))
