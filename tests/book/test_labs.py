"""The labs: solutions pass, stubs fail, wrong answers fail with the words meant for them."""

from __future__ import annotations

import contextlib
import importlib
import io
import linecache
import sys
import zipfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from toy import toy_faces

import fertools.data

ROOT = Path(__file__).parents[2]
LABS = ROOT / "book" / "labs"
sys.path.insert(0, str(LABS))  # where a student's folder has it: beside the notebook
make_labs = importlib.import_module("make_labs")
ALL = {lab.name: lab for lab in make_labs.labs()}
CHECKS = [(lab.name, name) for lab in ALL.values() for kind, text in lab.cells if kind == "check" for name, _ in make_labs.checks_of(text)]
CLASSES = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")


# --- Running a notebook in this process -------------------------------------------------------


@contextlib.contextmanager
def student_desk() -> Any:
    """The working directory, figures and data that a notebook finds."""
    mpl.use("Agg")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(ROOT):
        patch.setattr(fertools.data, "load", lambda name, root="data": toy_faces(480, CLASSES))
        yield


def run(code: str, names: dict[str, Any], where: str) -> str:
    """Runs a cell and returns what it printed; the source is there for messages and `inspect`."""
    linecache.cache[where] = (len(code), None, code.splitlines(keepends=True), where)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, where, "exec"), names)
    return said.getvalue()


def checks(lab: str) -> ModuleType:
    """The module ``labN_checks``, as beside the notebook."""
    module = ModuleType(f"{lab}_checks")
    run(ALL[lab].checks, module.__dict__, f"{lab}_checks.py")
    sys.modules[module.__name__] = module
    return module


