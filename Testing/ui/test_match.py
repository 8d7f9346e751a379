"""What is shown of a reference before a run: picture, kind of image, and how much it looks like the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import press, rows, said, settle

from host.pace import STALL_MS


def pixels(pixmap: Any) -> np.ndarray:
    """(rows, columns, 3) of a pixmap."""
    image = pixmap.toImage()
    rgb = [[image.pixelColor(x, y).getRgb()[:3] for x in range(image.width())] for y in range(image.height())]
    return np.array(rgb)


def test_a_reference_is_shown_with_its_picture_modality_plane_and_spacing(host: Any, chosen: Any, case: Any) -> None:
    (row,) = chosen.references.rows
    spacing = case.reference.GetSpacing()[::-1]
    assert row.facts.text == "CT \u00b7 axial \u00b7 " + " \u00d7 ".join(f"{s:.3g}" for s in spacing) + " mm"
    shown = pixels(row.picture.pixmap)
    assert max(shown.shape) == 40 and row.about.visible
    colored = np.ptp(shown, axis=2) > 25
    assert 0.05 < colored.mean() < 0.9, "organs in their colors, the rest grey"


def test_the_picture_is_upright_however_the_array_lies(host: Any, case: Any) -> None:
    """Whichever way rows and columns are stored, the picture is the same."""
    from RAUSlicerLib.reference_facts import plane_word, thumbnail

    slicer = lazy.slicer()
    array = slicer.util.arrayFromVolume(case.target)
    straight = pixels(thumbnail(case.target, None, 40))
    vtk = lazy.vtk()
    matrix = vtk.vtkMatrix4x4()
    case.target.GetIJKToRASMatrix(matrix)
    turned = slicer.util.addVolumeFromArray(np.ascontiguousarray(array[:, ::-1, ::-1]), name="Turned")
    for column, count in ((0, array.shape[2]), (1, array.shape[1])):
        for i in range(3):
            matrix.SetElement(i, 3, matrix.GetElement(i, 3) + matrix.GetElement(i, column) * (count - 1))
            matrix.SetElement(i, column, -matrix.GetElement(i, column))
    turned.SetIJKToRASMatrix(matrix)
    again = pixels(thumbnail(turned, None, 40))
    assert again.shape == straight.shape and np.abs(again - straight).mean() < 12
    assert np.abs(again[::-1] - straight).mean() > 15, "a picture that is upside down would be another one"
    assert plane_word(turned) == "axial"


def test_another_segmentation_or_none_changes_the_line_and_the_picture(host: Any, chosen: Any, case: Any) -> None:
    (row,) = chosen.references.rows
    before = pixels(row.picture.pixmap)
    case.segmentation.GetSegmentation().GetNthSegment(0).SetColor(0.0, 0.0, 1.0)
    settle(host)
    assert not np.array_equal(pixels(row.picture.pixmap), before)
    row.volume.setCurrentNode(None)
    settle(host)
    assert not row.about.visible


@pytest.mark.slow
def test_match_says_how_much_references_and_bank_look_like_the_target(
    host: Any, chosen: Any, case: Any, patients: Any, tmp_path: Path
) -> None:
    """With the real worker and the bundled model."""
    from dataclasses import replace

    from rau.bank.bank import Bank

    bank, reference = Bank.create(tmp_path / "bank"), patients[0]
    noise = np.random.default_rng(0).normal(0, 300, reference.image.array.shape).astype(np.int16)
    bank.add(reference, title="Alike")
    bank.add(replace(reference, image=reference.image.with_array(noise)), title="Noise")
    chosen.ui.bankFolderEdit.currentPath = str(tmp_path / "bank")
    settle(host)
    chosen.ui.useBankBox.click()
    assert host.spin(lambda: chosen.ui.bankTree.topLevelItemCount == 2, 60), said(chosen)
    settle(host)
    assert [row[0] for row in rows(chosen.ui.bankTree)] == ["Noise", "Alike"], "the latest first"
    with host.stalls() as gaps:
        told = press(host, chosen, "matchButton")
    assert gaps.worst < STALL_MS, str(gaps)
    assert told.startswith("The best match is 0.")
    (row,) = chosen.references.rows
    assert row.facts.text.rpartition(" \u00b7 ")[2].startswith("match 0.")
    (first, *_a, better), (second, *_b, worse) = rows(chosen.ui.bankTree)
    assert (first, second) == ("Alike", "Noise") and float(better) > float(worse), "the best first"
    assert f"match {better}" in row.facts.text, "the same image, the same score"
    chosen.ui.targetSelector.setCurrentNode(case.reference)
    settle(host)
    assert "match" not in row.facts.text and not rows(chosen.ui.bankTree)[0][3], "another target, other scores"


def test_without_a_target_there_is_nothing_to_compare(host: Any, panel: Any) -> None:
    panel.ui.matchButton.click()
    assert said(panel).startswith("There is nothing to compare") and not panel.logic.busy()


def test_a_poor_match_is_poor_for_panel_and_engine_alike(host: Any, panel: Any) -> None:
    from rau.bank.search import LEAST
    from RAUSlicerLib.match_panel import POOR, match_text

    assert POOR == LEAST
    assert match_text(LEAST - 0.01).endswith("poor") and match_text(LEAST) == f"match {LEAST:.2f}"
    assert "another kind" in match_text(None)
