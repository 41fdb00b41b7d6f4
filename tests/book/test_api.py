"""The API reference names every module that people use."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
INNER = {"data.cache"}  # called by the readers alone
PACKAGES = {"data", "models", "render"}  # whose docstring is on a page; rendering has its own command


def test_every_public_module_is_in_the_reference() -> None:
    files = [file for file in (ROOT / "fertools").rglob("[!_]*.py") if file.parent.name != "render"]
    modules = {".".join(file.relative_to(ROOT / "fertools").with_suffix("").parts) for file in files}
    pages = "\n".join(page.read_text() for page in ROOT.glob("book/api*.md"))
    named = set(re.findall(r"automodule:: fertools\.([\w.]+)", pages))
    assert modules - INNER == named - PACKAGES