@cache
def went(lab: str, *, solved: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Runs a lab from top to bottom: the names it leaves, and what each check said."""
    checks(lab)
    names: dict[str, Any] = {"__name__": "__main__"}
    said: dict[str, str] = {}
    with student_desk():
        for i, cell in enumerate(ALL[lab].notebook(solved=solved).cells):
            if cell.cell_type != "code":
                continue
            where = f"<{lab} cell {i} {'solution' if solved else 'stub'}>"
            if cell.source.startswith("check.") and "report" not in cell.source:
                for line in cell.source.splitlines():
                    said[line[6 : line.index("(")]] = run(line, names, where)
                continue
            try:
                run(cell.source, names, where)
            except (NotImplementedError, NameError):  # a cell that uses what is not there yet
                assert not solved
    return names, {name: flat(words) for name, words in said.items()}


def flat(words: str) -> str:
    return " ".join(words.split())


@pytest.mark.parametrize(("lab", "check"), CHECKS)
def test_solution_passes(lab: str, check: str) -> None:
    said = went(lab, solved=True)[1][check]
    assert said.startswith(f"Passed, {check}:"), said


@pytest.mark.parametrize(("lab", "check"), CHECKS)
def test_untouched_stub_is_said_to_be_not_done(lab: str, check: str) -> None:
    said = went(lab, solved=False)[1][check]
    assert said.startswith(f"Not yet, {check}: not done yet."), said


# --- Wrong answers ----------------------------------------------------------------------------

# lab, check, what the message says, and what makes a wrong answer of the solution: old text, new text.
WRONG: list[tuple[str, ...]] = [
    ("lab1", "padding", "whole number", "(kernel - 1) // 2", "(kernel - 1) / 2"),
    ("lab1", "padding", "shrinks", "(kernel - 1) // 2", "0"),
    ("lab1", "padding", "counts twice", "(kernel - 1) // 2", "kernel - 1"),
    ("lab1", "padding", "grow", "(kernel - 1) // 2", "kernel // 2 + 1"),
    ("lab1", "count", "given a bias", "large + norms", "large + 2 * channels + norms"),
    ("lab1", "count", "bias of the 1x1", "channels * channels + channels", "channels * channels"),
    ("lab1", "count", "2C go in, not C", "2 * channels * channels", "channels * channels"),
    ("lab1", "count", "normalisation is missing", "large + norms +", "large +"),
    ("lab1", "count", "4C in all", "2 * (2 * channels)", "2 * channels"),
    ("lab1", "count", "only the weights", "    return large + norms + one_by_one", "    return large + 2 * channels**2"),
    ("lab1", "count", "part by part", "(25 + 9)", "(5 + 3)"),
    ("lab1", "unit", "no layer called self.norm3", "self.norm3", "self.norm_3"),
    ("lab1", "unit", "padding is missing", ", padding=same_padding(5)", ""),
    ("lab1", "unit", "padding is missing", ", padding=same_padding(3)", ", padding=2"),
    ("lab1", "unit", "has a bias", "same_padding(5), bias=False", "same_padding(5)"),
    ("lab1", "unit", "both branches go in", "2 * channels, channels, kernel_size=1", "channels, channels, kernel_size=1"),
    ("lab1", "unit", "not one after the other", "self.conv3(maps)", "self.conv3(q5)"),
    ("lab1", "unit", "ReLU is missing", "F.relu(self.norm5(self.conv5(maps)))", "self.norm5(self.conv5(maps))", "F.relu(self.norm3(self.conv3(maps)))", "self.norm3(self.conv3(maps))"),
    ("lab1", "unit", "ReLU after the 1x1", "self.join(torch.cat([q5, q3], dim=1))", "F.relu(self.join(torch.cat([q5, q3], dim=1)))"),
    ("lab1", "unit", "wrong order", "[q5, q3]", "[q3, q5]"),
    ("lab1", "unit", "comes after the ReLU", "F.relu(self.norm5(self.conv5(maps)))", "self.norm5(F.relu(self.conv5(maps)))", "F.relu(self.norm3(self.conv3(maps)))", "self.norm3(F.relu(self.conv3(maps)))"),
    ("lab1", "unit", "numbers are not", "F.relu(self.norm3(self.conv3(maps)))", "self.norm3(self.conv3(maps))"),
    ("lab1", "unit", "never uses it", "self.norm5(self.conv5(maps))", "self.conv5(maps)"),
    ("lab1", "unit", "is a return missing", "return self.join", "self.join"),
    ("lab1", "unit", "stopped with RuntimeError", "dim=1", "dim=0"),
    ("lab1", "field", "mixes all pixels", "    module.eval()\n", ""),
    ("lab1", "field", "one output pixel alone", "y[0, :, size // 2, size // 2].sum()", "y.sum()"),
    ("lab1", "field", "number of pixels", "sum(dim=(0, 1, 3))", "sum(dim=(0, 1))"),
    ("lab1", "field", "wide, not", "size // 2].sum()", "0].sum()", "y[0, :, size // 2, 0]", "y[0, :, 0, 0]"),
    ("lab1", "module", "no parameters", "nn.Sequential(*[Unit(channels) for _ in range(m)])", "[Unit(channels) for _ in range(m)]"),
    ("lab1", "module", "same unit is used", "[Unit(channels) for _ in range(m)]", "[Unit(channels)] * m"),
    ("lab1", "module", "should have", "in range(m)", "in range(m + 1)"),
    ("lab1", "module", "pooling is missing", "F.max_pool2d(self.units(maps) + maps, kernel_size=2)", "self.units(maps) + maps"),
    ("lab1", "module", "residual is missing", "self.units(maps) + maps", "self.units(maps)"),
    ("lab1", "module", "before the sum", "F.max_pool2d(self.units(maps) + maps, kernel_size=2)", "F.max_pool2d(self.units(maps), 2) + F.max_pool2d(maps, 2)"),
    ("lab1", "module", "takes the mean", "F.max_pool2d", "F.avg_pool2d"),
    ("lab1", "module", "after every unit", "        return F.max_pool2d(self.units(maps) + maps, kernel_size=2)", "        for unit in self.units:\n            maps = unit(maps) + maps\n        return F.max_pool2d(maps, 2)"),
    ("lab1", "module", "come out as 6x6", "kernel_size=2", "kernel_size=3"),
    ("lab2", "fusion", "nn.Parameter", "nn.Parameter(start)", "start.requires_grad_()"),
    ("lab2", "fusion", "not one for each map", "torch.ones(3)", "torch.ones(3, channels, 1, 1)"),
    ("lab2", "fusion", "should start at 1", "start = torch.ones(3)", "start = torch.zeros(3)"),
    ("lab2", "fusion", "no self.w", "self.w =", "self.weights ="),
    ("lab2", "fusion", "F1 and F2 together have 8", "2 * channels, channels", "channels, channels"),
    ("lab2", "fusion", "a return missing", "return self.activation(total)", "self.activation(total)"),
    ("lab2", "fusion", "sigmoid is missing", "return self.activation(total)", "return total"),
    ("lab2", "fusion", "applied twice", "self.activation(total)", "torch.sigmoid(self.activation(total))"),
    ("lab2", "fusion", "wrong order", "[f1, f2]", "[f2, f1]"),
    ("lab2", "fusion", "to each term", "self.w[0] * f1 + self.w[1] * f2 + self.w[2] * mixed", "self.activation(self.w[0] * f1) + self.activation(self.w[1] * f2) + self.activation(self.w[2] * mixed)", "return self.activation(total)", "return total"),
    ("lab2", "fusion", "belong to other maps", "self.w[0] * f1 + self.w[1] * f2", "self.w[1] * f1 + self.w[0] * f2"),
    ("lab2", "fusion", "w3 is left out", "self.w[2] * mixed", "mixed"),
    ("lab2", "fusion", "mixed maps are left out", " + self.w[2] * mixed", ""),
    ("lab2", "fusion", "softmax", "total = self.w[0] * f1 + self.w[1] * f2 + self.w[2] * mixed", "w = self.w.softmax(0)\n        total = w[0] * f1 + w[1] * f2 + w[2] * mixed"),
    ("lab2", "fusion", "no gradient reaches", "total = self.w[0] * f1 + self.w[1] * f2 + self.w[2] * mixed", "w = self.w.detach()\n        total = w[0] * f1 + w[1] * f2 + w[2] * mixed"),
    ("lab2", "slope", "sigmoid itself", "return s * (1 - s)", "return s"),
    ("lab2", "slope", "not in z itself", "return s * (1 - s)", "return z * (1 - z)"),
    ("lab2", "slope", "check the sign", "return s * (1 - s)", "return s * (1 + s)"),
    ("lab2", "slope", "overflows", "    s = torch.sigmoid(z)\n    return s * (1 - s)", "    e = torch.exp(z)\n    return e / (1 + e) ** 2"),
    ("lab2", "slope", "not the highest value of the sigmoid", "highest_slope = 0.25", "highest_slope = 1"),
    ("lab2", "slope", "is not the highest slope", "highest_slope = 0.25", "highest_slope = 0.5"),
    ("lab2", "slope", "yours is", "return s * (1 - s)", "return 1 - s * s"),
    ("lab2", "share", "should be a float", "float(arrived.norm() / push.norm())", "arrived.norm() / push.norm()"),
    ("lab2", "share", "take norms", "arrived.norm() / push.norm()", "arrived.sum() / push.sum()"),
    ("lab2", "share", "take the root", "arrived.norm() / push.norm()", "(arrived.norm() / push.norm()) ** 2"),
    ("lab2", "share", "passes 1.0 on", "arrived.norm() / push.norm()", "arrived.norm()"),
    ("lab2", "share", "Work on a copy", "    start = x.detach().clone().requires_grad_()", "    start = x if x.requires_grad else x.detach().clone().requires_grad_()", "    (arrived,) = torch.autograd.grad(y, start, push)", "    y.backward(push)\n    arrived = start.grad"),
    ("lab2", "share", "stopped with RuntimeError", ".clone().requires_grad_()", ".clone()"),
    ("lab2", "repair", "nothing is repaired", "self.norm(self.fusion(f1, f2))", "self.fusion(f1, f2)", "train(RepairedFusion)", "0.25"),
    ("lab2", "repair", "comes before the sigmoid", "self.norm(self.fusion(f1, f2))", "self.norm(Fusion.forward(self.plain, f1, f2)).sigmoid()", "self.norm = nn.BatchNorm2d(channels)", "self.norm = nn.BatchNorm2d(channels)\n        self.plain = Fusion(channels, identity)", "train(RepairedFusion)", "0.3"),
    ("lab2", "repair", "sigmoid is gone", "self.norm = nn.BatchNorm2d(channels)", "self.norm = nn.BatchNorm2d(channels)\n        self.fusion = Fusion(channels, identity)", "train(RepairedFusion)", "1.0"),
    ("lab2", "repair", "makes them 0 and 1", "self.norm(self.fusion(f1, f2))", "20 * (self.fusion(f1, f2) - 0.5)", "train(RepairedFusion)", "1.0"),
    ("lab2", "repair", "far above 60", "train(RepairedFusion)", "0.25"),
    ("lab2", "repair", "between 0 and 1", "train(RepairedFusion)", "98.4"),
    ("lab2", "decay", "in two groups", '{"params": others,', '{"params": list(net.parameters()),'),
    ("lab2", "decay", "would never be trained", '        {"params": fusion_weights, "weight_decay": 0.0},\n', ""),
    ("lab2", "decay", "is a fusion weight, but decays", '"weight_decay": 0.0', '"weight_decay": decay'),
    ("lab2", "decay", "should decay by 5e-4", '{"params": others, "weight_decay": decay}', '{"params": others, "weight_decay": 0.0}'),
    ("lab2", "decay", "needs its weight_decay", '{"params": others, "weight_decay": decay}', '{"params": others}'),
    ("lab2", "decay", "argument decay is not used", '"weight_decay": decay', '"weight_decay": 5e-4'),
    ("lab3", "gray", "plain mean", "rgb.astype(float) @ np.array([0.299, 0.587, 0.114])", "rgb.mean(axis=2)"),
    ("lab3", "gray", "red and blue", "[0.299, 0.587, 0.114]", "[0.114, 0.587, 0.299]"),
    ("lab3", "gray", "cut off", "np.rint(weighted)", "weighted"),
    ("lab3", "gray", "should be uint8", ".astype(np.uint8)", ""),
    ("lab3", "gray", "far off", "np.array([0.299, 0.587, 0.114])", "np.array([0.5, 1.0, 0.2])"),
    ("lab3", "choice", "None, not", "max(boxes, key=lambda box: box.side, default=None)", "max(boxes, key=lambda box: box.side, default=[])"),
    ("lab3", "choice", "stops with ValueError", ", default=None", ""),
    ("lab3", "choice", "the surest", "max(boxes, key=lambda box: box.side, default=None)", "boxes[0] if boxes else None"),
    ("lab3", "choice", "the last box", "max(boxes, key=lambda box: box.side, default=None)", "boxes[-1] if boxes else None"),
    ("lab3", "square", "margin is not used", "extra = round(margin * box.side)", "extra = 0"),
    ("lab3", "square", "added once", "extra = round(margin * box.side)", "extra = round(margin * box.side / 2)"),
    ("lab3", "square", "rows and columns are exchanged", "    extra = round", "    box = type(box)(box.top, box.left, box.bottom, box.right)\n    extra = round"),
    ("lab3", "square", "cut away", "    rows = np", "    return gray[max(box.top - extra, 0) : box.bottom + extra, max(box.left - extra, 0) : box.right + extra]\n    rows = np"),
    ("lab3", "square", "cut away", "    rows = np", "    return gray[box.top - extra : box.bottom + extra, box.left - extra : box.right + extra]\n    rows = np"),
    ("lab3", "square", "are black", "    rows = np", "    gray = np.pad(gray, 200)\n    return gray[200 + box.top - extra : 200 + box.bottom + extra, 200 + box.left - extra : 200 + box.right + extra]\n    rows = np"),
    ("lab3", "square", "another place", "box.top - extra, box.bottom + extra", "box.top - extra - 3, box.bottom + extra - 3"),
    ("lab3", "size", "picked, not averaged", "INTER_AREA", "INTER_NEAREST"),
    ("lab3", "size", "averages over areas", "INTER_AREA", "INTER_LINEAR"),
    ("lab3", "size", "should be 48x48", "(48, 48)", "(48, 64)"),
    ("lab3", "size", "should be uint8", "cv2.resize(square,", "cv2.resize(square.astype(np.float32),"),
    ("lab3", "folds", "leaks", "return fold_of_person[person_of_image]", "return np.random.default_rng(seed).permutation(np.arange(len(subjects)) % k)"),
    ("lab3", "folds", "leaks", "return fold_of_person[person_of_image]", "return np.arange(len(subjects)) * k // len(subjects)"),
    ("lab3", "folds", "need a fold each", "return fold_of_person[person_of_image]", "return fold_of_person"),
    ("lab3", "folds", "differ by one", "np.arange(len(persons)) % k", "np.minimum(np.arange(len(persons)), k - 1)"),
    ("lab3", "folds", "same folds: shuffle", "    np.random.default_rng(seed).shuffle(fold_of_person)\n", ""),
    ("lab3", "folds", "at the second call", "default_rng(seed)", "default_rng()"),
    ("lab3", "folds", "the folds are 0 to 4", "np.arange(len(persons)) % k", "np.arange(len(persons)) % k + 1"),
    ("lab3", "duplicates", "may stand in any place", "np.array([image.tobytes() in known for image in test], dtype=bool)", "(training[: len(test)] == test).all((1, 2))"),
    ("lab3", "duplicates", "in another order", "image.tobytes() for image in training", "image.sum() for image in training", "image.tobytes() in known", "image.sum() in known"),
    ("lab3", "duplicates", "True or False", "dtype=bool", "dtype=int"),
    ("lab3", "duplicates", "by one gray level", "image.tobytes() for image in training", "(image // 2).tobytes() for image in training", "image.tobytes() in known", "(image // 2).tobytes() in known"),
    ("lab4", "epoch", "have not moved", "        optimizer.step()\n        total", "        total"),
    ("lab4", "epoch", "have not moved", "        optimizer.zero_grad()\n        loss.backward()\n        optimizer.step()\n        total", "        loss.backward()\n        optimizer.zero_grad()\n        optimizer.step()\n        total"),
    ("lab4", "epoch", "still there at the second", "        optimizer.zero_grad()\n        loss.backward()\n        optimizer.step()\n        total", "        loss.backward()\n        optimizer.step()\n        total"),
    ("lab4", "epoch", "call net.train()", "    net.train()\n    total", "    total"),
    ("lab4", "epoch", "keeps its whole graph", "loss.item() * len(labels)", "loss * len(labels)"),
    ("lab4", "epoch", "mean over the batches", "loss.item() * len(labels)", "loss.item()", "        seen += len(labels)\n    return total", "        seen += 1\n    return total"),
    ("lab4", "epoch", "sum of the batches' losses", "loss.item() * len(labels)", "loss.item()", "return total / seen", "return total"),
    ("lab4", "epoch", "last batch's loss", "return total / seen", "return loss.item()"),
    ("lab4", "epoch", "ran 1 times", "        seen += len(labels)\n    return total / seen", "        seen += len(labels)\n        return total / seen"),
    ("lab4", "accuracy", "Call net.eval()", "    net.eval()\n    right", "    right"),
    ("lab4", "accuracy", "gradients are recorded", "with torch.no_grad():", "if True:"),
    ("lab4", "accuracy", "make it a float", "return right / seen", "return torch.tensor(right / seen)"),
    ("lab4", "accuracy", "mean of the batches", "            right += int((net(images).argmax(dim=1) == labels).sum())\n            seen += len(labels)", "            right += float((net(images).argmax(dim=1) == labels).float().mean())\n            seen += 1"),
    ("lab4", "accuracy", "a share from 0 to 1", "return right / seen", "return 100 * right / seen"),
    ("lab4", "accuracy", "along the classes", "net(images).argmax(dim=1) == labels", "net(images).argmin(dim=1) == labels"),
    ("lab4", "preparation", "by its own mean", "((part - mean) / std)[:, None]", "((part - part.mean()) / part.std())[:, None]"),
    ("lab4", "preparation", "leak into the training", "mean, std = training.mean(), training.std()", "every = torch.cat([training, validation, test])\n    mean, std = every.mean(), every.std()"),
    ("lab4", "preparation", "each image is standardised by itself", "((part - mean) / std)[:, None]", "((part - part.mean((1, 2), keepdim=True)) / part.std((1, 2), keepdim=True))[:, None]"),
    ("lab4", "preparation", "channel is missing", "[:, None] for part", " for part"),
    ("lab4", "shuffling", "two different orders", "labels[order]", "labels[torch.randperm(len(images), generator=generator)]"),
    ("lab4", "shuffling", "not shuffled", "torch.randperm(len(images), generator=generator)", "torch.arange(len(images))"),
    ("lab4", "shuffling", "same order", "torch.randperm(len(images), generator=generator)", "torch.randperm(len(images), generator=torch.Generator().manual_seed(1))"),
    ("lab4", "shuffling", "twice and some never", "torch.randperm(len(images), generator=generator)", "torch.randint(0, len(images), (len(images),), generator=generator)"),
    ("lab4", "network", "drops always", ", training=self.training", ""),
    ("lab4", "network", "another one in F.cross_entropy", "return self.head(x)", "return self.head(x).softmax(dim=1)"),
    ("lab4", "network", "log-softmax", "return self.head(x)", "return self.head(x).log_softmax(dim=1)"),
    ("lab4", "network", "dropout is gone", "        x = F.dropout(x, 0.3, training=self.training)\n", ""),
    ("lab4", "fitting", "add up", "            optimizer.zero_grad()\n            loss.backward()\n            optimizer.step()\n            losses", "            loss.backward()\n            optimizer.step()\n            losses"),
    ("lab4", "fitting", "step at each batch", "            losses.append(loss.item())\n        scheduler.step()", "            losses.append(loss.item())\n            scheduler.step()"),
    ("lab4", "fitting", "holds tensors", "losses.append(loss.item())", "losses.append(loss)"),
    ("lab4", "fitting", "have not moved", "            optimizer.step()\n            losses", "            losses"),
    ("lab4", "choice", "test images choose", "if validation_accuracy > self.accuracy", "if test_accuracy > self.accuracy", "self.accuracy = validation_accuracy", "self.accuracy = test_accuracy"),
    ("lab4", "choice", "those of the last epoch", "copy.deepcopy(net.state_dict())", "net.state_dict()"),
    ("lab4", "choice", "no weights are kept", "self.weights = copy.deepcopy(net.state_dict())", "pass"),
    ("lab4", "choice", "those of the last epoch", "copy.deepcopy(net.state_dict())", "dict(net.state_dict())"),
]  # fmt: skip


def wrong_cells(lab: str, changes: tuple[str, ...]) -> list[str]:
    """The solution's cells with each old text replaced, those that changed alone."""
    cells = {i: make_labs.solution(text) for i, (kind, text) in enumerate(ALL[lab].cells) if kind == "code" and "# BEGIN" in text}
    changed: dict[int, str] = {}
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        (at,) = (i for i, text in cells.items() if old in changed.get(i, text))  # in one cell alone
        changed[at] = changed.get(at, cells[at]).replace(old, new)
    return [changed[i] for i in sorted(changed)]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong[0]}-{wrong[1]}-{wrong[2]}")
