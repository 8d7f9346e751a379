"""The first five minutes of somebody who has never seen RAUSlicer, from empty settings to a DICOM SEG, step by step.

Real: the panel, the set-up from a folder of wheels (pip, checksums, a new virtual environment, the check at its end),
the worker process in that environment, the bundled model, the bank, the exported file. Not real: the Slicer application
(the host stands in for it), and the wheels, which are tiny: the one for torch lets the new environment see the packages
of the tests' own Python, as gigabytes would be needed otherwise. The correcting hand is the truth of the synthetic
patient, which the panel never sees.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
import wheel_folder
from acts import choose, press, rows, said, settle
from scene import dice, mask_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

MODULE = Path(__file__).resolve().parents[2] / "RAUSlicer" / "RAUSlicer.py"
CORRECTED = (14, 24, 34)
RUN_SECONDS = 900.0  # on a busy computer


@pytest.fixture
def newcomer(host: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The panel as it opens for the first time: no setting, no environment, an empty scene."""
    settings = lazy.slicer().app.userSettings()
    for name in ("Python", "WheelFolder", "Proxy", "BankFolder", "ExportFolder"):
        settings.setValue(f"RAUSlicer/{name}", "")
    monkeypatch.delenv("RAU_PYTHON")
    monkeypatch.setenv("RAU_ENVIRONMENT", str(place / "environment"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return host.open_module(MODULE)


class Clock:
    """What each step took; its answer is printed at the end."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []
        self._last = time.monotonic()

    def __call__(self, step: str) -> None:
        now = time.monotonic()
        self.steps.append((step, now - self._last))
        self._last = now

    def __str__(self) -> str:
        told = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in self.steps)
        return f"{told}; together {sum(seconds for _step, seconds in self.steps):.0f} s"


def fold(host: Any, panel: Any, *shown: str) -> None:
    """Only these sections open, as on a small screen."""
    for name in (
        "references",
        "bank",
        "target",
        "structures",
        "preflight",
        "keep",
        "environment",
        "remote",
        "advanced",
    ):
        getattr(panel.ui, f"{name}Section").collapsed = name not in shown
    settle(host)


def test_from_empty_settings_to_a_dicom_seg(host: Any, newcomer: Any, place: Path, picture: Any) -> None:
    panel, folder, clock = newcomer, place, Clock()
    set_up(host, panel, folder, picture)
    clock("set up")
    target, truth = try_it(host, panel, picture)
    clock("try it")
    view = open_view(host, target)
    try:
        before = first_run(host, panel, target, truth, picture)
        picture("slice-view", view.pixels())
        clock("run")
        correct(host, panel, target, truth, picture)
        clock("correct")
        after = propagate(host, panel, target, truth, picture)
        clock("propagate")
        print("Dice of what nobody corrected, before and after:", before, after)
        assert np.mean(list(after.values())) > np.mean(list(before.values())) - 0.02
        accept(host, panel, folder, target, picture)
        clock("accept")
        export(host, panel, folder, target, picture)
        clock("export")
        surfaces(host, panel, picture)
        from_the_bank(host, panel, picture)
        clock("match with the bank")
    finally:
        view.close()
    print(clock)


# -- the steps
def set_up(host: Any, panel: Any, folder: Path, picture: Any) -> None:
    from RAUSlicerLib import environment

    wheels = wheel_folder.make(folder / "wheels")
    box = panel.environment
    panel.ui.environmentSection.collapsed = False
    box.wheels_edit.currentPath = str(wheels)
    box.main_button.click()
    assert host.spin(lambda: box.main_button.text == "Install", 60), box.message.notice
    fold(host, panel, "environment")
    picture("path-1-setup", panel.parent)
    box.main_button.click()
    assert host.spin(lambda: not box.installation.state.busy, 300)
    assert box.installation.state.phase == "made", box.installation.state
    picture("path-2-environment", panel.parent)
    launch = environment.launch("", os.environ)
    assert Path(launch.program).is_relative_to(folder / "environment"), "the run uses what was just set up"


def try_it(host: Any, panel: Any, picture: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The target's node, and its truth by name."""
    from rau.training.patient import patient_pair

    fold(host, panel, "references", "target", "structures")
    panel.ui.tryButton.click()
    assert host.spin(lambda: panel.ui.segmentButton.enabled, 60), said(panel)
    settle(host)
    picture("path-3-ready", panel.parent)
    _reference, (_target, labels) = patient_pair(0)
    truth = {one.name: labels.array == one.value for one in labels.structures}
    return panel.ui.targetSelector.currentNode(), truth


def open_view(host: Any, target: Any) -> Any:
    from host.views import slice_view

    return slice_view(host.application_logic, host.scene, target, offset=10.0, size=(640, 640))


def first_run(host: Any, panel: Any, target: Any, truth: Any, picture: Any) -> dict[str, float]:
    panel.ui.segmentButton.click()
    run = panel.logic.run
    assert host.spin(lambda: run.state.done >= 12 or run.state.over, RUN_SECONDS), said(panel)
    picture("path-4-running", panel.parent)
    assert host.spin(lambda: run.state.over, RUN_SECONDS) and run.state.phase == "done", said(panel)
    settle(host)
    assert panel.logic.client._launch.program.endswith("environment/python/bin/python")
    fold(host, panel)
    picture("path-5-result", panel.parent)
    assert rows(panel.ui.resultTree) and not panel.ui.propagateButton.enabled
    return scores(panel, target, truth)


def correct(host: Any, panel: Any, target: Any, truth: Any, picture: Any) -> None:
    """Three slices are put right in all structures, and each is marked."""
    from RAUSlicerLib.slice_views import jump_to

    slicer, output = lazy.slicer(), panel._parameterNode.outputSegmentation
    for name, segment_id in ids(output).items():
        mask = mask_of(output, segment_id, target)
        wanted = truth.get(name, np.zeros(mask.shape, bool))
        mask[list(CORRECTED)] = wanted[list(CORRECTED)]
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), output, segment_id, target)
    for index in CORRECTED:
        jump_to(target, 0, index)
        panel.ui.rightButton.click()
        settle(host)
    assert panel._parameterNode.rightSlices == list(CORRECTED)
    picture("path-6-corrected", panel.parent)


