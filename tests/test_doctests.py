"""The examples in the docstrings, run as they are written."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import fertools

PACKAGE = Path(fertools.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)


def test_there_are_examples_to_run() -> None:
    assert {"fertools.config", "fertools.network", "fertools.recipes", "fertools.models.registry"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_show(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # an example finds no data but the installed
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
