"""The reference bank in the panel: accept a result, see what is there, segment from it; damage is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import finish, press, rows, run, said, settle
from scene import difference, mask_of, snapshot

PATIENT = ("Doe^Jane", "PAT-4711", "19610412")


@pytest.fixture
def accepting(host: Any, chosen: Any, copying: Path, tmp_path: Path) -> Any:
    """The panel with a finished run and the folder of a bank that is not there yet."""
    run(host, chosen)
    chosen.ui.bankFolderEdit.currentPath = str(tmp_path / "bank")
    settle(host)
    return chosen


def make_patient(case: Any) -> None:
    """The target as the DICOM module brings it: below a patient that has a name."""
    slicer = lazy.slicer()
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "Doe, Jane")
    study = tree.CreateStudyItem(patient, "CT abdomen")
    for name, value in zip(("PatientName", "PatientID", "PatientBirthDate"), PATIENT):
        tree.SetItemAttribute(patient, f"DICOM.{name}", value)
    tree.SetItemParent(tree.GetItemByDataNode(case.target), study)
    case.target.SetName("Doe^Jane CT 4711")


def test_a_corrected_result_becomes_a_reference_with_nothing_of_the_patient(
    host: Any, accepting: Any, case: Any, tmp_path: Path
) -> None:
    """Every kept voxel is that of the scene as the user left it; the patient's name stays in the scene."""
    from rau.bank.bank import Bank

    panel, slicer = accepting, lazy.slicer()
    make_patient(case)
    output = panel._parameterNode.outputSegmentation
    segment_id = output.GetSegmentation().GetNthSegmentID(0)
    mask = mask_of(output, segment_id, case.target)
    mask[3, 10:20, 10:20] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), output, segment_id, case.target)
    before = snapshot(case.target)
    panel.ui.titleEdit.text = "Upper abdomen"
    assert "Accepted into the bank as Upper abdomen" in press(host, panel, "acceptButton"), said(panel)
    assert not difference(before, snapshot(case.target))
    bank = Bank.open(tmp_path / "bank")
    (entry,) = bank.entries()
    kept = bank.reference(entry.id)
    assert np.array_equal(kept.image.array, slicer.util.arrayFromVolume(case.target))
    assert np.array_equal(kept.labels.array == kept.labels.structure("liver").value, mask)
    assert entry.provenance.run["versions"]["model"]["name"] == "copying"
    stored = b"".join(path.read_bytes() for path in (tmp_path / "bank").rglob("*") if path.is_file())
    assert not any(word in stored for word in (b"Doe^Jane", b"PAT-4711", b"CT 4711", b"19610412"))
    assert "has this case already" in press(host, panel, "acceptButton")


@pytest.mark.parametrize("title", ["Liver of Jane", "PAT4711", "born 12.04.1961", "doe"])
def test_a_title_that_names_the_patient_is_refused(
    host: Any, accepting: Any, case: Any, tmp_path: Path, title: str
) -> None:
    make_patient(case)
    accepting.ui.titleEdit.text = title
    told = press(host, accepting, "acceptButton")
    assert "The title repeats what the scene says of the patient" in told
    assert not (tmp_path / "bank").exists() and "Jane" not in told and "4711" not in told


def test_hidden_segments_are_left_out_and_none_is_an_error(
    host: Any, accepting: Any, case: Any, tmp_path: Path
) -> None:
    from rau.bank.bank import Bank

    output = accepting._parameterNode.outputSegmentation
    display, segmentation = output.GetDisplayNode(), output.GetSegmentation()
    names = [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]
    display.SetSegmentVisibility(segmentation.GetNthSegmentID(1), False)
    press(host, accepting, "acceptButton")
    (entry,) = Bank.open(tmp_path / "bank").entries()
    assert list(entry.names) == [names[0], *names[2:]]
    display.SetAllSegmentsVisibility(False)
    assert "No segment of the result is shown" in press(host, accepting, "acceptButton")


