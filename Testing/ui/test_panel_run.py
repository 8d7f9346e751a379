"""The real button, the real worker process, the bundled model: run, cancel, crash, correct, save, reload, undo."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from scene import add_segment, dice, difference, mask_of, segments, snapshot

from host.pace import STALL_MS

pytestmark = pytest.mark.slow

RUN_SECONDS = 240.0


def press(panel: Any) -> None:
    """As the user: the button must be enabled."""
    assert panel.ui.segmentButton.enabled, panel.ui.segmentButton.toolTip
    panel.ui.segmentButton.click()


def finish(host: Any, panel: Any) -> Any:
    assert host.spin(lambda: panel.logic.run.state.over, RUN_SECONDS), panel.logic.run.state.phase
    host.spin(lambda: False, 0.05)
    return panel.logic.run.state


def reached(host: Any, panel: Any, slices: int) -> bool:
    """Wait until so many slices are done; False when the run ends before."""
    run = panel.logic.run
    host.spin(lambda: run.state.done >= slices or run.state.over, RUN_SECONDS)
    return not run.state.over


def said(panel: Any) -> str:
    notice = panel.message.notice
    return " ".join((notice.title, *notice.lines)) if notice else ""


def test_cancel_run_correct_save_reload(host: Any, chosen: Any, case: Any, tmp_path: Path) -> None:
    panel, slicer = chosen, lazy.slicer()
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Work in progress")
    output.CreateDefaultDisplayNodes()
    output.SetReferenceImageGeometryParameterFromVolumeNode(case.target)
    mine = np.zeros(case.truth["liver"].shape, bool)
    mine[10:14, 40:60, 30:70] = True
    add_segment(output, case.target, "drawn by hand", mine, (0.2, 0.9, 0.4))
    panel.ui.outputSelector.setCurrentNode(output)
    host.spin(lambda: False, 0.05)
    before, by_hand = snapshot(case.target), segments(output, case.target)

    # cancel midway: the scene as it was
    press(panel)
    assert panel.ui.segmentButton.text == "Cancel"
    assert reached(host, panel, 4), said(panel)
    assert output.GetSegmentation().GetNumberOfSegments() > 1, "live slices are in the scene"
    panel.ui.segmentButton.click()
    assert finish(host, panel).phase == "cancelled"
    assert not difference(before, snapshot(case.target))
    assert panel.ui.segmentButton.text == "Segment from reference" and "Cancelled" in said(panel)

    # to the end, with the loaded worker; the event loop is watched
    with host.stalls() as gaps:
        press(panel)
        state = finish(host, panel)
    print(f"worst stall of the event loop: {gaps}, run {state.seconds:.1f} s")
    assert state.phase == "done", said(panel)
    assert gaps.worst < STALL_MS, str(gaps)
    check_result(panel, case, output, by_hand)

    # correct a segment as the Segment Editor does, save, reload
    liver = output.GetSegmentation().GetSegmentIdBySegmentName("liver")
    corrected = mask_of(output, liver, case.target)
    corrected[16, 20:40, 20:40] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(corrected.astype(np.uint8), output, liver, case.target)
    after = segments(output, case.target)
    bundle = tmp_path / "case.mrb"
    assert host.scene.WriteToMRB(str(bundle), None)
    excluded = list(panel._parameterNode.excludedStructures)
    host.clear()
    assert not panel.ui.segmentButton.enabled
    assert host.scene.ReadFromMRB(str(bundle), True)
    panel.enter()
    host.spin(lambda: False, 0.1)
    again = slicer.util.getNode("Work in progress")
    target = slicer.util.getNode("Target CT")
    assert segments(again, target) == after
    assert mask_of(again, again.GetSegmentation().GetSegmentIdBySegmentName("liver"), target)[16, 20:40, 20:40].all()

    # the panel's state came back with the scene, and so did the undo
    assert panel.ui.targetSelector.currentNode() is target
    assert panel.references.references()[0].volume.GetName() == "Reference CT"
    assert panel._parameterNode.excludedStructures == excluded and panel.ui.segmentButton.enabled
    panel.ui.undoButton.click()
    assert segments(again, target) == by_hand


def check_result(panel: Any, case: Any, output: Any, by_hand: Any) -> None:
    """Names, colors and codes of the reference; voxels near the truth; absent structures without a segment."""
    found = segments(output, case.target)
    assert found[: len(by_hand)] == by_hand, "the user's own segments are untouched"
    wanted = {s.name: s for s in segments(case.segmentation, case.reference)}
    made = {s.name: s for s in found[len(by_hand) :]}
    report = {one["name"]: one for one in panel.logic.run.state.report["structures"]}
    assert set(made) == {name for name, one in report.items() if one["present"]}
    for name, one in made.items():
        assert (one.color, one.terminology) == (wanted[name].color, wanted[name].terminology), name
        assert one.count == report[name]["voxels"] > 0, name
    ids = {name: output.GetSegmentation().GetSegmentIdBySegmentName(name) for name in made}
    scores = {n: dice(mask_of(output, ids[n], case.target), case.truth[n]) for n in made if n in case.truth}
    print("Dice", {name: round(score, 2) for name, score in scores.items()})
    assert scores["liver"] > 0.5


def test_new_segmentation_lies_on_the_target_and_undo_removes_it(host: Any, chosen: Any, case: Any) -> None:
    panel, slicer = chosen, lazy.slicer()
    panel.structures.tree.topLevelItem(1).setCheckState(0, lazy.qt().Qt.Unchecked)
    host.spin(lambda: False, 0.05)
    left_out = panel.structures.excluded()
    before = snapshot(case.target)
    press(panel)
    state = finish(host, panel)
    assert state.phase == "done", said(panel)
    node = panel.ui.outputSelector.currentNode()
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is case.target
    names = {s.name for s in segments(node, case.target)}
    assert names and not names & set(left_out)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    flags = {"red": logic.Flagged, "amber": logic.InProgress, "green": logic.Completed, "": logic.Completed}
    lights = {one.name: one.light for one in panel.result.result.structures}
    for index in range(node.GetSegmentation().GetNumberOfSegments()):
        segment = node.GetSegmentation().GetNthSegment(index)
        assert logic.GetSegmentStatus(segment) == flags[lights[segment.GetName()]]
    panel.ui.undoButton.click()
    host.spin(lambda: False, 0.05)
    assert not difference(before, snapshot(case.target))
    assert "undone" in said(panel) and not panel.ui.resultSection.visible


def look(host: Any, case: Any, node: Any) -> None:
    """The slice and 3-D views of the result; they show something of every segment's color."""
    from host.views import slice_view, three_d_view

    case.segmentation.SetDisplayVisibility(False)
    views = [slice_view(host.application_logic, host.scene, case.target, offset=10.0, size=(640, 640))]
    flat = views[0].pixels()
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) > 50
    node.CreateClosedSurfaceRepresentation()
    views.append(three_d_view(host.application_logic, host.scene, size=(640, 640)))
    solid = views[1].pixels()
    assert len(np.unique(solid.reshape(-1, 3), axis=0)) > 50
    for view in views:
        view.close()