def test_wrong_answer_gets_the_words_meant_for_it(wrong: tuple[str, ...]) -> None:
    lab, check, message, *changes = wrong
    names = dict(went(lab, solved=True)[0])
    (call,) = (f"check.{name}({', '.join(of)})" for kind, text in ALL[lab].cells if kind == "check" for name, of in make_labs.checks_of(text) if name == check)
    with student_desk():
        for text in wrong_cells(lab, tuple(changes)):
            run(text, names, f"<{lab} {message}>")
        said = flat(run(call, names, f"<{lab} call>"))
    assert said.startswith(f"Not yet, {check}:"), said
    assert message in said


@pytest.mark.parametrize(("lab", "check"), CHECKS)
def test_every_check_has_three_wrong_answers(lab: str, check: str) -> None:
    assert sum(wrong[:2] == (lab, check) for wrong in WRONG) >= 3


# --- What is written --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("labs")
    make_labs.make(out)
    return out


def secrets(lab: Any) -> set[str]:
    """The lines of solutions and model answers that say something, and that a student is not given as well."""
    given = "\n".join(make_labs.stub(text) if kind == "code" else text for kind, text in lab.cells if kind != "answer")
    lines = [line for kind, text in lab.cells if kind == "code" for line in make_labs.solution_lines(text)]
    lines += [line for kind, text in lab.cells if kind == "answer" for line in text.splitlines()]
    return {line for line in lines if len(line) >= 20 and line not in given}


