"""Pictures of the best, the median and the worst pair of a set: reference with mask, target with truth and with result.

They show the images of the sets: keep them out of the repository.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from common import Outcome, number, read_pair
from PIL import Image

from rau.evaluation.metrics import mask_of
from rau.evaluation.pairs import Pair
from rau.export.overlay import drawn_slice, upright
from rau.export.writing import replaced
from rau.references.reference import Reference
from rau.volume.orientation import acquisition_axis, canonical
from rau.volume.volume import LabelMap, Structure, Volume
from rau.volume.window import to_uint8

TILE, GAP = 320, 8  # pixels
PAPER = (20, 22, 26)
Ended = tuple[Pair, Outcome, LabelMap]


def write_pictures(ended: list[Ended], path: Path) -> bool:
    """One PNG with a row for each chosen pair. False when no pair has a Dice. Raises InputError: cannot be written."""
    rows = [_row(title, *one) for title, one in chosen(ended)]
    if rows:
        with replaced(path) as temporary:
            _stacked(rows).save(temporary, format="PNG")
    return bool(rows)


def chosen(ended: list[Ended]) -> list[tuple[str, Ended]]:
    """Best, median and worst by Dice; each pair once where there are fewer than three."""
    scored = sorted((one for one in ended if one[1].dice is not None), key=lambda one: -(one[1].dice or 0.0))
    places = {"best": 0, "median": len(scored) // 2, "worst": len(scored) - 1}
    found: dict[int, str] = {}
    for title, place in places.items():
        if scored:
            found.setdefault(place, title)
    return [(title, scored[place]) for place, title in sorted(found.items())]


def _row(title: str, pair: Pair, outcome: Outcome, result: LabelMap) -> list[Image.Image]:
    reference, target, truth = read_pair(pair)
    truth = _named_alike(truth, reference)
    marks, axis = _canonical(truth, target)
    place = largest(marks, axis)
    return [
        _tile(reference.image, reference.labels, None, f"{title}: {pair.reference.name}, the reference"),
        _tile(target, truth, place, f"{pair.target.name}, the truth"),
        _tile(target, result, place, f"result, Dice {number(outcome.dice)}"),
    ]


def _named_alike(truth: LabelMap, reference: Reference) -> LabelMap:
    """The truth with the reference's values and colours; structures that the reference does not show are left out."""
    array = np.zeros(truth.array.shape, dtype=np.uint16)
    known: tuple[Structure, ...] = tuple(reference.structures)
    for one in known:
        array[mask_of(truth, one.name)] = one.value
    return replace(truth, array=array, structures=known)


def largest(marks: np.ndarray, axis: int) -> int:
    """The plane across `axis` with the most labelled voxels; the middle one of those where several share it."""
    areas = np.count_nonzero(marks, axis=tuple(a for a in range(3) if a != axis))
    best = np.flatnonzero(areas == areas.max())
    return int(best[len(best) // 2])


def _canonical(labels: LabelMap, volume: Volume) -> tuple[np.ndarray, int]:
    """Labels (S, R, C) in the canonical orientation, and the axis that the slices were taken along."""
    marks, geometry, _ = canonical(labels.array, volume.geometry)
    return marks, acquisition_axis(geometry)


def _tile(volume: Volume, labels: LabelMap, place: int | None, caption: str) -> Image.Image:
    """One slice with its structures outlined: at `place`, or where most is labelled."""
    marks, axis = _canonical(labels, volume)
    pixels, geometry, _ = canonical(to_uint8(volume), volume.geometry)
    index = largest(marks, axis) if place is None else place
    spacing = tuple(geometry.spacing[a] for a in range(3) if a != axis)
    planes = (upright(np.take(one, index, axis), axis) for one in (pixels, marks))
    return drawn_slice(*planes, spacing, TILE, labels.structures, caption)


def _stacked(rows: list[list[Image.Image]]) -> Image.Image:
    """Tiles in rows, each in the middle of its place."""
    step = TILE + GAP
    canvas = Image.new("RGB", (len(rows[0]) * step + GAP, len(rows) * step + GAP), PAPER)
    for line, row in enumerate(rows):
        for column, tile in enumerate(row):
            left, top = GAP + column * step + (TILE - tile.width) // 2, GAP + line * step + (TILE - tile.height) // 2
            canvas.paste(tile, (left, top))
    return canvas