def propagate(host: Any, panel: Any, target: Any, truth: Any, picture: Any) -> dict[str, float]:
    output = panel._parameterNode.outputSegmentation
    old = set(ids(output).values())
    panel.ui.propagateButton.click()
    assert host.spin(lambda: panel.logic.run.state.over, RUN_SECONDS), said(panel)
    settle(host)
    assert panel.logic.run.state.phase == "done", said(panel)
    picture("path-7-propagated", panel.parent)
    new = ids(output, panel._parameterNode.lastRun)
    assert new and not set(new.values()) & old
    display = output.GetDisplayNode()
    assert not any(display.GetSegmentVisibility(one) for one in old), "the old result waits, hidden, for an undo"
    for name, segment_id in new.items():
        mask = mask_of(output, segment_id, target)
        for index in CORRECTED:
            assert np.array_equal(mask[index], truth[name][index]), f"{name} stays as it was corrected in slice {index}"
    return scores(panel, target, truth)


def accept(host: Any, panel: Any, folder: Path, target: Any, picture: Any) -> None:
    from rau.bank.bank import Bank

    panel.ui.bankFolderEdit.currentPath = str(folder / "bank")
    panel.ui.titleEdit.text, panel.ui.bodyPartEdit.text = "Upper abdomen", "abdomen"
    fold(host, panel, "keep")
    choose(panel.ui.exportBox, ".dcm")
    panel.ui.exportPathEdit.currentPath = str(folder / "result.dcm")
    settle(host)
    picture("path-8-keep", panel.parent)
    told = press(host, panel, "acceptButton")
    assert told.startswith("Accepted into the bank as Upper abdomen"), told
    (entry,) = Bank.open(folder / "bank").entries()
    kept = Bank.open(folder / "bank").reference(entry.id)
    assert np.array_equal(kept.image.array, lazy.slicer().util.arrayFromVolume(target))
    for name, mask in shown(panel, target).items():
        assert np.array_equal(kept.labels.array == kept.labels.structure(name).value, mask), name


