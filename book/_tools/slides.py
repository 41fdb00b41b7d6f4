"""Makes the decks of slides from ``book/slides`` and the built pages: ``python book/_tools/slides.py``.

A deck is a Markdown file: a title, then slides that begin with ``---``. A slide may begin with ``figure: page#name``,
which is a figure of ``book/page.md``; then come its headline, ``## ...``, a few words, and after ``Notes:`` what the
teacher can say. A slide for a vote is one line, ``quiz: page#2``: the second question of ``book/page.md``, whose right
choice is marked one step later; the replies are its notes. Images and questions are those of the built book. The decks
go into ``_build/html/slides``, so they are published, and work offline, together with it.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from content_policy import HERE as HOSTS
from content_policy import POLICY
from markdown_it import MarkdownIt

BOOK = Path(__file__).parents[1]
BUILT = BOOK.parent / "_build" / "html"
VENDOR = "../_static/slides/vendor"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{vendor}/reset.css">
<link rel="stylesheet" href="{vendor}/reveal.css">
<link rel="stylesheet" href="../_static/slides/slides.css">
</head>
<body>
<main class="reveal"><div class="slides">
{slides}
</div></main>
<script src="{vendor}/reveal.js"></script>
<script src="{vendor}/notes.js"></script>
<script src="../_static/slides/start.js"></script>
</body>
</html>
"""


@dataclass(frozen=True)
class Slide:
    """One slide with a picture of a page, a question of a page, or neither."""

    headline: str
    words: str
    notes: str
    page: str = ""
    figure: str = ""
    quiz: int = 0  # which question of the page, from 1


def read(deck: Path) -> tuple[str, list[Slide]]:
    """A deck's title and its slides.

    Raises:
        ValueError: a slide is neither a question nor has a headline and notes.
    """
    title, *slides = re.split(r"^---\n", deck.read_text(), flags=re.MULTILINE)
    pattern = r"(?:figure: ([\w-]+)#([\w-]+)\n)?## ([^\n]+)\n(.*?)\nNotes: (.+)"
    found = []
    for text in slides:
        if question := re.fullmatch(r"quiz: ([\w-]+)#(\d+)", text.strip()):
            found.append(Slide("", "", "", question[1], quiz=int(question[2])))
            continue
        parts = re.fullmatch(pattern, text.strip(), re.DOTALL)
        if parts is None:
            raise ValueError(f"{deck}: expected figure, headline, words and Notes: in\n{text}")
        page, figure, headline, words, notes = ((part or "").strip() for part in parts.groups())
        found.append(Slide(headline, words, notes, page, figure))
    return title.strip().removeprefix("# "), found


@cache
def _page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def draw(slide: Slide, built: Path) -> str:
    """A slide as HTML.

    Raises:
        ValueError: the built page doesn't have the figure or the question.
    """
    markdown = MarkdownIt()
    page = _page(built / "book" / f"{slide.page}.html") if slide.page else None
    parts, notes = [], markdown.render(slide.notes)
    if slide.headline:
        parts.append(f"<h2>{markdown.renderInline(slide.headline)}</h2>")
    if slide.words:
        parts.append(f"<p>{markdown.renderInline(slide.words)}</p>")
    if page and slide.figure:
        image = page.select_one(f'[id="{slide.figure}"] img')
        if image is None:
            raise ValueError(f"book/{slide.page}.html has no figure {slide.figure}; build the book first: make book")
        address = (Path("../book") / str(image["src"])).as_posix().replace("../book/../", "../")
        parts.append(f'<figure><img data-src="{address}" alt="{escape(str(image["alt"]))}"></figure>')
    if page and slide.quiz:
        questions = page.select(".question.quiz")
        if not 1 <= slide.quiz <= len(questions):
            raise ValueError(f"book/{slide.page}.html has {len(questions)} questions, and no number {slide.quiz}")
        question, notes = _vote(questions[slide.quiz - 1])
        parts.append(question)
    if page:
        chapter = (page.select_one("h1") or page).get_text().strip().rstrip("#").strip()
        place = slide.figure or "check-your-understanding"
        parts.append(f'<p class="from"><a href="../book/{slide.page}.html#{place}">{escape(chapter)}</a></p>')
    return "\n".join(["<section>", *parts, f'<aside class="notes">{notes}</aside>', "</section>"])


def _vote(question: Tag) -> tuple[str, str]:
    """A question of a page, with its choices, and the replies to them."""
    choices, replies = [], []
    for choice in question.select("details"):
        kind = ' class="fragment right"' if "right" in choice["class"] else ""
        summary, reply = choice.select_one("summary"), choice.select_one("p")
        assert summary
        assert reply
        choices.append(f"<li{kind}>{summary.decode_contents()}</li>")
        spoken = re.sub(r"\\[()]|\\(?=[a-z])", "", reply.get_text())  # an equation as "log 7"
        replies.append(f"<li>{escape(spoken)}</li>")
    text = question.select_one(".question-text")
    assert text
    parts = [f"<h2>{text.decode_contents()}</h2>", '<ol type="A">', *choices, "</ol>"]
    return "\n".join(parts), f'<ol type="A">{"".join(replies)}</ol>'


def make(decks: Path, built: Path) -> list[Path]:
    """Writes every deck, and returns their paths."""
    policy = "; ".join(f"{kind} {sources}" for kind, sources in (POLICY | {"frame-src": HOSTS}).items())
    (built / "slides").mkdir(exist_ok=True)
    written = []
    for deck in sorted(decks.glob("*.md")):
        title, slides = read(deck)
        first = f"<section><h1>{escape(title)}</h1><p>A face in 2,304 pixels</p></section>"
        body = "\n".join([first, *(draw(slide, built) for slide in slides)])
        written.append(built / "slides" / f"{deck.stem}.html")
        written[-1].write_text(
            PAGE.format(policy=escape(policy), title=escape(title), vendor=VENDOR, slides=body), encoding="utf-8"
        )
    return written


if __name__ == "__main__":
    try:
        for path in make(BOOK / "slides", BUILT):
            print(path.relative_to(BOOK.parent))
    except (OSError, ValueError) as error:
        sys.exit(f"slides: {error}")
