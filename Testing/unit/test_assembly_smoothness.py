"""Results are smoothed as far as the reference's own masks bear it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rau.assembly.smoothness import ENOUGH, SHARES, borne, smooth, thinned

FLAT, SPACING = (1, 96, 96), (1.0, 1.0, 1.0)


def disk(shape, radius) -> np.ndarray:
    middle = [(n - 1) / 2 for n in shape]
    axes = [(np.arange(n) - m) ** 2 for n, m in zip(shape, middle)]
    away = sum(np.meshgrid(*axes, indexing="ij")[k] for k in range(3) if shape[k] > 1)
    return away < radius**2


def comb() -> np.ndarray:
    teeth = np.zeros(FLAT, bool)
    teeth[0, 10:80, 10:80:4] = True
    teeth[0, 10:12, 10:80] = True
    return teeth


def dice(one, other) -> float:
    return 2 * float((one & other).sum()) / max(1, int(one.sum() + other.sum()))


def ragged(mask, seed=0, share=0.25) -> np.ndarray:
    """The mask with a border of two voxels either way taken at random."""
    from scipy import ndimage

    axes = np.ones([3 if n > 1 else 1 for n in mask.shape])
    rim = ndimage.binary_dilation(mask, axes, 2) & ~ndimage.binary_erosion(mask, axes, 2)
    return mask ^ (rim & (np.random.default_rng(seed).random(mask.shape) < share))


@pytest.mark.parametrize("shape", [FLAT, (40, 48, 44)])
def test_what_is_round_in_the_reference_loses_its_ragged_border(shape):
    reference, truth = disk(shape, 15).astype(np.uint16) * 3, disk(shape, 17)
    shares = borne([(reference, SPACING)], (3,))
    found = ragged(truth)
    better = smooth(found.astype(np.uint16) * 3, shares, SPACING) == 3
    assert shares[3] > 0.05 and dice(better, truth) > dice(found, truth) + 0.03


def test_what_is_thin_in_the_reference_stays_as_it_was_found():
    shares = borne([(comb().astype(np.uint16), SPACING)], (1,))
    found = comb().astype(np.uint16)
    assert shares[1] <= SHARES[0] and dice(smooth(found, shares, SPACING) == 1, comb()) > 0.98
    assert np.array_equal(smooth(found, {}, SPACING), found)


def test_of_several_references_the_least_smooth_one_counts_and_what_none_shows_has_no_share():
    round_one, thin_one = disk(FLAT, 20).astype(np.uint16), comb().astype(np.uint16)
    one, both = (
        borne(several, (1, 2)) for several in ([(round_one, SPACING)], [(r, SPACING) for r in (round_one, thin_one)])
    )
    assert one[1] > 0.05 and set(both) == {1} and both[1] <= SHARES[0]


def test_a_structure_of_which_little_would_be_left_stays():
    sliver = np.zeros(FLAT, np.uint16)
    sliver[0, 20:80, 40:42] = 1
    assert np.array_equal(smooth(sliver, {1: SHARES[-1]}, SPACING), sliver)


@given(st.tuples(*[st.floats(0.3, 4.0)] * 3))
@settings(max_examples=15)
def test_sizes_are_in_millimetres(spacing):
    """Shares belong to a shape, not to its voxels: stretched grids of the same ball agree."""
    shape = [max(8, int(round(48 / s))) for s in spacing]
    middle = [(n - 1) / 2 for n in shape]
    grid = np.stack(
        np.meshgrid(*(((np.arange(n) - m) * s) ** 2 for n, m, s in zip(shape, middle, spacing)), indexing="ij")
    )
    ball = (grid.sum(0) < 18.0**2).astype(np.uint16)
    plain = (disk((48, 48, 48), 18)).astype(np.uint16)
    one, other = borne([(ball, spacing)], (1,))[1], borne([(plain, SPACING)], (1,))[1]
    assert abs(SHARES.index(one) - SHARES.index(other)) <= 2


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=15)
def test_no_other_label_appears_and_neighbours_share_their_border(seed, flat):
    rng = np.random.default_rng(seed)
    shape = FLAT if flat else (24, 30, 28)
    labels = np.where(disk(shape, 11), 5, 0).astype(np.uint16)
    labels[..., : shape[2] // 2] *= 2  # values 5 and 10, side by side
    labels[rng.random(shape) < 0.02] = 0
    given_ones = labels.copy()
    found = smooth(labels, {5: 0.08, 10: 0.08}, SPACING)
    assert set(np.unique(found)) <= {0, 5, 10} and found.dtype == labels.dtype and found.shape == shape
    assert np.array_equal(labels, given_ones)
    inside = disk(shape, 8)
    assert (found[inside] > 0).all() and dice(found == 5, labels == 5) > 0.85


def test_large_masks_are_thinned_along_their_finest_axes_and_bear_the_same():
    every = thinned((12, 400, 400), (8.0, 1.0, 1.0))
    assert every[0] == 1 and every[1] >= 4 and 12 * (400 // every[1] + 1) * (400 // every[2] + 1) <= 1.1 * ENOUGH
    assert thinned((1, 96, 96), SPACING) == [1, 1, 1]
    large, small = (disk((n, n, n), 0.4 * n).astype(np.uint16) for n in (120, 30))
    one, other = borne([(large, SPACING)], (1,))[1], borne([(small, SPACING)], (1,))[1]
    assert abs(SHARES.index(one) - SHARES.index(other)) <= 1


def test_nothing_found_is_nothing_smoothed():
    nothing = np.zeros(FLAT, np.uint16)
    assert not smooth(nothing, {1: 0.1}, SPACING).any() and borne([(nothing, SPACING)], (1,)) == {}
