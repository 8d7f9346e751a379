"""The panel without a run: what it asks for, how it follows the scene, and that its state is in the scene."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from scene import add_segment


def title(panel: Any) -> str:
    return panel.message.notice.title if panel.message.notice else ""


def settle(host: Any) -> None:
    host.spin(lambda: False, 0.03)


def test_the_panel_leads_to_the_button(host: Any, panel: Any, case: Any) -> None:
    """Each missing thing is named, in the message area and as tooltip; names and colors come from the reference."""
    button = panel.ui.segmentButton
    assert not button.enabled and title(panel) == "Pick a reference volume and its segmentation."
    row = panel.references.rows[0]
    row.volume.setCurrentNode(case.reference)
    settle(host)
    assert row.segmentation.currentNode() is case.segmentation, "the segmentation drawn on it is the likely one"
    assert not button.enabled and title(panel) == "Pick the target volume." == button.toolTip
    panel.ui.targetSelector.setCurrentNode(case.target)
    settle(host)
    assert button.enabled and title(panel) == ""
    tree = panel.ui.structuresTree
    names = [tree.topLevelItem(i).text(0) for i in range(tree.topLevelItemCount)]
    assert names == [case.segmentation.GetSegmentation().GetNthSegment(i).GetName() for i in range(len(names))]
    color = tree.topLevelItem(0).icon(0).pixmap(14, 14).toImage().pixelColor(7, 7)
    wanted = case.segmentation.GetSegmentation().GetNthSegment(0).GetColor()
    assert np.allclose([color.redF(), color.greenF(), color.blueF()], wanted, atol=0.01)
    panel.ui.noneButton.click()
    settle(host)
    assert not button.enabled and title(panel) == "Check at least one structure."
    panel.ui.allButton.click()
    settle(host)
    assert button.enabled and panel.ui.structureCountLabel.text == f"{len(names)} of {len(names)} checked"


def test_structures_follow_the_reference(host: Any, chosen: Any, case: Any) -> None:
    tree = chosen.ui.structuresTree
    count = tree.topLevelItemCount
    add_segment(case.segmentation, case.reference, "pancreas", np.ones(case.truth["liver"].shape, bool))
    settle(host)
    assert tree.topLevelItemCount == count + 1
    case.segmentation.GetSegmentation().GetNthSegment(0).SetName("Leber")
    settle(host)
    assert tree.topLevelItem(0).text(0) == "Leber"


def test_several_references_merge_by_name(host: Any, chosen: Any, case: Any) -> None:
    slicer = lazy.slicer()
    second = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Second")
    second.CreateDefaultDisplayNodes()
    some = np.zeros(case.truth["liver"].shape, bool)
    some[5:9, 10:20, 10:20] = True
    add_segment(second, case.target, "LIVER ", some)
    add_segment(second, case.target, "pancreas", some)
    count = chosen.ui.structuresTree.topLevelItemCount
    chosen.ui.addReferenceButton.click()
    row = chosen.references.rows[1]
    row.segmentation.setCurrentNode(second)
    settle(host)
    assert not chosen.ui.segmentButton.enabled and "lacks its volume" in title(chosen)
    row.volume.setCurrentNode(case.target)
    settle(host)
    assert chosen.ui.segmentButton.enabled
    assert chosen.ui.structuresTree.topLevelItemCount == count + 1
    assert len(chosen._parameterNode.referenceVolumes) == 2
    row.remove.click()
    settle(host)
    assert chosen.ui.structuresTree.topLevelItemCount == count and chosen.ui.segmentButton.enabled


def test_state_is_in_the_scene(host: Any, chosen: Any, tmp_path: Path) -> None:
    chosen.ui.deviceBox.setCurrentIndex(1)
    chosen.ui.planesBox.setCurrentIndex(2)
    chosen.ui.referencesPerSliceBox.value = 5
    chosen.ui.keepLoadedBox.checked = False
    chosen.structures.tree.topLevelItem(2).setCheckState(0, lazy.qt().Qt.Unchecked)
    settle(host)
    left_out = chosen.structures.excluded()
    bundle = str(tmp_path / "panel.mrb")
    assert host.scene.WriteToMRB(bundle, None)
    host.clear()
    assert chosen.ui.deviceBox.currentIndex == 0 and chosen.references.references() == []
    assert host.scene.ReadFromMRB(bundle, True)
    chosen.enter()
    settle(host)
    node = chosen._parameterNode
    assert (node.device, node.planes, node.referencesPerSlice, node.keepLoaded) == ("cpu", "all", 5, False)
    assert chosen.ui.deviceBox.currentIndex == 1 and chosen.ui.referencesPerSliceBox.value == 5
    assert chosen.structures.excluded() == left_out == node.excludedStructures
    assert chosen.references.references()[0].segmentation.GetName() == "Reference segmentation"
    assert chosen.ui.segmentButton.enabled


def test_python_is_kept_on_the_computer_not_in_the_scene(host: Any, chosen: Any) -> None:
    """A scene of somebody else must not name the program that the button starts."""
    chosen.ui.pythonEdit.currentPath = "/somewhere/else/python"
    settle(host)
    assert not chosen.ui.segmentButton.enabled and "is not there or cannot be run" in title(chosen)
    names = chosen._parameterNode.parameterNode.GetParameterNames()
    assert not any("/somewhere" in chosen._parameterNode.parameterNode.GetParameter(n) for n in names)
    chosen.ui.pythonEdit.currentPath = ""
    settle(host)
    assert chosen.ui.segmentButton.enabled


def test_inputs_that_cannot_be_used_are_named(host: Any, chosen: Any, case: Any) -> None:
    slicer = lazy.slicer()
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing in it")
    chosen.references.rows[0].segmentation.setCurrentNode(empty)
    settle(host)
    assert title(chosen) == "The segmentation Nothing in it is empty." and not chosen.ui.segmentButton.enabled
    chosen.references.rows[0].segmentation.setCurrentNode(case.segmentation)
    blank = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "<b>Blank</b>")
    chosen.ui.targetSelector.setCurrentNode(blank)
    settle(host)
    assert title(chosen) == "The volume <b>Blank</b> has no voxels."
    assert "&lt;b&gt;Blank" in chosen.ui.messageLabel.text, "a name is no markup"
    chosen.ui.targetSelector.setCurrentNode(case.target)
    other = slicer.util.addVolumeFromArray(np.zeros((4, 8, 8), np.int16), name="Other grid")
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "On another grid")
    grid.CreateDefaultDisplayNodes()
    add_segment(grid, other, "x", np.ones((4, 8, 8), bool))
    chosen.ui.outputSelector.setCurrentNode(grid)
    settle(host)
    assert title(chosen) == "The segmentation On another grid lies on another grid than the target."
    surfaces = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surfaces")
    surfaces.GetSegmentation().SetSourceRepresentationName("Closed surface")
    surfaces.GetSegmentation().AddEmptySegment("a", "a")
    chosen.ui.outputSelector.setCurrentNode(surfaces)
    settle(host)
    assert title(chosen) == "The segmentation Surfaces is kept as surfaces, not as voxels."


def test_a_node_that_leaves_the_scene_leaves_the_panel(host: Any, chosen: Any, case: Any) -> None:
    host.scene.RemoveNode(case.segmentation)
    settle(host)
    assert not chosen.ui.segmentButton.enabled
    assert chosen.ui.structuresTree.topLevelItemCount == 0
    host.scene.RemoveNode(case.target)
    settle(host)
    assert chosen.ui.targetSelector.currentNode() is None


def test_correct_opens_the_segment_editor_on_the_result(
    host: Any, chosen: Any, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    slicer, calls = lazy.slicer(), {}
    editor = SimpleNamespace(
        setSegmentationNode=lambda node: calls.update(segmentation=node),
        setSourceVolumeNode=lambda node: calls.update(volume=node),
    )
    module = SimpleNamespace(widgetRepresentation=lambda: SimpleNamespace(self=lambda: SimpleNamespace(editor=editor)))
    monkeypatch.setattr(slicer.modules, "segmenteditor", module, raising=False)
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: calls.update(module=name))
    chosen.ui.outputSelector.setCurrentNode(case.segmentation)
    settle(host)
    chosen.result.edit()
    assert calls == {"module": "SegmentEditor", "segmentation": case.segmentation, "volume": case.target}


def test_parameter_node_and_choices_agree_with_the_settings_of_the_engine(host: Any, panel: Any) -> None:
    """Defaults, choices and ranges of the panel are those of SegmentSettings; what it sends is accepted by it."""
    from rau.settings import SegmentSettings
    from RAUSlicerLib import settings

    fields, node = SegmentSettings.model_fields, panel._parameterNode
    for ours, theirs in (
        ("model", "model"),
        ("device", "device"),
        ("planes", "planes"),
        ("referencesPerSlice", "references_per_slice"),
    ):
        assert getattr(node, ours) == fields[theirs].default, ours
    for choices, name in ((settings.DEVICES, "device"), (settings.PLANES, "planes")):
        assert tuple(value for value, _ in choices) == typing.get_args(fields[name].annotation)
    least, most, default = settings.REFERENCES_PER_SLICE
    bounds = {type(m).__name__: m for m in fields["references_per_slice"].metadata}
    assert (bounds["Ge"].ge, bounds["Le"].le, fields["references_per_slice"].default) == (least, most, default)
    assert (panel.ui.referencesPerSliceBox.minimum, panel.ui.referencesPerSliceBox.maximum) == (least, most)
    with pytest.raises(ValueError):
        node.referencesPerSlice = most + 1
    sent = settings.Choices(structures=("liver",), all=False).settings()
    assert SegmentSettings(**sent) == SegmentSettings(structures=("liver",))
    assert SegmentSettings(**settings.Choices(structures=(), all=True).settings()) == SegmentSettings()


def test_every_control_says_what_it_does_and_can_be_reached_with_the_keyboard(host: Any, panel: Any) -> None:
    qt = lazy.qt()
    kinds = ("QAbstractButton", "QLineEdit", "QComboBox", "QTreeWidget", "QSpinBox", "QPlainTextEdit")
    controls = [w for w in vars(panel.ui).values() if any(w.inherits(kind) for kind in kinds)]
    assert len(controls) > 25
    for control in controls:
        assert control.focusPolicy & qt.Qt.TabFocus, control.name
        assert control.toolTip, control.name
