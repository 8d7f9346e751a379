"""Saving a result: as a node, as files that read back equal, as DICOM SEG of the series, as a report without a name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import choose, press, run, said, settle
from scene import difference, mask_of, snapshot


@pytest.fixture
def finished(host: Any, chosen: Any, copying: Path) -> Any:
    run(host, chosen)
    chosen.ui.keepSection.collapsed = False
    return chosen


def masks(panel: Any, volume: Any) -> dict[str, np.ndarray]:
    output = panel._parameterNode.outputSegmentation
    segmentation = output.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    return {segmentation.GetSegment(one).GetName(): mask_of(output, one, volume) for one in ids}


def turn(case: Any) -> None:
    """An oblique target, its slices stacked from head to feet."""
    vtk = lazy.vtk()
    matrix, turned = vtk.vtkTransform(), vtk.vtkMatrix4x4()
    case.target.GetIJKToRASMatrix(turned)
    matrix.RotateWXYZ(17, 1, 0.3, 0.1)
    matrix.Scale(1, 1, -1)
    vtk.vtkMatrix4x4.Multiply4x4(matrix.GetMatrix(), turned, turned)
    case.target.SetIJKToRASMatrix(turned)


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nii.gz", ".dcm"])
def test_a_saved_file_reads_back_as_the_segments_are_oblique_as_well(
    host: Any, chosen: Any, case: Any, copying: Path, tmp_path: Path, ending: str
) -> None:
    """ "Masks misplaced or partial": every voxel and its place in the world are the same after reading."""
    from rau.volume.labels import read_labels
    from rau.volume.resampling import labels_on_grid
    from rau.worker.protocol import GeometryMessage
    from RAUSlicerLib.nodes import geometry_message, ijk_to_ras

    turn(case)
    run(host, chosen)
    before, expected = snapshot(case.target), masks(chosen, case.target)
    choose(chosen.ui.exportBox, ending)
    assert chosen.ui.exportPathEdit.currentPath.endswith("segmentation" + ending)
    path = tmp_path / f"out{ending}"
    chosen.ui.exportPathEdit.currentPath = str(path)
    assert press(host, chosen, "exportButton").startswith(f"Written: out{ending}"), said(chosen)
    assert not difference(before, snapshot(case.target))
    grid = GeometryMessage(**geometry_message(ijk_to_ras(case.target), next(iter(expected.values())).shape)).geometry()
    read, _ = labels_on_grid(read_labels(path), grid)
    names = {one.name: one.value for one in read.structures}
    for number, (name, mask) in enumerate(expected.items(), start=1):
        assert np.array_equal(read.array == (names[name] if ending != ".nii.gz" else number), mask), name
    assert b"Target CT" not in path.read_bytes()


def test_a_label_map_node_is_made_in_the_scene(host: Any, finished: Any, case: Any) -> None:
    slicer, expected = lazy.slicer(), masks(finished, case.target)
    choose(finished.ui.exportBox, "")
    assert not finished.ui.exportPathEdit.enabled
    assert "In the scene" in press(host, finished, "exportButton")
    node = slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode")[0]
    array = slicer.util.arrayFromVolume(node)
    for number, mask in enumerate(expected.values(), start=1):
        assert np.array_equal(array == number, mask)


def test_a_file_that_is_there_is_replaced_only_when_asked_twice(host: Any, finished: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.nii.gz"
    path.write_bytes(b"precious")
    choose(finished.ui.exportBox, ".nii.gz")
    finished.ui.exportPathEdit.currentPath = str(path)
    assert "is there already" in press(host, finished, "exportButton") and path.read_bytes() == b"precious"
    assert "Written" in press(host, finished, "exportButton") and path.read_bytes() != b"precious"
    assert "is there already" in press(host, finished, "exportButton"), "asked again each time"


def test_what_cannot_be_saved_is_one_line(host: Any, finished: Any, case: Any, tmp_path: Path) -> None:
    choose(finished.ui.exportBox, ".dcm")
    for path, words in (
        ("", "No file is chosen"),
        (tmp_path / "out.nii.gz", "does not end in .dcm"),
        (tmp_path / "nowhere" / "out.dcm", "no folder nowhere"),
    ):
        finished.ui.exportPathEdit.currentPath = str(path)
        assert words in press(host, finished, "exportButton")
        assert finished.message.notice.kind == "error" and "\n" not in finished.message.notice.title
    assert not any(path.suffix in (".dcm", ".gz", ".tmp") for path in tmp_path.iterdir())


def dicom_series(folder: Path, volume: Any) -> tuple[list[str], list[str]]:
    """The target as CT slices on the disk: (instance UIDs, files)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    from RAUSlicerLib.nodes import geometry_message, ijk_to_ras

    array = lazy.slicer().util.arrayFromVolume(volume)
    grid = geometry_message(ijk_to_ras(volume), array.shape)
    direction, spacing = np.array(grid["direction"]), grid["spacing"]
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    uids, files = [], []
    folder.mkdir()
    for index, plane in enumerate(array.astype(np.int16)):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"{index}.dcm"
        ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.Modality, ds.InstanceNumber = "Doe^Jane", "4711", "CT", index + 1
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        ds.ImageOrientationPatient = [*direction[:, 2], *direction[:, 1]]
        ds.ImagePositionPatient = list(np.array(grid["origin"]) + index * spacing[0] * direction[:, 0])
        ds.PixelData = plane.tobytes()
        ds.save_as(path)
        uids.append(str(ds.SOPInstanceUID))
        files.append(str(path))
    return uids, files


