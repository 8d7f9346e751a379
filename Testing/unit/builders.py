"""Small volumes, label maps and files for tests, made on the fly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rau.volume.volume import Geometry, LabelMap, Structure, Volume

LIVER = (
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)
LEFT_KIDNEY = (
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney"
    "~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^"
)
STRUCTURES = (
    Structure(1, "liver", (0.8666667, 0.5098039, 0.3960784), LIVER),
    Structure(2, "left kidney", (0.2, 0.6, 0.8), LEFT_KIDNEY),
    Structure(7, "marker", (1.0, 0.0, 0.0), ""),
)


def rotation(seed: int) -> np.ndarray:
    """A random (3, 3) orthonormal matrix, right- or left-handed."""
    matrix, upper = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.diag(upper))


def signed_permutation(order: tuple[int, int, int], signs: tuple[int, int, int]) -> np.ndarray:
    """A (3, 3) direction matrix whose columns are world axes in some order, some against them."""
    matrix = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[axis, column] = sign
    return matrix


def phantom(geometry: Geometry | None = None, modality: str = "CT") -> tuple[Volume, LabelMap]:
    """An asymmetric body in *world* space: whatever the grid, the marker (7) lies at the patient's left, front, top.

    liver (1): a block to the right. left kidney (2): a block to the left, back. Bodies are placed about the centre of
    the grid, in shares of its world extent, so that every grid holds all three.
    """
    grid = geometry or Geometry((10, 14, 12), (3.0, 1.5, 2.0), (-20.0, 30.0, 100.0))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    world = grid.to_world(index)
    centre, half = (world.max(0) + world.min(0)) / 2, np.maximum((world.max(0) - world.min(0)) / 2, 1e-6)
    x, y, z = ((world - centre) / half).T
    labels = np.zeros(len(index), dtype=np.uint8)
    labels[(x < -0.05) & (x > -0.6) & (np.abs(y) < 0.6) & (np.abs(z) < 0.6)] = 1
    labels[(x > 0.05) & (x < 0.6) & (y > 0.0) & (y < 0.6) & (np.abs(z) < 0.6)] = 2
    score = x - y + z
    labels[np.argsort(score)[-max(4, len(index) // 60) :]] = 7
    image = np.array([-1000, 60, 30, 0, 0, 0, 0, 400])[labels] + np.arange(len(index)) % 7
    array = image.reshape(grid.shape).astype(np.int16)
    present = tuple(one for one in STRUCTURES if np.any(labels == one.value))
    return Volume(array, grid, modality, "phantom"), LabelMap(labels.reshape(grid.shape), grid, present)


def centre_of(labels: LabelMap, value: int) -> np.ndarray:
    """LPS mm (3,) of the centre of one label."""
    return labels.geometry.to_world(np.argwhere(labels.array == value)).mean(0)


def write_image(volume: Volume, path: Path) -> Path:
    """Any SimpleITK format."""
    import SimpleITK as sitk

    from rau.volume.itk import to_itk

    sitk.WriteImage(to_itk(volume.array, volume.geometry), str(path))
    return path


def write_series(
    folder: Path,
    volume: Volume,
    *,
    number: int = 1,
    modality: str = "CT",
    slope: float = 1.0,
    intercept: float = -1024.0,
    shuffled: bool = True,
    skip: tuple[int, ...] = (),
    positions: np.ndarray | None = None,
    identified: bool = True,
) -> list[Path]:
    """A classic DICOM series of a volume, one file a slice; stored = (value - intercept) / slope, unsigned 16 bit.

    shuffled: file names and instance numbers run against the positions. skip: slices left out. positions: (S, 3),
    instead of the volume's own. identified: False leaves the instance UIDs empty, as some anonymisers do.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    geometry = volume.geometry
    direction = np.asarray(geometry.direction)
    if positions is None:
        positions = geometry.to_world(np.array([[k, 0, 0] for k in range(geometry.shape[0])]))
    files = []
    for k in range(geometry.shape[0]):
        if k in skip:
            continue
        dataset = _plain_dataset(study, series, frame, number, modality)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        dataset.SOPInstanceUID = generate_uid() if identified else ""
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = geometry.shape[0] - k if shuffled else k + 1
        dataset.ImagePositionPatient = [f"{v:.8g}" for v in positions[k]]
        dataset.ImageOrientationPatient = [f"{v:.10f}"[:16] for v in (*direction[:, 2], *direction[:, 1])]
        dataset.PixelSpacing = [geometry.spacing[1], geometry.spacing[2]]
        dataset.SliceThickness = geometry.spacing[0]
        dataset.Rows, dataset.Columns = geometry.shape[1:]
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        stored = np.rint((volume.array[k] - intercept) / slope).astype("<u2")
        dataset.PixelData = stored.tobytes()
        name = f"IM{dataset.InstanceNumber:04d}" + ("" if k % 2 else ".dcm")
        dataset.save_as(folder / name, enforce_file_format=True)
        files.append(folder / name)
    return files


def _plain_dataset(study: str, series: str, frame: str, number: int, modality: str) -> Any:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.PatientName, dataset.PatientID = "Secret^Name", "SECRET-42"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.StudyID = "19700101", "O", "1"
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20200101", "120000", ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
    dataset.SeriesNumber, dataset.Modality, dataset.SeriesDescription = number, modality, "Secret description"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    return dataset
