"""DICOM SEG as others read it: highdicom's own reader, and pydicom alone, frame by frame; for axial, flipped, oblique
and multi-frame sources. Voxels, geometry, codes, tracking ids, references, and the patient of the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import LEFT_KIDNEY, LIVER, phantom, rotation, signed_permutation, write_series
from rau.errors import InputError
from rau.export.writing import write_labels
from rau.volume.dicom import series_files
from rau.volume.dicom_frames import read_frames
from rau.volume.labels import read_labels
from rau.volume.reading import read_volume
from rau.volume.resampling import labels_on_grid
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

hd = pytest.importorskip("highdicom")
import pydicom  # noqa: E402

SHAPE, SPACING, ORIGIN = (6, 9, 8), (2.5, 0.8, 0.7), (-33.0, 12.0, 140.0)
AXES = {
    "axial": np.asarray(Geometry(SHAPE).direction),
    "head to feet, mirrored": signed_permutation((2, 1, 0), (-1, -1, 1)),
    "sagittal": signed_permutation((0, 2, 1), (1, -1, 1)),
    "coronal, backwards": signed_permutation((1, 2, 0), (-1, -1, -1)),
    "oblique": rotation(5),
    "oblique the other hand": rotation(6) @ np.diag([-1.0, 1.0, 1.0]),
}
REGION = (
    "Segmentation category and type - DICOM master list~SCT^49755003^Morphologically Abnormal Structure"
    "~SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~SCT^10200004^Liver~SCT^24028007^Right"
)


@dataclass(frozen=True)
class Exported:
    """labels: on the grid on which the source was read. seg: the written file. source: its files, in slice order."""

    labels: LabelMap
    seg: Path
    source: tuple[Path, ...]


def sources_of(folder: Path, volume: Volume, multi_frame: bool) -> tuple[Path, ...]:
    """The volume as a classic series, or as one enhanced image."""
    classic = write_series(folder / "series", volume)
    if not multi_frame:
        return tuple(classic)
    headers = [pydicom.dcmread(file) for file in classic]
    enhanced = hd.legacy.LegacyConvertedEnhancedCTImage(headers, hd.UID(), 5, hd.UID(), 1)
    (folder / "enhanced").mkdir()
    enhanced.save_as(folder / "enhanced" / "frames.dcm")
    return (folder / "enhanced" / "frames.dcm",)


def exported(folder: Path, axes: np.ndarray, multi_frame: bool) -> Exported:
    """What the command line does: read the source, write labels that belong to it."""
    volume, labels = phantom(Geometry(SHAPE, SPACING, ORIGIN, axes))
    place = sources_of(folder, volume, multi_frame)[0].parent
    target, files = read_volume(place), series_files(place)
    structures = (
        Structure(1, "liver", (0.8, 0.5, 0.4), LIVER),
        Structure(2, "left kidney", (0.2, 0.6, 0.8), LEFT_KIDNEY),
        Structure(7, "mass", (1.0, 0.0, 0.0), REGION),
    )
    placed, _ = labels_on_grid(LabelMap(labels.array, labels.geometry, structures), target.geometry)
    assert len(np.unique(placed.array)) == 4, "all three are there"
    provenance = {"model": "rau-mini", "seed": 3}
    seg = write_labels(placed, folder / "out.dcm", image=target, source_dicom=files, provenance=provenance)
    return Exported(placed, seg, files)


KINDS = [(name, False) for name in AXES] + [("axial", True), ("oblique", True), ("head to feet, mirrored", True)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}{', multi-frame' * kind[1]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name, multi_frame = request.param
    return exported(tmp_path_factory.mktemp("seg"), AXES[name], multi_frame)


def by_pydicom(file: Path) -> tuple[dict[int, np.ndarray], Any]:
    """With nothing but pydicom: by segment number, the LPS mm (N, 3) of its voxels, from the frames' own positions."""
    dataset = pydicom.dcmread(file)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    found: dict[int, list[np.ndarray]] = {}
    assert len(frames) == len(dataset.PerFrameFunctionalGroupsSequence) == int(dataset.NumberOfFrames)
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        axes = (group if "PlaneOrientationSequence" in group else shared).PlaneOrientationSequence[0]
        along_columns, along_rows = np.reshape([float(v) for v in axes.ImageOrientationPatient], (2, 3))
        size = (group if "PixelMeasuresSequence" in group else shared).PixelMeasuresSequence[0].PixelSpacing
        corner = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        row, column = np.nonzero(frame)
        steps = np.outer(row, along_rows * float(size[0])) + np.outer(column, along_columns * float(size[1]))
        found.setdefault(number, []).append(corner + steps)
    return {number: np.concatenate(places) for number, places in found.items()}, dataset


