"""What the benchmark of the VLM's worth stands on: shifted pictures, counts of presence, its verdict."""

from __future__ import annotations

import numpy as np
import pytest
import reasoning
from hypothesis import given
from hypothesis import strategies as st

from rau.volume.volume import Geometry, LabelMap, Structure, Volume


@given(st.integers(-5, 5), st.integers(-7, 7))
def test_what_stays_in_the_picture_is_moved_and_the_rest_is_gone(rows, columns):
    array = np.arange(1, 6 * 8 + 1).reshape(1, 6, 8)
    out = reasoning.moved(array, rows, columns)
    for r in range(6):
        for c in range(8):
            inside = 0 <= r - rows < 6 and 0 <= c - columns < 8
            assert out[0, r, c] == (array[0, r - rows, c - columns] if inside else 0)


def test_picture_and_truth_are_moved_alike():
    grid = Geometry((1, 20, 30), (1.0, 1.0, 1.0))
    image = np.random.default_rng(0).integers(1, 255, (1, 20, 30, 3)).astype(np.uint8)
    labels = (image[..., 0] > 128).astype(np.uint8)
    target, truth = reasoning.shifted(
        Volume(image, grid, "US"), LabelMap(labels, grid, (Structure(1, "a", (1, 0, 0), ""),)), 3
    )
    assert np.array_equal(truth.array, (target.array[..., 0] > 128).astype(np.uint8))
    assert (target.array == 0).all(-1).sum() == 20 * 30 - 16 * 24


def one(variant, dice, false=0, lost=0):
    return reasoning.One("set", "pair", variant, dice, 4, false, 10, lost)


def test_presence_is_balanced_between_false_alarms_and_losses():
    assert reasoning.presence([one("all", 0.5, false=2, lost=1)], "all")[-1] == pytest.approx((0.5 + 0.9) / 2)


def test_a_default_that_loses_dice_fails_and_one_that_is_off_does_not(capsys):
    found = [one("without", 0.60), one("presence", 0.58)]
    variants = ["without", "presence"]
    assert not reasoning.conclude(found, variants, ("presence",))
    assert reasoning.conclude(found, variants, ())
    assert reasoning.conclude([one("without", 0.60), one("presence", 0.62)], variants, ("presence",))
    assert "the default uses presence" in capsys.readouterr().out.splitlines()[-1]
