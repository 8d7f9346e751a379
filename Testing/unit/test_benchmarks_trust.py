"""What the benchmarks of loop, priors and adapter count, on figures made here."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import adapter
import carrying
import loop
import priors
from hypothesis import given
from hypothesis import strategies as st

from rau.corrections import Corrected
from rau.errors import InputError
from rau.volume.volume import Geometry, LabelMap, Structure


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_rising_forgives_small_steps_down_and_no_fall_on_the_whole(scores):
    falls = [a - b for a, b in zip(scores, scores[1:])]
    if loop.rising(scores):
        assert scores[-1] > scores[0] and max(falls) <= loop.TOLERANCE + 1e-9
    assert loop.rising(sorted({*scores, 2.0})) or len(set(scores)) == 0
    assert not loop.rising([*scores, scores[0]])


def test_a_piece_was_rightly_moved_when_most_of_it_is_not_its_structure():
    grid = Geometry((1, 10, 10))
    structures = (Structure(1, "left"), Structure(2, "right"))
    before, after, truth = (np.zeros(grid.shape, np.uint8) for _ in range(3))
    before[0, 1:4, 1:4], before[0, 6:9, 1:4], before[0, 1:4, 6:9] = 1, 1, 1
    after[0, 1:4, 1:4], after[0, 6:9, 1:4] = 1, 2  # one piece given to the other, one taken away
    truth[0, 1:4, 1:4], truth[0, 6:8, 1:4], truth[0, 1:4, 6:9] = 1, 2, 1
    one, other, true = (LabelMap(array, grid, structures) for array in (before, after, truth))

    class Done:
        labels = one
        case = type("Case", (), {"structures": structures})

    assert sorted(priors.moves(Done, other, true)) == [(0.0, 0, 0), (1.0, 9, 6)]


def test_the_table_of_priors_counts_pieces_and_means():
    rows = [
        priors.Outcome("a", "heads", "", 0.5, 0.7, 2, 1, 4, 1),
        priors.Outcome("b", "heads", "noisy", 0.4, 0.3, 1, 1, 0, 0),
        priors.Outcome("c", "heads", "stranger", None, None, 1, 1, 0, 0),
    ]
    told = priors.tell(rows)
    assert told["before"] == pytest.approx(0.45) and told["after"] == pytest.approx(0.5)
    assert (told["moved"], told["right"], told["given_right"]) == (4, 0.75, 0.25)
    assert (told["better"], told["worse"]) == (1, 1)


def test_accepted_cases_and_targets_never_meet():
    assert adapter.split(list("abcde"), 2, 2) == (["a", "b"], ["d", "e"])
    with pytest.raises(InputError, match="5 cases, not 4 \\+ 2"):
        adapter.split(list("abcde"), 4, 2)


def test_an_adapter_holds_where_it_gains_forgets_little_and_leaves_the_base_alone(capsys):
    figures = {"refused": "", "seconds": 1.0, "unchanged": True, "bytes": 1000}
    figures |= {"site": [("a", 0.5, 0.6)], "others": {"hc18": [("b", 0.7, 0.69)]}}
    assert adapter.tell(figures, "site")
    assert "0.500 -> 0.600; other sets lose at most +0.010" in capsys.readouterr().out
    assert not adapter.tell({**figures, "unchanged": False}, "site")
    assert not adapter.tell({**figures, "others": {"hc18": [("b", 0.7, 0.6)]}}, "site")
    assert not adapter.tell({**figures, "site": [("a", 0.6, 0.5)]}, "site")
    assert adapter.tell({"refused": "no gain", "seconds": 1.0, "unchanged": True}, "site")


def test_ways_of_carrying_are_compared_on_the_slices_that_no_run_had_corrected(monkeypatch):
    def discs(radius, way):
        rows, columns = np.mgrid[:40, :40]
        return np.stack([(rows - 12 - way * t) ** 2 + (columns - 20) ** 2 < radius**2 for t in range(11)])

    truth, found = discs(8, 1.5).astype(np.uint16), discs(4, 0).astype(np.uint16)

    def given(slices):
        labels = np.zeros_like(truth)
        labels[list(slices)] = truth[list(slices)]
        return found, Corrected(0, slices, labels), (3.0, 1.0, 1.0)

    inputs = {1: given((5,)), 3: given((1, 5, 9)), 5: given((1, 3, 5, 7, 9))}
    monkeypatch.setattr(carrying, "found_before", lambda *_: (inputs, truth))
    told = carrying.by_ways(None, None, None)
    assert list(told) == [1, 3, 5] and all(list(one) == list(carrying.WAYS) for one in told.values())
    left = [t for t in range(11) if t not in (1, 3, 5, 7, 9)]
    as_found = 2 * (found[left] & truth[left]).sum() / (found[left].sum() + truth[left].sum())
    assert all(one["as found"] == pytest.approx(as_found) for one in told.values())
    assert told[1]["errors carried"] == told[1]["and the shape between"], "there is nothing between"
    assert told[5]["and the shape between"] > told[5]["errors carried"] + 0.1 > as_found + 0.1
