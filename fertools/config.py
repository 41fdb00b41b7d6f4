"""Configurations that check themselves: bounds and choices are stated once, next to the field.

>>> from dataclasses import dataclass
>>> from typing import Annotated
>>> @dataclass(frozen=True)
... class Example(Config):
...     epochs: Annotated[int, Range(1)] = 10
...     dropout: Annotated[float, Range(0, 1, below=True)] = 0.5
>>> Example(dropout=1.5)
Traceback (most recent call last):
    ...
ValueError: Example: dropout=1.5 must be at least 0 and below 1
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NoReturn, Self


@dataclass(frozen=True)
class Range:
    """The numbers a field may have: from ``low`` to ``high``, both included unless said otherwise."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # exclude ``low``
    below: bool = False  # exclude ``high``

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high < math.inf:
            parts.append(f"{'below' if self.below else 'at most'} {self.high:g}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Config:
    """A frozen dataclass whose fields are checked against their types, bounds, and choices.

    A field's type may be ``int``, ``float``, ``bool``, a ``Literal`` of its choices, a tuple, another
    :class:`Config`, a union of these, and any of them with a :class:`Range` in ``Annotated``. Numbers
    have to be finite. A subclass states in :meth:`check` which fields contradict each other.

    Raises:
        ValueError: naming the field, its value, and what is expected.
    """

    def __post_init__(self) -> None:
        cls: type = type(self)
        for name, hint in _hints(cls).items():
            fitted = _fit(getattr(self, name), hint, f"{cls.__name__}: {name}")
            object.__setattr__(self, name, fitted)
        self.check()

    def check(self) -> None:
        """Refuses fields that contradict each other."""

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raises ValueError about one field."""
        raise ValueError(f"{type(self).__name__}: {name}={getattr(self, name)!r} {why}")

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as a record stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`, also after a round trip through JSON."""
        return config_from_dict(cls, values)

    def with_overrides(self, overrides: Iterable[str]) -> Self:
        """This configuration with some fields changed.

        Args:
            overrides: ``"field=value"`` each, e.g. ``"epochs=5"``, ``"network.scales=12,24,48"``.

        Raises:
            ValueError: an unknown field, or a value that does not fit it.
        """
        values = self.to_dict()
        for override in overrides:
            path, equals, text = override.partition("=")
            if not equals:
                raise ValueError(f"cannot read {override!r}; write field=value, e.g. epochs=5 or network.width=16")
            *groups, last = path.strip().split(".")
            place = values
            for group in groups:
                place = place.get(group, {}) if isinstance(place, dict) else {}
            if not isinstance(place, dict) or last not in place or isinstance(place[last], dict):
                known = _paths(values)
                raise ValueError(f"there is no field {path!r}{nearest(path, known)}; there are: {', '.join(known)}")
            place[last] = _literal(text.strip())
        return self.from_dict(values)


def config_from_dict(cls: Any, values: Any) -> Any:
    """A configuration of type ``cls`` from plain values.

    Args:
        cls: a subclass of :class:`Config`, or a union of some: then the one whose fields ``values`` has.
        values: as :meth:`Config.to_dict` writes them; a field that is missing has its default.

    Raises:
        ValueError: an unknown field, or a value that does not fit.
    """
    if not isinstance(values, dict):
        raise ValueError(f"expected the fields of a configuration, not {values!r}")
    if _is_union(cls):
        cls = max(typing.get_args(cls), key=lambda option: len(values.keys() & _hints(option).keys()))
    hints = _hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}")
    try:
        return cls(**{name: _nested(value, hints[name]) for name, value in values.items()})
    except TypeError as error:  # a field without a default is missing
        raise ValueError(f"{cls.__name__}: {error}") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` where something known is spelled alike, or nothing."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _nested(value: Any, hint: Any) -> Any:
    """A dictionary as the configuration its field wants; everything else as it is."""
    return config_from_dict(hint, value) if isinstance(value, dict) and _is_config(hint) else value


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _is_config(hint: Any) -> bool:
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    return all(isinstance(option, type) and issubclass(option, Config) for option in options)


def _fit(value: Any, hint: Any, name: str) -> Any:
    """``value`` as the type ``hint`` says, or ValueError."""
    if _is_config(hint):
        if isinstance(value, hint):
            return value
        raise ValueError(f"{name}={value!r} is not a {getattr(hint, '__name__', hint)}")
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _fit(value, inner[0], name)
        for bounds in inner[1:]:
            if any(part not in bounds for part in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"{name}={value!r} must be {bounds}")
        return value
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in inner):
            return value
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, inner))}")
    if _is_union(hint):
        refused = []
        for option in inner:
            try:
                return _fit(value, option, name)
            except ValueError as error:
                refused.append(error)
        raise refused[0]
    if origin is tuple and isinstance(value, tuple | list | int) and not isinstance(value, bool):
        return tuple(_fit(part, inner[0], name) for part in (value if isinstance(value, tuple | list) else (value,)))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{name}={value!r} is not a finite number")
        return float(value)
    if hint in (int, bool) and type(value) is hint:
        return value
    raise ValueError(f"{name}={value!r} does not fit; expected {_words(hint)}")


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return "whole numbers with commas between them, e.g. 12,24"
    return {int: "a whole number", float: "a number", bool: "true or false"}[hint]


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _paths(values: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += _paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found
