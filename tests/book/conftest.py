from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HTML = Path(__file__).parents[2] / "_build" / "html"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--built", action="store_true", help="test the pages that `make book` has just built")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all tests of a lab, which share what its notebook computes, or all of the written files."""
    for item in items:
        if item.path.name == "test_labs.py":
            lab = re.search(r"\[(lab\d)", item.name)
            if lab or "made" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(lab[1] if lab else "made"))


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> Path:
    """The folder of the built pages. Without --built they may be older than the sources, or missing."""
    if not request.config.getoption("--built", False):
        pytest.skip("tests the built pages: `make book` and `make check` run it")
    return HTML


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def serve() -> Callable[[Path], AbstractContextManager[str]]:
    """A plain static server of a folder, for the length of a ``with``: its address, with a slash at the end."""
    return _server


@pytest.fixture(scope="session")
def served(built: Path) -> Iterator[str]:
    """The built pages on a plain static server."""
    with _server(built) as address:
        yield address


@pytest.fixture(scope="session")
def executable() -> str:
    """The system's Chromium or Chrome; Playwright's own is never downloaded."""
    pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is installed")
    return found


@pytest.fixture(scope="session")
def chromium(executable: str) -> Iterator[Browser]:
    from playwright import sync_api as playwright

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()
