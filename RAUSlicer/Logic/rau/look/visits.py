"""What is looked at again: structures that are small in their slice, and where the reference shows the like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rau.look.rules import Looks
from rau.look.window import Window, around, bounding, longest
from rau.references.retrieval import nearby

if TYPE_CHECKING:
    from rau.assembly.labels import PlaneVotes
    from rau.preparation import CasePlane
    from rau.sam.propagation import Candidates, Match
    from rau.volume.planes import Planes

REACH = 0.35  # of a structure's own extent, as `rau.sam.propagation.Recipe.reach`
EXPECTED = 127  # of 255, from which a candidate says that the structure is there
FELT = 0.1  # presence below which a slice has no vote of a structure
SAID = 0.5  # of 1, from which the VLM's word for a closer look counts
Wanted = Callable[[int, int, int], float | None]  # (axis, value, slice): 0 to 1; None where nothing was said


@dataclass(frozen=True)
class Visit:
    """Structure `value` in target slice `index`. found: its bounding square so far, over this slice and its neighbours,
    so that the crops follow it through the volume. mask: (rows, columns) so far, may be empty.

    match, slice: the reference slice that goes with it; there: the structure's bounding square in that slice. ratio:
    sides of the reference's square in one side of the target's (pictures: 1). size: `there.side`, in the target's.
    """

    value: int
    index: int
    found: Window
    mask: np.ndarray
    match: Match
    slice: int
    there: Window
    ratio: float

    @property
    def size(self) -> float:
        return self.there.side * self.ratio


def worthwhile(planes: Planes, looks: Looks) -> bool:
    """Whether the slices have pixels enough for a crop to show more than the whole."""
    return looks.crops > 0 and looks.least <= looks.closer * longest(planes.frame)


def side_mm(planes: Planes) -> float:
    """The side of the square that a slice sits in, mm."""
    return max(n * s for i, (n, s) in enumerate(zip(planes.array.shape, planes.spacing)) if i != planes.axis)


def shown(plane: CasePlane, t: int, value: int) -> tuple[Match, int] | None:
    """The reference slice that shows `value` and fits target slice t best; None where there is none near."""
    found: list[tuple[float, Match, int]] = []
    for match in plane.matches:
        where = match.reference.where[value]
        extent = int(where[-1] - where[0]) + 1 if len(where) else 0
        middle = int(match.index[t])
        for index in nearby(middle, where, 1, max(2, round(REACH * extent))):
            found.append((float(match.similarity[t]) - 0.03 * abs(index - middle), match, index))
    if not found:
        return None
    _, match, index = max(found, key=lambda one: one[0])
    return match, index


def near(volume: np.ndarray, t: int) -> np.ndarray:
    """(rows, columns) where slice t of (T, rows, columns) or one of its neighbours is true."""
    return np.asarray(volume[max(0, t - 1) : t + 2].any(0))


def visits(
    plane: CasePlane,
    vote: PlaneVotes,
    labels: np.ndarray,
    candidates: Candidates | None,
    looks: Looks,
    wanted: Wanted | None = None,
) -> Iterator[Visit]:
    """The small structures of every slice. labels: (S, R, C), the first result.

    A structure that was found nowhere near is sought where expert and registration expect it. wanted: who decides
    instead of the size, where there is a word.
    """
    frame, axis = plane.images.frame, plane.images.axis
    if not worthwhile(plane.images, looks):
        return
    for column, value in enumerate(vote.values):
        mine = np.moveaxis(labels == value, axis, 0)
        hope = None if candidates is None else candidates(value)
        expected = None if hope is None else np.moveaxis(hope > EXPECTED, axis, 0)
        for t in np.nonzero(vote.presence[:, column] >= FELT)[0].tolist():
            found = bounding(near(mine, t), frame)
            if found is None and expected is not None:
                found = bounding(near(expected, t), frame)
            known = shown(plane, t, value) if found is not None else None
            if found is None or known is None:
                continue
            match, index = known
            images = match.reference.images
            there = bounding(match.reference.labels[index] == value, images.frame)
            ratio = 1.0 if len(plane.images) == len(images) == 1 else side_mm(images) / side_mm(plane.images)
            if there is None:
                continue
            word = None if wanted is None else wanted(axis, value, t)
            chosen = max(found.side, there.side * ratio) < looks.small if word is None else word >= SAID
            if chosen:
                yield Visit(value, t, found, mine[t], match, index, there, ratio)


def window_of(visit: Visit, planes: Planes, looks: Looks, level: int) -> Window | None:
    """The crop of a visit; None where it would show hardly less than the slice."""
    frame = planes.frame
    window = around(visit.found, visit.size, looks.margin(level), looks.least / longest(frame), frame)
    return window if window.side <= looks.closer else None
