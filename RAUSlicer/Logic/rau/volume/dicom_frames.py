"""Multi-frame DICOM (enhanced CT and MR) through highdicom."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import InputError
from rau.volume.itk import BROKEN_HINT
from rau.volume.volume import Geometry


def highdicom() -> Any:
    """The package highdicom, which is an extra. Raises InputError where it is not installed."""
    try:
        import highdicom as hd
    except ImportError:
        raise InputError(
            "DICOM SEG and multi-frame DICOM need the package highdicom", "Install it: pip install 'rauslicer[dicom]'"
        ) from None
    return hd


def read_frames(file: Path, name: str) -> tuple[np.ndarray, Geometry]:
    """(S, R, C) in rescaled units and its grid. Raises InputError when the frames do not make up one even stack."""
    hd = highdicom()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = hd.imread(file)
    except MemoryError:
        raise
    except Exception:
        raise InputError(f"{name} cannot be read", BROKEN_HINT) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            volume = image.get_volume(
                apply_modality_transform=None, dtype=np.float32, rtol=0.05, allow_missing_positions=False
            )
    except MemoryError:
        raise
    except Exception:
        raise InputError(
            f"The frames of {name} do not make up one even stack of slices", "Export it as a classic series of slices"
        ) from None
    array = np.asarray(volume.array)
    if array.ndim != 3:
        raise InputError(f"{name} is a colour volume", "Give a grey one")
    whole = np.all(array == np.rint(array))
    return array.astype(np.int32) if whole else array, geometry_of(volume)


def geometry_of(volume: object) -> Geometry:
    """The geometry of a highdicom volume, whose arrays and LPS affines are in (slice, row, column) order as here."""
    affine = np.array(volume.affine, dtype=np.float64)  # type: ignore[attr-defined]
    shape = volume.spatial_shape  # type: ignore[attr-defined]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = affine[:3, 3]
    return Geometry(
        (shape[0], shape[1], shape[2]),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (float(x), float(y), float(z)),
        affine[:3, :3] / spacing,
    )
