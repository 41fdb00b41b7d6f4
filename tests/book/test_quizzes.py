"""The question bank: its right answers are computed again, and its files are read as other programs read them."""

from __future__ import annotations

import importlib
import io
import math
import re
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
import torch
from scipy.special import expit

from fertools.evaluation.statistics import mcnemar
from fertools.models.resampling import resampling_matrix
from fertools.recipes import TrainConfig

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"(\d[\d,]*)(?:\.(\d+))?")
PARTS = {  # of the table of contents
    "data": {"quickstart", "expressions", "fer2013", "ckplus", "synthetic"},
    "network": {"network", "bfeu", "fem", "ffm", "open_questions"},
    "training": {"augmentation", "trainer", "gpu"},
    "measuring": {"splits", "uncertainty"},
    "results": {
        "fer2013_results",
        "ckplus_results",
        "architecture",
        "ablations",
        "calibration",
        "failures",
        "looks_at",
        "beyond",
    },
    "use": {"deployment", "robustness", "limits"},
}


@pytest.fixture(scope="module")
def quizzes() -> ModuleType:
    sys.path.insert(0, str(ROOT / "book" / "quizzes"))
    return importlib.import_module("make_quizzes")


@pytest.fixture(scope="module")
def packed(quizzes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = quizzes.make(tmp_path_factory.mktemp("quizzes"))
    with zipfile.ZipFile(path) as archive:
        return {Path(name).name: archive.read(name) for name in archive.namelist()}


def banks(quizzes: ModuleType) -> list:
    return [quizzes.Bank.read(ROOT / "book" / "quizzes" / f"{name}.md") for name in PARTS]


def test_ten_questions_a_part_that_give_nothing_away(quizzes: ModuleType) -> None:
    assert tuple(PARTS) == quizzes.PARTS
    questions = []
    for bank in banks(quizzes):
        assert len(bank.questions) == 10
        assert {question.chapter for question in bank.questions} <= PARTS[bank.name]
        questions += bank.questions
    assert len({question.text for question in questions}) == len(questions)
    in_chapters = "".join(path.read_text() for path in (ROOT / "book").glob("*.md"))
    first, longest, verbal = 0, 0, 0
    for question in questions:
        assert question.text not in in_chapters  # a chapter's quiz has its answers next to it
        lengths = [len(choice.text) for choice in question.choices]
        right = [choice.right for choice in question.choices].index(True)
        first += right == 0
        if not NUMBER.search(question.choices[right].text):
            verbal += 1
            longest += lengths[right] == max(lengths) and lengths.count(max(lengths)) == 1
        for choice in question.choices:
            assert choice.right == choice.reply.startswith("Right"), choice
    # Always choosing the first or the longest choice must not be better than guessing among three.
    assert first <= 0.4 * len(questions)
    assert longest <= verbal / 3


def _cosine() -> float:
    config = TrainConfig(epochs=2, learning_rate=0.05, schedule="cosine", warmup=0.0)
    return config.learning_rate_at(50, 50)


def _velocity() -> float:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9)
    for _ in range(200):
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
    return before - weight.item()


def _mixed() -> float:
    log_p = torch.log(torch.tensor([[0.7, 0.3]]))
    return torch.nn.functional.cross_entropy(log_p, torch.tensor([[0.7, 0.3]])).item()


def _rounded_away() -> float:
    weight = torch.tensor(1.0, dtype=torch.bfloat16)
    for _ in range(1000):
        weight = weight + torch.tensor(0.001, dtype=torch.bfloat16)
    return weight.item()


def _agree() -> float:
    votes = np.array([0] * 6 + [1] * 4)
    return 100 * float(np.mean([votes[a] == votes[b] for a in range(10) for b in range(10) if a != b]))


def _another_frame() -> float:
    """Of the images in a random tenth, in percent, those with another frame of their video in the rest."""
    rng, video = np.random.default_rng(0), np.repeat(np.arange(327), 3)
    found = []
    for _ in range(200):
        test = np.zeros(981, dtype=bool)
        test[rng.permutation(981)[:98]] = True
        found.append(np.isin(video[test], video[~test]).mean())
    return 100 * float(np.mean(found))


