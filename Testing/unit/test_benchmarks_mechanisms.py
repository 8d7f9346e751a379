"""How `Benchmarks/mechanisms.py` sums up: means, sizes, targets, exit status."""

from __future__ import annotations

import mechanisms
import numpy as np
import pytest
from mechanisms_variants import ADAM, BEST_ALONE, COPYING, ONE, TWO, Row, rows_of

from rau.volume.volume import Geometry, LabelMap, Structure


def row(group="set", pair="a", share=0.01, volume=False, **dice):
    names = {"one": ONE, "two": TWO, "alone": BEST_ALONE[volume], "copy": COPYING, "adam": ADAM}
    return Row(group, pair, "liver", volume, share, {names[key]: value for key, value in dice.items()})


def test_pairs_and_sets_count_alike_however_many_structures_they_have():
    rows = [row(one=1.0), row(one=0.0), row(pair="b", one=0.5), row("other", one=0.9)]
    assert mechanisms.averaged(rows, ONE) == pytest.approx((0.5 + 0.9) / 2)
    assert mechanisms.of_structures(rows, ONE) == pytest.approx(0.6)
    assert mechanisms.averaged(rows, TWO) is None and mechanisms.gain(rows, TWO, ONE) is None


def test_the_closer_look_is_judged_on_small_structures_alone():
    rows = [row(one=0.2, two=0.3), row(share=0.3, one=0.9, two=0.1), row(share=0.0, one=0.0, two=0.9)]
    ((told, figure, least),) = mechanisms.targets(rows, ("look",))
    assert figure == pytest.approx(0.1) and least == mechanisms.GAIN and " 1 structures" in told


def test_adaptation_is_judged_against_convex_adam_where_that_runs():
    rows = [row(alone=0.5, copy=0.3), row("volumes", volume=True, alone=0.7, copy=0.6, adam=0.72)]
    figures = [figure for _, figure, _ in mechanisms.targets(rows, ("prototype",))]
    assert figures == pytest.approx([0.2, 0.1, -0.02])


def test_the_last_line_tells_pictures_and_volumes_apart(capsys):
    rows = [row(alone=0.5, copy=0.3), row("volumes", volume=True, alone=0.7, copy=0.6)]
    assert mechanisms.concluded(rows, {}, ("prototype",), True) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("pictures: adaptation alone 0.500, copying 0.300; volumes: adaptation alone 0.700, copying")


@pytest.mark.parametrize(("two", "check", "status"), [(0.4, True, 1), (0.4, False, 0), (0.6, True, 0)])
def test_a_default_that_loses_dice_fails_the_check(two, check, status, capsys):
    rows = [row(one=0.5, two=two)]
    assert mechanisms.concluded(rows, {ONE: [1.0]}, ("look",), check) == status
    told = capsys.readouterr().out
    assert told.splitlines()[-1].startswith("closer look") and ("met" in told) == (two > 0.5)


def test_structures_are_found_by_name_and_those_of_neither_side_left_out():
    grid = Geometry((1, 4, 4))
    array = np.zeros((1, 4, 4), np.uint8)
    array[0, :2] = 7
    truth = LabelMap(array, grid, (Structure(7, "Liver"), Structure(8, "spleen")))
    result = np.where(array == 7, 3, 0)
    structures = {3: Structure(3, "liver"), 4: Structure(4, "spleen")}
    (one,) = rows_of("set", "pair", truth, {ONE: result, TWO: np.zeros_like(result)}, structures)
    assert one.structure == "liver" and one.share == 0.5 and one.dice == {ONE: 1.0, TWO: 0.0}
