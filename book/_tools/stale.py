"""Before a build: delete the outputs of the pages that would produce different ones today.

Jupyter Book stores the outputs of an executed page and reuses them as long as the page's cells are
unchanged. But a page depends on more than its cells. So each page gets a digest of

- the source of every module of the project that it imports, directly or through another one,
- the files that the strings in its cells name: a path relative to the page, a data set, a run,
- Python and the installed packages,

and where that differs from the digest of the last build, the page's outputs and its parsed text are
deleted, so that ``execute.py`` executes it again. Contents count, never modification times. Imports are
found by parsing, without running anything, so that an import inside a function counts as well.

What appears on every page (configuration, table of contents, theme files) has its own digest: if that
changes, all pages are written again, with their stored outputs.

    python book/_tools/stale.py [ROOT]
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import jupytext
from jupyter_cache import get_cache

PACKAGE = "fertools"
DATA = "data"


def code(page: Path) -> str:
    """The Python of a page's cells, without IPython's own lines (``%`` and ``!``)."""
    cells = [cell.source for cell in jupytext.read(page).cells if cell.cell_type == "code"]
    return re.sub(r"^\s*[%!].*$", "", "\n".join(cells), flags=re.MULTILINE)


def imports(source: str) -> set[str]:
    """The dotted names that a source imports; some may be functions, not modules."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    # To import a.b.c is to import a and a.b as well.
    return {".".join(name.split(".")[:k]) for name in names for k in range(1, name.count(".") + 2)}


def modules(root: Path, page: Path, source: str) -> dict[str, Path]:
    """The project's modules that a page needs, by name: in the library or next to the page, with their own imports."""
    found: dict[str, Path] = {}
    ask = imports(source)
    while ask:
        name = ask.pop()
        paths = [base.joinpath(*name.split(".")) for base in (root, page.parent)]
        candidates = [f for path in paths for f in (path / "__init__.py", path.with_suffix(".py"))]
        file = next(filter(Path.is_file, candidates), None)
        if file is not None and name not in found:
            found[name] = file
            ask |= imports(file.read_text(encoding="utf-8"))
    return found


def places(root: Path, page: Path, source: str) -> dict[str, list[Path]]:
    """The files that the strings of a page name, by path; an empty list where a path does not exist yet."""
    sets: dict[str, str] = {}
    if (root / PACKAGE / DATA).is_dir():
        from fertools.data import PLACES as sets
    data = root / DATA
    found: dict[str, list[Path]] = {}
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if not text or len(text) > 200 or "\n" in text:
            continue
        for path in (page.parent / text, data / sets.get(text, text), data / "runs" / text):
            path = path.resolve()
            # data/ as a whole is only where sets are searched for; the sets that are named count.
            if path.exists() and path != data and root in path.parents and path not in page.parents:
                found[str(path.relative_to(root))] = sorted(files(path))
            elif text.startswith("../") and not path.exists():
                found[text] = []
    return found


def files(path: Path) -> Iterator[Path]:
    """The file, or all in the folder except hidden ones (caches) and those of an unfinished run."""
    if path.is_file():
        yield path
    for file in path.rglob("*") if path.is_dir() else ():
        hidden = any(part.startswith((".", "__")) for part in file.relative_to(path).parts)
        if file.is_file() and not hidden and not file.name.startswith(("checkpoint.", "events.")):
            yield file


@cache
def hashed(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def environment() -> list[str]:
    """Python and every installed package, with their versions; the library itself counts through its source."""
    installed = {f"{d.name}=={d.version}" for d in distributions() if d.name != PACKAGE}
    return [sys.version, *sorted(installed)]


def page_digest(root: Path, page: Path, installed: list[str]) -> str:
    """Changes exactly when something changes that the page imports or reads."""
    source = code(page)
    of_modules = {name: hashed(file) for name, file in modules(root, page, source).items()}
    of_files = {
        name: [(str(f.relative_to(root)), hashed(f)) for f in found]
        for name, found in places(root, page, source).items()
    }
    return digest(installed, of_modules, of_files)


def site_digest(root: Path, installed: list[str]) -> str:
    """Changes when something changes that appears on pages that did not change themselves."""
    shared: Iterable[Path] = [root / "_config.yml", root / "_toc.yml", *sorted(root.glob("book/_static/**/*"))]
    tools = sorted(root.glob("book/_tools/*.py"))
    return digest(installed, [(str(f.relative_to(root)), hashed(f)) for f in [*shared, *tools] if f.is_file()])


def notebooks(root: Path) -> list[Path]:
    """The pages with cells. The sources of the labs, in a folder of their own, aren't pages."""
    pages = sorted((root / "book").glob("*.md"))
    return [page for page in pages if page.read_text(encoding="utf-8").startswith("---\njupytext:")]


def forget(root: Path) -> list[str]:
    """Deletes what is stale and stores today's digests. Returns the pages whose outputs were deleted."""
    root = root.resolve()
    build = root / "_build"
    note = build / "digests.json"
    before: dict[str, str] = json.loads(note.read_text()) if note.exists() else {}
    installed = environment()
    now = {str(page.relative_to(root)): page_digest(root, page, installed) for page in notebooks(root)}
    now["site"] = site_digest(root, installed)

    if before.get("site") != now["site"]:
        shutil.rmtree(build / "html", ignore_errors=True)
        shutil.rmtree(build / ".doctrees", ignore_errors=True)
    dropped = set()
    kept = get_cache(build / ".jupyter_cache")
    for record in kept.list_cache_records():
        page = str(Path(record.uri).relative_to(root)) if root in Path(record.uri).parents else record.uri
        if before.get(page) != now.get(page) or page not in now:
            kept.remove_cache(record.pk)
            (build / ".doctrees" / page).with_suffix(".doctree").unlink(missing_ok=True)  # Sphinx reads it again
            dropped.add(page)
    build.mkdir(exist_ok=True)
    note.write_text(json.dumps(now, indent=1) + "\n")
    return sorted(dropped)


if __name__ == "__main__":
    pages = forget(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("Pages with stale outputs:", ", ".join(pages) or "none")
