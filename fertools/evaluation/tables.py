"""Results as tables: the paper's with our rows, the README's, and recall by class.

Everything is computed from records and their predictions; no data set is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fertools.evaluation.comparisons import load_tested, pool_folds, run_name, variant_of, variants
from fertools.evaluation.metrics import wilson_interval
from fertools.evaluation.statistics import recall_intervals
from fertools.paths import find_data, run_folders, runs_folder
from fertools.recipes import RECIPES
from fertools.records import Record, finished_runs, percent

if TYPE_CHECKING:
    import pandas as pd

    from fertools.evaluation.comparisons import Pooled

NOT_STATED = "not stated"


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table: one line for each mapping, whose keys are the heading.

    ``DataFrame.to_markdown`` needs another package and pads the cells, so that a run with a long name
    would change every other line of the README.

    >>> print(markdown([{"run": "a", "accuracy": "0.66"}]))
    | run | accuracy |
    |---|---|
    | a | 0.66 |
    """
    if not lines:
        return ""
    heading = [f"| {' | '.join(lines[0])} |", "|" + "---|" * len(lines[0])]
    return "\n".join([*heading, *(f"| {' | '.join(line.values())} |" for line in lines)])


# --- The README's tables ----------------------------------------------------------------------


def results_table(runs: str | Path | None = None) -> str:
    """A Markdown table of the accuracy of every recorded FER2013 run on PrivateTest."""

    def cell(record: Record, test_set: str, tta: str) -> str:
        found = record.metrics[test_set][tta]
        return percent(found["accuracy"], found["accuracy_interval"])

    return markdown(
        [
            {
                "run": f"`{record.name}`",
                "parameters": f"{record.parameters:,}",
                "seed": str(record.identity["seed"]),
                "epoch": f"{record.selected['epoch']} of {len(record.history)}",
                "single crop, %": cell(record, "PrivateTest", "single-crop"),
                "ten-crop, %": cell(record, "PrivateTest", "ten-crop"),
                "single crop, deduplicated, %": cell(record, "PrivateTest, deduplicated", "single-crop"),
            }
            for record in finished_runs(runs)
            if record.data["name"] == "fer2013" and "PrivateTest" in record.metrics
        ]
    )


def folds_table(runs: str | Path | None = None) -> str:
    """A Markdown table of the accuracy of every sweep that has finished all of its folds."""
    return markdown(
        [
            {
                "sweep": f"`{found.name}`",
                "parameters": f"{found.record.parameters:,}",
                "folds by": found.record.identity["config"]["protocol"],
                "initial weights": "fine-tuned" if found.record.identity["init"] else "random",
                "all images, %": percent(found.accuracy, found.interval),
                "folds: mean, standard deviation": f"{100 * found.mean:.2f}, {100 * found.std:.2f}",
            }
            for folder in sorted({path.parent.parent for path in runs_folder(runs).glob("*/*/record.json")})
            for found in _pooled_variants(folder)
            if len(found.fold_accuracies) == found.record.identity["config"]["folds"]
        ]
    )


def _pooled_variants(folder: Path) -> list[Pooled]:
    """Every variant of a sweep that has finished at least two folds."""
    names = [variant_of(path.parent.name) for path in folder.glob("*/record.json")]
    return [pool_folds(folder, variant) for variant in variants(folder) if names.count(variant) > 1]


# --- The paper's tables -----------------------------------------------------------------------


def paper_tables(runs: str | Path | None = None, paper: Path | None = None) -> pd.DataFrame:
    """Tables 1 and 2 of the paper with our rows among them, best first.

    Ours are all FER2013 runs, including those that were cut short (one row for the single crop, one
    for ten-crop), and all sweeps over folds of CK+ with at least two folds. They are measured; the
    others are what the paper prints.

    Args:
        runs: the only folder to search, see :mod:`fertools.paths`.
        paper: the file with the paper's numbers.

    Returns:
        ``table``, ``method``, ``accuracy`` in percent (over folds: of the pooled images), ``low``
        and ``high`` (its 95 % interval), ``mean`` and ``std`` over the folds, ``protocol``, which
        is ``"not stated"`` where the paper states none, and ``ours``.
    """
    import pandas as pd

    stated = pd.read_csv(paper or find_data("paper_results.csv"))
    stated = stated[stated["class"].isna()]
    theirs = stated[["table", "method", "accuracy"]].assign(
        protocol=stated["protocol"].fillna(NOT_STATED), ours=False, low=np.nan, high=np.nan, mean=np.nan, std=np.nan
    )
    lines: list[dict[str, Any]] = []
    sweeps = set()
    for path in sorted(path for base in run_folders(runs) for path in base.rglob("record.json")):
        record = Record.load(path.parent)
        if record.data["name"] in ("ckplus", "ckplus48") and "fold" in record.metrics:
            sweeps.add(path.parent.parent)
        if record.data["name"] == "fer2013" and "PrivateTest" in record.metrics:
            lines += _fer2013_lines(record, run_name(path.parent, runs))
    lines += [_ckplus_line(found) for folder in sorted(sweeps) for found in _pooled_variants(folder)]
    columns = ["table", "method", "accuracy", "low", "high", "mean", "std", "protocol", "ours"]
    ours = pd.DataFrame(lines, columns=columns).assign(ours=True)
    both = pd.concat([theirs[columns], ours]) if lines else theirs[columns]
    return both.sort_values(["table", "accuracy"], ascending=[True, False], ignore_index=True)