# The numbers in the right choice of a question, by how the question begins.
COMPUTED = {
    "Six of ten annotators": [_agree()],
    "Always answering *happy*": [100 / 7],
    "CK+48 has three frames": [_another_frame()],
    "The bottom branch starts": [math.log2(96 / 6)],
    "A 3x3 convolution maps": [9 * 16 * 16 * 96 * 96 / 1e6],
    "Doubling turns": [torch.linalg.matrix_rank(resampling_matrix(48, 96)).item() ** 2],
    "Two units follow": [1 + 2 * (7 - 1)] * 2,
    "A unit has 8 channels": [
        sum(p.numel() for a, b, k in [(8, 8, 5), (8, 8, 3), (16, 8, 1)] for p in [torch.nn.Conv2d(a, b, k).weight])
    ],
    "Each of three units": [1 + 0.5**3],
    "Before the sigmoid": [expit(2), expit(6)],
    "A 48x48 image gets 2 black": [(48 + 4 - 48 + 1) ** 2],
    "An image is mirrored": [100 * 0.5 * 0.7],
    "mixup takes": [_mixed()],
    "FER2013 has 28,709": [28709 // 64],
    "The gradient is always": [_velocity()],
    "The learning rate follows": [_cosine()],
    "A moving average": [100 * 0.999**448],
    "Label smoothing": [1 - 0.1 + 0.1 / 7],
    "`w = torch": [_rounded_away()],
    "All 28,709": [28709 * 48 * 48 / 1e6],
    "8 % of the test": [100 * (0.08 + 0.92 * 0.68)],
    "A network is right on 70 %": [100 * 1.96 * math.sqrt(0.7 * 0.3 / 981)],
    "Network A alone": [10, 30],
    "Images of one person": [981 / 3],
    "You make ten comparisons": [max(p for p, left in ((0.004, 10), (0.006, 9)) if p <= 0.05 / left)],
    "528 test images": [100 * 206 / 528, 100 * 206 / 358],
    "One training with": [0.8 * math.sqrt(2)],
    "100 predictions": [100 * (100 * abs(0.9 - 0.8) + 300 * abs(0.6 - 0.65)) / 400],
    "Two labels have": [100 * expit(2 / 2)],
    "Of 1,000 images": [800 * (1 - 0.76)],
    "Weights from -1.27": [0.01 / 2],
    "A network has 1,020,934": [4 * 1_020_934 / 1e6, 2 * 1_020_934 / 1e6],
    "For one photo": [95 + 5 / 5],
    "Of 200 people": [100 * 0.6 / (0.6 + 199 * 0.02)],
    "Group A has": [100 * 1.96 * math.sqrt(0.62 * 0.38 / 50)],
}


@pytest.mark.parametrize("start", COMPUTED)
def test_a_computed_answer_is_right(quizzes: ModuleType, start: str) -> None:
    """Every number of the right choice, to its last digit."""
    (question,) = (q for bank in banks(quizzes) for q in bank.questions if q.text.startswith(start))
    (right,) = (choice for choice in question.choices if choice.right)
    told = list(NUMBER.finditer(right.text))
    assert len(told) == len(COMPUTED[start])
    for found, wanted in zip(told, COMPUTED[start], strict=True):
        assert float(found[0].replace(",", "")) == pytest.approx(wanted, abs=0.5 * 10.0 ** -len(found[2] or ""))


def test_each_answer_with_a_number_is_computed(quizzes: ModuleType) -> None:
    said = {"A color photo", "A browser reads"}  # 48x48 pixels, which nothing computes
    for question in (q for bank in banks(quizzes) for q in bank.questions):
        (right,) = (choice for choice in question.choices if choice.right)
        if NUMBER.search(right.text) and not question.text.startswith(tuple(said)):
            assert question.text.startswith(tuple(COMPUTED)), question.text


def test_mcnemar_ignores_what_both_are_right_or_wrong_on() -> None:
    def p(both: int) -> float:
        a, b = (np.repeat(right, [10, 30, both, 1149]) for right in ([1, 0, 1, 0], [0, 1, 1, 0]))
        return mcnemar(a == 1, b == 1).p

    assert p(2400) == p(0)


def test_moodle_reads_every_question(quizzes: ModuleType, packed: dict[str, bytes]) -> None:
    """As Moodle's XML format is documented: one category a part, fractions of 0 and 100, feedback for each answer."""
    quiz = ElementTree.fromstring(packed["moodle.xml"])
    kinds = [question.get("type") for question in quiz]
    assert kinds == (["category"] + ["multichoice"] * 10) * 6
    found = [question for question in quiz if question.get("type") == "multichoice"]
    assert len({question.findtext("name/text") for question in found}) == 60
    for item, question in zip(found, (q for bank in banks(quizzes) for q in bank.questions), strict=True):
        assert item.findtext("single") == "true"
        answers = item.findall("answer")
        assert [answer.get("fraction") == "100" for answer in answers] == [bool(c.right) for c in question.choices]
        assert all(answer.findtext("feedback/text") for answer in answers)
        assert "*" not in (item.findtext("questiontext/text") or "")


def test_qti_packages_are_complete(quizzes: ModuleType, packed: dict[str, bytes]) -> None:
    space = {"q": "http://www.imsglobal.org/xsd/ims_qtiasiv1p2"}
    for bank in banks(quizzes):
        with zipfile.ZipFile(io.BytesIO(packed[f"{bank.name}.qti.zip"])) as package:
            manifest = ElementTree.fromstring(package.read("imsmanifest.xml"))
            listed = {element.get("href") for element in manifest.iter() if element.tag.endswith("}file")}
            assert listed <= set(package.namelist())
            (name,) = (name for name in listed if name and not name.endswith("assessment_meta.xml"))
            items = ElementTree.fromstring(package.read(name)).findall(".//q:item", space)
        assert len(items) == 10
        for item, question in zip(items, bank.questions, strict=True):
            labels = [label.get("ident") for label in item.findall(".//q:response_label", space)]
            (right,) = (choice for choice in question.choices if choice.right)
            scored = [
                condition.findtext("q:conditionvar/q:varequal", namespaces=space)
                for condition in item.findall(".//q:respcondition", space)
                if condition.find("q:setvar", space) is not None
            ]
            assert scored == [labels[question.choices.index(right)]]
            assert len(item.findall("q:itemfeedback", space)) == len(question.choices)


def test_the_notebook_has_every_choice(quizzes: ModuleType, packed: dict[str, bytes]) -> None:
    notebook = nbformat.reads(packed["self-test.ipynb"].decode(), as_version=4)
    nbformat.validate(notebook)
    text = "".join(cell.source for cell in notebook.cells)
    assert text.count("<details>") == sum(len(q.choices) for bank in banks(quizzes) for q in bank.questions)
    assert text.count("✓") == 60


def test_the_same_questions_give_the_same_file(quizzes: ModuleType, tmp_path: Path) -> None:
    assert quizzes.make(tmp_path / "a").read_bytes() == quizzes.make(tmp_path / "b").read_bytes()


def test_a_broken_bank_is_explained(quizzes: ModuleType, tmp_path: Path) -> None:
    bank = tmp_path / "bank.md"
    bank.write_text("# T\n\n## bfeu\n\n### Why?\n\n- [x] A — Right.\n- [x] B — Right.\n")
    with pytest.raises(ValueError, match=r"bank\.md: 'Why\?': exactly one choice must be right"):
        quizzes.Bank.read(bank)
    bank.write_text("# T\n\n### Why?\n\n- [x] A — Right.\n- [ ] B — No.\n")
    with pytest.raises(ValueError, match=r"bank\.md: expected a title"):
        quizzes.Bank.read(bank)
