"""Nodes and arrays: RAS and LPS, grids, layers, overlap, transforms; held against the engine and SimpleITK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scene import LPS_TO_RAS, add_segment, mask_of, volume_node

from host.pace import STALL_MS, cpu_ms, slowness

SHAPE = (5, 7, 9)


def rotation(seed: int, flips: tuple[bool, bool, bool]) -> np.ndarray:
    """A random direction matrix, left-handed ones among them."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.where(flips, -1.0, 1.0)


def oblique(seed: int, flips: tuple[bool, bool, bool], name: str = "Oblique") -> tuple[Any, np.ndarray]:
    """(node, array) with a random geometry."""
    slicer, vtk = lazy.slicer(), lazy.vtk()
    rng = np.random.default_rng(seed)
    array = rng.integers(-500, 500, SHAPE).astype(np.int16)
    node = slicer.util.addVolumeFromArray(array, name=name)
    matrix, spacing = vtk.vtkMatrix4x4(), rng.uniform(0.3, 4.0, 3)
    values = np.eye(4)
    values[:3, :3], values[:3, 3] = rotation(seed, flips) * spacing, rng.uniform(-200, 200, 3)
    for i in range(4):
        for j in range(4):
            matrix.SetElement(i, j, values[i, j])
    node.SetIJKToRASMatrix(matrix)
    return node, values


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), flips=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_voxels_lie_where_slicer_has_them(host: Any, seed: int, flips: tuple[bool, bool, bool]) -> None:
    """Any direction matrix: the engine's world is Slicer's, x and y reversed, within 0.01 mm; left stays left."""
    from rau.worker.protocol import GeometryMessage
    from RAUSlicerLib.nodes import image_message

    node, to_ras = oblique(seed, flips)
    geometry = GeometryMessage(**image_message(node, "a.npy")["geometry"]).geometry()
    index = np.array([[0, 0, 0], [4, 6, 8], [2, 0, 8], [1, 5, 3]])
    ras = (to_ras @ np.c_[index[:, ::-1], np.ones(4)].T).T[:, :3]
    assert np.abs(geometry.to_world(index) * [-1, -1, 1] - ras).max() < 0.01
    assert geometry.shape == SHAPE


def test_same_world_as_simpleitk_reads_from_slicers_file(host: Any, tmp_path: Path) -> None:
    import SimpleITK

    from rau.worker.protocol import GeometryMessage
    from RAUSlicerLib.nodes import image_message

    slicer = lazy.slicer()
    node, _ = oblique(3, (True, False, True))
    path = str(tmp_path / "a.nrrd")
    assert slicer.util.saveNode(node, path)
    image = SimpleITK.ReadImage(path)
    geometry = GeometryMessage(**image_message(node, "a.npy")["geometry"]).geometry()
    for index in ((0, 0, 0), (4, 6, 8), (2, 5, 1)):
        there = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index[::-1]])
        assert np.abs(geometry.to_world(np.array([index]))[0] - there).max() < 0.01
        assert SimpleITK.GetArrayFromImage(image)[index] == slicer.util.arrayFromVolume(node)[index]


def fill(node: Any, volume: Any, values: dict[str, int]) -> tuple[np.ndarray, Any]:
    from RAUSlicerLib.layers import LabelMapOfSegments

    out = np.zeros(lazy.slicer().util.arrayFromVolume(volume).shape, np.uint16)
    filled = LabelMapOfSegments(node, volume, values)
    for _ in filled.fill(out):
        pass
    return out, filled


def segmentation_on(volume: Any) -> Any:
    node = lazy.slicer().mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Seg")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def test_layers_on_the_volumes_grid_come_voxel_for_voxel(host: Any) -> None:
    volume, _ = oblique(5, (False, True, False))
    node, rng = segmentation_on(volume), np.random.default_rng(1)
    masks = [rng.random(SHAPE) < 0.3 for _ in range(3)]
    masks[1] &= ~masks[0]
    masks[2] &= ~masks[0] & ~masks[1]
    ids = [add_segment(node, volume, f"s{i}", mask) for i, mask in enumerate(masks)]
    out, filled = fill(node, volume, {ids[0]: 4, ids[1]: 2, ids[2]: 9})
    assert np.array_equal(out, 4 * masks[0] + 2 * masks[1] + 9 * masks[2])
    assert not filled.overlaps and filled.counts[9] == masks[2].sum()


def test_where_segments_overlap_the_smaller_counts_and_it_is_known(host: Any) -> None:
    volume, _ = oblique(6, (False, False, False))
    node = segmentation_on(volume)
    organ, lesion = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    organ[1:4, 1:6, 1:8], lesion[2, 2:4, 2:9] = True, True
    ids = [add_segment(node, volume, "organ", organ), add_segment(node, volume, "lesion", lesion)]
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    out, filled = fill(node, volume, {ids[0]: 1, ids[1]: 2})
    assert np.array_equal(out == 2, lesion) and np.array_equal(out == 1, organ & ~lesion)
    assert filled.overlaps == {(1, 2)}