def export(host: Any, panel: Any, folder: Path, target: Any, picture: Any) -> None:
    """Read back with highdicom: the voxels of every segment, its name, and its code, where they are in the world."""
    highdicom = pytest.importorskip("highdicom")
    from RAUSlicerLib.nodes import geometry_message, ijk_to_ras

    told = press(host, panel, "exportButton")
    assert told.startswith("Written: result.dcm"), told
    picture("path-9-saved", panel.parent)
    choose(panel.ui.exportBox, ".html")
    assert press(host, panel, "exportButton").startswith("Written: result.html")
    assert "Not for clinical use" in (folder / "result.html").read_text(encoding="utf-8")
    seg = highdicom.seg.segread(str(folder / "result.dcm"))
    expected = shown(panel, target)
    by_label = {seg.get_segment_description(n).segment_label: n for n in seg.segment_numbers}
    assert set(by_label) == set(expected)
    grid = geometry_message(ijk_to_ras(target), next(iter(expected.values())).shape)
    for name, mask in expected.items():
        volume = seg.get_volume(segment_numbers=[by_label[name]], combine_segments=True, relabel=True)
        placed = np.zeros(mask.shape, bool)
        place = np.linalg.inv(affine(grid)) @ volume.affine
        indices = np.argwhere(volume.array > 0)
        there = np.rint(indices @ place[:3, :3].T + place[:3, 3]).astype(int)
        placed[tuple(there.T)] = True
        assert np.array_equal(placed, mask), name
    liver = seg.get_segment_description(by_label["liver"])
    assert liver.segmented_property_type.value == "10200004" and liver.algorithm_type.name


def from_the_bank(host: Any, panel: Any, picture: Any) -> None:
    """The next case, here patient A, can start from this one: how much do they look alike?"""
    (row,) = panel.references.rows
    patient = row.volume.currentNode()
    row.volume.setCurrentNode(None)
    row.segmentation.setCurrentNode(None)
    panel.ui.targetSelector.setCurrentNode(patient)
    fold(host, panel, "references", "bank", "target")
    press(host, panel, "bankListButton")
    panel.ui.bankTree.topLevelItem(0).setCheckState(0, lazy.qt().Qt.Checked)
    settle(host)
    told = press(host, panel, "matchButton")
    ((title, kind, _spacing, match),) = rows(panel.ui.bankTree)
    assert (title, kind) == ("Upper abdomen", "CT axial") and 0.7 < float(match) <= 1 and match in told
    picture("path-10-bank", panel.parent)


def surfaces(host: Any, panel: Any, picture: Any) -> None:
    if os.environ.get("RAU_SCREENSHOTS") != "1":
        return
    from host.views import three_d_view

    panel._parameterNode.outputSegmentation.CreateClosedSurfaceRepresentation()
    view = three_d_view(host.application_logic, host.scene, size=(640, 640))
    picture("3d-view", view.pixels())
    view.close()


# -- what is found
def affine(grid: dict[str, Any]) -> np.ndarray:
    """(4, 4) of a geometry message: array index to LPS."""
    found = np.eye(4)
    found[:3, :3] = np.array(grid["direction"]) * np.array(grid["spacing"])
    found[:3, 3] = grid["origin"]
    return found


def ids(output: Any, run: str = "") -> dict[str, str]:
    """Segment ids by the name of their structure; of one run, or of all segments."""
    from RAUSlicerLib.marks import structure_name
    from RAUSlicerLib.writer import segments_of_run

    segmentation = output.GetSegmentation()
    every = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    chosen = segments_of_run(output, run) if run else every
    return {structure_name(segmentation.GetSegment(one)): one for one in chosen}


def shown(panel: Any, target: Any) -> dict[str, np.ndarray]:
    """Masks by name of what is shown."""
    node = panel._parameterNode
    found = ids(node.outputSegmentation, node.lastRun)
    return {name: mask_of(node.outputSegmentation, one, target) for name, one in found.items()}


def scores(panel: Any, target: Any, truth: Any) -> dict[str, float]:
    """Dice by name, over the slices that are not corrected."""
    rest = [k for k in range(next(iter(truth.values())).shape[0]) if k not in CORRECTED]
    found = shown(panel, target)
    empty = np.zeros_like(next(iter(truth.values())))
    return {name: round(dice(found.get(name, empty)[rest], mask[rest]), 3) for name, mask in truth.items()}