def test_no_solution_is_in_any_student_file(made: Path) -> None:
    with zipfile.ZipFile(made / "fertools-labs.zip") as archive:
        texts = {name: archive.read(name).decode(errors="replace") for name in archive.namelist()}
    for path in (made / "student").iterdir():
        texts[path.name] = path.read_text()
    for name, text in texts.items():
        if name.endswith(".ipynb"):
            texts[name] = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
    for lab in ALL.values():
        assert len(secrets(lab)) > 10
        shown = [(name, line) for name, text in texts.items() for line in secrets(lab) if line in text]
        assert not shown


def test_solution_is_in_the_solution(made: Path) -> None:
    for lab in ALL.values():
        notebook = nbformat.read(made / "solution" / f"{lab.name}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells)
        assert all(line in text for line in secrets(lab))
        assert "SOLUTION" not in text
        assert "STUB" not in text


def test_zip_holds_what_a_student_needs(made: Path) -> None:
    with zipfile.ZipFile(made / "fertools-labs.zip") as archive:
        names = {name.removeprefix("fertools-labs/") for name in archive.namelist()}
    wanted = {"README.md", "requirements.txt", "checking.py", "fertools/network.py", "data/runs/cpu-fer2013/record.json"}
    assert wanted | {f"{lab}{end}" for lab in ALL for end in (".ipynb", "_checks.py")} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_same_labs_give_the_same_zip(made: Path, tmp_path: Path) -> None:
    make_labs.make(tmp_path)
    assert (tmp_path / "fertools-labs.zip").read_bytes() == (made / "fertools-labs.zip").read_bytes()


def test_checks_are_fixed_and_notebooks_hold_no_output(made: Path) -> None:
    for path in made.glob("s*/*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs")
            if cell.source.startswith("check.") and "report" not in cell.source:
                assert cell.metadata == {"editable": False, "deletable": False}


def test_a_notebook_runs_in_a_kernel_of_its_own(made: Path) -> None:
    """Once for real, where a student runs it: the solved lab 1 in the student's folder."""
    notebook: NotebookNode = nbformat.read(made / "solution" / "lab1.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(made / "solution")}}).execute()
    (last,) = notebook.cells[-1].outputs
    assert "5 of 5 checks passed" in last.text


# --- The mechanism ----------------------------------------------------------------------------


def test_marks_that_do_not_fit_are_refused() -> None:
    for text in ("# END SOLUTION", "# BEGIN SOLUTION\nx = 1", "# STUB\n# x = 1", "# BEGIN SOLUTION\n# BEGIN SOLUTION"):
        with pytest.raises(ValueError, match="SOLUTION|STUB"):
            make_labs.stub(text)


def test_stub_text_takes_the_place_of_the_solution() -> None:
    text = "def f():\n    # BEGIN SOLUTION\n    return 1\n    # STUB\n    # return 0  # wrong\n    # END SOLUTION\n    # after"
    assert make_labs.stub(text) == "def f():\n    return 0  # wrong\n    # after"
    assert make_labs.solution(text) == "def f():\n    return 1\n    # after"


def test_a_check_names_the_line_that_stopped() -> None:
    checking = importlib.import_module("checking")
    names: dict[str, Any] = {}
    run("def f():\n    return 1 / 0", names, "<student>")

    def calls(f: Any) -> None:
        f()

    said = checking.examine(calls, names["f"])
    assert said == "the code stopped with ZeroDivisionError: division by zero\nIt was in f, line 2 of its cell: return 1 / 0"


def test_otter_assigns_what_is_written_for_it(made: Path, tmp_path: Path) -> None:
    assign = pytest.importorskip("otter.assign", reason="otter-grader is not installed")
    for lab in ALL:
        assign.main(made / "otter" / lab / f"{lab}.ipynb", tmp_path / lab, no_pdfs=True)
        student = nbformat.read(tmp_path / lab / "student" / f"{lab}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in student.cells)
        assert not [line for line in secrets(ALL[lab]) if line in text]
