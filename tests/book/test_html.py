"""The built pages: links, images, notebooks to download, and nothing from another host."""

from __future__ import annotations

import gzip
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
PAGES = [str(page.relative_to(HTML)) for page in sorted(HTML.rglob("*.html")) if "_static" not in page.parts]
# What a browser fetches by itself, unlike the address of a link that somebody may follow.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page: Path) -> set[str]:
    return {str(tag.get("id") or tag.get("name")) for tag in soup(page).select("[id], a[name]")}


def test_every_page_of_the_contents_is_there(built: Path) -> None:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    named = re.findall(r"'(?:file|root)': '([^']+)'", str(contents))
    assert named
    assert not [name for name in named if not (built / f"{name}.html").exists()]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_lead_somewhere(built: Path, page: str) -> None:
    lost = []
    for tag in soup(built / page).select("a[href], link[href], img[src], script[src]"):
        address = str(tag.get("href") or tag.get("src"))
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or address in ("", "#"):
            continue
        target = (built / page).parent / unquote(parts.path) if parts.path else built / page
        anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            lost.append(address)
    assert not lost


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_fetched_from_another_host(built: Path, page: str) -> None:
    html = soup(built / page)
    addresses = [str(tag[name]) for kind, name in FETCHED.items() for tag in html.find_all(kind) if tag.get(name)]
    links = html.select("link[href]:not([rel=canonical], [rel=next], [rel=prev])")
    addresses += [str(tag["href"]) for tag in links]
    addresses += re.findall(r"""(?:import\(|from|fetch\()\s*["']([^"']+)["']""", str(html.select("script:not([src])")))
    assert not [address for address in addresses if re.match(r"(https?:)?//", address)]


def test_no_style_is_fetched_from_another_host(built: Path) -> None:
    foreign = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']+""")
    found = {str(sheet.relative_to(built)): foreign.findall(sheet.read_text()) for sheet in built.rglob("*.css")}
    assert found
    assert not {sheet: addresses for sheet, addresses in found.items() if addresses}


@pytest.mark.parametrize("page", PAGES)
def test_images_say_what_they_show(built: Path, page: str) -> None:
    silent = [
        str(image)[:120]
        for image in soup(built / page).find_all("img")
        if not str(image.get("alt", "")).strip() or re.search(r"\.(png|svg|jpg)$|^_?images/", str(image["alt"]))
    ]
    assert not silent


@pytest.mark.parametrize("page", PAGES)
def test_no_cell_failed_or_complained(built: Path, page: str) -> None:
    html = soup(built / page)
    assert not html.select(".output.traceback")
    assert not [tag.get_text()[:200] for tag in html.select(".output.stderr")]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_with_cells_has_its_notebook_to_download(built: Path, page: str) -> None:
    source = (ROOT / page).with_suffix(".md")
    if not (source.exists() and source.read_text().startswith("---\njupytext:")):
        return
    (link,) = soup(built / page).select("a[title='Download notebook file']")
    notebook = ((built / page).parent / str(link["href"])).resolve()
    assert notebook.read_bytes() == source.with_suffix(".ipynb").read_bytes()
    nbformat.validate(nbformat.read(notebook, nbformat.NO_CONVERT))


@pytest.mark.parametrize("page", PAGES)
def test_launch_buttons_open_files_of_the_repository(built: Path, page: str) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    repository, branch = config["url"], config["branch"]
    links = soup(built / page).select("a[href*='mybinder.org'], a[href*='colab.research']")
    if not repository:
        assert not links
    owner = "/".join(repository.rstrip("/").split("/")[-2:])
    for link in links:
        address = unquote(str(link["href"]))
        assert owner in address
        assert f"/{branch}" in address
        file = ROOT / re.split(rf"/blob/{branch}/|/tree/", address)[-1]
        assert file.suffix == ".ipynb"
        assert file.exists()


def test_the_site_is_small(built: Path) -> None:
    assert sum(path.stat().st_size for path in built.rglob("*") if path.is_file()) < 60e6


@cache
def packed(path: Path) -> int:
    """The size that a server sends: text is compressed, images and fonts are already."""
    data = path.read_bytes()
    return len(gzip.compress(data)) if path.suffix in (".html", ".js", ".css", ".svg") else len(data)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_little(built: Path, page: str) -> None:
    """1.5 MB with fonts, of which text takes 0.2 MB, and formulas as much."""
    tags = soup(built / page).select("link[rel=stylesheet][href], img[src]:not([loading=lazy]), script[src]")
    addresses = {urlsplit(str(tag.get("href") or tag.get("src"))) for tag in tags}
    files = {(built / page).parent / unquote(a.path) for a in addresses if not a.scheme}
    assert packed(built / page) + sum(map(packed, files)) < 1.3e6


def test_search_knows_the_chapters(built: Path) -> None:
    index = (built / "searchindex.js").read_text()
    assert "Search.setIndex(" in index
    assert "sigmoid" in index
