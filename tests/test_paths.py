"""One rule for where data sets and runs are: argument, environment variable, current project, package."""

from __future__ import annotations

from pathlib import Path

import pytest

from fertools.errors import RunError
from fertools.paths import (
    data_folders,
    find_data,
    find_run,
    package_data,
    run_folders,
    run_path,
    runs_folder,
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without the environment variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FERTOOLS_DATA", raising=False)
    monkeypatch.delenv("FERTOOLS_RUNS", raising=False)
    return tmp_path


def finished(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{}")
    return folder


def test_the_package_has_what_is_shipped() -> None:
    for place in ("synthetic/portraits.csv", "paper_results.csv", "runs/wide-fer2013/model.safetensors"):
        assert (package_data() / place).is_file()


def test_data_sets_the_first_folder_that_has_it_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_data("synthetic") == package_data() / "synthetic"
    (project / "data" / "synthetic").mkdir(parents=True)
    assert find_data("synthetic") == Path("data/synthetic")
    monkeypatch.setenv("FERTOOLS_DATA", "elsewhere")  # instead of data/
    assert find_data("synthetic") == package_data() / "synthetic"
    (project / "elsewhere" / "synthetic").mkdir(parents=True)
    assert find_data("synthetic") == Path("elsewhere/synthetic")
    assert find_data("synthetic", "named") == Path("named/synthetic")  # the only place, even without it
    assert data_folders("named") == [Path("named")]


def test_a_missing_data_set_belongs_into_the_first_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_data("no-such-set") == Path("data/no-such-set")
    monkeypatch.setenv("FERTOOLS_DATA", "elsewhere")
    assert find_data("no-such-set") == Path("elsewhere/no-such-set")


def test_new_runs_never_go_into_the_package(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_path("first") == Path("runs/first")
    (project / "data" / "runs").mkdir(parents=True)
    assert run_path("first") == Path("data/runs/first")
    monkeypatch.setenv("FERTOOLS_RUNS", "elsewhere")
    assert runs_folder() == Path("elsewhere")
    assert run_path("first") == Path("elsewhere/first")
    assert run_path("first", "named") == Path("named/first")
    assert run_path("some/folder") == Path("some/folder")
    assert run_path(project / "folder") == project / "folder"


def test_runs_the_first_folder_that_has_it_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = package_data() / "runs" / "wide-fer2013"
    assert find_run("wide-fer2013") == shipped
    finished(project / "runs" / "wide-fer2013")
    assert find_run("wide-fer2013") == Path("runs/wide-fer2013")
    finished(project / "data" / "runs" / "wide-fer2013")
    assert find_run("wide-fer2013") == Path("data/runs/wide-fer2013")
    monkeypatch.setenv("FERTOOLS_RUNS", "elsewhere")
    assert find_run("wide-fer2013") == shipped
    assert find_run("runs/wide-fer2013") == Path("runs/wide-fer2013")  # a path is a path


def test_a_run_in_runs_is_found_after_data_runs_appeared(project: Path) -> None:
    finished(project / "runs" / "old")
    finished(project / "data" / "runs" / "new")
    assert find_run("old") == Path("runs/old")
    assert find_run("new") == Path("data/runs/new")


def test_a_missing_run_lists_the_runs_there_are(project: Path) -> None:
    finished(project / "runs" / "mine")
    with pytest.raises(RunError, match=r"there is no run other: looked for .*; finished runs are: .*\bmine\b"):
        find_run("other")
    with pytest.raises(RunError, match="finished runs are: none"):
        find_run("other", runs="nowhere")


def test_each_folder_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout, data/runs and the package's runs are the same folder."""
    monkeypatch.chdir(package_data().parent)
    assert len({folder.resolve() for folder in run_folders()}) == len(run_folders())
    assert run_folders()[0] == Path("data/runs")
