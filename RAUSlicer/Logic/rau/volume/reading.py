"""Images from files: NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, TIFF."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from rau.errors import InputError
from rau.volume.files import checked, kind_of
from rau.volume.itk import read_itk, refuse_not_finite
from rau.volume.volume import Geometry, Volume


def read_volume(path: str | os.PathLike[str], *, series: str | None = None, modality: str | None = None) -> Volume:
    """The image of a file or a DICOM folder, on its own grid; arrays are (slice, row, column), CT in HU.

    series: which series of a DICOM folder, by its number, its UID or the end of its UID. modality: overrides what the
    file says ("CT", "MR", "US", "XR", "OT"). Raises InputError (one line, the file's name without its folder) for
    whatever cannot be used: missing, damaged, 4-D, a colour volume, NaN, constant, uneven slices, several series.
    """
    found = checked(path)
    kind = kind_of(found)
    if series is not None and kind not in ("folder", "dicom"):
        raise InputError(f"{found.name} has no series to choose from", "--series is for DICOM folders")
    volume = _read(found, kind, series)
    array = usable(volume.array, found.name)
    chosen = modality if modality is not None else volume.modality or guess_modality(array)
    return Volume(array, volume.geometry, chosen, found.name, volume.spacing_known)


def _read(path: Path, kind: str, series: str | None) -> Volume:
    if kind == "picture":
        from rau.volume.pictures import read_picture

        array = read_picture(path)
        geometry = Geometry((array.shape[0], array.shape[1], array.shape[2]))
        return Volume(array, geometry, "OT" if array.ndim == 4 else "", path.name, spacing_known=False)
    if kind in ("dicom", "folder"):
        from rau.volume.dicom import read_dicom

        return read_dicom(path, series)
    image = read_itk(path)
    array = image.array
    if image.components > 1:
        array = _colour(array[..., :3], path.name)
    return Volume(array, image.geometry, "OT" if array.ndim == 4 else "", path.name, image.spacing_known)


def _colour(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype != np.uint8:
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
            raise InputError(f"{name} has colours of more than 8 bits", "Save it with 8 bits a colour")
        array = array.astype(np.uint8)
    return array


def usable(array: np.ndarray, name: str) -> np.ndarray:
    """Native, contiguous, at most 32-bit integers or 32/64-bit floats; refuses NaN, infinity and constant images."""
    if array.dtype.kind == "f":
        refuse_not_finite(int(array.size - np.count_nonzero(np.isfinite(array))), name)
    low, high = array.min(), array.max()
    if low == high:
        raise InputError(f"{name} is constant: every voxel is {low:g}", "Check that the right image was chosen")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
        fits = np.iinfo(np.int32).min <= low and high <= np.iinfo(np.int32).max
        array = array.astype(np.int32 if fits else np.float64)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def guess_modality(array: np.ndarray) -> str:
    """ "CT" where the values look like Hounsfield units, else "".

    That is: air below -500, nothing below -4096, and half of what is denser than -400 within -200 to 300 (soft tissue).
    """
    if array.ndim == 4 or array.dtype.kind == "u":
        return ""
    low, high = float(array.min()), float(array.max())
    if not (-4096 <= low <= -500 and -100 <= high <= 32767):
        return ""
    if array.dtype.kind == "f" and low > -900 and np.any(array % 1):
        return ""
    dense = array[array > -400]
    soft = np.count_nonzero((dense > -200) & (dense < 300))
    return "CT" if soft >= 0.5 * dense.size else ""
