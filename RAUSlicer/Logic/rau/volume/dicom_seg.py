"""DICOM SEG objects through highdicom: binary, fractional (above one half) and label map."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import InputError
from rau.volume.dicom import read_header
from rau.volume.dicom_frames import geometry_of, highdicom
from rau.volume.itk import BROKEN_HINT
from rau.volume.labels import merged
from rau.volume.terminology import Code, Terminology, color_of
from rau.volume.volume import LabelMap, Structure


def read_dicom_seg(path: Path) -> tuple[LabelMap, tuple[str, ...]]:
    """The label map of a DICOM SEG file, or of the one SEG in a folder, and its warnings. Values are segment numbers.

    The grid is the one that the stored frames span: SEG leaves out empty frames, so place it on the image's own grid
    with `labels_on_grid`. Raises InputError.
    """
    file = _the_seg(path)
    hd = highdicom()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            segmentation = hd.seg.segread(file)
    except MemoryError:
        raise
    except Exception:
        raise InputError(f"{path.name} cannot be read as DICOM SEG", BROKEN_HINT) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _merged(segmentation, path.name)
    except (InputError, MemoryError):
        raise
    except Exception:
        raise InputError(
            f"The frames of the segmentation {path.name} do not make up one even stack of slices",
            "Export it again on the grid of its image",
        ) from None


def _the_seg(path: Path) -> Path:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    headers = [(file, read_header(file)) for file in files]
    found = [file for file, header in headers if header is not None and header.get("Modality") == "SEG"]
    if len(found) == 1:
        return found[0]
    if not found:
        what = "is no DICOM SEG" if not path.is_dir() else "holds no DICOM SEG"
        raise InputError(f"{path.name} {what}", "Give the segmentation: a label map, a .seg.nrrd or a DICOM SEG file")
    raise InputError(f"{path.name} holds {len(found)} DICOM SEG files", "Give one of the files")


def _merged(segmentation: Any, name: str) -> tuple[LabelMap, tuple[str, ...]]:
    masks = []
    geometry = None
    for number in segmentation.segment_numbers:
        volume = segmentation.get_volume(
            segment_numbers=[number], combine_segments=False, allow_missing_positions=True, rtol=0.05
        )
        array = np.asarray(volume.array)
        array = array[..., 0] if array.ndim == 4 else array
        geometry = geometry or geometry_of(volume)
        if array.shape != geometry.shape:
            raise InputError(f"The segments of {name} lie on several grids", "Export them on one grid")
        masks.append((_structure(segmentation.get_segment_description(number), int(number)), array > 0.5))
    if geometry is None:
        raise InputError(f"The segmentation {name} is empty", "Pick one with at least one segment")
    return merged(masks, geometry, name)


def _structure(description: Any, number: int) -> Structure:
    terminology = Terminology(
        _code(description, "SegmentedPropertyCategoryCodeSequence"),
        _code(description, "SegmentedPropertyTypeCodeSequence"),
        _nested(description, "SegmentedPropertyTypeCodeSequence", "SegmentedPropertyTypeModifierCodeSequence"),
        _code(description, "AnatomicRegionSequence"),
        _nested(description, "AnatomicRegionSequence", "AnatomicRegionModifierSequence"),
    )
    text = terminology.serialised() if terminology.category and terminology.type else ""
    name = str(description.get("SegmentLabel", "")).strip() or terminology.type.meaning or f"structure {number}"
    return Structure(number, name, _color(description, number), text)


def _code(item: Any, keyword: str) -> Code:
    sequence = item.get(keyword)
    if not sequence:
        return Code()
    first = sequence[0]
    value = first.get("CodeValue") or first.get("LongCodeValue") or first.get("URNCodeValue") or ""
    return Code(str(first.get("CodingSchemeDesignator", "")), str(value), str(first.get("CodeMeaning", "")))


def _nested(item: Any, keyword: str, inner: str) -> Code:
    sequence = item.get(keyword)
    return _code(sequence[0], inner) if sequence else Code()


def _color(description: Any, number: int) -> tuple[float, float, float]:
    from highdicom.color import CIELabColor

    values = description.get("RecommendedDisplayCIELabValue")
    if not values or len(values) != 3:
        return color_of(number)
    red, green, blue = CIELabColor.from_dicom_value([int(v) for v in values]).to_rgb()
    return red / 255, green / 255, blue / 255
