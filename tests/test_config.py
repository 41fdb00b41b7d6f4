"""The validator, by a config of its own."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from fertools.config import Config, Range, config_from_dict, nearest


@dataclass(frozen=True)
class Engine(Config):
    power: Annotated[float, Range(0, above=True)]
    fuel: Literal["gas", "none", 3] = "gas"


@dataclass(frozen=True)
class Sail(Config):
    area: Annotated[float, Range(0, 500)] = 20.0


@dataclass(frozen=True)
class Boat(Config):
    seats: Annotated[int, Range(1, 12)] = 4
    draft: Annotated[float, Range(0, 1, below=True)] = 0.5
    open: bool = True
    decks: tuple[int, ...] = (1,)
    masts: Annotated[int, Range(0)] | Annotated[tuple[int, ...], Range(1)] = 1
    drive: Engine | Sail = field(default_factory=Sail)

    def check(self) -> None:
        if self.open and len(self.decks) > 1:
            self.refuse("decks", "needs open=False")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seats": 0}, "Boat: seats=0 must be at least 1 and at most 12"),
        ({"seats": 13}, "seats=13 must be at least 1 and at most 12"),
        ({"seats": 4.0}, "seats=4.0 does not fit; expected a whole number"),
        ({"seats": True}, "seats=True does not fit; expected a whole number"),
        ({"seats": "4"}, "seats='4' does not fit"),
        ({"seats": None}, "seats=None does not fit"),
        ({"draft": 1.0}, "draft=1.0 must be at least 0 and below 1"),
        ({"draft": math.nan}, "draft=nan is not a finite number"),
        ({"draft": math.inf}, "draft=inf is not a finite number"),
        ({"draft": True}, "draft=True does not fit; expected a number"),
        ({"open": 1}, "open=1 does not fit; expected true or false"),
        ({"decks": (1, 2.5)}, "decks=2.5 does not fit"),
        ({"decks": "12"}, "decks='12' does not fit; expected whole numbers with commas"),
        ({"masts": -1}, "masts=-1 must be at least 0"),
        ({"masts": (2, 0)}, r"masts=\(2, 0\)"),
        ({"decks": (1, 2)}, r"Boat: decks=\(1, 2\) needs open=False"),
        ({"drive": 3}, "drive=3 is not a"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Boat(**values)


@pytest.mark.parametrize(("power", "fuel"), [(0.0, "gas"), (1.0, "coal"), (1.0, "3"), (1.0, 3.0)])
def test_bounds_can_exclude_and_choices_are_of_one_type(power: float, fuel: object) -> None:
    assert Engine(1.0, 3).fuel == 3
    with pytest.raises(ValueError, match="must be above 0|is not one of gas, none, 3"):
        Engine(power, fuel)  # type: ignore[arg-type]


def test_values_take_the_type_of_their_field() -> None:
    boat = Boat(draft=0, decks=[2], masts=[1, 2])  # type: ignore[arg-type]
    assert isinstance(boat.draft, float)
    assert (boat.decks, boat.masts) == ((2,), (1, 2))
    assert hash(boat) == hash(Boat(draft=0.0, decks=(2,), masts=(1, 2)))


@pytest.mark.parametrize("boat", [Boat(), Boat(drive=Engine(80.0, "none"), open=False, decks=(1, 2), masts=(3,))])
def test_a_config_survives_json(boat: Boat) -> None:
    assert Boat.from_dict(json.loads(json.dumps(boat.to_dict()))) == boat


def test_a_dictionary_must_fit() -> None:
    with pytest.raises(ValueError, match="Boat has no field color, sails"):
        Boat.from_dict({"sails": 1, "color": "red"})
    with pytest.raises(ValueError, match="Engine: .*power"):
        config_from_dict(Engine, {})
    with pytest.raises(ValueError, match="expected|not"):
        config_from_dict(Boat, 3)  # type: ignore[arg-type]
    assert config_from_dict(Engine | Sail, {"area": 1}) == Sail(1.0)  # type: ignore[arg-type]


def test_overrides_reach_every_level_and_leave_the_original() -> None:
    boat = Boat()
    changed = boat.with_overrides(["seats=2", "drive.area=7", "masts=1,2", "open=FALSE", "decks=1,2"])
    assert changed == Boat(seats=2, drive=Sail(7.0), masts=(1, 2), open=False, decks=(1, 2))
    assert boat == Boat()
    with pytest.raises(ValueError, match=r"no field 'drive\.aera' \(did you mean 'drive\.area'\?\); there are: seats"):
        boat.with_overrides(["drive.aera=7"])
    with pytest.raises(ValueError, match="no field 'drive'"):
        boat.with_overrides(["drive=7"])
    with pytest.raises(ValueError, match="write field=value"):
        boat.with_overrides(["seats"])


def test_nearest_suggests_nothing_that_is_far() -> None:
    assert nearest("sets", ["seats", "draft"]) == " (did you mean 'seats'?)"
    assert nearest("zzz", ["seats", "draft"]) == ""
