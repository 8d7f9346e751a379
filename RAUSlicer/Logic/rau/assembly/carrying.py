"""What corrected slices say of the error, carried to the slices beside them.

In a corrected slice it is known how the border of each structure should have run, and how it would have run: the
difference of the two signed distances (within the slice, mm). Slices nearby are likely to err alike. A part of that
difference, the less the further away and interpolated between two corrected slices, is added to theirs.
A structure in one piece is in no slice beyond a corrected one in which it has ended.
Between two corrected slices there is also the shape that lies between theirs, the mean of their signed distances. It
counts the more, the nearer and the more alike the two are and the more was wrong in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rau.corrections import Corrected

# Chosen by hand on four held-out hippocampi (BETWEEN, NEARER: on two, four hearts and two lungs): wider and stronger
# helps where results are bad, and spoils those that are good.
WIDTH = 0.15  # of a structure's extent along the slices: one deviation of how far an error is carried
SHARE = 0.5  # of the difference, beside the corrected slice
CUT = 0.5  # of the side of a square as large as the structure's slices: distances beyond are alike
LEAST_WIDTH = 1.5  # slices
BETWEEN = 1.5  # of that width: one deviation of how far from them the shape between two corrected slices counts
NEARER = 0.6  # of the error in two corrected slices: what to expect between, which lies nearer to them than they do
LEAST = 0.02  # of the difference: less is not carried


def signed(mask: np.ndarray, spacing: Sequence[float], cut: float) -> np.ndarray:
    """Signed distance to the border within a slice, mm, positive inside, cut off at +-cut. mask: (R, C) bool."""
    from scipy import ndimage

    if not mask.any():
        return np.full(mask.shape, -cut, np.float32)
    inside = ndimage.distance_transform_edt(mask, spacing)
    outside = ndimage.distance_transform_edt(~mask, spacing) if not mask.all() else 0.0
    return np.clip(inside - outside, -cut, cut).astype(np.float32)


def weights(slices: Sequence[int], t: int, deviation: float) -> dict[int, float]:
    """How much of the error of which corrected slice counts in slice t: of the nearest on either side. At most SHARE.

    slices: sorted; t is none of them.
    """
    around = [*[s for s in slices if s < t][-1:], *[s for s in slices if s > t][:1]]
    nearest = min(abs(s - t) for s in around)
    most = SHARE * float(np.exp(-0.5 * (nearest / deviation) ** 2))
    if len(around) == 1:
        return {around[0]: most}
    first, second = around
    part = (t - first) / (second - first)
    return {first: most * (1 - part), second: most * part}


def carried(labels: np.ndarray, corrected: Corrected, spacing: Sequence[float]) -> np.ndarray:
    """`labels` (S, R, C) with the errors of the corrected slices carried to those nearby; a new array.

    In the corrected slices `labels` must be what was found without them. Where nothing was wrong nothing changes.
    """
    found, truth = (np.moveaxis(one, corrected.axis, 0) for one in (labels, corrected.labels))
    flat = [float(s) for axis, s in enumerate(spacing) if axis != corrected.axis]
    scores: dict[int, list[tuple[int, tuple[slice, slice], np.ndarray]]] = {}
    values = [int(v) for v in np.union1d(np.unique(labels), np.unique(corrected.labels)) if v]
    for value in values:
        for t, box, score in moved(found == value, truth == value, corrected.slices, flat):
            scores.setdefault(t, []).append((value, box, score))
    out = found.copy()
    for t, several in scores.items():
        others = (found[t] > 0) & ~np.isin(found[t], [value for value, _, _ in several])
        best, new = np.where(others, np.inf, 0.0), np.where(others, found[t], 0)
        for value, box, score in several:
            wins = (score > 0) & (score > best[box])
            best[box][wins], new[box][wins] = score[wins], value
        out[t] = new
    return np.ascontiguousarray(np.moveaxis(out, 0, corrected.axis))


def ended(labels: np.ndarray, corrected: Corrected, single: Sequence[int]) -> np.ndarray:
    """`labels` (S, R, C), changed in place and returned, without what lies beyond the ends that corrections show.

    single: the structures in one piece. One that a corrected slice shows and another does not ends before that one,
    and is in no slice further out.
    """
    there, drawn = (np.moveaxis(one, corrected.axis, 0) for one in (labels, corrected.labels))
    for value in single:
        shown = [t for t in corrected.slices if (drawn[t] == value).any()]
        if not shown:
            continue
        before = max((t for t in corrected.slices if t < shown[0]), default=-1)
        after = min((t for t in corrected.slices if t > shown[-1]), default=len(there))
        for part in (there[: before + 1], there[after:]):
            part[part == value] = 0
    return labels


def moved(
    found: np.ndarray, truth: np.ndarray, slices: Sequence[int], spacing: Sequence[float]
) -> list[tuple[int, tuple[slice, slice], np.ndarray]]:
    """(slice, window, new signed distance there) of a structure, for each slice that an error is carried to.

    found, truth: (T, R, C) bool; truth counts in `slices` alone.
    """
    given = list(slices)
    if not (found[given] != truth[given]).any():
        return []
    shown = np.concatenate([found, truth[given]]).sum((1, 2))
    extent = max(1, int(found.any((1, 2)).sum()))
    pixels = float(shown[shown > 0].mean())
    cut = max(2 * max(spacing), CUT * float(np.sqrt(pixels * spacing[0] * spacing[1])))
    anywhere = np.logical_or(found.any(0), truth[given].any(0))
    box = window(anywhere, [int(np.ceil(cut / s)) + 1 for s in spacing])
    right = {t: signed(truth[t][box], spacing, cut) for t in given}
    errors = {t: right[t] - signed(found[t][box], spacing, cut) for t in given}
    deviation = max(LEAST_WIDTH, WIDTH * extent)
    changed = []
    for t in range(len(found)):
        if t in errors:
            continue
        parts = {s: w for s, w in weights(given, t, deviation).items() if w >= LEAST}
        if parts:
            score = signed(found[t][box], spacing, cut) + sum(w * errors[s] for s, w in parts.items())
            if len(parts) == 2:
                first, second = sorted(parts)
                part = (t - first) / (second - first)
                between, alike = shape_between(right[first], right[second], part)
                share = share_between(found, truth, (first, second), part, 1 - alike)
                nearest = min(t - first, second - t)
                share *= float(np.exp(-0.5 * (nearest / (BETWEEN * deviation)) ** 2))
                score = mixed(score, between, share)
            changed.append((t, box, score))
    return changed


def shape_between(first: np.ndarray, second: np.ndarray, part: float) -> tuple[np.ndarray, float]:
    """The signed distance (R, C) of the shape at `part` of the way from one to the other, and how alike the two are.

    Both are moved onto each other by their centres; the level is set so that the area changes evenly from one to the
    other. Alike: Dice of the two where they are moved onto each other. Of an empty one there is no centre: the mean.
    """
    from scipy import ndimage

    empty = [not (one > 0).any() for one in (first, second)]
    if any(empty):
        return mixed(first, second, part), float(all(empty))
    centres = [np.array(ndimage.center_of_mass(one > 0)) for one in (first, second)]
    way = centres[1] - centres[0]
    near, far = (
        ndimage.shift(one, by, order=1, mode="nearest") for one, by in ((first, part * way), (second, (part - 1) * way))
    )
    return mixed(near, far, part), 1 - unlike(near > 0, far > 0)


def mixed(first: np.ndarray, second: np.ndarray, part: float) -> np.ndarray:
    """The mean of two signed distances, `part` of it the second's, at the level where the area is that mean too: thin
    shapes that lie beside each other would vanish. Of an empty one the level stays."""
    mean = np.asarray((1 - part) * first + part * second)
    areas = [int((one > 0).sum()) for one in (first, second)]
    if not all(areas):
        return mean
    area = max(1, round((1 - part) * areas[0] + part * areas[1]))
    level = np.partition(mean.ravel(), mean.size - area)[mean.size - area]
    return mean - min(float(level), 0.0)


def share_between(found: np.ndarray, truth: np.ndarray, ends: tuple[int, int], part: float, differ: float) -> float:
    """How much the shape between two corrected slices counts, 0 to 1, at `part` of the way from one to the other.

    By the errors to be expected: of what was found, as in the two slices; of the shape between, by how much the two
    differ, none at either and half of it midway. Both as 1 - Dice; weights are the inverse squares.
    """
    first, second = ends
    wrong = (1 - part) * unlike(found[first], truth[first]) + part * unlike(found[second], truth[second])
    wrong *= NEARER
    shape = differ * 2 * part * (1 - part)
    return wrong**2 / (wrong**2 + shape**2) if wrong else 0.0


def unlike(one: np.ndarray, other: np.ndarray) -> float:
    """1 - Dice of two masks; 0 of two empty ones."""
    both = int(one.sum()) + int(other.sum())
    return 1 - 2 * int((one & other).sum()) / both if both else 0.0


def window(mask: np.ndarray, margin: Sequence[int]) -> tuple[slice, slice]:
    """The rows and columns of a (R, C) mask, with a margin of so many pixels."""
    rows, columns = np.nonzero(mask)
    ends = [(int(v.min()), int(v.max())) for v in (rows, columns)]
    row, column = (slice(max(0, low - m), high + m + 1) for (low, high), m in zip(ends, margin, strict=True))
    return row, column