def test_a_dicom_seg_refers_to_the_series_that_slicers_database_knows(
    host: Any, finished: Any, case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pydicom = pytest.importorskip("pydicom")
    uids, files = dicom_series(tmp_path / "series", case.target)
    by_uid = dict(zip(uids, files))
    case.target.SetAttribute("DICOM.instanceUIDs", " ".join(uids))
    database = SimpleNamespace(fileForInstance=lambda uid: by_uid.get(uid, ""))
    monkeypatch.setattr(lazy.slicer(), "dicomDatabase", database, raising=False)
    choose(finished.ui.exportBox, ".dcm")
    path = tmp_path / "seg.dcm"
    finished.ui.exportPathEdit.currentPath = str(path)
    assert press(host, finished, "exportButton") == "Written: seg.dcm"
    seg = pydicom.dcmread(path)
    (series,) = seg.ReferencedSeriesSequence
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} <= set(uids)
    first = pydicom.dcmread(files[0], stop_before_pixels=True)
    assert (seg.StudyInstanceUID, seg.PatientID) == (first.StudyInstanceUID, "4711")
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    del by_uid[uids[3]]
    finished.ui.exportPathEdit.currentPath = str(tmp_path / "alone.dcm")
    assert "refers to none" in press(host, finished, "exportButton")
    assert "ReferencedSeriesSequence" not in pydicom.dcmread(tmp_path / "alone.dcm")


def test_the_report_names_structures_and_trust_and_no_patient(
    host: Any, finished: Any, case: Any, tmp_path: Path
) -> None:
    """Names of nodes, which are often those of patients, are in no file that leaves the scene."""
    panel = finished
    choose(panel.ui.exportBox, ".html")
    case.target.SetName("Doe^Jane 4711")
    panel.result.result = type(panel.result.result)(
        **{**vars(panel.result.result), "warnings": ("Doe^Jane 4711 looks odd",)}
    )
    panel.ui.exportPathEdit.currentPath = str(tmp_path / "report.html")
    assert press(host, panel, "exportButton") == "Written: report.html"
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "\u25a0 doubtful" in text and "0.41 (0.21 to 0.46)" in text and "lies in 3 pieces" in text
    assert "the target looks odd" in text and "Not for clinical use" in text and "Doe^Jane" not in text
    assert "corrected since the run" not in text


def test_a_description_follows_the_corrections(host: Any, finished: Any, case: Any) -> None:
    slicer, output = lazy.slicer(), finished._parameterNode.outputSegmentation
    segment_id = output.GetSegmentation().GetNthSegmentID(0)
    assert "as it was copied" in finished.ui.detailsText.plainText
    small = np.zeros(slicer.util.arrayFromVolume(case.target).shape, np.uint8)
    small[10:14, 40:44, 40:44] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(small, output, segment_id, case.target)
    press(host, finished, "describeButton")
    text = finished.ui.detailsText.plainText
    assert "Expected Dice 0.41" in text and "as it was copied" not in text and "liver" in text.lower()
    chosen = finished.result.chosen()
    assert chosen.name == "liver" and chosen.text in text
    settle(host)
    assert finished.result.result.structures[0].text == chosen.text
