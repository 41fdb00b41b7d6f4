"""The project's English: American spelling and the field's words, in code, tests, and prose.

Only phrases that a search finds safely. A line that has to use one, e.g. to quote, is in :data:`ALLOWED`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

INSTEAD = {  # pattern: what to write instead
    r"\bwhoever\b": "you, people who ...",
    r"\b(stands?|stood|standing|lies?|lay|lying) beside\b": "is next to",
    r"\b(is|are|was|were|be) had\b": "is available, comes from",
    r"\bhad from\b": "from",
    r"\b(goes?|going|went) (a?round)\b": "circulates",
    r"\bby heart\b": "memorize",
    r"\bfrom nothing\b": "from scratch",
    r"\bluck of\b": "sampling error, variance across random seeds",
    r"\b(one|ten|single) views?\b": "single crop, ten-crop",
    r"\bunseen (test )?images?\b": "deduplicated test set",
    r"\b(hangs?|hung) together\b": "interact",
    r"\bthat which\b": "what; rephrase",
    r"\bthere stands?\b": "contains, shows",
    r"\bsaid of it\b": "about it",
    r"\bsays? nothing on\b": "doesn't say",
    r"\bbehind one another\b": "concatenated",
    r"\bgr[ae]y values?\b": "grayscale intensities, gray levels",
    r"\bfilms?\b": "video, sequence",
    r"\bstacks? of (feature )?maps\b": "feature maps",
    r"\bpixels and a line\b": "linear classifier on raw pixels",
    r"\bstart(s|ed)? from other weights\b": "fine-tuned, initialized from",
    r"\b(a|the|its|what|this|that|run's|small|large|which) shares? of\b": "fraction, proportion, percentage",
    r"\b(for|to) which (a|the) \w+ is given\b": "rephrase",
    r"\bone thinks? of\b": "rephrase",
    r"\btoo (modest|sure)\b": "underconfident, overconfident",
    r"\bper cent\b": "percent, %",
    r"\w*ormalis\w+": "normalize",
    r"\w*ecognis\w+": "recognize",
    r"\w*ptimis(e|es|ed|er|ers|ing|ation)\b": "optimize",
    r"\w*nitialis\w+": "initialize",
    r"\w*rganis\w+": "organize",
    r"\w*ummaris\w+": "summarize",
    r"\w*uantis\w+": "quantize",
    r"\w*isualis\w+": "visualize",
    r"\w*eneralis\w+": "generalize",
    r"\w*egularis\w+": "regularize",
    r"\w*inimis\w+": "minimize",
    r"\w*aximis\w+": "maximize",
    r"\w*olour\w*": "color",
    r"\w*eighbour\w*": "neighbor",
    r"\w*ehaviour\w*": "behavior",
    r"\w*avourit\w*": "favorite",
    r"\b\w*[cC]entre[sd]?\b": "center",
    r"\b[lL]icences?\b": "license",
    r"\b[gG]rey\w*\b": "gray",
    r"\b\w*[lL]abell\w+": "labeled, labeling",
    r"\b\w*[mM]odell\w+": "modeled, modeling",
    r"\bartefacts?\b": "artifact",
    r"\bdefence\b": "defense",
}

ALLOWED: dict[str, tuple[str, ...]] = {}  # file: the lines in which a phrase may stay, in parts


def pages() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        return []
    wanted = re.compile(
        r"(fertools|tests|benchmarks|book)/.*\.(py|md|toml|js|css|html)|[^/]+\.(md|toml|yml|cff)|\.github/.*\.yml"
        r"|data/(.*/)?README\.md|data/sweeps/.*\.toml|Makefile"
    )
    names = {name for name in listed.stdout.split("\0") if wanted.fullmatch(name)}
    return sorted(name for name in names if (ROOT / name).is_file() and name != "tests/test_language.py")


def found_in(text: str) -> list[tuple[int, str, str]]:
    """Line, phrase, and what to write instead; a phrase may go on in the next line."""
    found = []
    for pattern, instead in INSTEAD.items():
        for match in re.finditer(pattern.replace(" ", r"\s+(?:#\s+)?"), text, re.IGNORECASE):
            found.append((text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), instead))
    return sorted(found)


@pytest.mark.parametrize("page", pages())
def test_the_fields_words(page: str) -> None:
    text = (ROOT / page).read_text()
    lines = text.splitlines()
    wrong = [
        f"{page}:{number}: {phrase!r}: {instead}"
        for number, phrase, instead in found_in(text)
        if not any(part in lines[number - 1] for part in ALLOWED.get(page, ()))
    ]
    assert not wrong, "\n".join(wrong)


def test_phrases_are_found_across_lines_and_in_any_case() -> None:
    text = "A film.\n# It Stands\n# beside the normalised one, from\nnothing.\n"
    assert [found[:2] for found in found_in(text)] == [
        (1, "film"),
        (2, "Stands # beside"),
        (3, "from nothing"),
        (3, "normalised"),
    ]


def test_what_is_allowed_is_there() -> None:
    for page, parts in ALLOWED.items():
        for part in parts:
            assert found_in(part), part
            assert part in (ROOT / page).read_text(), f"{page} has no {part!r} any more"
