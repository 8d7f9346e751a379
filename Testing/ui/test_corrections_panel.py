"""Correct and propagate: slices marked as right reach the engine; the old result is hidden, and back after undo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import finish, rows, run, said, settle
from scene import difference, mask_of, snapshot

from RAUSlicerLib import trust


@pytest.fixture
def view(host: Any, case: Any) -> Any:
    from host.views import slice_view

    opened = slice_view(host.application_logic, host.scene, case.target, 0.0)
    yield opened.logic.GetSliceNode()
    opened.close()


@pytest.fixture
def finished(host: Any, chosen: Any, copying: Path, view: Any) -> Any:
    run(host, chosen)
    return chosen


def mark(host: Any, panel: Any, case: Any, index: int) -> None:
    from RAUSlicerLib.slice_views import jump_to

    jump_to(case.target, 0, index)
    panel.ui.rightButton.click()
    settle(host)


def test_the_slice_in_view_is_marked_and_unmarked(host: Any, finished: Any, case: Any) -> None:
    assert not finished.ui.propagateButton.enabled
    for index in (12, 4):
        mark(host, finished, case, index)
    assert finished._parameterNode.rightSlices == [4, 12] and finished.ui.rightLabel.text == "Right: 4, 12"
    assert finished.ui.propagateButton.enabled
    mark(host, finished, case, 12)
    assert finished._parameterNode.rightSlices == [4]


def test_a_view_that_shows_no_slice_of_the_target_is_told(host: Any, finished: Any, case: Any, view: Any) -> None:
    view.JumpSliceByOffsetting(0, 0, 5000)
    finished.ui.rightButton.click()
    assert said(finished).startswith("The view shows no slice of the target")
    view.SetOrientation("Sagittal")
    finished.ui.rightButton.click()
    assert said(finished).startswith("No view shows the slices as they were acquired")
    assert finished._parameterNode.rightSlices == []


def test_corrected_slices_go_to_the_engine_and_the_old_result_is_kept_until_undo(
    host: Any, finished: Any, case: Any, copying: Path
) -> None:
    """ "An earlier segmentation damaged by a new prompt": the corrected one is hidden, untouched, and comes back."""
    panel, slicer = finished, lazy.slicer()
    output = panel._parameterNode.outputSegmentation
    segmentation, display = output.GetSegmentation(), output.GetDisplayNode()
    old = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    liver = mask_of(output, old[0], case.target)
    liver[4] = False
    liver[4, 30:40, 30:50] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(liver.astype(np.uint8), output, old[0], case.target)
    for index in (4, 12):
        mark(host, panel, case, index)
    before = snapshot(case.target)
    panel.ui.propagateButton.click()
    finish(host, panel)
    asked = json.loads((copying / "asked.json").read_text())["corrections"]
    assert (asked["axis"], asked["slices"]) == (0, [4, 12])
    assert asked["counts"]["liver"] == int(liver.sum())
    new = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())][len(old) :]
    assert len(new) == len(old) and panel._parameterNode.rightSlices == [4, 12]
    assert not any(display.GetSegmentVisibility(one) for one in old)
    assert all(display.GetSegmentVisibility(one) for one in new)
    from RAUSlicerLib.case_inputs import shown_segments

    assert shown_segments(output)[0].name == "liver", "saved and accepted under its own name"
    panel.ui.undoButton.click()
    settle(host)
    assert not difference(before, snapshot(case.target))
    assert all(display.GetSegmentVisibility(one) for one in old)
    assert panel.ui.resultSection.visible and rows(panel.ui.resultTree)[0][0] == "liver"
    assert trust.result_from(panel._parameterNode.result).before == ""


def test_a_fresh_run_has_no_marks(host: Any, finished: Any, case: Any) -> None:
    mark(host, finished, case, 4)
    run(host, finished)
    assert finished._parameterNode.rightSlices == []


def test_without_a_segment_of_that_name_there_is_nothing_to_propagate(host: Any, finished: Any, case: Any) -> None:
    output = finished._parameterNode.outputSegmentation
    mark(host, finished, case, 4)
    for index in range(output.GetSegmentation().GetNumberOfSegments()):
        output.GetSegmentation().GetNthSegment(index).SetName(f"renamed {index}")
    settle(host)
    before = snapshot(case.target)
    finished.ui.propagateButton.click()
    assert host.spin(lambda: finished.logic.run.state.over, 30)
    settle(host)
    assert "None of the shown segments is a structure of the references" in said(finished)
    assert not difference(before, snapshot(case.target))
