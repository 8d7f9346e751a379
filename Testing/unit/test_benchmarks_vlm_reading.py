"""The benchmark of reading: what it compares, and when it says that something was learnt."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from Benchmarks.vlm_reading import LAST, WHOLE, learnt_at, losses_of, variants  # noqa: E402
from rau.vlm.reader import PARTS  # noqa: E402


def test_each_part_is_left_out_once_and_the_whole_is_first():
    compared = variants()
    assert list(compared)[0] == WHOLE and compared[WHOLE] == PARTS and compared["as it was"] == ()
    for part in PARTS:
        assert set(compared[f"without {part}"]) == set(PARTS) - {part}


def test_learnt_is_when_the_mean_first_falls_below_a_half_of_guessing():
    falls = [6.0] * 100 + [1.0] * 100
    at = learnt_at(falls, 6.0)
    assert at is not None and 100 < at < 100 + LAST
    assert learnt_at([6.0] * 200, 6.0) is None and learnt_at([1.0] * (LAST - 1), 6.0) is None


@pytest.mark.slow
def test_a_new_model_begins_by_guessing():
    losses, guessing = losses_of(PARTS, 2, 0)
    assert (
        len(losses) == 2 and guessing < losses[0] < guessing + 1 and guessing == pytest.approx(math.log(610), abs=0.1)
    )