def _fer2013_lines(record: Record, name: str) -> list[dict[str, Any]]:
    """A run's rows of table 1: single crop and ten-crop."""
    lines = []
    epochs, recipe = record.identity["config"]["epochs"], RECIPES.get(record.recipe)
    cut = [f"only {epochs} of the recipe's {recipe.epochs} epochs"] if recipe and epochs < recipe.epochs else []
    for tta, words in {"single-crop": "single crop", "ten-crop": "ten-crop"}.items():
        found = record.metrics["PrivateTest"][tta]
        low, high = found["accuracy_interval"]
        how = f"PrivateTest, {words}; epoch chosen by {record.selected['by']}; seed {record.identity['seed']}"
        lines.append(
            {
                "table": "Table 1",
                "method": name,
                "accuracy": 100 * found["accuracy"],
                "low": 100 * low,
                "high": 100 * high,
                "protocol": "; ".join([how, *cut, *record.notes]),
            }
        )
    return lines


def _ckplus_line(found: Pooled) -> dict[str, Any]:
    """A sweep's row of table 2."""
    low, high = found.interval
    return {
        "table": "Table 2",
        "method": found.name,
        "accuracy": 100 * found.accuracy,
        "low": 100 * low,
        "high": 100 * high,
        "mean": 100 * found.mean,
        "std": 100 * found.std,
        "protocol": f"{found.record.data['name']}, {found.protocol}; interval by {found.grouped_by}",
    }


def tables_text(tables: pd.DataFrame) -> str:
    """The result of :func:`paper_tables` for a terminal; our rows are marked with ``*``."""
    lines = []
    for name, table in tables.groupby("table"):
        lines.append(f"{name} of the paper, with our rows (*)")
        width = table["method"].str.len().max()
        for row in table.to_dict("records"):
            interval = f"[{row['low']:5.2f}, {row['high']:5.2f}]" if row["ours"] else ""
            over_folds = "" if math.isnan(row["std"]) else f"; over folds {row['mean']:.2f}, std {row['std']:.2f}"
            line = f"{row['method']:<{width}}  {row['accuracy']:5.2f} %  {interval:<14}  {row['protocol']}{over_folds}"
            lines.append(f"{'*' if row['ours'] else ' '} {line}")
        claims = table[~table["ours"]]
        silent = int((claims["protocol"] == NOT_STATED).sum())
        lines.append(
            f"  For {silent} of the {len(claims)} claims the paper states no protocol. In brackets: 95 % intervals.\n"
        )
    return "\n".join(lines).rstrip()


# --- Recall by class --------------------------------------------------------------------------


def per_class(
    confusion: np.ndarray | Sequence[Sequence[int]],
    classes: Sequence[str],
    dataset: str,
    paper: Path | None = None,
    intervals: Sequence[tuple[float, float]] | None = None,
) -> pd.DataFrame:
    """Each class's recall, with the figure that section 3.3 of the paper states for it.

    Args:
        confusion: counts, (true, predicted).
        classes: the class names.
        dataset: ``"FER2013"`` or ``"CK+"``, as the paper's tables call it.
        paper: the file with the paper's numbers.
        intervals: of each class's recall, 0 to 1, e.g. from
            :func:`~fertools.evaluation.statistics.recall_intervals`. If not given, Wilson's, which
            take images as independent.

    Returns:
        By class, in percent: ``recall``, ``low`` and ``high`` (its 95 % interval), ``images``,
        ``paper`` (nan where it states no figure), ``difference`` in points, and ``note``, the
        paper's words where it gives no number.
    """
    import pandas as pd

    counts = np.asarray(confusion)
    stated = pd.read_csv(paper or find_data("paper_results.csv"))
    stated = stated[(stated["dataset"] == dataset) & stated["class"].notna()].set_index("class")
    lines = []
    for k, (name, row, right) in enumerate(zip(classes, counts, counts.diagonal(), strict=True)):
        n = int(row.sum())
        if intervals is not None:
            low, high = intervals[k]
        else:
            low, high = wilson_interval(int(right), n) if n else (math.nan, math.nan)
        lines.append((name, right / n if n else math.nan, low, high))
    table = 100 * pd.DataFrame(lines, columns=["class", "recall", "low", "high"]).set_index("class")
    table["images"] = counts.sum(1)
    table["paper"] = stated["accuracy"].reindex(table.index)
    table["difference"] = table["recall"] - table["paper"]
    table["note"] = stated["note"].reindex(table.index).fillna("")
    return table


def class_text(run: str | Path, tta: str = "single-crop", runs: str | Path | None = None) -> str:
    """:func:`per_class` of a run or a sweep, for a terminal.

    Raises:
        RunError: there is no such run or sweep, or it has not finished.
    """
    from sklearn.metrics import confusion_matrix

    tested = load_tested(run, tta, runs)
    classes, data = tested.record.classes, tested.record.data["name"]
    dataset = {"fer2013": "FER2013", "ferplus": "FER2013", "ckplus": "CK+", "ckplus48": "CK+"}.get(data, data)
    intervals = None
    if tested.groups is not None:
        intervals = recall_intervals(tested.labels, tested.predicted, tested.groups, len(classes))
    lines = [
        f"{tested.name}, {tested.test_set}: recall of each class in percent, and the paper's.",
        f"  In brackets: 95 % intervals, by {tested.grouped_by}.",
    ]
    confusion = confusion_matrix(tested.labels, tested.predicted, labels=range(len(classes)))
    for row in per_class(confusion, classes, dataset, intervals=intervals).reset_index().to_dict("records"):
        known = not math.isnan(row["paper"])
        paper = f"{row['paper']:.2f}, ours {row['difference']:+.2f}" if known else row["note"] or NOT_STATED
        recall = f"{row['recall']:6.2f}  [{row['low']:5.2f}, {row['high']:6.2f}]"
        lines.append(f"  {row['class']:<10} {recall}  {row['images']:5,} images   paper: {paper}")
    return "\n".join(lines)
