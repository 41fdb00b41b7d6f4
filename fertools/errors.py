"""What goes wrong in a way that the user can fix; the command line shows the message alone.

Each class has the exit code with which the command line ends, see :mod:`fertools.cli`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar


class FertoolsError(Exception):
    """The root of the library's own errors."""

    exit_code: ClassVar[int] = 1


class DataError(FertoolsError):
    """A data set is missing, damaged, or has another layout; the message says what to do."""


class WeightsError(FertoolsError):
    """A weights file cannot be read, or does not fit the network; the message says where."""


class TrainingError(FertoolsError):
    """Training cannot go on; the message names the step, the cause, and what to do."""


class RunError(FertoolsError):
    """There is no such run, or it has not finished."""


class SweepError(FertoolsError):
    """A sweep file is invalid, or some of its runs failed; the message names them."""


class ExportError(FertoolsError):
    """The exported network would not predict what the trained one does; nothing was written."""


class Interrupted(FertoolsError):
    """Training was asked to stop and left a checkpoint; the same call continues it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


class MissingExtraError(FertoolsError, ImportError):
    """A package of an optional extra is not installed; the message names the extra."""


def require(module: str, extra: str) -> Any:
    """Imports a module that is installed by an extra of this package.

    Args:
        module: its import name, e.g. ``"cv2"`` or ``"onnxruntime.quantization"``.
        extra: the extra in ``pyproject.toml`` that installs it.

    Raises:
        MissingExtraError: it is not installed; the message says how to install it.

    >>> require("no_such_module", "faces")
    Traceback (most recent call last):
        ...
    fertools.errors.MissingExtraError: this needs no_such_module: pip install 'fertools[faces]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        if missing != module.partition(".")[0]:
            raise  # it is installed, but something that it imports is not
        raise MissingExtraError(f"this needs {missing}: pip install 'fertools[{extra}]'") from None
