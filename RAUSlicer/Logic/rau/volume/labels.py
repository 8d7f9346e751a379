"""Label maps and segmentations from files, with the names, colours and codes of their structures."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import InputError
from rau.volume.files import checked, ending_of, kind_of, stem_of
from rau.volume.terminology import color_of, usable_color
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

log = logging.getLogger(__name__)
LARGEST_LABEL = 65535
_NAMES_LIMIT = 1 << 20


def read_labels(path: str | os.PathLike[str], *, image: Volume | None = None) -> LabelMap:
    """The label map of a file (or of a DICOM folder with one SEG), on its own grid: uint8 or uint16, 0 is background.

    Reads what `read_segmentation` reads; its warnings go to the log.
    """
    labels, notes = read_segmentation(path, image=image)
    for note in notes:
        log.warning("%s", note)
    return labels


def read_segmentation(
    path: str | os.PathLike[str], *, image: Volume | None = None, may_be_empty: bool = False
) -> tuple[LabelMap, tuple[str, ...]]:
    """The label map of a file and what the user should know about it, one line each.

    Formats: NIfTI, NRRD, MetaImage and 8- or 16-bit index pictures with whole numbers; .seg.nrrd; DICOM SEG. Plain
    label maps take their names from a JSON file of the same stem beside them ({"1": "liver"}, or {"structures": {...}},
    where a value may also be {"name", "color", "terminology"}), else "structure 1". Where segments overlap, the later
    one wins, and a warning says so; segments without voxels are left out, and a warning says so.

    image: what the labels belong to; a picture has no place in the world and takes that of an image of its size.
    Raises InputError: whatever cannot be read, negative or broken label values, an empty one (unless it may be).
    """
    found = checked(path)
    kind = kind_of(found)
    notes: tuple[str, ...] = ()
    if kind in ("dicom", "folder"):
        from rau.volume.dicom_seg import read_dicom_seg

        labels, notes = read_dicom_seg(found)
    elif kind == "picture":
        labels = _of_picture(found, image)
    else:
        from rau.volume.itk import read_itk
        from rau.volume.seg_nrrd import has_segments, of_segments

        read = read_itk(found, layers=ending_of(found).endswith((".nrrd", ".nhdr")))
        if has_segments(read.header):
            labels, notes = of_segments(read, found.name)
        else:
            labels = _plain(read.array, read.geometry, found, {})
    if not labels.structures and not may_be_empty:
        raise InputError(f"The segmentation {found.name} is empty", "Pick one with at least one labelled voxel")
    return labels, notes


def _of_picture(path: Path, image: Volume | None) -> LabelMap:
    from rau.volume.pictures import read_index_picture

    if ending_of(path) in (".jpg", ".jpeg"):
        raise InputError(f"{path.name} is a JPEG, which does not keep label values", "Save the labels as PNG")
    array, palette = read_index_picture(path)
    geometry = Geometry((1, array.shape[1], array.shape[2]))
    if image is not None and image.geometry.shape == geometry.shape:
        geometry = image.geometry
    return _plain(array, geometry, path, palette)


def _plain(
    array: np.ndarray, geometry: Geometry, path: Path, palette: dict[int, tuple[float, float, float]]
) -> LabelMap:
    array = whole_labels(array, path.name)
    known = _beside(path)
    structures = []
    for value in values_of(array):
        color = palette.get(value, color_of(value))
        structures.append(_structure(value, known.get(value), color if any(color) else color_of(value)))
    return LabelMap(array, geometry, tuple(structures))


def _structure(value: int, entry: Any, color: tuple[float, float, float]) -> Structure:
    default = f"structure {value}"
    if isinstance(entry, dict):
        name = str(entry.get("name") or default)
        return Structure(value, name, usable_color(entry.get("color"), color), str(entry.get("terminology") or ""))
    return Structure(value, str(entry) if entry else default, color)


def _beside(path: Path) -> dict[int, Any]:
    """Names by label value from the JSON file of the same stem; empty when there is none or it is no list of names."""
    names = path.parent / f"{stem_of(path)}.json"
    try:
        if not names.is_file() or names.stat().st_size > _NAMES_LIMIT:
            return {}
        content = json.loads(names.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(
            f"The names beside the label map, {names.name}, are no JSON", "Repair or remove them"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("structures"), dict):
        content = content["structures"]
    if not isinstance(content, dict):
        return {}
    return {int(key): entry for key, entry in content.items() if key.isdecimal() and isinstance(entry, (str, dict))}


def whole_labels(array: np.ndarray, name: str) -> np.ndarray:
    """(S, R, C) as uint8 or uint16. Raises InputError for negative, broken, too large values and for several layers."""
    if array.ndim != 3:
        raise InputError(f"{name} is a colour or vector image, not a label map", "Give one label value a voxel")
    if array.dtype.kind == "f" and not (np.all(np.isfinite(array)) and np.all(array == np.rint(array))):
        raise InputError(
            f"{name} holds values that are no whole numbers", "Give a label map, not an image or a probability"
        )
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds no label values", "Give a label map")
    low, high = array.min(), array.max()
    if low < 0:
        raise InputError(
            f"{name} holds negative label values (down to {low:g})", "Use 0 for background, 1 and up for labels"
        )
    if high > LARGEST_LABEL:
        raise InputError(f"{name} holds label values up to {high:g}", f"Use values up to {LARGEST_LABEL}")
    return np.ascontiguousarray(array.astype(label_type(int(high))))


def label_type(highest: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest type for label values up to `highest`."""
    return np.uint8 if highest < 256 else np.uint16


def values_of(array: np.ndarray) -> list[int]:
    """The label values that occur in an array of small unsigned integers, without 0, in rising order."""
    counts = np.zeros(LARGEST_LABEL + 1, dtype=bool)
    counts[array.ravel()] = True
    return [int(value) for value in np.flatnonzero(counts) if value]


def merged(
    masks: list[tuple[Structure, np.ndarray]], geometry: Geometry, name: str
) -> tuple[LabelMap, tuple[str, ...]]:
    """One label map of several masks (S, R, C, bool): the later wins where they overlap, empty ones are left out."""
    notes, kept = [], []
    array = np.zeros(geometry.shape, dtype=label_type(max((one.value for one, _ in masks), default=1)))
    overlapping = 0
    for structure, mask in masks:
        if not np.any(mask):
            notes.append(f"The segment {structure.name} of {name} has no voxels and is left out")
            continue
        overlapping += int(np.count_nonzero(array[mask]))
        array[mask] = structure.value
        kept.append(structure)
    hidden = {one.value for one in kept} - set(values_of(array))
    for structure in [one for one in kept if one.value in hidden]:
        notes.append(f"The segment {structure.name} of {name} lies under later segments entirely and is left out")
    if overlapping:
        notes.append(f"Segments of {name} overlap in {overlapping} voxels: the later segment wins there")
    remaining = tuple(one for one in kept if one.value not in hidden)
    return LabelMap(array, geometry, remaining), tuple(notes)
