"""A scene named after a seeded fake patient: none of the patient's strings is in what leaves the panel, be it kept in a
bank, saved, reported, logged, sent to the worker or left among temporary files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import slicer_lazy as lazy
from acts import choose, press, run, said, settle
from fake_patient import leaks, patient, unpacked


@pytest.fixture
def known(host: Any, chosen: Any, case: Any) -> dict[str, str]:
    """The patient, in the names of all nodes and in Slicer's own tree of patients."""
    slicer, found = lazy.slicer(), patient(2)
    name, number = found["PatientName"], found["PatientID"]
    for node, words in ((case.target, "target"), (case.reference, "reference"), (case.segmentation, "labels")):
        node.SetName(f"{name} {number} {words}")
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(host.scene)
    item = tree.CreateSubjectItem(tree.GetSceneItemID(), f"{name} ({number})")
    for keyword in ("PatientName", "PatientID", "PatientBirthDate"):
        tree.SetItemAttribute(item, f"DICOM.{keyword}", found[keyword])
    tree.SetItemParent(tree.GetItemByDataNode(case.target), item)
    return found


def test_nothing_of_the_patient_leaves_the_panel(
    host: Any, chosen: Any, copying: Path, known: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel, out, temporary = chosen, tmp_path / "out", tmp_path / "temporary"
    for folder in (out, temporary):
        folder.mkdir()
    panel.logic.client.folder_base = str(temporary)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    sent: list[bytes] = []
    submit = panel.logic.client.submit

    def submitted(job: int, message: dict[str, Any]) -> None:
        sent.append(json.dumps(message).encode())
        sent.extend(str(path).encode() for path in temporary.rglob("*"))
        submit(job, message)

    monkeypatch.setattr(panel.logic.client, "submit", submitted)
    run(host, panel)
    assert len(sent) > 3 and leaks(b"\n".join(sent), known) == [], "the run itself"

    (out / "case.mrml").write_text("")  # the user's own scene, whose names are his business; what lies beside it is not
    host.scene.SetURL(str(out / "case.mrml"))
    panel.ui.bankFolderEdit.currentPath = str(out / "bank")
    panel.ui.titleEdit.text = f"case of {known['PatientName']}"
    settle(host)
    assert "repeats what the scene says of the patient" in press(host, panel, "acceptButton")
    assert leaks(said(panel).encode(), known) == [], "the refusal does not repeat it either"
    panel.ui.titleEdit.text = "a case"
    assert "Accepted into the bank" in press(host, panel, "acceptButton")
    assert host.spin(lambda: bool(list(out.glob("accepted-*.seg.nrrd"))) and not panel.logic.busy(), 30), said(panel)

    for ending in (".seg.nrrd", ".nii.gz", ".dcm", ".html"):
        choose(panel.ui.exportBox, ending)
        suggested = Path(panel.ui.exportPathEdit.currentPath).name
        assert leaks(suggested.encode(), known) == [], "the name that is suggested"
        panel.ui.exportPathEdit.currentPath = str(out / f"saved{ending}")
        assert press(host, panel, "exportButton").startswith("Written"), said(panel)
    press(host, panel, "describeButton")
    panel.result.show()
    kept = "\n".join([panel._parameterNode.result, *panel.logic.client.log, panel.ui.detailsText.plainText])
    assert leaks(b"\n".join([unpacked(out), kept.encode(), *sent]), known) == []
    panel.logic.close()
    assert list(temporary.iterdir()) == []


def test_a_failure_tells_the_panel_what_and_not_whose(
    host: Any, chosen: Any, case: Any, copying: Path, known: dict[str, str]
) -> None:
    """The worker knows no name, so no message and no log of it can have one."""
    slicer = lazy.slicer()
    slicer.util.arrayFromVolume(case.target)[...] = 7
    slicer.util.arrayFromVolumeModified(case.target)
    chosen.ui.segmentButton.click()
    assert host.spin(lambda: chosen.logic.run.state.over, 30)
    settle(host)
    assert "The target is constant" in said(chosen)
    assert leaks((said(chosen) + "\n".join(chosen.logic.client.log)).encode(), known) == []