def test_killed_worker_is_told_and_the_next_run_works(host: Any, chosen: Any, case: Any, picture: Any) -> None:
    panel = chosen
    before = snapshot(case.target)
    press(panel)
    assert reached(host, panel, 2), said(panel)
    os.kill(panel.logic.client._process.pid(), signal.SIGKILL)
    state = finish(host, panel)
    assert state.phase == "failed" and state.problem.kind == "WorkerEnded"
    assert "ended unexpectedly" in said(panel) and panel.message.notice.kind == "error"
    assert not difference(before, snapshot(case.target))
    picture("panel-error", panel.parent)
    assert panel.ui.segmentButton.enabled
    press(panel)
    assert finish(host, panel).phase == "done", said(panel)
    look(host, case, panel.ui.outputSelector.currentNode())


def test_bad_inputs_are_told_in_one_line_and_leave_the_scene(host: Any, chosen: Any, case: Any) -> None:
    """Those that only the engine finds: the worker answers with an error, and serves the next run."""
    panel, slicer = chosen, lazy.slicer()
    flat = slicer.util.addVolumeFromArray(np.full((8, 32, 32), 5, np.int16), name="Flat")
    picture = slicer.util.addVolumeFromArray(np.random.default_rng(0).normal(0, 9, (1, 64, 64)), name="One slice")
    elsewhere = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Elsewhere")
    elsewhere.CreateDefaultDisplayNodes()
    far = slicer.util.addVolumeFromArray(np.zeros((4, 8, 8), np.int16), name="Far")
    far.SetOrigin(5000, 5000, 5000)
    add_segment(elsewhere, far, "far", np.ones((4, 8, 8), bool))
    for target, segmentation, words in (
        (flat, case.segmentation, "The target is constant"),
        (picture, case.segmentation, "2-D"),
        (case.target, elsewhere, "has no voxels inside the volume"),
    ):
        panel.references.rows[0].segmentation.setCurrentNode(segmentation)
        panel.ui.targetSelector.setCurrentNode(target)
        panel.ui.outputSelector.setCurrentNode(None)
        host.spin(lambda: panel.ui.segmentButton.enabled, 2)
        before = snapshot(target)
        press(panel)
        state = finish(host, panel)
        assert state.phase == "failed", words
        assert words in said(panel), said(panel)
        assert "\n" not in state.problem.message and state.problem.hint
        assert not difference(before, snapshot(target))
        assert panel.logic.client.state == "ready"
