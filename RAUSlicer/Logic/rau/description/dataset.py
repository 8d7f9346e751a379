"""Items of a data set from labelled images: per slice and structure its mask, box, spatial prompts and description.

A data set is a folder: `dataset.jsonl`, one item a line, and `images/<sha256>.png`, the 8-bit slices that items refer
to by the hash of their pixels. Nothing of a file's name or path goes in. Boxes and points are pixels, x before y, boxes
half-open; masks are run lengths (see `run_lengths`). "regions", the text on all coloured regions of the slice, is for
answers to learn from alone (see `rau.description.regions`). The form is that of the CT appearance paper (papers.md C1,
C3, C5).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rau.description.describing import Description
from rau.description.facts import Facts
from rau.description.measuring import measure
from rau.description.prose import prose
from rau.description.regions import Region, place_words, region_text, slice_of, with_colours
from rau.errors import InputError
from rau.volume.volume import Geometry, LabelMap, Volume

FORMAT = 1
FILE = "dataset.jsonl"
IMAGES = "images"


@dataclass(frozen=True)
class Selection:
    """Which items to make. every: of the slices, each n-th. fewest: pixels of a structure in a slice."""

    every: int = 1
    fewest: int = 16


def run_lengths(mask: np.ndarray) -> list[int]:
    """(H, W) bool, row by row, as lengths of runs: False first (0 long where the mask begins at once), then True ..."""
    flat = np.concatenate([[False], mask.ravel(), [False]])
    if not mask.size:
        return []
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return [int(n) for n in (lengths[:-1] if lengths[-1] == 0 else lengths)]


def mask_of(lengths: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The mask (H, W) bool of `run_lengths`. Raises InputError where the lengths do not fill the size."""
    rows, columns = size
    if sum(lengths) != rows * columns or any(n < 0 for n in lengths):
        raise InputError("A mask of the data set is damaged: its run lengths do not fill the slice", "Build it again")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, list(lengths)).reshape(rows, columns)


def box_of(mask: np.ndarray) -> list[int]:
    """[x0, y0, x1, y1] of a mask (H, W) with at least one pixel, half-open."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def spatial_prompts(mask: np.ndarray) -> dict[str, Any]:
    """point: the pixel deepest inside. outside: the pixel of the enlarged box that is farthest from the mask; None
    where the mask fills it. The first in reading order, where several are equally deep."""
    from scipy import ndimage

    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    x0, y0, x1, y1 = box_of(mask)
    margin = 1 + max(x1 - x0, y1 - y0) // 4
    top, left = max(0, y0 - margin), max(0, x0 - margin)
    around = ~mask[top : y1 + margin, left : x1 + margin]
    point = [int(n) for n in np.unravel_index(int(inside.argmax()), mask.shape)]
    outside = None
    if around.any():
        far = ndimage.distance_transform_edt(around)
        row, column = np.unravel_index(int(far.argmax()), far.shape)
        outside = [int(column) + left, int(row) + top]
    return {"point": point[::-1], "outside": outside}


def items_of(
    image: Volume, labels: LabelMap, selection: Selection, case: int = 0
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """(item without its id, pixels of its slice (H, W) or (H, W, 3) uint8), slice by slice. Raises InputError."""
    from rau.volume.orientation import acquisition_axis
    from rau.volume.window import to_uint8

    if not labels.geometry.matches(image.geometry):
        raise InputError("The label map lies on another grid than its image", "Resample it to the image's grid first")
    axis = acquisition_axis(image.geometry)
    grey = to_uint8(image)
    for index in range(0, image.geometry.shape[axis], max(1, selection.every)):
        cut = np.take(labels.array, index, axis)
        if not np.any(cut):
            continue
        pixels = np.ascontiguousarray(np.take(grey, index, axis))
        sliced, masks = slice_of(image, labels, axis, index)
        source = {"case": case, "axis": axis, "slice": index, "grid": grid_of(masks.geometry, image.spacing_known)}
        found = measure(sliced, masks)
        shown = with_colours(found)
        for facts in found:
            if facts.voxels >= selection.fewest:
                yield {**source, **content(cut == facts.value, facts, shown)}, pixels


def grid_of(geometry: Geometry, known: bool) -> dict[str, Any]:
    """Where a slice lies, ready for JSON; `volume.Geometry` of it again by `geometry_of`."""
    direction = np.asarray(geometry.direction).tolist()
    place = {"shape": list(geometry.shape), "spacing": list(geometry.spacing), "origin": list(geometry.origin)}
    return {**place, "direction": direction, "spacing_known": known}


def geometry_of(grid: dict[str, Any]) -> Geometry:
    return Geometry(grid["shape"], grid["spacing"], grid["origin"], grid["direction"])


def content(mask: np.ndarray, facts: Facts, shown: Sequence[Region]) -> dict[str, Any]:
    """What an item says of a mask (H, W). shown: the coloured regions of its slice."""
    return {
        "structure": facts.name,
        "value": facts.value,
        "size": list(mask.shape),
        "mask": run_lengths(mask),
        "box": box_of(mask),
        "prompts": {**spatial_prompts(mask), "text": f"{facts.name}, {place_words(facts)}"},
        "colour": next((one.colour for one in shown if one.facts.value == facts.value), None),
        "description": Description(facts, None, prose(facts)).as_json(),
        "regions": region_text(shown),
    }


def build(folder: Path, cases: Sequence[tuple[Volume, LabelMap]], selection: Selection | None = None) -> int:
    """Write a data set of these cases into `folder` (made if need be) and return how many items it has.

    Every image lies there before the file that names it appears; an earlier data set is never replaced. Twice the same
    cases make the same file. Raises InputError: there is a data set already, nothing is labelled, no room.
    """
    from rau.export.writing import check_writable, replaced

    target = folder / FILE
    if target.exists():
        raise InputError(f"{folder.name} holds a data set already", "Give another folder, or remove it first")
    try:
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    except OSError:
        raise InputError(f"No folder {folder.name} can be made", "Choose another place") from None
    check_writable(target)
    count = 0
    with replaced(target) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for number, (image, labels) in enumerate(cases):
            for item, pixels in items_of(image, labels, selection or Selection(), number):
                item["image"] = write_slice(folder / IMAGES, pixels)
                whole = {"format": FORMAT, "id": id_of(item), **item, "reviews": []}
                stream.write(json.dumps(whole, allow_nan=False) + "\n")
                count += 1
        if not count:
            raise InputError("No structure is large enough in any slice", "Give other labels, or a smaller --fewest")
    return count


def id_of(item: dict[str, Any]) -> str:
    """Twelve hexadecimal digits of the hash of where an item comes from and what it marks."""
    said = json.dumps([item[key] for key in ("case", "axis", "slice", "value", "image", "mask")])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def write_slice(folder: Path, pixels: np.ndarray) -> str:
    """Lay a slice into the folder as PNG, unless it is there, and return the hash of its pixels."""
    from PIL import Image

    from rau.export.writing import replaced
    from rau.models.engine import content_hash

    name = content_hash(pixels)
    target = folder / f"{name}.png"
    if not os.path.isfile(target):
        with replaced(target) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")
    return name