def test_of_two_runs_in_one_segmentation_the_later_counts(host: Any, accepting: Any, case: Any, tmp_path: Path) -> None:
    """Also when segments of both are shown; what the user drew under the same name counts as well."""
    from scene import add_segment

    from rau.bank.bank import Bank

    slicer, output = lazy.slicer(), accepting._parameterNode.outputSegmentation
    first = output.GetSegmentation().GetNthSegmentID(0)
    everywhere = np.zeros(slicer.util.arrayFromVolume(case.target).shape, np.uint8)
    everywhere[:, :30] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(everywhere, output, first, case.target)
    run(host, accepting)
    by_hand = np.zeros(everywhere.shape, bool)
    by_hand[0, 90:, 90:] = True
    add_segment(output, case.target, "Liver ", by_hand)
    press(host, accepting, "acceptButton")
    bank = Bank.open(tmp_path / "bank")
    (entry,) = bank.entries()
    labels = bank.reference(entry.id).labels
    liver = labels.array == labels.structure("liver").value
    second = mask_of(output, output.GetSegmentation().GetSegmentIdBySegmentName("liver (2)"), case.target)
    assert second.any() and np.array_equal(liver, second | by_hand)


def tick(panel: Any, index: int, on: bool = True) -> None:
    state = lazy.qt().Qt.Checked if on else lazy.qt().Qt.Unchecked
    panel.ui.bankTree.topLevelItem(index).setCheckState(0, state)


def test_the_next_run_starts_from_the_bank(host: Any, accepting: Any, case: Any, copying: Path) -> None:
    """From an empty panel: choose the bank, tick what was accepted, segment; no reference is in the scene."""
    panel = accepting
    panel.ui.titleEdit.text = "Upper abdomen"
    press(host, panel, "acceptButton")
    panel.ui.undoButton.click()
    for node in (case.segmentation, case.reference):
        host.scene.RemoveNode(node)
    panel.references.rows[0].volume.setCurrentNode(None)
    panel.references.rows[0].segmentation.setCurrentNode(None)
    settle(host)
    assert not panel.ui.segmentButton.enabled
    panel.ui.bankSection.collapsed = False
    panel.ui.useBankBox.click()
    assert host.spin(lambda: panel.ui.bankTree.topLevelItemCount == 1, 60), said(panel)
    settle(host)
    (row,) = rows(panel.ui.bankTree)
    assert row[:2] == ["Upper abdomen", "CT axial"] and row[2].endswith("mm")
    assert not panel.ui.bankTree.topLevelItem(0).icon(0).isNull(), "the thumbnail"
    assert "the bank chooses" in panel.ui.bankHintLabel.text
    tick(panel, 0)
    settle(host)
    assert "1 ticked" in panel.ui.bankHintLabel.text
    names = [panel.ui.structuresTree.topLevelItem(i).text(0) for i in range(panel.ui.structuresTree.topLevelItemCount)]
    assert "liver" in names and panel.ui.segmentButton.enabled, said(panel)
    panel.structures.tree.topLevelItem(1).setCheckState(0, lazy.qt().Qt.Unchecked)
    settle(host)
    panel._parameterNode.outputSegmentation = None
    panel.ui.segmentButton.click()
    finish(host, panel)
    asked = json.loads((copying / "asked.json").read_text())
    assert [one["names"] for one in asked["references"]] == [names]
    assert asked["settings"]["structures"] == [names[0], *names[2:]]
    output = panel._parameterNode.outputSegmentation.GetSegmentation()
    assert output.GetNthSegment(0).GetName() == names[0]


def test_what_is_ticked_is_saved_with_the_scene_and_nothing_is_read_without_asking(
    host: Any, accepting: Any, tmp_path: Path
) -> None:
    """A scene of somebody else may name any folder: the panel waits for the user."""
    press(host, accepting, "acceptButton")
    press(host, accepting, "bankListButton")
    tick(accepting, 0)
    settle(host)
    ids = list(accepting._parameterNode.bankIds)
    bundle = str(tmp_path / "case.mrb")
    assert host.scene.WriteToMRB(bundle, None)
    host.clear()
    accepting.logic.client.stop(wait=2.0)
    assert host.scene.ReadFromMRB(bundle, True)
    accepting.enter()
    settle(host)
    assert accepting._parameterNode.bankIds == ids and accepting.ui.useBankBox.checked
    assert accepting.logic.client.state == "stopped" and "Press List" in accepting.ui.bankHintLabel.text
    assert accepting.ui.bankTree.topLevelItemCount == 0
    press(host, accepting, "bankListButton")
    assert accepting.ui.bankTree.topLevelItem(0).checkState(0) == lazy.qt().Qt.Checked


