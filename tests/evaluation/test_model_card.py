from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fertools.errors import RunError
from fertools.evaluation.model_card import BEGIN, END, card_tables, write_card
from fertools.records import Record, load_predictions

RUNS = Path(__file__).parents[2] / "data" / "runs"
SHIPPED = RUNS / "wide-fer2013"


@pytest.fixture(scope="module")
def calibrated() -> dict[str, np.ndarray]:
    """Probabilities of the shipped network on PrivateTest, written out."""
    logits = load_predictions(SHIPPED)["PrivateTest/single-crop"].astype(float) / Record.load(SHIPPED).temperature
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_the_card_shows_what_the_record_gives() -> None:
    shown = (SHIPPED / "README.md").read_text().split(BEGIN)[1].split(END)[0]
    assert shown == card_tables(SHIPPED), "run fertools.evaluation.model_card.write_card('data/runs/wide-fer2013')"


def test_the_tables_are_counted_from_the_predictions(calibrated: np.ndarray) -> None:
    tables, record, labels = card_tables(SHIPPED), Record.load(SHIPPED), load_predictions(SHIPPED)["PrivateTest/labels"]
    predicted, kept = calibrated.argmax(1), calibrated.max(1) >= record.threshold
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in tables.splitlines()}
    for i, name in enumerate(record.classes):
        of, said = labels == i, predicted == i
        rates = [
            (predicted[of] == i).mean(),
            (labels[said] == i).mean(),
            kept[of].mean(),
            (labels[said & kept] == i).mean(),
        ]
        assert rows[name][1] == f"{of.sum():,}"
        assert [cell.split(" ")[0] for cell in rows[name][2:]] == [f"{100 * rate:.2f}" for rate in rates]
    assert rows["accuracy"][2].startswith(f"{100 * (predicted == labels).mean():.2f} (")
    assert rows["coverage"][2].startswith(f"{100 * kept.mean():.2f} (")
    assert rows["selective accuracy"][2].startswith(f"{100 * (predicted == labels)[kept].mean():.2f} (")
    seeds = [Record.load(RUNS / f"wide-fer2013{seed}").metrics["PrivateTest"] for seed in ("", "-s1", "-s2")]
    accuracies = [100 * metrics["single-crop"]["accuracy"] for metrics in seeds]
    wanted = f"mean {np.mean(accuracies):.2f}, standard deviation {np.std(accuracies, ddof=1):.2f}"
    assert rows["PrivateTest over 3 seeds, single crop, %"][1] == wanted


def test_the_cards_sentences_are_true(calibrated: np.ndarray) -> None:
    record, labels = Record.load(SHIPPED), load_predictions(SHIPPED)["PrivateTest/labels"]
    predicted, kept = calibrated.argmax(1), calibrated.max(1) >= record.threshold
    index = {name: i for i, name in enumerate(record.classes)}
    recall = {name: (predicted[labels == i] == i).mean() for name, i in index.items()}
    coverage = {name: kept[labels == i].mean() for name, i in index.items()}
    # "Disgust, fear, and sadness are recognized far less often than happiness and surprise."
    assert max(recall[name] for name in ("disgust", "fear", "sad")) < min(recall["happy"], recall["surprise"]) - 0.2
    # "it finds most neutral faces, but two in five faces that it calls neutral have another label."
    said = predicted == index["neutral"]
    assert recall["neutral"] > 0.75
    assert (labels[said] != index["neutral"]).mean() == pytest.approx(0.4, abs=0.02)
    # "keeps most faces labeled happy or surprise, but only about half of those labeled disgust, fear, or sad."
    assert min(coverage["happy"], coverage["surprise"]) > 0.7
    assert all(0.4 < coverage[name] < 0.55 for name in ("disgust", "fear", "sad"))
    # "seed 0, which is the best of the three on PublicTest"
    public = [Record.load(RUNS / f"wide-fer2013{seed}").metrics["PublicTest"] for seed in ("", "-s1", "-s2")]
    assert int(np.argmax([metrics["single-crop"]["accuracy"] for metrics in public])) == record.identity["seed"] == 0


def test_writing_changes_only_what_is_between_the_marks(tmp_path: Path) -> None:
    for name in ("record.json", "predictions.npz"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    with pytest.raises(RunError, match=r"README\.md has no place for the measured part"):
        write_card(tmp_path)
    card = tmp_path / "README.md"
    card.write_text(f"# Card\n{BEGIN}old{END}\nLimits\n")
    write_card(tmp_path)
    assert card.read_text() == f"# Card\n{BEGIN}{card_tables(tmp_path)}{END}\nLimits\n"


def test_a_card_names_recipe_and_overrides_where_no_recipe_has_the_settings(tmp_path: Path) -> None:
    for name in ("record.json", "predictions.npz"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    assert "| recipe | `wide-fer2013`, seed 0 |" in card_tables(tmp_path)
    record = Record.load(tmp_path)
    config = record.identity["config"] | {"epochs": 61}
    replace(record, overrides=["epochs=61"], identity=record.identity | {"config": config}).save(tmp_path)
    assert "| recipe | `cpu-fer2013` `epochs=61`, seed 0 |" in card_tables(tmp_path)
    replace(record, temperature=None).save(tmp_path)
    with pytest.raises(RunError, match="no temperature and threshold from PublicTest"):
        card_tables(tmp_path)