def test_a_segmentation_on_another_grid_is_resampled_as_slicer_does(host: Any) -> None:
    slicer = lazy.slicer()
    fine = slicer.util.addVolumeFromArray(np.zeros((10, 20, 20), np.int16), name="Fine")
    coarse = slicer.util.addVolumeFromArray(np.zeros((5, 10, 10), np.int16), name="Coarse")
    coarse.SetSpacing(2, 2, 2)
    coarse.SetOrigin(0.5, 0.5, 0.5)
    node = segmentation_on(fine)
    mask = np.zeros((10, 20, 20), bool)
    mask[2:8, 4:12, 6:16] = True
    ids = [add_segment(node, fine, "box", mask)]
    out, _ = fill(node, coarse, {ids[0]: 3})
    assert np.array_equal(out == 3, mask[::2, ::2, ::2])
    assert np.array_equal(out == 3, mask_of(node, ids[0], coarse))


def test_a_segmentation_kept_as_surfaces_is_made_voxels_without_touching_it(host: Any) -> None:
    slicer, vtk = lazy.slicer(), lazy.vtk()
    volume = slicer.util.addVolumeFromArray(np.zeros((20, 20, 20), np.int16), name="V")
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(10, 10, 10)
    sphere.SetRadius(6)
    sphere.SetThetaResolution(40)
    sphere.SetPhiResolution(40)
    sphere.Update()
    node = segmentation_on(volume)
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    segment = slicer.vtkSegment()
    segment.SetName("ball")
    segment.AddRepresentation("Closed surface", sphere.GetOutput())
    assert node.GetSegmentation().AddSegment(segment, "ball")
    out, _ = fill(node, volume, {"ball": 1})
    index = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), -1)
    ball = ((index - 10.0) ** 2).sum(-1) < 36
    assert 2 * (ball & (out == 1)).sum() / (ball.sum() + (out == 1).sum()) > 0.93
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_transforms_count(host: Any) -> None:
    """A linear transform moves the world; the same one on both keeps labels; a bent one is refused."""
    from rau.worker.protocol import GeometryMessage
    from RAUSlicerLib.nodes import image_message
    from RAUSlicerLib.problems import Problem

    slicer, vtk = lazy.slicer(), lazy.vtk()
    volume = slicer.util.addVolumeFromArray(np.zeros((8, 8, 8), np.int16), name="V")
    node = segmentation_on(volume)
    mask = np.zeros((8, 8, 8), bool)
    mask[2:5, 2:5, 2:5] = True
    ids = [add_segment(node, volume, "box", mask)]
    move = vtk.vtkTransform()
    move.Translate(2, 0, 0)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    transform.SetMatrixTransformToParent(move.GetMatrix())
    volume.SetAndObserveTransformNodeID(transform.GetID())
    geometry = GeometryMessage(**image_message(volume, "a.npy")["geometry"]).geometry()
    assert np.allclose(geometry.to_world(np.zeros((1, 3))), [[-2, 0, 0]])
    moved, _ = fill(node, volume, {ids[0]: 1})
    assert np.array_equal(moved == 1, np.roll(mask, -2, axis=2))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert np.array_equal(fill(node, volume, {ids[0]: 1})[0] == 1, mask)
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "B")
    spline = vtk.vtkThinPlateSplineTransform()
    bent.SetAndObserveTransformToParent(spline)
    volume.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(Problem, match="not linear"):
        image_message(volume, "a.npy")


def test_what_an_image_is(host: Any, patients: Any) -> None:
    from RAUSlicerLib.nodes import image_message, pixels_of
    from RAUSlicerLib.problems import Problem

    slicer = lazy.slicer()
    ct = volume_node(patients[0].image, "CT")
    message = image_message(ct, "a.npy")
    assert message["modality"] == "CT" and message["spacing_known"] and message["source"] == "CT"
    affine = patients[0].image.geometry.affine
    assert np.allclose(message["geometry"]["origin"], affine[:3, 3]) and LPS_TO_RAS.shape == affine.shape
    picture = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    colors = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 4)).astype(np.uint8)
    slicer.util.updateVolumeFromArray(picture, colors)
    assert np.array_equal(pixels_of(picture), colors[..., :3])
    assert not image_message(picture, "a.npy")["spacing_known"]
    field = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Field")
    slicer.util.updateVolumeFromArray(field, np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(Problem, match="no color picture"):
        pixels_of(field)


def test_preparing_a_run_never_holds_the_panel_up(host: Any, tmp_path: Path) -> None:
    """Every step of writing a reference of 8 million voxels with 6 structures stays within a quarter of a second."""
    from RAUSlicerLib.inputs import ReferenceNodes, SceneInputs, structures_of

    shape = (128, 256, 256)
    volume = lazy.slicer().util.addVolumeFromArray(np.zeros(shape, np.int16), name="Large")
    node = segmentation_on(volume)
    for i in range(6):
        mask = np.zeros(shape, bool)
        mask[10 * i : 10 * i + 60, 40 * i : 40 * i + 50, 30:200] = True
        add_segment(node, volume, f"s{i}", mask)
    references = [ReferenceNodes(volume, node)]
    inputs = SceneInputs(volume, references, structures_of(references), {})
    todo, done, steps = inputs.write(tmp_path, 1), [], []
    while not done:
        steps.append(cpu_ms(lambda: next(todo, "end") == "end" and done.append(True)))
    print(f"preparing: {max(steps):.0f} ms a step, {sum(steps):.0f} ms in {len(steps)} steps")
    assert max(steps) < STALL_MS * slowness()
    structures = inputs.message()["references"][0]["structures"]
    labels = np.load(tmp_path / "job1-reference1-labels.npy")
    assert [(labels == s["value"]).sum() for s in structures][:1] == [60 * 50 * 170] and len(structures) == 6
