"""The files of one entry: voxels that come back exactly, a thumbnail, and care for what lies in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from rau.errors import InputError
from rau.references.reference import Reference
from rau.volume.volume import Geometry, LabelMap, Volume

ENTRY, IMAGE, LABELS, THUMBNAIL = "entry.json", "image.nrrd", "labels.seg.nrrd", "thumbnail.png"
FILES = (IMAGE, LABELS, THUMBNAIL)
_SIDE = 192  # of a thumbnail, pixels


def checked_array(array: np.ndarray, what: str) -> np.ndarray:
    """Raises InputError for numbers that do not come back from a file as they were."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "iuf" or (kind == "f" and size not in (4, 8)) or not array.dtype.isnative:
        raise InputError(f"The {what} holds {array.dtype.name}, which the bank does not keep", "Use whole numbers")
    return array


def write_files(reference: Reference, folder: Path) -> None:
    """Image, labels and thumbnail into `folder`. Names, colours and codes for other programs stand with the labels;
    the grid and they are in `entry.json` to the last digit."""
    import SimpleITK as sitk

    from rau.export.writing import write_labels
    from rau.volume.files import quiet_stderr
    from rau.volume.itk import to_itk

    image = to_itk(checked_array(reference.image.array, "image"), reference.image.geometry)
    with quiet_stderr():
        sitk.WriteImage(image, str(folder / IMAGE), True, 1)
    write_labels(reference.labels, folder / LABELS)
    write_thumbnail(reference, folder / THUMBNAIL)


def read_array(path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """The voxels of a file of the bank as they went in. Raises InputError: unreadable, of another shape."""
    import SimpleITK as sitk

    from rau.volume.files import quiet_stderr, refuse_foreign_data_file

    refuse_foreign_data_file(path)
    try:
        with quiet_stderr():
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="NrrdImageIO"))
    except RuntimeError:
        raise InputError(f"{path.name} cannot be read") from None
    if array.shape != shape:
        raise InputError(f"{path.name} is of another shape than its entry says")
    return np.ascontiguousarray(array.astype(np.dtype(kind), copy=False))


def write_thumbnail(reference: Reference, path: Path) -> None:
    """PNG: the middle labelled slice across the acquisition axis, structures filled and outlined, no words."""
    from rau.export.overlay import drawn_slice, upright
    from rau.volume.orientation import acquisition_axis, canonical
    from rau.volume.window import to_uint8

    grey, geometry, orientation = canonical(to_uint8(reference.image), reference.image.geometry)
    marks = orientation.forth(reference.labels.array)
    axis = acquisition_axis(geometry)
    labelled = np.flatnonzero(np.any(marks, axis=tuple(a for a in range(3) if a != axis)))
    index = int(labelled[len(labelled) // 2]) if len(labelled) else marks.shape[axis] // 2
    rows, columns = (geometry.spacing[a] for a in range(3) if a != axis)
    plane, mark = upright(np.take(grey, index, axis), axis), upright(np.take(marks, index, axis), axis)
    drawn_slice(plane, mark, (rows, columns), _SIDE, reference.structures, "").save(path, format="PNG")


def hashes_of(image: Volume, labels: LabelMap) -> tuple[str, str]:
    """SHA-256 of all that a reference is: voxels, labels, structures, grid, modality; and of voxels and grid alone."""
    from rau.models.engine import content_hash

    alone = image_hash(image.array, image.geometry)
    structures = tuple((one.value, one.name, tuple(one.color), one.terminology) for one in labels.structures)
    told = (image.modality, image.spacing_known, structures)
    return content_hash(alone, labels.array.astype(np.int64), told), alone


def image_hash(array: np.ndarray, geometry: Geometry) -> str:
    """SHA-256 of an image's voxels and grid."""
    from rau.models.engine import content_hash

    direction = tuple(np.asarray(geometry.direction).ravel().tolist())
    return content_hash(array, geometry.spacing, geometry.origin, direction)


def plain_file(path: Path) -> Path:
    """`path`, if it is a file of its own. Raises InputError: missing, a folder, a link that leads elsewhere."""
    if path.is_symlink():
        raise InputError(f"{path.name} is a link, which the bank does not follow")
    if not path.is_file():
        raise InputError(f"{path.name} is missing")
    return path


def sync(path: Path) -> None:
    """Have the disk keep a file, or what a folder lists, before going on."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError:
        return  # folders cannot be opened on Windows
    try:
        os.fsync(handle)
    except OSError:
        return  # a file system that does not know it
    finally:
        os.close(handle)