def same_places(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two sets of points in mm are the same, in any order."""
    if ours.shape != theirs.shape:
        return False
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    return bool(distance.min(0).max() < 0.01 and distance.min(1).max() < 0.01)


def test_pydicom_alone_finds_every_voxel_at_its_place(case: Exported) -> None:
    places, dataset = by_pydicom(case.seg)
    assert (dataset.SegmentationType, dataset.BitsAllocated) == ("BINARY", 1)
    labels = case.labels
    assert sorted(places) == [1, 2, 3]
    for number, one in enumerate(labels.structures, start=1):
        ours = labels.geometry.to_world(np.argwhere(labels.array == one.value))
        assert same_places(ours, places[number]), one.name
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert np.allclose([float(v) for v in measures.PixelSpacing], labels.geometry.spacing[1:], atol=1e-6)
    assert np.isclose(float(measures.SpacingBetweenSlices), labels.geometry.spacing[0], atol=1e-4)


def test_highdicom_finds_the_same_array_and_grid(case: Exported) -> None:
    volume = hd.seg.segread(case.seg).get_volume(combine_segments=True, allow_missing_positions=True)
    read = LabelMap(np.asarray(volume.array).astype(np.uint8), grid_of(volume), case.labels.structures)
    placed, said = labels_on_grid(read, case.labels.geometry)
    assert said == "" or "voxel by voxel" in said, "a part of the same grid: frames without a label are not stored"
    for number, one in enumerate(case.labels.structures, start=1):
        assert np.array_equal(placed.array == number, case.labels.array == one.value), one.name


def grid_of(volume: Any) -> Geometry:
    affine = np.asarray(volume.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Geometry(
        tuple(volume.spatial_shape), tuple(map(float, spacing)), tuple(affine[:3, 3]), affine[:3, :3] / spacing
    )


def coded(sequence: Any) -> tuple[str, str, str]:
    (item,) = sequence
    return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning


def test_codes_tracking_ids_algorithm_and_colours_are_those_of_the_structures(case: Exported) -> None:
    liver, kidney, mass = pydicom.dcmread(case.seg).SegmentSequence
    assert [one.SegmentLabel for one in (liver, kidney, mass)] == ["liver", "left kidney", "mass"]
    assert coded(liver.SegmentedPropertyCategoryCodeSequence) == ("123037004", "SCT", "Anatomical Structure")
    assert coded(liver.SegmentedPropertyTypeCodeSequence) == ("10200004", "SCT", "Liver")
    (kind,) = kidney.SegmentedPropertyTypeCodeSequence
    assert coded(kind.SegmentedPropertyTypeModifierCodeSequence) == ("7771000", "SCT", "Left")
    assert coded(mass.SegmentedPropertyTypeCodeSequence) == ("4147007", "SCT", "Mass")
    assert coded(mass.AnatomicRegionSequence) == ("10200004", "SCT", "Liver")
    assert coded(mass.AnatomicRegionSequence[0].AnatomicRegionModifierSequence) == ("24028007", "SCT", "Right")
    tracked = {(one.TrackingID, one.TrackingUID) for one in (liver, kidney, mass)}
    assert len({name for name, _ in tracked}) == len({uid for _, uid in tracked}) == 3
    assert all(pydicom.uid.UID(uid).is_valid for _, uid in tracked)
    for one in (liver, kidney, mass):
        assert one.SegmentAlgorithmType == "SEMIAUTOMATIC"
        (algorithm,) = one.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == "RAUSlicer" and algorithm.AlgorithmVersion
        assert coded(algorithm.AlgorithmFamilyCodeSequence)[2] == "Artificial Intelligence"
        assert "rau-mini" in algorithm.AlgorithmParameters
        assert len(one.RecommendedDisplayCIELabValue) == 3


def test_every_frame_names_the_image_that_it_lies_on(case: Exported) -> None:
    """And the segmentation belongs to patient, study and frame of reference of its source."""
    seg = pydicom.dcmread(case.seg)
    headers = {header.SOPInstanceUID: header for header in (pydicom.dcmread(file) for file in case.source)}
    first = next(iter(headers.values()))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == first[keyword].value, keyword
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID and seg.Modality == "SEG"
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} <= set(headers)
    for group in seg.PerFrameFunctionalGroupsSequence:
        (derived,) = group.DerivationImageSequence
        (image,) = derived.SourceImageSequence
        source = headers[image.ReferencedSOPInstanceUID]
        place = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        assert np.allclose(place, position_of(source, image), atol=0.01)


def position_of(source: Any, image: Any) -> list[float]:
    """Where the source's image lies; of a multi-frame source the frame that is named."""
    if "PerFrameFunctionalGroupsSequence" not in source:
        return [float(v) for v in source.ImagePositionPatient]
    frame = image.ReferencedFrameNumber
    number = int(frame if not hasattr(frame, "__len__") else frame[0])
    group = source.PerFrameFunctionalGroupsSequence[number - 1]
    return [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]


def test_the_file_is_a_valid_segmentation_object(case: Exported) -> None:
    """What other viewers ask of the file before they look at its frames."""
    seg = pydicom.dcmread(case.seg)
    assert seg.file_meta.MediaStorageSOPClassUID == seg.SOPClassUID == pydicom.uid.SegmentationStorage
    assert seg.file_meta.MediaStorageSOPInstanceUID == seg.SOPInstanceUID
    assert seg.Manufacturer and seg.ManufacturerModelName == "RAUSlicer" and seg.SoftwareVersions
    assert seg.ContentLabel == "SEGMENTATION" and seg.LossyImageCompression == "00"
    (organisation,) = seg.DimensionOrganizationSequence
    assert all(
        one.DimensionOrganizationUID == organisation.DimensionOrganizationUID for one in seg.DimensionIndexSequence
    )
    assert [one.SegmentNumber for one in seg.SegmentSequence] == [1, 2, 3]


@pytest.mark.parametrize("keyword", ["PatientBirthDate", "PatientSex", "StudyDate"])
def test_a_header_that_no_segmentation_can_take_is_refused_without_quoting_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyword: str
) -> None:
    volume, labels = phantom()
    files = write_series(tmp_path / "series", volume)
    with monkeypatch.context() as lenient:
        lenient.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.IGNORE)
        for file in files:
            dataset = pydicom.dcmread(file)
            dataset[keyword].value = "Doe Jane 4711"
            dataset.save_as(file)
    with pytest.raises(InputError, match="headers are unusual") as told:
        write_labels(labels, tmp_path / "out.dcm", source_dicom=files)
    assert "Jane" not in str(told.value) and "4711" not in str(told.value) and ".seg.nrrd" in told.value.hint
    assert not (tmp_path / "out.dcm").exists()


@pytest.mark.parametrize("place", ["seg.segread", "imread"])
def test_memory_that_runs_out_while_frames_are_read_is_no_damaged_file(
    case: Exported, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def short(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(f"highdicom.{place}", short)
    with pytest.raises(MemoryError):
        read_labels(case.seg) if place == "seg.segread" else read_frames(case.seg, "frames.dcm")
