"""The whole way with the real worker and the bundled model: run, correct three slices, propagate, accept, run from the
bank, export a DICOM SEG and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import choose, press, run, said, settle
from scene import dice, difference, mask_of, segments, snapshot

pytestmark = pytest.mark.slow


def shown(panel: Any, target: Any) -> dict[str, np.ndarray]:
    """The masks of the shown segments by the name of their structure."""
    from RAUSlicerLib.case_inputs import shown_segments

    node = panel._parameterNode.outputSegmentation
    return {one.name: mask_of(node, one.segment_id, target) for one in shown_segments(node)}


def correct(panel: Any, case: Any, slices: list[int]) -> None:
    """Put every segment right in some slices, as the user would with the Segment Editor."""
    from RAUSlicerLib.case_inputs import shown_segments

    node = panel._parameterNode.outputSegmentation
    for one in shown_segments(node):
        mask = mask_of(node, one.segment_id, case.target)
        mask[slices] = case.truth[one.name][slices] if one.name in case.truth else False
        update = lazy.slicer().util.updateSegmentBinaryLabelmapFromArray
        update(mask.astype(np.uint8), node, one.segment_id, case.target)


def test_from_a_reference_to_an_accepted_and_exported_result(
    host: Any, chosen: Any, case: Any, tmp_path: Path, picture: Any
) -> None:
    from host.views import slice_view
    from rau.bank.bank import Bank
    from rau.volume.labels import read_labels
    from RAUSlicerLib.slice_views import jump_to

    panel = chosen
    view = slice_view(host.application_logic, host.scene, case.target, 0.0)
    run(host, panel)
    first = shown(panel, case.target)
    assert panel.ui.resultTree.topLevelItemCount >= len(first)
    picture("panel-result", panel.parent)

    # three slices put right, and the run that follows them
    slices = [14, 18, 22]
    correct(panel, case, slices)
    for index in slices:
        jump_to(case.target, panel.result.result.axis, index)
        panel.ui.rightButton.click()
    settle(host)
    panel.ui.propagateButton.click()
    assert host.spin(lambda: panel.logic.run.state.over, 240)
    settle(host)
    assert panel.logic.run.state.phase == "done", said(panel)
    second = shown(panel, case.target)
    truth = case.truth["liver"]
    for name in set(first) & set(second) & set(case.truth):
        assert np.array_equal(second[name][slices], case.truth[name][slices]), f"what is right stays: {name}"
    others = [i for i in range(len(truth)) if i not in slices]
    before, after = (dice(one["liver"][others], truth[others]) for one in (first, second))
    print(f"liver outside of the corrected slices: Dice {before:.3f}, propagated {after:.3f}")
    assert after > before - 0.02

    # into the bank, and from it
    panel.ui.bankFolderEdit.currentPath = str(tmp_path / "bank")
    settle(host)
    told = press(host, panel, "acceptButton")
    assert told.startswith("Accepted into the bank"), told
    (entry,) = Bank.open(tmp_path / "bank").entries()
    assert set(entry.names) == set(second)

    # out of the scene
    for ending in (".dcm", ".html"):
        choose(panel.ui.exportBox, ending)
        panel.ui.exportPathEdit.currentPath = str(tmp_path / f"out{ending}")
        assert press(host, panel, "exportButton").startswith(f"Written: out{ending}"), said(panel)
    read = read_labels(tmp_path / "out.dcm")
    assert {one.name for one in read.structures} == set(second)
    assert sum(int(mask.sum()) for mask in second.values()) == int((read.array > 0).sum())

    # the next target starts from the bank: here the first patient, whose annotation the bank has never seen
    scene = snapshot(case.target)
    panel.references.rows[0].volume.setCurrentNode(None)
    panel.references.rows[0].segmentation.setCurrentNode(None)
    panel.ui.targetSelector.setCurrentNode(case.reference)
    panel.ui.outputSelector.setCurrentNode(None)
    settle(host)
    panel.ui.useBankBox.click()
    assert host.spin(lambda: panel.ui.bankTree.topLevelItemCount == 1, 60), said(panel)
    settle(host)
    run(host, panel)
    assert "From the bank" in said(panel)
    found = {s.name for s in segments(panel._parameterNode.outputSegmentation, case.reference)}
    assert "liver" in found
    panel.ui.undoButton.click()
    settle(host)
    assert not difference(scene, snapshot(case.target))
    view.close()
