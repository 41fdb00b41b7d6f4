"""What a cell leaves in the page for a figure's script."""

from __future__ import annotations

import base64
import json
import re

import numpy as np

from fertools.evaluation.interactive import PageData, pack_log_probabilities


def test_data_cannot_close_its_element() -> None:
    shown = PageData("any", {"text": "</script><script>alert(1)"})._repr_html_()
    assert shown.count("<script") == shown.count("</script") == 1
    assert json.loads(re.sub("<.*?>", "", shown)) == {"text": "</script><script>alert(1)"}


def test_packed_numbers_are_within_half_a_thousandth() -> None:
    logs = np.log(np.random.default_rng(0).dirichlet(np.full(7, 0.3), 200))
    read = np.frombuffer(base64.b64decode(pack_log_probabilities(logs)), "<i2").reshape(200, 7) / 1000
    assert np.abs(read - np.maximum(logs, -32)).max() <= 0.0005 + 1e-9
