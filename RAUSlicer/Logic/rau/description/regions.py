"""Colour region description (RCMed's CRD): masks of a picture, drawn in colours, and a text on each coloured region.

The text is training text: it goes into answers that a model learns, never into a question, and nothing of inference
calls this module (papers: the description is appended to the answer; validation and inference do not see it). The
rules here are the default describer; a text by a model is checked against the same facts (`rau.description.claims`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rau.description.facts import Facts
from rau.description.measuring import measure
from rau.description.prose import listed, outline_word, percent, shape_word, the
from rau.errors import InputError
from rau.vlm.pictures import overlay
from rau.vlm.vocabulary import COLOURS
from rau.volume.volume import LabelMap, Volume

MOST = len(COLOURS)
SIZES = ((0.01, "tiny"), (0.05, "small"), (0.2, "medium-sized"), (1.0, "large"))  # upper ends, share of the picture
THIRD = 1 / 3
ENDS = {  # what lies at the ends of an axis, as a place in the picture
    "left-right": ("right", "left"),
    "anterior-posterior": ("anterior", "posterior"),
    "inferior-superior": ("inferior", "superior"),
    "width": ("left", "right"),
    "height": ("upper", "lower"),
}
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Region:
    """One structure of a slice and the colour that it is drawn in (a name of `COLOURS`)."""

    colour: str
    facts: Facts

    @property
    def name(self) -> str:
        return self.facts.name


def regions(image: Volume | None, labels: LabelMap) -> tuple[Region, ...]:
    """The structures of one slice with their colours and facts (see `with_colours`).

    image, labels: one slice, on one grid. Where they have a patient's frame, places are told in the patient's words.
    Raises InputError for volumes.
    """
    if min(labels.geometry.shape) != 1:
        raise InputError("Regions are described in single slices", "Cut the volume into slices first")
    return with_colours(measure(image, labels))


def with_colours(found: Sequence[Facts]) -> tuple[Region, ...]:
    """A colour for each structure, in the order of `COLOURS` and of the label values; of more the `MOST` largest."""
    largest = sorted(found, key=lambda one: (-one.voxels, one.value))[:MOST]
    kept = sorted(largest, key=lambda one: one.value)
    return tuple(Region(colour, facts) for colour, facts in zip(COLOURS, kept, strict=False))


def coloured(pixels: np.ndarray, labels: np.ndarray, shown: Sequence[Region]) -> np.ndarray:
    """The picture (H, W, 3) uint8 with the regions of the label slice (H, W) in their colours."""
    return overlay(pixels, [labels == one.facts.value for one in shown])


def region_text(shown: Sequence[Region]) -> str:
    """Count, then two sentences a region: name, size, place, shape, margin; neighbours. "" for no region.

    Regions are called by their names; the first mention gives the colour.
    """
    if not shown:
        return ""
    number = COUNTS[len(shown)]
    told = [f"The picture shows {number} region{'s' if len(shown) > 1 else ''}."]
    known = {one.name: one for one in shown}
    for one in shown:
        told.append(_looks(one))
        told.extend(_relations(one, known))
    return " ".join(told)


def size_word(facts: Facts) -> str:
    """By its share of the picture, see SIZES."""
    return next(word for top, word in SIZES if facts.share_of_image <= top)


def grid_cells(facts: Facts) -> dict[str, str]:
    """By axis, in which third of the picture the centre lies: the word of its low end, "centre", that of its high end.

    The vertical axis comes first.
    """
    found = {}
    for axis in reversed([name for name in facts.position if name in ENDS]):
        share = facts.position[axis]
        found[axis] = "centre" if THIRD <= share <= 1 - THIRD else ENDS[axis][int(share > 0.5)]
    return found


def place_words(facts: Facts) -> str:
    """ "in the upper-left part", "in the left part", "in the centre"."""
    words = [word for word in grid_cells(facts).values() if word != "centre"]
    return f"in the {'-'.join(words)} part" if words else "in the centre"


def looks(facts: Facts) -> str:
    """Size, place, shape, margin, pieces: "small (2.1 % of the picture), in the centre, round with a smooth outline".

    facts: of a slice.
    """
    told = f"{size_word(facts)} ({percent(facts.share_of_image)} of the picture)"
    told += f", {place_words(facts)}, {shape_word(facts)} with {outline_word(facts)}"
    if facts.margin is not None and facts.margin.grade is not None:
        told += f" and {'an' if facts.margin.grade[0] in 'aei' else 'a'} {facts.margin.grade} margin"
    return told + (f", in {facts.pieces} pieces" if facts.pieces > 1 else "")


def _looks(one: Region) -> str:
    return f"The {one.name} ({one.colour}) is {looks(one.facts)}."


def _relations(one: Region, known: dict[str, Region]) -> list[str]:
    """Only of regions that are drawn: what has no colour is not spoken of."""
    told = []
    if one.facts.contained_in in known:
        told.append(f"The {one.name} lies within {the(str(one.facts.contained_in))}.")
    touching = [n for n in one.facts.neighbours if n.share > 0 and n.name in known and n.name != one.facts.contained_in]
    if touching:
        told.append(f"The {one.name} borders {listed([the(n.name) for n in touching])}.")
    return told


def slice_of(image: Volume | None, labels: LabelMap, axis: int, index: int) -> tuple[Volume | None, LabelMap]:
    """One slice across an array axis as a volume of one slice, in its place in the world."""
    cut = [slice(None)] * 3
    cut[axis] = slice(index, index + 1)
    grid = labels.geometry
    corner = np.zeros(3)
    corner[axis] = index
    x, y, z = grid.to_world(corner[None])[0]
    lengths = [1 if a == axis else n for a, n in enumerate(grid.shape)]
    geometry = replace(grid, shape=(lengths[0], lengths[1], lengths[2]), origin=(float(x), float(y), float(z)))
    array = labels.array[tuple(cut)]
    sliced = LabelMap(array, geometry, labels.structures)
    return None if image is None else replace(image, array=image.array[tuple(cut)], geometry=geometry), sliced
