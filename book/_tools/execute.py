"""Before a build: execute the pages that need it, as many at once as there are processor cores.

Jupyter Book executes one page after the other. Here each page gets a kernel with a single computing
thread, so that pages never compete for a core, and the outputs go into the cache that Jupyter Book reads.
A page whose outputs are in the cache is left alone; ``stale.py`` removes what is out of date.

    python book/_tools/execute.py [ROOT] [--jobs N]

A page that fails is reported with the cell and its traceback. The others still run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_client import AsyncKernelManager
from kernels import ForkedKernel
from myst_nb.core.read import MystMetadataParsingError, read_myst_markdown_notebook
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from sphinx_external_toc.parsing import parse_toc_yaml

from fertools.inference.detection import available_cores

# Several threads that wait for each other by spinning stand still when another program needs their core.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

LONG = ("augmentation", "deployment", "failures", "ffm", "looks_at")  # start first, so that no core waits at the end


class PageError(Exception):
    """A page cannot be read or executed; the message says which cell, and why."""


def read(page: Path) -> NotebookNode:
    """The page as Jupyter Book reads it: the cache compares the cells.

    Raises:
        PageError: the header of a cell is not YAML.
    """
    try:
        notebook: NotebookNode = read_myst_markdown_notebook(page.read_text(encoding="utf-8"), path=page)
    except MystMetadataParsingError as error:
        raise PageError(f"{page.name}: {error}") from error
    return notebook


def pages(root: Path) -> list[Path]:
    """The pages with cells that the table of contents lists, in the order to execute them."""
    listed = [root / f"{name}.md" for name in parse_toc_yaml(root / "_toc.yml")]
    chapters = [page for page in listed if page.read_text(encoding="utf-8").startswith("---\njupytext:")]
    return sorted(chapters, key=lambda page: (page.stem not in LONG, -page.stat().st_size))


def is_cached(cache: JupyterCacheAbstract, notebook: NotebookNode) -> bool:
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def execute(page: Path, notebook: NotebookNode, limit: float, *, fork: bool) -> float:
    """Executes the notebook in place, in the page's folder. Returns the seconds that it took.

    Args:
        page: the notebook's file.
        notebook: its cells; they get their outputs.
        limit: seconds a cell may take.
        fork: start the kernel as a fork; see ``kernels.py``. It pays where many notebooks are executed.

    Raises:
        PageError: a cell failed or exceeded the limit.
    """
    at = 0

    def on_cell_start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal at
        at = cell_index

    start = time.monotonic()
    with TemporaryDirectory() as folder:
        # Sockets in a folder: over TCP a kernel warns of eavesdroppers.
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
        if fork and sys.platform == "linux":  # elsewhere, a process with such libraries must not fork
            manager.provisioner = ForkedKernel(kernel_id=page.name, kernel_spec=manager.kernel_spec, parent=manager)
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=limit,
            startup_timeout=limit,
            record_timing=False,  # times in the cells would make them others than the page's
            resources={"metadata": {"path": str(page.parent)}},
            on_cell_start=on_cell_start,
        )
        try:
            asyncio.run(client.async_execute(cleanup_kc=True))  # a loop of its own, which is closed afterward
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            number = sum(cell.cell_type == "code" for cell in notebook.cells[: at + 1])
            raise PageError(f"{page.name}, code cell {number}:\n{error}") from error
    return time.monotonic() - start


def main(root: Path, jobs: int) -> int:
    """Executes what is not in the cache. Returns the number of pages that failed."""
    root = root.resolve()
    cache = get_cache(root / "_build" / ".jupyter_cache")
    limit = yaml.safe_load((root / "_config.yml").read_text())["execute"]["timeout"]
    notebooks = {page: read(page) for page in pages(root)}
    waiting = {page: notebook for page, notebook in notebooks.items() if not is_cached(cache, notebook)}
    print(f"Pages to execute: {len(waiting)} of {len(notebooks)}, {jobs} at a time", flush=True)
    failures = 0
    with ThreadPoolExecutor(jobs) as pool:
        fork = len(waiting) > jobs
        running = {pool.submit(execute, page, cells, limit, fork=fork): page for page, cells in waiting.items()}
        for done, task in enumerate(as_completed(running), start=1):
            page = running[task]
            try:
                seconds = task.result()
            except PageError as error:
                failures += 1
                result = f"failed\n{error}\n"
            else:
                bundle = CacheBundleIn(waiting[page], str(page), data={"execution_seconds": seconds})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                result = f"{seconds:.0f} s"
            print(f"[{done:>2}/{len(waiting)}] {page.relative_to(root)}: {result}", flush=True)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Execute the pages that are not in Jupyter Book's cache.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="the folder of _config.yml")
    parser.add_argument("--jobs", type=int, default=available_cores(), help="pages at a time")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    try:
        sys.exit(1 if main(options.root, options.jobs) else 0)
    except PageError as error:
        sys.exit(str(error))
