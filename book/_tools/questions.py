"""A Sphinx extension: two kinds of questions for readers, which work without JavaScript.

``quiz`` has one right answer. Each choice unfolds to a reply, which says why it is right or wrong::

    ```{quiz} Why does the sigmoid slow training down?
    - [ ] It adds parameters. — It has none.
    - [x] Its slope is at most 1/4. — Right. Seven fusions multiply seven such slopes.
    ```

``predict`` asks for a guess before a result is shown. The guess is marked, and the text that follows answers::

    ```{predict} Which of the two will train faster?
    - The one with the sigmoid
    - The one without
    ```

The question, the choices, and the replies are one paragraph each, in Markdown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ITEM = re.compile(r"- (?:\[(?P<mark>[ x])\] )?(?P<text>.*)")
DASH = " — "  # between a choice and its reply


@dataclass
class Choice:
    text: str
    right: bool | None  # None: not marked as either
    reply: str


def read_choices(lines: list[str]) -> list[Choice]:
    """The items of a Markdown list; lines after the first of an item are indented.

    Raises:
        ValueError: a line that belongs to no item.

    >>> read_choices(["- [x] Yes. — Right", "  indeed."])
    [Choice(text='Yes.', right=True, reply='Right indeed.')]
    """
    items: list[tuple[str | None, str]] = []
    for line in lines:
        if found := ITEM.fullmatch(line):
            items.append((found["mark"], found["text"]))
        elif line.startswith("  ") and items:
            mark, text = items[-1]
            items[-1] = mark, f"{text} {line.strip()}"
        elif line.strip():
            raise ValueError(f"a line that is neither a choice, `- ...`, nor indented: {line!r}")
    split = [(mark, *text.partition(DASH)) for mark, text in items]
    return [
        Choice(text.strip(), None if mark is None else mark == "x", reply.strip()) for mark, text, _, reply in split
    ]


def quiz_error(choices: list[Choice]) -> str | None:
    """What is wrong with the choices of a quiz, or None."""
    if len(choices) < 2:
        return "a quiz needs at least two choices"
    for choice in choices:
        if choice.right is None:
            return f"mark each choice as wrong, `- [ ]`, or right, `- [x]`: {choice.text!r}"
        if not choice.reply:
            return f"each choice needs a reply, after a dash with spaces, `{DASH}`: {choice.text!r}"
    if sum(bool(choice.right) for choice in choices) != 1:
        return "exactly one choice must be right, `- [x]`"
    return None


def predict_error(choices: list[Choice]) -> str | None:
    """What is wrong with the choices of a guess, or None."""
    if len(choices) < 2:
        return "a prediction needs at least two choices"
    marked = [choice.text for choice in choices if choice.right is not None]
    return f"a prediction has no right answer, so write `- ...`, not `- [ ] ...`: {marked[0]!r}" if marked else None


class Question(SphinxDirective):
    """What both directives share; a subclass renders the choices."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        try:
            choices = read_choices(list(self.content))
            error = self.error(choices)
        except ValueError as broken:
            error = str(broken)
        if error:
            return [self.state.document.reporter.warning(f"{self.name}: {error}", line=self.lineno)]
        block = nodes.container(classes=["question", self.name])
        block += self.render(choices)
        return [block]

    def error(self, choices: list[Choice]) -> str | None:
        raise NotImplementedError

    def render(self, choices: list[Choice]) -> list[nodes.Node]:
        raise NotImplementedError

    def paragraph(self, text: str, *classes: str) -> nodes.paragraph:
        return nodes.paragraph("", "", *self.inline(text), classes=list(classes))

    def inline(self, text: str) -> list[nodes.Node]:
        children, messages = self.state.inline_text(text, self.lineno)
        return [*children, *messages]


class Quiz(Question):
    def error(self, choices: list[Choice]) -> str | None:
        return quiz_error(choices)

    def render(self, choices: list[Choice]) -> list[nodes.Node]:
        parts: list[nodes.Node] = [self.paragraph(self.arguments[0], "question-text")]
        for choice in choices:
            kind, word = ("right", "Right") if choice.right else ("wrong", "Not quite")
            # The word is for people who can't see the mark; the text of the reply follows it.
            parts += [
                html(f'<details class="choice {kind}"><summary>'),
                nodes.inline("", "", *self.inline(choice.text)),
                html(f'</summary><span class="visually-hidden">{word}:</span>'),
                self.paragraph(choice.reply),
                html("</details>"),
            ]
        return parts


class Predict(Question):
    def error(self, choices: list[Choice]) -> str | None:
        return predict_error(choices)

    def render(self, choices: list[Choice]) -> list[nodes.Node]:
        name = f"predict-{self.env.new_serialno('predict')}"
        parts: list[nodes.Node] = [
            html("<fieldset><legend>What do you expect?</legend>"),
            self.paragraph(self.arguments[0], "question-text"),
        ]
        for choice in choices:
            parts += [
                html(f'<label><input type="radio" name="{name}"> '),
                nodes.inline("", "", *self.inline(choice.text)),
                html("</label>"),
            ]
        return [*parts, html("</fieldset>")]


def html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("quiz", Quiz)
    app.add_directive("predict", Predict)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
