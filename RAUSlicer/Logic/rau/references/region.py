"""The part of every slice that the segmenter looks at: where registration expects the structures, and around it.

The network's square has few pixels; a heart that takes a third of the slice is seen three times as large through it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rau.volume.planes import Planes

MARGIN = 0.35  # on each side, of the longer side of what is expected
LEAST = 48  # pixels along a side, at least
WORTHWHILE = 0.7  # of the slice's longer side; a larger region is not worth it
ALIKE = 0.5  # correlation of target and laid reference from which it is trusted so far


def region_of(shown: Sequence[np.ndarray], images: Planes) -> tuple[int, int, int, int] | None:
    """First row, end of rows, first column, end of columns; None where the whole slice is as good.

    shown: label maps or masks (S, R, C) on the grid of `images`, not 0 where structures are expected.
    """
    places = [np.nonzero(np.any([one.any(images.axis) for one in shown], axis=0).any(1 - k))[0] for k in (0, 1)]
    if not all(len(one) for one in places):
        return None
    shape = images.frame.shape
    spacing = [s for i, s in enumerate(images.spacing) if i != images.axis]
    sides = [(one[-1] + 1 - one[0]) * mm for one, mm in zip(places, spacing, strict=True)]
    margin, ends = MARGIN * max(sides), list[int]()
    for one, mm, count in zip(places, spacing, shape, strict=True):
        more = max(round(margin / mm), (LEAST - (one[-1] + 1 - one[0]) + 1) // 2)
        ends += [max(0, int(one[0]) - more), min(count, int(one[-1]) + 1 + more)]
    lengths = [(ends[2 * k + 1] - ends[2 * k]) * spacing[k] for k in (0, 1)]
    if max(lengths) > WORTHWHILE * max(n * mm for n, mm in zip(shape, spacing, strict=True)):
        return None
    return ends[0], ends[1], ends[2], ends[3]
