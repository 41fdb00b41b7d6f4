"""The API reference names every module that people use."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
INNER = {"cli", "data.cache"}  # the commands have a section of their own; the cache is nobody's concern


def test_every_public_module_is_in_the_reference() -> None:
    files = [*ROOT.glob("fertools/[!_]*.py"), *ROOT.glob("fertools/data/[!_]*.py")]
    modules = {".".join(file.relative_to(ROOT / "fertools").with_suffix("").parts) for file in files}
    pages = "\n".join(page.read_text() for page in ROOT.glob("book/api*.md"))
    named = set(re.findall(r"automodule:: fertools\.([\w.]+)", pages))
    assert modules - INNER == named - {"data", "render"}
