"""A text's numbers are held to the measurement, at the precision in which they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fertools.evaluation.claims import check_text, numbers


def test_names_with_digits_are_not_numbers() -> None:
    assert numbers("ResNet-18, VGG13, FER2013, CK+48, FER+, 48x48, x2, 3rd, and 1.2.3") == []
    assert numbers("7 labels, 1,234 images, −3.5 points, (0.1 to 0.2), and 96 %.") == [
        "7", "1,234", "−3.5", "0.1", "0.2", "96",
    ]  # fmt: skip


@given(st.floats(-1e5, 1e5), st.integers(0, 4))
def test_what_python_rounds_to_is_accepted(value: float, decimals: int) -> None:
    check_text(f"about {value:.{decimals}f} %", value)
    check_text(f"about {value:,.{decimals}f} %", value)


@given(st.floats(-1e5, 1e5), st.integers(0, 4))
def test_one_unit_in_the_last_place_is_refused(value: float, decimals: int) -> None:
    with pytest.raises(AssertionError, match="the text says"):
        check_text(f"about {value + 1.01 * 10**-decimals:.{decimals}f} %", value)


def test_the_message_says_what_to_write() -> None:
    with pytest.raises(AssertionError, match=r"the value is 71\.3012\. Write 71\.30"):
        check_text("it reaches 68.04 %", 71.3012)


def test_a_missing_value_is_an_error_of_the_page() -> None:
    with pytest.raises(ValueError, match="has 2 numbers"):
        check_text("from 1 to 2", 1)


def test_nan_is_never_right() -> None:
    with pytest.raises(AssertionError):
        check_text("it reaches 68.04 %", float("nan"))
