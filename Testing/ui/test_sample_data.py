"""Try it: from an empty scene to a panel that is ready, with patients made on the spot; the same in Sample Data."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import said, settle
from scene import segments

from host.pace import STALL_MS

ROOT = Path(__file__).resolve().parents[2]
ICONS = ROOT / "RAUSlicer" / "Resources" / "Icons"
NAMES = ["Sample patient A", "Sample patient A organs", "Sample patient B"]


def press(host: Any, panel: Any) -> None:
    panel.ui.tryButton.click()
    settle(host)
    assert host.spin(lambda: panel.tryIt.maker is None or panel.tryIt.maker.over, 60)
    settle(host)


def nodes() -> list[Any]:
    slicer = lazy.slicer()
    kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode")
    return sorted((n for kind in kinds for n in slicer.util.getNodesByClass(kind)), key=lambda node: node.GetName())


def test_one_click_fills_the_panel_with_the_patients_of_the_demo(host: Any, panel: Any) -> None:
    from rau.training.patient import patient_pair
    from RAUSlicerLib.nodes import geometry_message, ijk_to_ras

    slicer = lazy.slicer()
    with host.stalls() as gaps:
        press(host, panel)
    assert gaps.worst < STALL_MS, str(gaps)
    assert panel.ui.segmentButton.enabled and said(panel).startswith("Two sample patients are loaded")
    reference, (target, _truth) = patient_pair(0)
    chosen = panel.references.references()[0]
    assert np.array_equal(slicer.util.arrayFromVolume(chosen.volume), reference.image.array)
    assert np.array_equal(slicer.util.arrayFromVolume(panel.ui.targetSelector.currentNode()), target.array)
    grid = geometry_message(ijk_to_ras(chosen.volume), target.geometry.shape)
    assert np.allclose(grid["spacing"], target.geometry.spacing) and np.allclose(grid["origin"], target.geometry.origin)
    assert np.allclose(grid["direction"], target.geometry.direction)
    made = segments(chosen.segmentation, chosen.volume)
    wanted = [
        (s.name, s.terminology, int((reference.labels.array == s.value).sum())) for s in reference.labels.structures
    ]
    assert [(s.name, s.terminology, s.count) for s in made] == wanted
    assert [s.name for s in panel.structures.wanted()] == [name for name, *_ in wanted]
    assert panel.ui.tryButton.text == "Try it" and panel.ui.tryButton.enabled


def test_again_takes_the_patients_that_are_there(host: Any, panel: Any) -> None:
    press(host, panel)
    assert [node.GetName() for node in nodes()] == NAMES
    panel.ui.targetSelector.setCurrentNode(None)
    settle(host)
    press(host, panel)
    assert [node.GetName() for node in nodes()] == NAMES and panel.ui.segmentButton.enabled


def test_without_an_environment_slicers_own_python_makes_them_and_the_set_up_is_asked_for(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first minute: nothing is installed yet, and still there is something to look at."""
    from RAUSlicerLib import environment

    (tmp_path / "bin").mkdir()
    own = tmp_path / "bin" / "PythonSlicer"
    own.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    own.chmod(0o755)
    monkeypatch.delenv("RAU_PYTHON")
    monkeypatch.setenv("RAU_ENVIRONMENT", str(tmp_path / "environment"))
    whole = environment.find_python
    monkeypatch.setattr(
        environment, "find_python", lambda chosen, base, logic=None: whole(chosen, base, tmp_path / "x")
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    panel = host.open_module(ROOT / "RAUSlicer" / "RAUSlicer.py")
    press(host, panel)
    assert said(panel).startswith("No Python with the RAUSlicer engine was found") and not nodes()
    monkeypatch.setattr(lazy.slicer().app, "slicerHome", str(tmp_path), raising=False)
    press(host, panel)
    assert [node.GetName() for node in nodes()] == NAMES
    assert not panel.ui.segmentButton.enabled and "Press Set up under Environment" in said(panel)


def test_a_python_that_cannot_make_them_is_told_and_leaves_the_scene(
    host: Any, panel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\necho "ModuleNotFoundError: No module named numpy" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("RAU_PYTHON", str(broken))
    press(host, panel)
    assert "could not be made (ModuleNotFoundError: No module named numpy)" in said(panel)
    assert panel.message.notice.kind == "error" and not nodes() and panel.ui.tryButton.enabled


def test_closing_the_scene_meanwhile_drops_them(host: Any, panel: Any) -> None:
    panel.ui.tryButton.click()
    assert panel.ui.tryButton.text.startswith("Making") and not panel.ui.tryButton.enabled
    host.clear()
    settle(host, 1.0)
    assert not nodes() and panel.ui.tryButton.enabled


# -- Sample Data
@pytest.fixture
def sources(host: Any, panel: Any) -> dict[str, Any]:
    """What Sample Data offers after Slicer's start."""
    slicer = lazy.slicer()
    slicer.modules.sampleDataSources.clear()
    lazy.module("RAUSlicer").RAUSlicer(SimpleNamespace())
    slicer.app.emit("startupCompleted()")
    slicer.app.emit("startupCompleted()")
    found = slicer.modules.sampleDataSources["RAUSlicer"]
    assert len(found) == 2
    return {one.sampleName: one for one in found}


def test_sample_data_offers_both_with_a_picture_and_only_one_has_an_address(sources: dict[str, Any]) -> None:
    for one in sources.values():
        data = Path(one.thumbnailFileName).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and Path(one.thumbnailFileName).parent == ICONS
    patients, brains = sources["Two synthetic patients (CT)"], sources["Two brain tumours (MR)"]
    assert not any("//" in uri for uri in patients.uris)
    assert all(uri.startswith("https://") for uri in brains.uris) and all(brains.checksums)


def test_sample_data_makes_the_patients(host: Any, sources: dict[str, Any], panel: Any) -> None:
    source = sources["Two synthetic patients (CT)"]
    made = source.customDownloader(source)
    assert [node.GetName() for node in made] == NAMES == list(source.nodeNames)
    assert source.customDownloader(source) == made, "those that are there"
    panel.references.rows[0].segmentation.setCurrentNode(made[1])
    assert panel.references.references()[0].volume is made[0]


def test_what_goes_wrong_in_sample_data_stands_in_the_status_bar_and_in_the_log(
    host: Any,
    sources: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(lazy.slicer().util, "showStatusMessage", lambda text, time: told.append(text))
    monkeypatch.setenv("RAU_PYTHON", str(tmp_path / "nowhere"))
    source = sources["Two synthetic patients (CT)"]
    assert source.customDownloader(source) == [] and not nodes()
    assert "RAU_PYTHON names is not there" in told[0] and told[0] in caplog.text


def test_the_brains_come_with_their_reference_put_together(
    host: Any, sources: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small files in place of the download: their checksums in place of the published ones."""
    import hashlib
    from dataclasses import replace

    import SimpleITK as sitk

    from host import sample_data

    image = sitk.GetImageFromArray(np.arange(4 * 8 * 8, dtype=np.int16).reshape(4, 8, 8))
    label = sitk.GetImageFromArray((np.arange(4 * 8 * 8).reshape(4, 8, 8) > 200).astype(np.uint8))
    source, sums = sources["Two brain tumours (MR)"], []
    for uri, what in zip(source.uris, (image, label, image)):
        path = tmp_path / os.path.basename(uri)
        sitk.WriteImage(what, str(path))
        monkeypatch.setitem(sample_data.FILES, uri, path)
        sums.append("SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="Checksum"):
        source.customDownloader(source)
    reference, segmentation, target = source.customDownloader(replace(source, checksums=sums))
    from RAUSlicerLib.nodes import modality_of
    from RAUSlicerLib.reference_rows import drawn_on

    assert drawn_on(segmentation) is reference and modality_of(target) == modality_of(reference) == "MR"
    (segment,) = segments(segmentation, reference)
    assert segment.name == "tumour" and "Neoplasm" in segment.terminology and segment.count == 55
