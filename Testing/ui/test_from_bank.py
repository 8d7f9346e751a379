"""A run whose only reference lies in the bank, with the real worker and the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from acts import run, said, settle
from scene import dice, difference, mask_of, snapshot

pytestmark = pytest.mark.slow


def test_the_bank_chooses_and_its_reference_segments_the_target(
    host: Any, panel: Any, case: Any, patients: Any, tmp_path: Path
) -> None:
    from rau.bank.bank import Bank

    Bank.create(tmp_path / "bank").add(patients[0], title="Upper abdomen")
    for node in (case.segmentation, case.reference):
        host.scene.RemoveNode(node)
    panel.ui.targetSelector.setCurrentNode(case.target)
    panel.ui.bankFolderEdit.currentPath = str(tmp_path / "bank")
    settle(host)
    panel.ui.useBankBox.click()
    assert host.spin(lambda: panel.ui.bankTree.topLevelItemCount == 1, 60), said(panel)
    settle(host)
    before = snapshot(case.target)
    run(host, panel)
    assert "From the bank" in said(panel)
    output = panel._parameterNode.outputSegmentation
    liver = output.GetSegmentation().GetSegmentIdBySegmentName("liver")
    assert dice(mask_of(output, liver, case.target), case.truth["liver"]) > 0.5
    panel.ui.undoButton.click()
    settle(host)
    assert not difference(before, snapshot(case.target))
