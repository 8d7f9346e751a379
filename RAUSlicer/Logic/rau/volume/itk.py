"""NIfTI, NRRD and MetaImage through SimpleITK: arrays in (slice, row, column) order with their geometry in LPS mm."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import InputError
from rau.volume.files import ending_of, quiet_stderr, refuse_foreign_data_file
from rau.volume.nifti import check_contents
from rau.volume.volume import Geometry

BROKEN_HINT = "The file is damaged, cut off or not what its ending says: copy or export it again"
_DEFLATE_LIMIT = 1100


@dataclass(frozen=True)
class ItkImage:
    """array: (S, R, C), or (S, R, C, n) with n components a voxel. header: the file's own text entries."""

    array: np.ndarray
    geometry: Geometry
    components: int = 1
    spacing_known: bool = True
    header: dict[str, str] = field(default_factory=dict)


def read_itk(path: Path, *, layers: bool = False) -> ItkImage:
    """Read one file. layers: components of a voxel are layers (of a .seg.nrrd), however many. Raises InputError."""
    import SimpleITK as sitk

    refuse_foreign_data_file(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_stderr():
            reader.ReadImageInformation()
            _check_header(path, reader, layers)
            image = reader.Execute()
        if ending_of(path).startswith(".nii"):
            contents = check_contents(path)
            refuse_not_finite(contents.not_finite, path.name)
            if contents.cut_off:
                raise InputError(f"{path.name} is cut off: its end is missing", "Copy or export it again")
        header = {key: reader.GetMetaData(key) for key in _text_keys(reader)}
        if image.GetDimension() == 4:
            image = image[:, :, :, 0]
        return _converted(path, image, header)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path.name} does not fit into memory") from None
    except (RuntimeError, ValueError, OSError, UnicodeError) as error:
        if "orthonormal" in str(error):
            raise InputError(
                f"The axes of {path.name} are sheared (not at right angles)", "Resample it to a rectangular grid"
            ) from None
        raise InputError(f"{path.name} cannot be read", BROKEN_HINT) from None


def refuse_not_finite(count: int, name: str) -> None:
    """Raises InputError when `count` voxels are no number."""
    if count:
        raise InputError(
            f"{name} holds {count} voxels that are no number (NaN or infinite)", "Replace them in the source first"
        )


def _text_keys(reader: Any) -> list[str]:
    keys = []
    for key in reader.GetMetaDataKeys():
        try:
            key.encode("utf-8")
            reader.GetMetaData(key).encode("utf-8")
        except (UnicodeError, RuntimeError):
            continue
        keys.append(key)
    return keys


def _check_header(path: Path, reader: Any, layers: bool) -> None:
    dimension, size = reader.GetDimension(), reader.GetSize()
    if dimension not in (2, 3, 4) or min(size) < 1:
        raise InputError(f"{path.name} has {dimension} dimensions", "Give a 2-D or 3-D image")
    if dimension == 4 and size[3] != 1:
        raise InputError(
            f"{path.name} is a 4-D image ({size[3]} volumes)", "Save one of its volumes as a 3-D image and give that"
        )
    components = reader.GetNumberOfComponents()
    if components > 1 and not layers:
        depth = size[2] if dimension > 2 else 1
        if depth > 1:
            raise InputError(
                f"{path.name} is a colour or vector volume ({components} values a voxel)", "Give a grey one"
            )
        if components not in (3, 4):
            raise InputError(f"{path.name} has {components} values a pixel", "Give a grey or an RGB image")
    needed = float(np.prod([float(n) for n in size])) * components
    if needed > _DEFLATE_LIMIT * path.stat().st_size + 1e6 and not _detached(path):
        raise InputError(f"{path.name} announces more voxels than it can hold", BROKEN_HINT)


def _detached(path: Path) -> bool:
    return ending_of(path).endswith((".nhdr", ".mhd"))


def _converted(path: Path, image: Any, header: dict[str, str]) -> ItkImage:
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        raise InputError(f"{path.name} holds complex numbers", "Give the magnitude image")
    components = image.GetNumberOfComponentsPerPixel()
    spacing, origin = list(image.GetSpacing()), list(image.GetOrigin())
    direction = np.eye(3)
    dimension = image.GetDimension()
    direction[:dimension, :dimension] = np.array(image.GetDirection()).reshape(dimension, dimension)
    if dimension == 2:
        array, spacing, origin = array[None], [*spacing, 1.0], [*origin, 0.0]
    shape = array.shape[:3]
    geometry = Geometry((shape[0], shape[1], shape[2]), tuple(spacing[::-1]), tuple(origin), direction[:, ::-1])
    return ItkImage(array, geometry, components, _spacing_known(path, header, geometry), header)


def _spacing_known(path: Path, header: dict[str, str], geometry: Geometry) -> bool:
    """A NIfTI without any transform and with unit voxels says nothing of the world."""
    if not ending_of(path).startswith(".nii"):
        return True
    untold = header.get("qform_code", "1") in ("0", "NIFTI_XFORM_UNKNOWN") and header.get("sform_code", "1") in (
        "0",
        "NIFTI_XFORM_UNKNOWN",
    )
    return not (untold and geometry.spacing == (1.0, 1.0, 1.0))


def to_itk(array: np.ndarray, geometry: Geometry) -> Any:
    """A SimpleITK image of an (S, R, C) array, exactly on `geometry`."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(np.asarray(geometry.direction)[:, ::-1].ravel().tolist())
    return image
