"""The .seg.nrrd as others read it: Slicer's own core and slicerio."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from builders import LIVER, phantom, rotation, signed_permutation
from rau.export.writing import write_labels
from rau.volume.labels import read_segmentation
from rau.volume.resampling import labels_on_grid
from rau.volume.volume import Geometry, LabelMap, Structure

GRIDS = {
    "axial": Geometry((6, 8, 7), (3.0, 0.9, 0.7), (-20.0, 30.0, 100.0)),
    "nifti": Geometry((6, 8, 7), (3.0, 0.9, 0.7), (20.0, 30.0, 100.0), signed_permutation((2, 1, 0), (1, -1, -1))),
    "sagittal": Geometry((6, 8, 7), (3.0, 0.9, 0.7), (1.0, 2.0, 3.0), signed_permutation((0, 2, 1), (1, -1, 1))),
    "oblique": Geometry((6, 8, 7), (3.0, 0.9, 0.7), (1.0, 2.0, 3.0), np.linalg.det(rotation(5)) * rotation(5)),
}


def test_torch_comes_before_vtk_into_a_test_process(slicer):
    """The other way round it may crash: see `TorchFirst` in the root conftest."""
    pytest.importorskip("torch")
    assert sys.modules["vtkmodules"]
    order = list(sys.modules)
    assert order.index("torch") < order.index("vtkmodules")


@pytest.fixture
def slicer():
    return pytest.importorskip("slicer", reason="needs slicer-core")


@pytest.fixture
def scene(slicer):
    made = slicer.vtkMRMLScene()
    yield made
    made.Clear(True)


def loaded(slicer, scene, path):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "read")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


def vtk_matrix(image):
    """(4, 4): (column, row, slice) to RAS mm."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def voxels_in_ras(slicer, node, segment_id):
    """RAS mm of the voxels of a segment, as Slicer places them."""
    import vtk

    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segment_id, image)
    affine = vtk_matrix(image)
    low = image.GetExtent()[::2]
    size = [b - a + 1 for a, b in zip(low, image.GetExtent()[1::2], strict=True)]
    scalars = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[::-1])
    index = np.argwhere(scalars)[:, ::-1] + low
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("grid", GRIDS)
def test_slicer_reads_the_same_segments_at_the_same_place(slicer, scene, tmp_path, grid):
    pytest.importorskip("vtk.util.numpy_support")
    _, labels = phantom(GRIDS[grid])
    node = loaded(slicer, scene, write_labels(labels, tmp_path / "out.seg.nrrd", provenance={"model": "x"}))
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == len(labels.structures)
    for position, one in enumerate(labels.structures):
        identifier = segmentation.GetNthSegmentID(position)
        segment = segmentation.GetSegment(identifier)
        assert segment.GetName() == one.name and segment.GetLabelValue() == one.value
        assert np.allclose(segment.GetColor(), one.color, atol=1e-4)
        ours = labels.geometry.to_world(np.argwhere(labels.array == one.value)) * (-1, -1, 1)
        theirs = voxels_in_ras(slicer, node, identifier)
        assert ours.shape == theirs.shape
        assert np.abs(ours[np.lexsort(ours.round(3).T)] - theirs[np.lexsort(theirs.round(3).T)]).max() < 0.01


@pytest.mark.parametrize("grid", GRIDS)
def test_slicer_keeps_the_grid_of_the_image(slicer, scene, tmp_path, grid):
    """The reference geometry, which Slicer needs to edit on the image's own grid."""
    _, labels = phantom(GRIDS[grid])
    node = loaded(slicer, scene, write_labels(labels, tmp_path / "out.seg.nrrd"))
    image = slicer.vtkOrientedImageData()
    text = node.GetSegmentation().GetConversionParameter("Reference image geometry")
    assert slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False)
    assert image.GetExtent() == (0, 6, 0, 7, 0, 5)
    corners = np.array([[0, 0, 0], [5, 7, 6]])
    matrix = vtk_matrix(image)
    ras = corners[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.abs(ras - labels.geometry.to_world(corners) * (-1, -1, 1)).max() < 1e-6


def test_slicer_reads_the_codes(slicer, scene, tmp_path):
    import vtk

    node = loaded(slicer, scene, write_labels(phantom()[1], tmp_path / "out.seg.nrrd"))
    segment = node.GetSegmentation().GetNthSegment(0)
    value = vtk.reference("")
    assert segment.GetTag(segment.GetTerminologyEntryTagName(), value) and str(value) == LIVER
    entry = slicer.vtkSlicerTerminologyEntry()
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    assert logic.DeserializeTerminologyEntry(str(value), entry)
    assert entry.GetTypeObject().GetCodeMeaning() == "Liver"


def test_an_absent_structure_is_an_empty_segment(slicer, scene, tmp_path):
    _, labels = phantom()
    more = LabelMap(labels.array, labels.geometry, (*labels.structures, Structure(9, "absent")))
    path = write_labels(more, tmp_path / "out.seg.nrrd")
    segmentation = loaded(slicer, scene, path).GetSegmentation()
    assert [segmentation.GetNthSegment(k).GetName() for k in range(4)][3] == "absent"
    read, notes = read_segmentation(path)
    assert len(read.structures) == 3 and "absent" in notes[0]


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_engine_reads_what_slicer_writes(slicer, scene, tmp_path, overlapping):
    """Slicer crops to the segments, and puts overlapping ones on layers of a 4-D file."""
    _, labels = phantom(GRIDS["oblique"])
    node = loaded(slicer, scene, write_labels(labels, tmp_path / "first.seg.nrrd"))
    segmentation = node.GetSegmentation()
    if overlapping:
        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segmentation.GetNthSegmentID(0), image)
        segmentation.AddEmptySegment("again", "again")
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        assert logic.SetBinaryLabelmapToSegment(image, node, "again", logic.MODE_REPLACE, image.GetExtent())
        assert segmentation.GetNumberOfLayers() == 2
    storage = node.GetStorageNode() or scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "slicer.seg.nrrd"))
    storage.SetCropToMinimumExtent(True)
    assert storage.WriteData(node)
    read, notes = read_segmentation(tmp_path / "slicer.seg.nrrd")
    placed, _ = labels_on_grid(read, labels.geometry)
    wanted = {"liver": 1, "left kidney": 2, "marker": 7}
    if overlapping:
        wanted["again"] = wanted.pop("liver")
        assert any("overlap" in note or "under" in note for note in notes)
    for name, value in wanted.items():
        one = next(s for s in placed.structures if s.name == name)
        assert np.array_equal(placed.array == one.value, labels.array == value), name
        coded = next(s.terminology for s in labels.structures if s.value == value)
        assert name == "again" or not coded or one.terminology == coded


def test_slicerio_reads_names_values_and_codes(tmp_path):
    slicerio = pytest.importorskip("slicerio")
    _, labels = phantom()
    segmentation = slicerio.read_segmentation(str(write_labels(labels, tmp_path / "out.seg.nrrd")))
    names = {one["name"]: one for one in segmentation["segments"]}
    assert set(names) == {one.name for one in labels.structures}
    for one in labels.structures:
        assert names[one.name]["labelValue"] == one.value and np.allclose(
            names[one.name]["color"], one.color, atol=1e-4
        )
    assert names["liver"]["terminology"]["type"] == ["SCT", "10200004", "Liver"]
    assert np.array_equal(np.transpose(segmentation["voxels"], (2, 1, 0)), labels.array)
