"""Which slices are segmented; mask prompts of a slice; how far beyond a structure it lies; which neighbours count."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from rau.sam.propagation import Direction, Done, Match, Recipe, beyond, chosen_memories, prompts_of, walks  # noqa: E402
from rau.sam.segmenter import Memory  # noqa: E402
from rau.volume.planes import Planes  # noqa: E402

NETWORK = SimpleNamespace(size=64, device=torch.device("cpu"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_prompts_are_the_slice_on_the_networks_square(axis):
    rng = np.random.default_rng(axis)
    volumes = {v: rng.integers(0, 256, (9, 12, 10), dtype=np.uint8) for v in (4, 7)}
    planes = Planes(volumes[4], axis, (2.0, 1.0, 1.5))
    found = prompts_of(volumes.get, (7, 4), 3, planes, NETWORK)
    assert found.shape == (2, 1, 64, 64) and 0 <= float(found.min()) <= float(found.max()) <= 1
    top, left, height, width = planes.frame.pixels(64)
    for k, value in enumerate((7, 4)):
        inside = found[k, 0, top : top + height, left : left + width]
        assert float(inside.mean()) == pytest.approx(np.take(volumes[value], 3, axis).mean() / 255, abs=0.03)
        assert float(found[k].sum()) == pytest.approx(float(inside.sum()), rel=1e-5), "nothing outside the slice"


def test_a_slice_is_prompted_only_if_all_its_structures_are_expected_somewhere():
    volume = np.zeros((3, 8, 8), np.uint8)
    planes = Planes(volume, 0, (1.0, 1.0, 1.0))
    assert prompts_of(None, (1,), 0, planes, NETWORK) is None
    assert prompts_of({1: volume}.get, (1, 2), 0, planes, NETWORK) is None
    assert prompts_of({1: volume, 2: volume}.get, (1, 2), 0, planes, NETWORK) is not None


def matched(where, slices=10, annotated=None):
    """A match of target slice t to reference slice t; the structure 1 is in the slices `where`."""
    reference = SimpleNamespace(images=[None] * slices, where={1: np.array(where)})
    return Match(reference, 0, np.arange(slices), np.ones(slices), annotated=annotated)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 59))
def test_a_walk_goes_through_every_so_many_slices_once_from_the_key_slice(count, step, best):
    match = matched([best % count], count)
    onwards, back = walks([match], count, step)
    assert onwards[0] == best % count, "the slice that shows something"
    assert sorted([*onwards, *back]) == [t for t in range(count) if (t - best % count) % step == 0]


def test_of_a_reference_the_slices_of_the_step_are_remembered_if_they_show_the_structure():
    def indices(where, step):
        match = matched(where, 12)
        match.reference.memory = lambda _, index: (index, {1: 0})
        return [index for index, _ in chosen_memories(NETWORK, [match], 6, 1, Recipe(step=step))]

    assert indices(range(2, 11), 1) == [6, 5, 7]
    assert indices(range(2, 11), 2) == [6, 4, 8]
    assert indices([5, 7], 2) == [5, 7], "none of the step shows it"


def test_slices_past_the_last_one_that_shows_a_structure_lie_beyond_it():
    found = [beyond([matched([3, 4, 5, 6])], t, 1) for t in range(10)]
    assert found == [0.75, 0.5, 0.25, 0.0, -0.25, -0.25, 0.0, 0.25, 0.5, 0.75]


def test_a_structure_cut_off_by_the_end_of_the_reference_does_not_end_there():
    found = [beyond([matched([0, 1, 2, 3])], t, 1) for t in range(10)]
    assert found[:4] == [-0.75, -0.5, -0.25, 0.0] and found[9] == 1.5
    assert [beyond([matched(range(3), 3)], t, 1) for t in range(3)] == [-1.0] * 3, "three slices, all of the liver"
    assert beyond([matched([4, 5], annotated=(4, 5, 6))], 4, 1) == -0.5, "what was not annotated says nothing"


def test_of_several_references_those_that_show_no_end_count_as_well_within():
    assert beyond([matched([3, 4, 5, 6]), matched(range(10))], 9, 1) == pytest.approx((0.75 - 1.0) / 2)


def memory(number, rows=2):
    return Memory(*(torch.full((rows, *shape), float(number)) for shape in ((4, 2, 2), (4, 2, 2), (8,))))


def test_the_mask_of_an_unsure_neighbour_gives_way_to_the_references():
    direction = Direction(1)
    direction.push(Done(None, (1, 2), memory(7), unsure=(2,)))
    (found,) = direction.memories(NETWORK, (1, 2), memory(3))
    assert [row.unique().tolist() for row in found.spatial] == [[7.0], [3.0]]
    assert found.pointer[:, 0].tolist() == [7.0, 3.0]
    (whole,) = direction.memories(NETWORK, (1, 2))
    assert whole.spatial.unique().tolist() == [7.0]


def test_some_rows_of_a_memory_can_be_those_of_another():
    mixed = memory(1, 3).with_rows([0, 2], memory(2, 3))
    assert mixed.spatial[:, 0, 0, 0].tolist() == mixed.pointer[:, 0].tolist() == [2.0, 1.0, 2.0]
