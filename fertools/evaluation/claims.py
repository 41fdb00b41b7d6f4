"""Numbers in a text, held to what was measured.

A sentence such as "the network reaches 68.04 %" is typed once and stays when the run behind it is
repeated. :func:`check_text` compares it with the measurement and fails when it has become false. The
book's chapters check each of their results this way, in a cell after the sentence.
"""

from __future__ import annotations

import re

# A number that is a word of its own: not the 18 of ResNet-18, the 48 of CK+48, or the 2013 of FER2013.
NUMBER = re.compile(r"(?<![\w.+^-])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d)")


def numbers(text: str) -> list[str]:
    """The numbers in a text, as they are written there.

    >>> numbers("ResNet-18 is 3.46 points ahead on 3,589 images of FER2013.")
    ['3.46', '3,589']
    """
    return NUMBER.findall(text)


def check_text(phrase: str, *values: float) -> None:
    """Check that every number in a phrase is a measured value, rounded as it is written.

    Args:
        phrase: part of a sentence, word for word.
        values: what was measured, one for each number in the phrase, in the same order and unit.

    Raises:
        AssertionError: a number differs; the message says what to write instead.
        ValueError: the phrase doesn't have as many numbers as there are values.

    >>> check_text("ResNet-18 is 3.46 points ahead (2.23 to 4.65)", 3.4587, 2.2312, 4.6489)
    >>> check_text("it reaches 68.04 %", 71.3012)
    Traceback (most recent call last):
    AssertionError: "it reaches 68.04 %": the text says 68.04, but the value is 71.3012. Write 71.30, and read the
    sentence again: is it still true?
    """
    written = numbers(phrase)
    if len(written) != len(values):
        raise ValueError(f'"{phrase}" has {len(written)} numbers ({", ".join(written)}), not {len(values)}')
    for text, value in zip(written, values, strict=True):
        decimals = len(text.partition(".")[2])
        right = f"{value:,.{decimals}f}" if "," in text else f"{value:.{decimals}f}"
        stated = float(text.replace(",", "").replace("−", "-"))
        # Not the text itself: 0.125 may be written 0.12 or 0.13, and -0 is 0.
        if not abs(stated - value) <= 0.5 * 10**-decimals + 1e-9:
            raise AssertionError(
                f'"{phrase}": the text says {text}, but the value is {value:.6g}. Write {right}, and read the\n'
                "sentence again: is it still true?"
            )
