"""Trust in a result: lights with words, slices to review, jumps of the views; all of it stays with the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import rows, run, settle
from hypothesis import given
from hypothesis import strategies as st

from RAUSlicerLib import trust


@pytest.fixture
def views(host: Any, case: Any) -> Any:
    """Red, yellow and green, as the four-up layout has them, on another volume."""
    from host.views import slice_view

    opened = [
        slice_view(host.application_logic, host.scene, case.reference, 0.0, orientation)
        for orientation in ("Axial", "Sagittal", "Coronal")
    ]
    yield {view.logic.GetSliceNode().GetLayoutName(): view.logic.GetSliceNode() for view in opened}
    for view in opened:
        view.close()


def test_every_structure_has_a_light_with_a_word_and_what_it_rests_on(
    host: Any, chosen: Any, case: Any, copying: Path
) -> None:
    """ "No result and no reason": what is doubtful, what is absent and why stand beside the names."""
    run(host, chosen)
    found = rows(chosen.ui.resultTree)
    assert [row[1] for row in found[:4]] == ["\u25a0 doubtful", "\u25b2 check", "\u2013 not found", "\u25cf good"]
    assert found[0][2].endswith(" ml") and found[2][2] == ""
    details = chosen.ui.detailsText.plainText
    assert "Expected Dice 0.41 (0.21 to 0.46 in 90 of 100 cases)" in details, "the worst is chosen"
    assert "Odd: it lies in 3 pieces, in the reference in one." in details and "as it was copied" in details
    chosen.ui.resultTree.setCurrentItem(chosen.ui.resultTree.topLevelItem(3))
    assert "Expected Dice 0.92" in chosen.ui.detailsText.plainText and "Odd" not in chosen.ui.detailsText.plainText
    assert f"Check first: {found[0][0]}, {found[1][0]}" in chosen.message.notice.lines


def test_segments_are_flagged_by_trust_and_carry_where_they_come_from(
    host: Any, chosen: Any, case: Any, copying: Path
) -> None:
    from RAUSlicerLib.nodes import tag_of

    slicer = lazy.slicer()
    run(host, chosen)
    segmentation = chosen._parameterNode.outputSegmentation.GetSegmentation()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    first, second, third = (segmentation.GetNthSegment(i) for i in range(3))
    assert [logic.GetSegmentStatus(one) for one in (first, second, third)] == [
        logic.Flagged,
        logic.InProgress,
        logic.Completed,
    ]
    assert (tag_of(first, "RAU.Trust"), tag_of(first, "RAU.ExpectedDice")) == ("red", "0.410")
    assert tag_of(first, "RAU.ExpectedDiceInterval") == "0.210 0.460" and "pieces" in tag_of(first, "RAU.Odd")
    assert tag_of(first, "RAU.Model") == "copying" and tag_of(first, "RAU.Structure") == first.GetName()


def voxel_in_view(node: Any, volume: Any) -> np.ndarray:
    """(slice, row, column) of the middle of what a view shows."""
    from RAUSlicerLib.nodes import ijk_to_world, matrix_of

    return (np.linalg.inv(ijk_to_world(volume)) @ matrix_of(node.GetSliceToRAS())[:, 3])[[2, 1, 0]]


def test_a_click_on_a_slice_brings_it_into_the_view_of_its_plane(
    host: Any, chosen: Any, case: Any, copying: Path, views: Any
) -> None:
    run(host, chosen)
    tree = chosen.ui.reviewTree
    name = chosen.ui.resultTree.topLevelItem(0).text(0)
    assert rows(tree) == [[name, "11", "0.31"], [name, "4", "0.52"], [name, "20", "0.66"]]
    before = voxel_in_view(views["Yellow"], case.target)
    for index in (1, 2):
        tree.setCurrentItem(tree.topLevelItem(index))
        shown = voxel_in_view(views["Red"], case.target)[0]
        assert shown == pytest.approx(float(tree.topLevelItem(index).text(1)), abs=1e-3)
    assert np.allclose(voxel_in_view(views["Yellow"], case.target), before), "the other views stay"
    logic = host.application_logic.GetSliceLogic(views["Red"])
    assert logic.GetSliceCompositeNode().GetBackgroundVolumeID() == case.target.GetID()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("transformed", [False, True])
def test_slices_of_an_oblique_volume_are_met_exactly(
    host: Any, panel: Any, case: Any, views: Any, axis: int, transformed: bool
) -> None:
    """ "Masks misplaced": an oblique volume would be cut through several slices; the view is turned into its planes."""
    from RAUSlicerLib.nodes import ijk_to_world
    from RAUSlicerLib.slice_views import jump_to, normal_of, slice_in_view, view_normal

    slicer, vtk = lazy.slicer(), lazy.vtk()
    turn = vtk.vtkTransform()
    turn.RotateWXYZ(23, 1, 0.4, 0.2)
    if transformed:
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        parent.SetMatrixTransformToParent(turn.GetMatrix())
        case.target.SetAndObserveTransformNodeID(parent.GetID())
    else:
        turned = vtk.vtkMatrix4x4()
        case.target.GetIJKToRASMatrix(turned)
        vtk.vtkMatrix4x4.Multiply4x4(turn.GetMatrix(), turned, turned)
        case.target.SetIJKToRASMatrix(turned)
    for index in (0, 7, 30):
        node = jump_to(case.target, axis, index)
        normal = normal_of(ijk_to_world(case.target), axis)
        assert abs(view_normal(node) @ normal) > 0.9999
        assert slice_in_view(case.target, axis) == index


def test_what_cannot_be_shown_is_told_in_one_line(host: Any, chosen: Any, case: Any, copying: Path) -> None:
    run(host, chosen)
    chosen.ui.reviewTree.setCurrentItem(chosen.ui.reviewTree.topLevelItem(1))
    assert chosen.message.notice.title == "No slice view is open."
    host.scene.RemoveNode(case.target)
    settle(host)
    chosen.ui.reviewTree.setCurrentItem(chosen.ui.reviewTree.topLevelItem(2))
    assert chosen.message.notice.title == "The target volume has left the scene."


def test_trust_is_saved_with_the_scene(host: Any, chosen: Any, case: Any, copying: Path, tmp_path: Path) -> None:
    run(host, chosen)
    structures, review = rows(chosen.ui.resultTree), rows(chosen.ui.reviewTree)
    size = len(chosen._parameterNode.result)
    assert size < 10_000, size
    bundle = str(tmp_path / "case.mrb")
    assert host.scene.WriteToMRB(bundle, None)
    host.clear()
    assert chosen.ui.resultTree.topLevelItemCount == 0
    assert host.scene.ReadFromMRB(bundle, True)
    chosen.enter()
    settle(host)
    assert chosen.ui.resultSection.visible
    assert (rows(chosen.ui.resultTree), rows(chosen.ui.reviewTree)) == (structures, review)
    chosen.ui.undoButton.click()
    settle(host)
    assert chosen.ui.resultTree.topLevelItemCount == 0 and not chosen.ui.resultSection.visible


@pytest.mark.parametrize("text", ["{", "[]", '{"format":1}', '{"format":2}', "null", '{"format":1,"structures":3}'])
def test_a_damaged_state_of_a_foreign_scene_is_no_result(host: Any, chosen: Any, copying: Path, text: str) -> None:
    run(host, chosen)
    chosen._parameterNode.result = text
    settle(host)
    assert chosen.ui.resultTree.topLevelItemCount == 0 and chosen.ui.detailsText.plainText == ""
    assert chosen.ui.undoButton.enabled


REPORT = {
    "structures": [
        {"value": 1, "name": "<b>liver", "color": [0.5, 0.5, 0.5], "present": True, "score": 0.9, "volume_ml": 3.21},
        {"value": 2, "name": "spleen", "present": False},
    ],
    "slices": [{"axis": 2}],
}


def test_a_report_without_quality_and_descriptions_will_do() -> None:
    found = trust.result_of("run", REPORT)
    assert [one.light for one in found.structures] == ["", "absent"] and found.axis == 2
    assert trust.trust_text(found.structures[0]) == "\u00b7 not judged"
    assert trust.details(found.structures[0], None) == "Score of the model 0.90."
    assert trust.volume_text(found.structures[0]) == "3.2 ml"
    assert trust.result_from(found.as_text()) == found


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_text_of_a_scene_raises(content: Any) -> None:
    import json

    state = json.loads(trust.result_of("run", REPORT).as_text())
    damaged = [{**state, key: content} for key in state]
    damaged += [{**state, "structures": [{**state["structures"][0], key: content}]} for key in state["structures"][0]]
    for one in damaged:
        found = trust.result_from(json.dumps(one))
        for structure in found.structures if found else ():
            assert trust.details(structure, found.level if found else None)
