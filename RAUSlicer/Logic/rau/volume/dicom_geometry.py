"""Where DICOM slices lie: sorted along their normal, evenly spaced, in a straight stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rau.errors import InputError
from rau.volume.volume import Geometry

_UNEVEN = 0.05
_TILT_DEGREES = 0.1


def series_geometry(datasets: Sequence[Any], name: str) -> tuple[list[int], Geometry]:
    """The order of the datasets along the normal of their planes, and the grid they make up.

    Raises InputError for slices of several sizes or directions, without position, several at one position (4-D),
    missing or uneven ones (over 5 % off the usual distance) and a tilted gantry.
    """
    if len({(int(d.Rows), int(d.Columns)) for d in datasets}) > 1:
        raise InputError(f"The slices of {name} differ in size", "Give a series with slices of one size")
    rows, columns, spacing = _plane(datasets[0], name)
    for dataset in datasets[1:]:
        other_rows, other_columns, other_spacing = _plane(dataset, name)
        if max(np.abs(other_rows - rows).max(), np.abs(other_columns - columns).max()) > 1e-3:
            raise InputError(f"The slices of {name} lie in several directions", "It may be a localizer: give one stack")
        if max(abs(other_spacing[0] - spacing[0]), abs(other_spacing[1] - spacing[1])) > 1e-3:
            raise InputError(f"The slices of {name} differ in pixel size", "Give a series with one pixel size")
    normal = np.cross(columns, rows)
    positions = np.array([_position(d, name) for d in datasets])
    along = positions @ normal
    order = [int(i) for i in np.argsort(along, kind="stable")]
    distance = _distance(along[order], name)
    _check_straight(positions[order], normal, min(spacing), name)
    x, y, z = positions[order[0]]
    shape = (len(datasets), int(datasets[0].Rows), int(datasets[0].Columns))
    direction = np.stack([normal, rows, columns], axis=1)
    return order, Geometry(shape, (distance, *spacing), (float(x), float(y), float(z)), direction)


def frame_geometry(dataset: Any, name: str) -> tuple[Geometry, bool]:
    """The grid of a single image, and whether its spacing is known; without a position it lies in the axial plane."""
    shape = (1, int(dataset.Rows), int(dataset.Columns))
    thickness = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 1.0)
    if dataset.get("ImageOrientationPatient") and dataset.get("ImagePositionPatient") and dataset.get("PixelSpacing"):
        rows, columns, spacing = _plane(dataset, name)
        x, y, z = _position(dataset, name)
        direction = np.stack([np.cross(columns, rows), rows, columns], axis=1)
        return Geometry(shape, (abs(thickness) or 1.0, *spacing), (x, y, z), direction), True
    size = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    if size and min(float(size[0]), float(size[1])) > 0:
        return Geometry(shape, (abs(thickness) or 1.0, float(size[0]), float(size[1]))), True
    return Geometry(shape), False


def _plane(dataset: Any, name: str) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Unit vectors along which rows and columns count up, and (row, column) spacing in mm."""
    orientation, spacing = dataset.get("ImageOrientationPatient"), dataset.get("PixelSpacing")
    if not orientation or not spacing or len(orientation) != 6 or len(spacing) != 2:
        raise InputError(
            f"The slices of {name} do not say where they lie", "Give a series with positions, or one image"
        )
    values = np.array([float(v) for v in orientation])
    along_columns, along_rows = values[:3], values[3:]
    lengths = np.linalg.norm(along_rows), np.linalg.norm(along_columns)
    if min(lengths) < 0.5 or abs(along_rows @ along_columns) > 1e-4 or min(float(s) for s in spacing) <= 0:
        raise InputError(f"The slices of {name} have unusable directions or pixel sizes", "Export the series again")
    along_columns = along_columns / lengths[1]
    along_rows = along_rows - (along_rows @ along_columns) * along_columns
    return along_rows / np.linalg.norm(along_rows), along_columns, (float(spacing[0]), float(spacing[1]))


def _position(dataset: Any, name: str) -> tuple[float, float, float]:
    position = dataset.get("ImagePositionPatient")
    if not position or len(position) != 3:
        raise InputError(
            f"The slices of {name} do not say where they lie", "Give a series with positions, or one image"
        )
    return float(position[0]), float(position[1]), float(position[2])


def _distance(along: np.ndarray, name: str) -> float:
    """mm from slice to slice, of positions sorted along the normal."""
    steps = np.diff(along)
    usual = float(np.median(steps))
    if usual < 1e-3 or np.any(steps < 0.01 * usual):
        raise InputError(
            f"{name} holds several slices at one position (a 4-D series: time points, echoes or b-values)",
            "Export one of its volumes as a series",
        )
    off = np.abs(steps - usual) > _UNEVEN * usual
    if np.any(off):
        missing = int(np.rint(steps[off] / usual - 1).clip(0).sum())
        if missing and np.all(np.abs(steps / usual - np.rint(steps / usual)) < _UNEVEN):
            plural = "slice is" if missing == 1 else "slices are"
            raise InputError(f"{missing} {plural} missing in the series {name}", "Copy or export the complete series")
        raise InputError(
            f"The slices of {name} lie unevenly: {steps.min():.2f} to {steps.max():.2f} mm apart",
            "Resample the series to an even distance, for example with Slicer",
        )
    return float(along[-1] - along[0]) / (len(along) - 1)


def _check_straight(positions: np.ndarray, normal: np.ndarray, pixel: float, name: str) -> None:
    """The stack runs along its normal; a drift of a tenth of a pixel over the whole stack is noise."""
    run = positions[-1] - positions[0]
    height = float(run @ normal)
    drift = float(np.linalg.norm(run - height * normal))
    degrees = float(np.degrees(np.arctan2(drift, height)))
    if drift > 0.1 * pixel and degrees > _TILT_DEGREES:
        raise InputError(
            f"The slices of {name} are sheared by {degrees:.1f} degrees (a tilted gantry)",
            "Correct the tilt first, for example with Slicer's DICOM module, and give the corrected volume",
        )
