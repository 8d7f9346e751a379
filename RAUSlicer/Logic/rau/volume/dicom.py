"""DICOM images: series in a folder, slices sorted by position, Hounsfield units by the rescale slope."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import InputError
from rau.volume.dicom_geometry import frame_geometry, series_geometry
from rau.volume.files import quiet_stderr
from rau.volume.itk import BROKEN_HINT
from rau.volume.volume import Geometry, Volume

MODALITIES = {"CT": "CT", "MR": "MR", "US": "US", "CR": "XR", "DX": "XR", "XA": "XR", "RF": "XR", "MG": "XR"}
NOT_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC", "M3D")


@dataclass(frozen=True)
class Series:
    """One image series. files: its files (paths), in no particular order; datasets: their headers, without pixels."""

    uid: str
    number: str
    modality: str
    files: tuple[Path, ...]
    datasets: tuple[Any, ...]

    @property
    def label(self) -> str:
        """For messages: no description, which may name the patient."""
        count = f"{len(self.files)} file" + ("" if len(self.files) == 1 else "s")
        return f"series {self.number or '?'} ({self.modality or 'unknown'}, {count}, UID ...{self.uid[-8:]})"


def read_header(path: Path) -> Any | None:
    """The dataset of a DICOM file without its pixels; None when it is no DICOM file."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:
        # pydicom raises many types on files that are not DICOM or are cut off
        return None


def find_series(path: Path) -> list[Series]:
    """The image series of a folder and its subfolders (or of one file), by number. Copies of an image count once."""
    groups: dict[str, dict[str, tuple[Path, Any]]] = {}
    for file in _files(path):
        header = read_header(file)
        if header is None or "Rows" not in header:
            continue
        if str(header.get("Modality", "")) in NOT_IMAGES:
            continue
        uid = str(header.get("SeriesInstanceUID", ""))
        groups.setdefault(uid, {}).setdefault(str(header.get("SOPInstanceUID") or file), (file, header))
    found = []
    for uid, members in groups.items():
        files, headers = zip(*members.values(), strict=True)
        number = "" if headers[0].get("SeriesNumber") is None else str(headers[0].SeriesNumber)
        found.append(Series(uid, number, str(headers[0].get("Modality", "")), files, headers))
    return sorted(found, key=lambda one: (int(one.number) if one.number.lstrip("-").isdigit() else 1 << 31, one.uid))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [
        Path(top, name)
        for top, _, names in sorted(os.walk(path))
        for name in sorted(names)
        if Path(top, name).is_file() and name != "DICOMDIR"
    ]


def pick_series(path: Path, series: str | None = None) -> Series:
    """The one image series at `path`, or the one asked for. Raises InputError that lists what there is."""
    found = find_series(path)
    if not found:
        if path.is_dir():
            raise InputError(f"The folder {path.name} holds no DICOM images", "Give the folder of a series, or a file")
        raise InputError(f"{path.name} is no DICOM image that can be read", BROKEN_HINT)
    if series is not None:
        asked = series.strip().lstrip(".")
        chosen = (
            [one for one in found if one.uid == asked]
            or [one for one in found if one.number == asked]
            or [one for one in found if len(asked) >= 4 and one.uid.endswith(asked)]
        )
    else:
        chosen = found
    if len(chosen) == 1:
        return chosen[0]
    listing = "; ".join(one.label for one in chosen or found)
    if not chosen:
        raise InputError(f"No series {series} in {path.name}", f"There are: {listing}")
    raise InputError(f"{path.name} holds {len(chosen)} series: {listing}", "Pick one with --series NUMBER or UID")


def series_files(path: str | os.PathLike[str], series: str | None = None) -> tuple[Path, ...]:
    """The files of the series in slice order: what a DICOM SEG refers to (`rau.export.writing.write_labels`)."""
    from rau.volume.files import checked

    one = pick_series(checked(path), series)
    if len(one.files) == 1:
        return one.files
    order, _ = series_geometry(one.datasets, Path(path).name)
    return tuple(one.files[i] for i in order)


def read_dicom(path: Path, series: str | None = None) -> Volume:
    """The volume of a series (folder) or of one file, classic or multi-frame. Raises InputError."""
    chosen = pick_series(path, series)
    first = chosen.datasets[0]
    modality = MODALITIES.get(chosen.modality, "OT" if chosen.modality else "")
    frames = int(first.get("NumberOfFrames", 1) or 1)
    if frames > 1 or "PerFrameFunctionalGroupsSequence" in first:
        if len(chosen.files) > 1:
            raise InputError(f"{path.name} holds {len(chosen.files)} multi-frame files", "Give one of the files")
        from rau.volume.dicom_frames import read_frames

        array, geometry = read_frames(chosen.files[0], path.name)
        return Volume(array, geometry, modality, path.name)
    if len(chosen.files) == 1:
        geometry, known = frame_geometry(first, path.name)
        array = _tightest(_pixels(chosen.files[0])[None], path.name)
        return Volume(array, geometry, "OT" if array.ndim == 4 else modality, path.name, known)
    if int(first.get("SamplesPerPixel", 1)) > 1:
        raise InputError(f"{path.name} is a series of colour pictures", "Give a grey volume, or one of the pictures")
    order, geometry = series_geometry(chosen.datasets, path.name)
    return Volume(_stacked([chosen.files[i] for i in order], geometry, path.name), geometry, modality, path.name)


def _stacked(files: list[Path], geometry: Geometry, name: str) -> np.ndarray:
    array = np.empty(geometry.shape, dtype=np.float32)
    for index, file in enumerate(files):
        array[index] = _pixels(file)
    return _tightest(array, name)


def _tightest(array: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers as int16 or int32 (uint8 for colour), others as float32."""
    if array.ndim == 4:
        return array[..., :3].astype(np.uint8)
    if not np.all(np.isfinite(array)) or np.any(array != np.rint(array)):
        return array.astype(np.float32)
    small = np.iinfo(np.int16).min <= array.min() and array.max() <= np.iinfo(np.int16).max
    return array.astype(np.int16 if small else np.int32)


def _pixels(file: Path) -> np.ndarray:
    """(R, C) after the rescale slope, or (R, C, 3) colour; inverted where DICOM says that low is white."""
    import pydicom
    from pydicom.pixels import apply_modality_lut

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(file)
            raw = dataset.pixel_array
            if raw.ndim == 3:
                return raw if raw.dtype == np.uint8 else (raw >> (8 * (raw.itemsize - 1))).astype(np.uint8)
            values = np.asarray(apply_modality_lut(raw, dataset), dtype=np.float32)
    except MemoryError:
        raise InputError(f"{file.name} does not fit into memory") from None
    except Exception:
        return _pixels_by_itk(file)
    if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        values = values.max() + values.min() - values
    return values


def _pixels_by_itk(file: Path) -> np.ndarray:
    """Compressed pixels that pydicom has no decoder for: SimpleITK brings its own (and applies the rescale slope)."""
    import SimpleITK as sitk

    try:
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        with quiet_stderr():
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
    except (RuntimeError, ValueError):
        raise InputError(f"The pixels of {file.name} cannot be read", BROKEN_HINT) from None
    return np.asarray(array[0])
