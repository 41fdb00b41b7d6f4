"""The teachers' page, held to the chapters."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_what_needs_what_is_what_the_chapters_say() -> None:
    """Each lab's chapters are in the book's order, come with all that they need, and add up to the minutes."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    order = [Path(page["file"]).stem for part in parts for page in part["chapters"]]
    needs, minutes = {}, {}
    for name in order:
        page = ROOT / "book" / f"{name}.md"
        about = re.search(r":class: about\n(.*?)```", page.read_text(), re.DOTALL) if page.exists() else None
        if about is None:
            continue
        words = " ".join(about[1].split())
        told = re.search(r"\*\*You need\*\*(.*?)\*\*Time\*\*: (\d+)", words)
        assert told, name
        named = re.findall(r"{doc}`(\w+)`", told[1])
        if re.fullmatch(r" {doc}`\w+` to {doc}`\w+`\. ", told[1]):
            named = order[order.index(named[0]) : order.index(named[1]) + 1]
        needs[name], minutes[name] = named, int(told[2])

    text = (ROOT / "book" / "labs" / "instructors.md").read_text()
    table = text.split("## What needs what")[1].split("##")[0]
    rows = re.findall(r"^\| (\d) \|.*?\| ([^|]*) \| (\d+) \|$", table, re.MULTILINE)
    assert [row[0] for row in rows] == [path.stem[3] for path in sorted((ROOT / "book" / "labs").glob("lab[0-9]_*.md"))]
    for lab, chapters, total in rows:
        listed = re.findall(r"{doc}`\.\./(\w+)`", chapters)
        assert listed == sorted(listed, key=order.index), lab
        assert {need for name in listed for need in needs[name]} <= set(listed), lab
        assert sum(minutes[name] for name in listed) == int(total), lab
