"""What the user chooses: structures in words, no overlap with own segments; saved with the scene, and beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import press, run, said, settle
from scene import add_segment, mask_of, segments


def say(host: Any, panel: Any, text: str) -> None:
    panel.ui.promptEdit.text = text
    settle(host)


def names(found: Any) -> list[str]:
    return [one.name for one in found]


def test_a_text_chooses_among_the_checked_structures(host: Any, chosen: Any, case: Any, copying: Path) -> None:
    everything = names(chosen.structures.structures)
    say(host, chosen, "please the Liver, and both: left kidney right kidney")
    assert names(chosen.structures.wanted()) == ["liver", "left kidney", "right kidney"]
    assert chosen.ui.structureCountLabel.text == f"3 of {len(everything)} checked"
    chosen.structures.tree.topLevelItem(0).setCheckState(0, lazy.qt().Qt.Unchecked)
    settle(host)
    assert names(chosen.structures.wanted()) == ["left kidney", "right kidney"]
    run(host, chosen)
    asked = json.loads((copying / "asked.json").read_text())
    assert asked["settings"]["structures"] == ["left kidney", "right kidney"]
    found = segments(chosen._parameterNode.outputSegmentation, case.target)
    assert {one.name for one in found} <= {"left kidney", "right kidney"} and found
    say(host, chosen, "")
    assert names(chosen.structures.wanted()) == everything[1:]


def test_a_text_that_names_nothing_is_told_at_once(host: Any, chosen: Any) -> None:
    say(host, chosen, "the livery")
    assert not chosen.ui.segmentButton.enabled
    assert said(chosen).startswith("What you say names none of the structures")
    say(host, chosen, "the liver")
    assert chosen.ui.segmentButton.enabled and not said(chosen)


@pytest.mark.parametrize(
    "text", ["liver", "LIVER and spleen", "livers", "a lesion", "liver lesion", "left  kidney", ""]
)
def test_text_and_engine_choose_alike(host: Any, chosen: Any, text: str) -> None:
    from rau.errors import InputError
    from rau.references.selection import choose
    from rau.settings import SegmentSettings
    from rau.volume.volume import Structure

    say(host, chosen, text)
    every = tuple(Structure(one.value, one.name) for one in chosen.structures.structures)
    try:
        theirs = names(choose(every, SegmentSettings(prompt=text)))
    except InputError:
        theirs = []
    assert names(chosen.structures.wanted()) == theirs


@pytest.mark.parametrize("clear", [False, True])
def test_own_segments_stay_and_the_result_overlaps_them_only_when_it_may(
    host: Any, chosen: Any, case: Any, copying: Path, clear: bool
) -> None:
    """ "Adjacent finished segments get erased": never; and no overlap where none is wanted."""
    output = lazy.slicer().mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    output.CreateDefaultDisplayNodes()
    output.SetReferenceImageGeometryParameterFromVolumeNode(case.target)
    mine = np.zeros(case.truth["liver"].shape, bool)
    mine[10:20, 30:60, 20:60] = True
    add_segment(output, case.target, "drawn by hand", mine)
    hidden = add_segment(output, case.target, "hidden", ~mine)
    output.GetDisplayNode().SetSegmentVisibility(hidden, False)
    before = segments(output, case.target)
    chosen.ui.outputSelector.setCurrentNode(output)
    chosen.ui.keepClearBox.checked = clear
    settle(host)
    run(host, chosen)
    assert segments(output, case.target)[:2] == before
    made = [
        output.GetSegmentation().GetNthSegmentID(i) for i in range(2, output.GetSegmentation().GetNumberOfSegments())
    ]
    result = np.any([mask_of(output, one, case.target) for one in made], axis=0)
    assert bool((result & mine).any()) is not clear and (result & ~mine).any()


def test_what_the_bank_has_already_is_still_written_beside_the_scene_once_that_is_saved(
    host: Any, chosen: Any, copying: Path, tmp_path: Path
) -> None:
    run(host, chosen)
    chosen.ui.bankFolderEdit.currentPath = str(tmp_path / "bank")
    settle(host)
    assert "Once the scene is saved" in press(host, chosen, "acceptButton")
    scene = tmp_path / "case" / "case.mrb"
    scene.parent.mkdir()
    scene.write_bytes(b"saved")
    host.scene.SetURL(str(scene))
    try:
        told = press(host, chosen, "acceptButton")
        (path,) = scene.parent.glob("accepted-*.seg.nrrd")
        assert "has this case already" in told and path.name in told
        path.write_bytes(b"precious")
        press(host, chosen, "acceptButton")
        assert path.read_bytes() == b"precious", "what is there is not written over"
    finally:
        host.scene.SetURL("")


def test_another_target_is_not_written_into_the_segmentation_of_the_one_before(
    host: Any, chosen: Any, case: Any, copying: Path, tmp_path: Path
) -> None:
    """Though both lie on the same grid; what the user chose on purpose, or saved so, stays."""
    run(host, chosen)
    first, name = chosen._parameterNode.outputSegmentation, chosen._parameterNode.outputSegmentation.GetName()
    chosen.ui.targetSelector.setCurrentNode(case.reference)
    settle(host)
    assert chosen._parameterNode.outputSegmentation is None
    chosen.ui.outputSelector.setCurrentNode(first)
    settle(host)
    bundle = str(tmp_path / "case.mrb")
    assert host.scene.WriteToMRB(bundle, None)
    host.clear()
    assert host.scene.ReadFromMRB(bundle, True)
    chosen.enter()
    settle(host)
    assert chosen._parameterNode.targetVolume.GetName() == "Reference CT"
    assert chosen._parameterNode.outputSegmentation.GetName() == name


def test_choices_come_back_with_the_saved_scene(host: Any, chosen: Any, tmp_path: Path) -> None:
    say(host, chosen, "liver and spleen")
    chosen.ui.keepClearBox.checked = True
    settle(host)
    bundle = str(tmp_path / "case.mrb")
    assert host.scene.WriteToMRB(bundle, None)
    host.clear()
    settle(host)
    assert chosen.ui.promptEdit.text == "" and not chosen.ui.keepClearBox.checked
    assert host.scene.ReadFromMRB(bundle, True)
    chosen.enter()
    settle(host)
    assert chosen.ui.promptEdit.text == "liver and spleen" and chosen.ui.keepClearBox.checked
    assert names(chosen.structures.wanted()) == ["liver", "spleen"] and chosen.ui.segmentButton.enabled
    (row,) = chosen.references.rows
    assert row.facts.text.startswith("CT \u00b7 axial"), "the picture and the facts as well"
