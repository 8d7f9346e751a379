"""What the panel says before a run: device, memory, model and licence, modality and orientation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def words(booted: Any) -> Any:
    from RAUSlicerLib import preflight_words

    return preflight_words


def gpu() -> Any:
    from RAUSlicerLib.installation_system import Gpu

    return Gpu("RTX A4000", "580.1", 16000, 15000)


def test_the_panel_says_it_all_and_counts_what_deserves_a_look(host: Any, chosen: Any, case: Any, picture: Any) -> None:
    chosen.ui.preflightSection.collapsed = False
    host.spin(lambda: bool(chosen.readiness.box.lines), 2)
    said = " | ".join(one.text for one in chosen.readiness.box.lines)
    assert "CPU of this computer" in said and "Memory: about 1.3 GB needed" in said and " free" in said
    assert "rau-mini" in said and "licence of its weights: Apache-2.0" in said
    assert "Modality: target CT, reference CT" in said and "axial" in said and " mm)" in said
    assert chosen.ui.preflightSection.text == "Before the run"
    chosen.ui.structuresSection.collapsed = True
    host.spin(lambda: False, 0.05)
    picture("panel-preflight", chosen.parent)
    case.target.SetAttribute("DICOM.Modality", "MR")
    chosen._parameterNode.device = "cuda"
    assert host.spin(lambda: chosen.ui.preflightSection.text.endswith("2 to look at"), 2)
    said = chosen.ui.preflightSection.findChild(host.qt.QLabel, "preflightLabel").text
    assert "they look different" in said and "no NVIDIA driver" in said


def test_another_cut_of_the_slices_is_told_and_a_single_slice_too(words: Any, host: Any, case: Any) -> None:
    import slicer
    import vtk

    from RAUSlicerLib.inputs import ReferenceNodes

    references = [ReferenceNodes(case.reference, case.segmentation)]
    assert all(one.good for one in words.orientation_lines(references, case.target))
    matrix = vtk.vtkMatrix4x4()
    case.target.GetIJKToRASMatrix(matrix)
    turned = vtk.vtkMatrix4x4()
    for row, source in enumerate((2, 0, 1)):
        for column in range(4):
            turned.SetElement(row, column, matrix.GetElement(source, column))
    case.target.SetIJKToRASMatrix(turned)
    (told,) = words.orientation_lines(references, case.target)
    assert told.good is False and "sagittal" in told.text and "axial" in told.text
    flat = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(case.target)[:1].copy())
    assert "single slice" in words.orientation_lines(references, flat)[-1].text


def test_where_it_computes(words: Any) -> None:
    line, machine = words.device_line, words.Machine
    assert "server gpu.example" in line(machine(server="gpu.example")).text
    assert "GPU (RTX A4000, 15 GB free)" in line(machine(gpu=gpu())).text
    assert line(machine(device="cuda")).good is False
    assert "no CUDA" in line(machine(ready="cpu", gpu=gpu())).text
    assert "CPU" in line(machine(device="cpu", gpu=gpu())).text


def test_memory_that_does_not_suffice_is_told_before(words: Any) -> None:
    short = words.memory_line(512 * 512 * 600, 4e9)
    assert short.good is False and "about 7.5 GB needed" in short.text and "4.0 GB free" in short.text
    assert words.memory_line(1000, 4e9).good and words.memory_line(1000, 0).good is None
    assert words.free_memory() > 1e8


def test_a_model_that_lacks_something_or_has_another_licence_is_told(words: Any, tmp_path: Path) -> None:
    machine = words.Machine()
    assert "not on this computer" in words.model_line("rau-7b", "", machine).text
    told = {"name": "own", "version": "1", "licence": "CC-BY-NC-4.0", "files": {"a.safetensors": "0"}}
    (tmp_path / "model.json").write_text(json.dumps(told))
    assert "lacks a.safetensors" in words.model_line("auto", str(tmp_path), machine).text
    (tmp_path / "a.safetensors").write_bytes(b"")
    own = words.model_line("auto", str(tmp_path), machine)
    assert own.good is False and "CC-BY-NC-4.0" in own.text and "allows" in own.text


def test_left_and_right_the_wrong_way_round_are_told(words: Any, host: Any, case: Any) -> None:
    """A mirrored image, or two names that were mixed up: by the names, or by the codes where the names say nothing."""
    import slicer

    from RAUSlicerLib.inputs import ReferenceNodes

    references = [ReferenceNodes(case.reference, case.segmentation)]
    assert not words.side_lines(references)
    segmentation = case.segmentation.GetSegmentation()
    left, right = (
        segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(f"{side} kidney")) for side in ("left", "right")
    )
    left.SetName("kidney, right"), right.SetName("Kidney, left")
    assert not words.side_lines(references), "the code counts before the name"
    for one in (left, right):
        one.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), "")
    (told,) = words.side_lines(references)
    assert told.good is False and "Kidney, left lies to the right of kidney, right" in told.text
    left.SetName("kidney"), right.SetName("Niere")
    assert not words.side_lines(references)