def test_damage_in_the_bank_is_one_line_and_never_a_dialog(
    host: Any, accepting: Any, case: Any, tmp_path: Path
) -> None:
    """ "Something went wrong": here it is said what, and what to do."""
    panel, bank = accepting, tmp_path / "bank"
    before = snapshot(case.target)
    assert "There is no bank yet" in press(host, panel, "bankListButton")
    press(host, panel, "acceptButton")
    entry = next(one for one in bank.iterdir() if len(one.name) == 32)
    (entry / "entry.json").write_text("{")
    assert "passed over" in press(host, panel, "bankListButton") and panel.message.notice.kind == "warning"
    assert panel.ui.bankTree.topLevelItemCount == 0
    (bank / "bank.json").write_text("{")
    assert "is damaged" in press(host, panel, "bankListButton") and panel.message.notice.kind == "error"
    assert "is damaged" in press(host, panel, "acceptButton")
    (bank / "bank.json").unlink()
    told = press(host, panel, "acceptButton")
    assert "no bank" in told and "\n" not in panel.message.notice.title
    panel.ui.bankFolderEdit.currentPath = ""
    settle(host)
    assert "No folder is chosen" in press(host, panel, "acceptButton")
    assert not difference(before, snapshot(case.target))
    assert panel.ui.segmentButton.enabled


def test_a_worker_that_dies_while_it_keeps_a_case_is_told_and_the_next_try_works(
    host: Any, accepting: Any, case: Any, tmp_path: Path
) -> None:
    import os
    import signal

    before = snapshot(case.target)
    accepting.ui.acceptButton.click()
    os.kill(accepting.logic.client._process.pid(), signal.SIGKILL)
    assert host.spin(lambda: not accepting.logic.busy(), 30)
    settle(host)
    assert "ended unexpectedly" in said(accepting) and not difference(before, snapshot(case.target))
    assert accepting.ui.segmentButton.text == "Segment from reference" and accepting.ui.acceptButton.enabled
    assert "Accepted into the bank" in press(host, accepting, "acceptButton")


def test_an_errand_can_be_cancelled_with_the_one_button(host: Any, accepting: Any, tmp_path: Path) -> None:
    accepting.ui.acceptButton.click()
    assert accepting.ui.segmentButton.text == "Cancel" and accepting.ui.progressFrame.visible
    assert not accepting.ui.acceptButton.enabled
    accepting.ui.segmentButton.click()
    assert host.spin(lambda: not accepting.logic.busy(), 20)
    settle(host)
    assert "Cancelled" in said(accepting) and not (tmp_path / "bank").exists()


def test_closing_the_scene_drops_what_is_under_way(host: Any, accepting: Any) -> None:
    accepting.ui.acceptButton.click()
    host.clear()
    settle(host)
    assert not accepting.logic.busy() and accepting.ui.segmentButton.text == "Segment from reference"


def test_what_is_accepted_is_saved_beside_a_scene_that_has_a_file(
    host: Any, accepting: Any, case: Any, tmp_path: Path
) -> None:
    """A crash later takes nothing of what was accepted."""
    from rau.volume.labels import read_labels

    scene = tmp_path / "case" / "case.mrml"
    scene.parent.mkdir()
    scene.write_text("<MRML></MRML>")
    host.scene.SetURL(str(scene))
    try:
        told = press(host, accepting, "acceptButton")
        (path,) = scene.parent.glob("accepted-*.seg.nrrd")
        assert told.startswith("Accepted into the bank") and path.name in told
        assert read_labels(path).structures[0].name == "liver"
        assert "has this case already" in press(host, accepting, "acceptButton")
    finally:
        host.scene.SetURL("")


def test_a_server_is_not_asked_for_a_bank_that_it_cannot_see(host: Any, accepting: Any) -> None:
    """Told before anything is sent."""
    press(host, accepting, "acceptButton")
    press(host, accepting, "bankListButton")
    tick(accepting, 0)
    accepting.logic.remote = lambda: pytest.fail("nothing is started")
    accepting._askUpdate()
    settle(host)
    assert not accepting.ui.segmentButton.enabled and "A server does not see" in said(accepting)
    accepting.ui.useBankBox.click()
    accepting.logic.remote = None
    accepting._askUpdate()
    settle(host)
    assert accepting.ui.segmentButton.enabled
