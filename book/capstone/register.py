"""Checks a preregistration, and freezes it.

    python capstone/register.py preregistration.md                     # what is still missing?
    python capstone/register.py preregistration.md --freeze            # SHA-256 and date, to send before the first run
    python capstone/register.py preregistration.md --report report.md  # does the report belong to this form?

A frozen form isn't changed any more. The line that freezing prints is also kept next to the form, in a file that ends
in ``.sha256``. Alone it proves little, since anybody can set a clock. It counts once somebody else has it.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
MAX_WORDS = 1100  # two pages
SECTION = re.compile(r"^##+ (.+)\n((?:(?!##+ ).*(?:\n|\Z))*)", re.MULTILINE)


def sections(text: str) -> dict[str, str]:
    """What is written under each heading, without the instructions."""
    written = re.sub(r"^>.*\n?", "", text, flags=re.MULTILINE)
    return {heading.strip(): body.strip() for heading, body in SECTION.findall(written)}


def missing(text: str, template: str) -> list[str]:
    """What still has to be filled in, one sentence each."""
    found = sections(text)
    problems = [
        f"The section {heading!r} is missing: copy its heading from the template."
        if heading not in found
        else f"The section {heading!r} isn't filled in: replace each TODO, by 'none' if there is nothing to say."
        for heading, body in sections(template).items()
        if "TODO" in body and (not found.get(heading) or "TODO" in found[heading])
    ]
    if re.search(r"^# .*TODO", text, re.MULTILINE):
        problems.append("The title isn't filled in.")
    return problems


def digest(text: str) -> str:
    """SHA-256, the same for the line ends of every system, since reading a text makes them equal."""
    return hashlib.sha256(text.encode()).hexdigest()


def freeze(form: Path) -> str:
    """Writes and returns the line with SHA-256, name, and date of a form."""
    lock = form.with_suffix(".sha256")
    if lock.exists():
        raise SystemExit(f"{form} is already frozen: {lock.read_text().strip()}. Explain changes in the report.")
    line = f"{digest(read(form))}  {form.name}  {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    lock.write_text(line + "\n")
    return line


def report_problems(report: str, form: Path) -> list[str]:
    """What keeps a report from belonging to its frozen form, one sentence each."""
    lock = form.with_suffix(".sha256")
    if not lock.exists():
        return [f"{form} isn't frozen: there is no {lock.name} next to it."]
    frozen, now = lock.read_text().split()[0], digest(read(form))
    problems = missing(report, read(HERE / "report.md"))
    if now != frozen:
        problems.append(f"{form} was changed after it was frozen: its SHA-256 was {frozen}, and now is {now}.")
    if frozen not in report:
        problems.append(f"The report doesn't quote the form's SHA-256, {frozen}.")
    if (words := len(report.split())) > MAX_WORDS:
        problems.append(f"The report has {words:,} words, and two pages have about {MAX_WORDS:,}.")
    return problems


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"{path} can't be read: {error.strerror}.") from None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("form", type=Path, help="a filled copy of capstone/preregistration.md")
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--freeze", action="store_true", help="print the SHA-256 and the date, and keep them")
    then.add_argument("--report", type=Path, help="a filled copy of capstone/report.md, to check against the form")
    chosen = parser.parse_args(arguments)
    problems = missing(read(chosen.form), read(HERE / "preregistration.md"))
    if chosen.report and not problems:
        problems = report_problems(read(chosen.report), chosen.form)
    if problems:
        raise SystemExit("\n".join(problems))
    print(freeze(chosen.form) if chosen.freeze else "Complete.")


if __name__ == "__main__":
    main()
