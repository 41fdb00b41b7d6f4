"""Checks that tell a student what is wrong.

A check is a function whose parameters are named after the objects that it examines. It passes by returning, and
fails by an assertion whose message says what to look at::

    check = Checks()

    @check
    def padding(same_padding):
        "A convolution with this padding keeps the size."
        assert same_padding(5) != 4, "the maps grow: ..."

In the notebook, ``check.padding(same_padding)`` prints one line or one paragraph; it never raises.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import textwrap
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

NOT_DONE = "not done yet. Replace `...` or `raise NotImplementedError` in the cell above with your own code."


class Checks(SimpleNamespace):
    """The checks of one lab: a decorator, and a namespace of the functions that it decorated."""

    def __init__(self) -> None:
        self._state: dict[str, str] = {}

    def __call__(self, function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__

        def run(*objects: Any) -> None:
            problem = examine(function, *objects)
            self._state[name] = "not yet" if problem else "passed"
            words = f"Not yet, {name}: {problem}" if problem else f"Passed, {name}: {inspect.getdoc(function)}"
            paragraphs = (textwrap.fill(line, 88) for line in words.splitlines())
            print("\n".join(paragraphs))

        self._state[name] = "not run"
        setattr(self, name, run)
        return function

    def report(self) -> None:
        """Prints the latest result of every check of the lab."""
        for name, state in self._state.items():
            print(f"{state:8} {name}")
        passed = list(self._state.values()).count("passed")
        print(f"{passed} of {len(self._state)} checks passed")


def examine(function: Callable[..., None], *objects: Any) -> str:
    """What is wrong with a student's code, in words; empty if nothing is."""
    if any(value is ... for value in objects):
        return NOT_DONE
    latest: dict[str, Any] = {}
    watched = [_watch(value, latest) if inspect.isfunction(value) else value for value in objects]
    try:
        with torch.random.fork_rng(devices=[]):  # the same result each time, whatever ran before
            torch.manual_seed(0)
            function(*watched)
    except Exception as error:
        if isinstance(error, NotImplementedError) and _raised_by_student(error):
            return NOT_DONE
        if 'missing the required "forward" function' in str(error):
            return "a class has no method forward. Is its name misspelled, or its def indented too far or too little?"
        for name, result in latest.items():
            if result is None:
                return f"{name} returns None. Is a return missing?"
        if isinstance(error, AssertionError):
            return str(error)
        return f"the code stopped with {type(error).__name__}: {error}\n{_where(error)}".rstrip()
    return ""


def _watch(function: Callable[..., Any], latest: dict[str, Any]) -> Callable[..., Any]:
    """The function, which also writes its name and the result of its latest call into ``latest``."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        latest.clear()
        result = function(*args, **kwargs)
        latest[function.__name__] = result
        return result

    return call


def _is_cell(frame: traceback.FrameSummary) -> bool:
    """Whether the code is in a cell of the student's notebook."""
    return frame.filename.startswith("<") or "ipykernel" in frame.filename


def _raised_by_student(error: Exception) -> bool:
    """Whether the line that raised the error is the student's own, and not one of PyTorch's."""
    return _is_cell(traceback.extract_tb(error.__traceback__)[-1])


def _where(error: Exception) -> str:
    """The student's line that raised the error, or how the check called it."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _is_cell(frame)]
    if theirs:
        line = linecache.getline(theirs[-1].filename, theirs[-1].lineno or 0).strip()
        return f"It was in {theirs[-1].name}, line {theirs[-1].lineno} of its cell: {line}"
    ours = [frame for frame in frames if frame.filename.endswith("_checks.py")]
    return f"The check was running: {ours[-1].line}" if ours else ""
