"""Intensities to 8 bit: CT by a window in HU, other modalities by percentiles of what is not background."""

from __future__ import annotations

import numpy as np

from rau.errors import InputError
from rau.volume.volume import Volume

SOFT_TISSUE = (-160.0, 240.0)
_SAMPLES = 4_000_000


def to_uint8(volume: Volume, window: tuple[float, float] | None = None, mask: np.ndarray | None = None) -> np.ndarray:
    """(S, R, C) or (S, R, C, 3) uint8; monotone in the intensity, the same for the same input.

    window: (low, high) in the image's own units, mapped to 0 and 255. mask: (S, R, C), voxels whose intensities count
    for the percentiles (0.5 and 99.5). 8-bit pictures (one slice, or colour) keep their contrast unless a window is
    given; colour ignores the window. Raises InputError when the window is empty.
    """
    array = volume.array
    if volume.is_colour:
        return np.ascontiguousarray(array, dtype=np.uint8)
    if window is None and array.dtype == np.uint8 and array.shape[0] == 1 and not volume.spacing_known:
        return np.ascontiguousarray(array)
    low, high = window if window is not None else window_of(volume, mask)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"The window ({low:g}, {high:g}) is empty", "Give the lower value first, then the higher one")
    result = np.empty(array.shape, dtype=np.uint8)
    for index in range(array.shape[0]):
        scaled = (array[index].astype(np.float64) - low) * 255.0 / (high - low)
        result[index] = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
    return result


def window_of(volume: Volume, mask: np.ndarray | None = None) -> tuple[float, float]:
    """The window (low, high) that `to_uint8` takes when none is given: soft tissue for CT, else percentiles."""
    if volume.modality == "CT":
        return SOFT_TISSUE
    values = volume.array[mask.astype(bool)] if mask is not None and np.any(mask) else volume.array.ravel()
    step = max(1, values.size // _SAMPLES)
    while step > 1 and volume.array.shape[2] % step == 0:
        step += 1
    values = values[::step].astype(np.float64)
    if mask is None:
        values = _without_background(values)
    low, high = np.percentile(values, (0.5, 99.5))
    if low >= high:
        low, high = float(volume.array.min()), float(volume.array.max())
    return float(low), float(high if high > low else low + 1.0)


def _without_background(values: np.ndarray) -> np.ndarray:
    """Drop the darkest 5 % of the intensity range (air); keep all where that would leave next to nothing."""
    lowest, bright = float(values.min()), float(np.percentile(values, 99.9))
    inside = values[values > lowest + 0.05 * (bright - lowest)]
    return inside if inside.size >= 0.005 * values.size else values
