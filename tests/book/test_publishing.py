"""The workflows name what exists, and the one that publishes tells the pages where their notebooks are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MORE = {  # what a job may do beyond reading
    "publish": {"pages": "write", "id-token": "write"},
    "notebooks": {"contents": "write"},  # pushes a branch of that name
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def commands(workflow: Path) -> list[str]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step["run"].strip() for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_calls_make_targets_that_exist(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = re.findall(r"\bmake (?:\w+=\S* )*([a-z]+)", "\n".join(commands(workflow)))
    assert set(called) <= targets


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_uses_actions_by_their_commit(workflow: Path) -> None:
    """A tag can be moved to other code; a commit can't. The comment names its version, for people and Dependabot."""
    used = re.findall(r"uses: (.*)", workflow.read_text())
    loose = [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", action)]
    assert used
    assert not loose


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_may_only_read_and_runs_nothing_that_a_stranger_wrote(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text())
    assert content["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in content[True]  # YAML's `on`
    for name, job in content["jobs"].items():
        assert job.get("permissions") == MORE.get(name)
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")  # a branch's name would become a command
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_publishing_sets_the_address_of_the_repository(tmp_path: Path) -> None:
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (command,) = {line for line in commands(ROOT / ".github/workflows/book.yml") if line.startswith("sed")}
    settings = {**os.environ, "GITHUB_REPOSITORY": "someone/fertools"}
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=settings, check=True)
    before, after = (yaml.safe_load((folder / "_config.yml").read_text()) for folder in (ROOT, tmp_path))
    assert after["repository"].pop("url") == "https://github.com/someone/fertools"
    assert before["repository"].pop("url") == ""
    assert after == before
