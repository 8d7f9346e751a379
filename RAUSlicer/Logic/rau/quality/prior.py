"""Structural priors: what the references say of where structures lie to each other and how large they are.

They flag what is impossible; they change no voxel. What is learnt from one reference must hold there with a margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rau.quality.layout import Layout

SURE, BROKEN = 0.95, 0.5  # chance that a voxel of one lies beyond one of the other: to be learnt, to be violated
INSIDE, OUTSIDE = 0.8, 0.3  # share of the rim that belongs to the other: to be learnt as inside, to be violated
TOUCHING = 0.15  # share of the rim from which on two structures touch
SIZE, EXTENT = 2.5, 1.7  # factors about the sizes and extents of one reference

# axis, further along it or not, words; volumes run (head, back, left), pictures (down, right)
VOLUME_WORDS = ((0, True, "above"), (1, False, "in front of"), (2, True, "left of"))
PICTURE_WORDS = ((1, False, "above"), (2, False, "left of"))


@dataclass(frozen=True)
class Relation:
    """`one` lies `kind` `other`: "above", "in front of", "left of", "inside", "touching". Label values."""

    kind: str
    one: int
    other: int

    def broken(self, names: Mapping[int, str]) -> str:
        """What is wrong where the relation does not hold: "spleen is not left of liver"."""
        return f"{names[self.one]} is not {self.kind} {names[self.other]}"


@dataclass(frozen=True)
class Range:
    """What a structure may measure. size: ml, extent: mm along (head, back, left); of pictures: shares."""

    size: tuple[float, float]
    extent: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class StructuralPrior:
    relations: tuple[Relation, ...]
    ranges: Mapping[int, Range]
    flat: bool


@dataclass(frozen=True)
class Finding:
    """What the priors say of one structure. checked: how many of them apply; broken: those that do not hold, in words.

    relations: how many of the broken ones are relations to other structures.
    """

    checked: int = 0
    relations: int = 0
    broken: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return len(self.broken) / self.checked if self.checked else 0.0


def learn(layouts: Sequence[Layout]) -> StructuralPrior:
    """Relations that hold in every layout that shows both structures, and ranges about all their sizes.

    The more layouts, the narrower the margin about the ranges (a factor falling with the root of their number).
    """
    values = sorted({value for one in layouts for value in one.values})
    flat = all(one.flat for one in layouts)
    relations = [
        found
        for a, one in enumerate(values)
        for other in values[a + 1 :]
        for found in related(layouts, one, other, PICTURE_WORDS if flat else VOLUME_WORDS)
    ]
    ranges = {value: found for value in values if (found := range_of(layouts, value)) is not None}
    return StructuralPrior(tuple(relations), ranges, flat)


def related(layouts: Sequence[Layout], one: int, other: int, words: Sequence[tuple[int, bool, str]]) -> list[Relation]:
    """The relations of two structures that hold in all layouts that show both."""
    places = [(told, i, j) for told in layouts if None not in (i := told.column(one), j := told.column(other))]
    if not places:
        return []
    found = []
    for axis, up, kind in words:
        chance = [told.order[axis, i, j] for told, i, j in places]
        first, second = (one, other) if up else (other, one)
        if min(chance) >= SURE:
            found.append(Relation(kind, first, second))
        elif max(chance) <= 1 - SURE:
            found.append(Relation(kind, second, first))
    rims = [(told.contact[i, j], told.contact[j, i]) for told, i, j in places]
    if min(a for a, _ in rims) >= INSIDE:
        found.append(Relation("inside", one, other))
    elif min(b for _, b in rims) >= INSIDE:
        found.append(Relation("inside", other, one))
    elif min(max(pair) for pair in rims) >= TOUCHING:
        found.append(Relation("touching", one, other))
    return found


def range_of(layouts: Sequence[Layout], value: int) -> Range | None:
    """Of the layouts that show the whole structure; None: none does."""
    whole = [(one, i) for one in layouts if (i := one.column(value)) is not None and not one.cut[i]]
    if not whole:
        return None
    sizes = [float(one.size[i]) for one, i in whole]
    extents = np.stack([one.extent[i] for one, i in whole])
    size, extent = (1 + (factor - 1) / np.sqrt(len(whole)) for factor in (SIZE, EXTENT))
    spans = zip(extents.min(0).tolist(), extents.max(0).tolist(), strict=True)
    return Range((min(sizes) / size, max(sizes) * size), tuple((low / extent, high * extent) for low, high in spans))


def holds(relation: Relation, layout: Layout) -> bool | None:
    """Whether the layout keeps the relation; None where it does not show both structures."""
    i, j = layout.column(relation.one), layout.column(relation.other)
    if i is None or j is None:
        return None
    if relation.kind == "inside":
        return bool(layout.contact[i, j] >= OUTSIDE)
    if relation.kind == "touching":
        return bool(max(layout.contact[i, j], layout.contact[j, i]) > 0)
    words = PICTURE_WORDS if layout.flat else VOLUME_WORDS
    axis, up = next((axis, up) for axis, up, kind in words if kind == relation.kind)
    chance = float(layout.order[axis, i, j])
    return (chance if up else 1 - chance) > BROKEN


def findings(prior: StructuralPrior, layout: Layout, names: Mapping[int, str]) -> dict[int, Finding]:
    """What the priors say of each structure of the layout. A broken relation counts for both of its structures.

    names: of all label values of the prior.
    """
    checked = dict.fromkeys(layout.values, 0)
    relations = dict.fromkeys(layout.values, 0)
    broken: dict[int, list[str]] = {value: [] for value in layout.values}
    for relation in prior.relations if prior.flat == layout.flat else ():
        kept = holds(relation, layout)
        if kept is None:
            continue
        for value in (relation.one, relation.other):
            checked[value] += 1
            if not kept:
                relations[value] += 1
                broken[value].append(relation.broken(names))
    for i, value in enumerate(layout.values):
        if value in prior.ranges and prior.flat == layout.flat and not layout.cut[i]:
            checked[value] += 2
            broken[value] += out_of_range(prior.ranges[value], layout, i)
    return {value: Finding(checked[value], relations[value], tuple(broken[value])) for value in layout.values}


def out_of_range(allowed: Range, layout: Layout, i: int) -> list[str]:
    """In words: the size, and the extent along the axis that is furthest off."""
    spans = list(zip(layout.extent[i].tolist(), allowed.extent, strict=True))[1 if layout.flat else 0 :]
    length, span = max(spans, key=lambda one: max(one[1][0] / one[0], one[0] / one[1][1]))
    unit, of_length = ("of the picture", "of the picture") if layout.flat else ("ml", "mm")
    said = []
    for number, (low, high), words, of in (
        (float(layout.size[i]), allowed.size, ("too small", "too large"), unit),
        (length, span, ("too short", "too long"), of_length),
    ):
        if not low <= number <= high:
            said.append(f"{words[int(number > high)]}: {number:.3g} {of}, expected {low:.3g} to {high:.3g}")
    return said
