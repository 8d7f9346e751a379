"""Arrays of the private folder: memory-mapped, checked against what the message says, never unpickled."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rau.references.reference import Reference
from rau.volume.labels import values_of, whole_labels
from rau.volume.volume import LabelMap, Volume
from rau.worker.protocol import CorrectionsMessage, ImageMessage, ProtocolError, ReferenceMessage

if TYPE_CHECKING:
    from rau.corrections import Corrections


def open_array(folder: Path, name: str, mode: str = "r") -> np.ndarray:
    """The array of that file, memory-mapped. Raises ProtocolError: missing, a link, damaged, holds objects."""
    path = folder / name
    if Path(name).name != name or path.is_symlink() or not path.is_file():
        raise ProtocolError(f"The array {Path(name).name} is not in the worker's folder")
    try:
        array = np.lib.format.open_memmap(path, mode="r+" if mode == "r+" else "r")
    except MemoryError:
        raise
    except Exception as error:  # what numpy's parser of headers raises on damaged files shares no type
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError from None
        raise ProtocolError(f"The array {name} cannot be read") from None
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ProtocolError(f"The array {name} holds no plain numbers")
    return array


def open_image(folder: Path, message: ImageMessage) -> Volume:
    """The image of a message; its modality is guessed where nobody knows it, as for a file (`rau.volume.reading`).

    Raises ProtocolError, and InputError for NaN and constant images.
    """
    from rau.volume.reading import guess_modality, usable

    array, geometry = open_array(folder, message.array), message.geometry.geometry()
    colour = array.ndim == 4 and array.shape[3] == 3 and array.dtype == np.uint8
    if array.shape[:3] != geometry.shape or not (array.ndim == 3 or colour):
        raise ProtocolError(f"The array {message.array} has shape {array.shape}, its grid {geometry.shape}")
    name = message.source or "The image"
    if array.dtype == bool:
        array = array.astype(np.uint8)
    array = usable(array, name)
    modality = message.modality or guess_modality(array)
    return Volume(array, geometry, modality, message.source, message.spacing_known)


def open_reference(folder: Path, message: ReferenceMessage) -> tuple[Reference, tuple[str, ...]]:
    """The reference of a message, without its empty structures, and a line for each of those.

    Raises ProtocolError, and InputError for an image or a segmentation that nothing can be done with.
    """
    image = open_image(folder, message.image)
    array = open_array(folder, message.labels.array)
    if array.shape != image.geometry.shape:
        raise ProtocolError(f"The label map {message.labels.array} has another shape than its image")
    values = [one.value for one in message.structures]
    if len(set(values)) != len(values):
        raise ProtocolError("Two structures of a reference have the same label value")
    labels = whole_labels(array, "The label map of the reference")
    seen = set(values_of(labels))
    notes = tuple(
        f"The segment {s.name} has no voxels and is left out" for s in message.structures if s.value not in seen
    )
    structures = tuple(s.structure() for s in message.structures if s.value in seen)
    return Reference(image, LabelMap(labels, image.geometry, structures)), notes


def open_corrections(folder: Path, message: CorrectionsMessage, target: Volume) -> Corrections:
    """The corrected slices of a message. Raises ProtocolError, and InputError for a slice that the target lacks."""
    from rau.corrections import Corrections

    array = whole_labels(open_array(folder, message.labels.array), "The corrected label map")
    if array.shape != target.geometry.shape:
        raise ProtocolError("The corrected label map has another shape than the target")
    structures = tuple(one.structure() for one in message.structures)
    return Corrections(LabelMap(array, target.geometry, structures), message.axis, message.slices)


def open_result(folder: Path, name: str, shape: tuple[int, int, int]) -> np.memmap:
    """The label map that a job fills, all 0: uint16 (S, R, C); made when missing. Raises ProtocolError, OSError.

    By plain writes first: where the disk is full, that is an error; filling a sparse mapped file ends the process.
    """
    path = folder / name
    if path.exists() or path.is_symlink():
        known = open_array(folder, name)
        if known.dtype != np.uint16 or known.shape != shape:
            raise ProtocolError(f"The result {name} is no uint16 array of shape {shape}")
        del known
    try:
        with path.open("wb") as file:
            header = {"descr": "<u2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            plane = np.zeros(shape[1:], "<u2").tobytes()
            for _ in range(shape[0]):
                file.write(plane)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return np.lib.format.open_memmap(path, mode="r+")
