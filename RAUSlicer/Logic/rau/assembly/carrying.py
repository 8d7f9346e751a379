"""What corrected slices say of the error, carried to the slices beside them.

In a corrected slice it is known how the border of each structure should have run, and how it would have run: the
difference of the two signed distances (within the slice, mm). Slices nearby are likely to err alike. A part of that
difference, the less the further away and interpolated between two corrected slices, is added to theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rau.corrections import Corrected

# Chosen by hand on four held-out hippocampi: wider and stronger helps where results are bad, and spoils
# those that are good.
WIDTH = 0.15  # of a structure's extent along the slices: one deviation of how far an error is carried
SHARE = 0.5  # of the difference, beside the corrected slice
CUT = 0.5  # of the side of a square as large as the structure's slices: distances beyond are alike
LEAST_WIDTH = 1.5  # slices
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
    errors = {t: signed(truth[t][box], spacing, cut) - signed(found[t][box], spacing, cut) for t in given}
    changed = []
    for t in range(len(found)):
        if t in errors:
            continue
        parts = {s: w for s, w in weights(given, t, max(LEAST_WIDTH, WIDTH * extent)).items() if w >= LEAST}
        if parts:
            score = signed(found[t][box], spacing, cut)
            changed.append((t, box, score + np.sum([w * errors[s] for s, w in parts.items()], axis=0)))
    return changed


def window(mask: np.ndarray, margin: Sequence[int]) -> tuple[slice, slice]:
    """The rows and columns of a (R, C) mask, with a margin of so many pixels."""
    rows, columns = np.nonzero(mask)
    ends = [(int(v.min()), int(v.max())) for v in (rows, columns)]
    row, column = (slice(max(0, low - m), high + m + 1) for (low, high), m in zip(ends, margin, strict=True))
    return row, column
