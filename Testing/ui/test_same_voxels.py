"""The same case through the panel, the command line and the server: the same voxels, names, colours and codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
from acts import choose, press, run, said, settle
from scene import mask_of
from served import Server

from builders import rotation, write_image
from rau.cli import main
from rau.commands.segment import read_pair
from rau.export.writing import write_labels
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.training.patient import patient_pair
from rau.volume.labels import read_labels
from rau.volume.reading import read_volume
from rau.volume.resampling import labels_on_grid
from rau.volume.volume import Geometry, LabelMap
from rau.worker.http_client import HttpWorker

pytestmark = pytest.mark.slow
pytest.importorskip("sam2")
pytest.importorskip("uvicorn")

Masks = dict[str, np.ndarray]


def masks_of(labels: LabelMap, grid: Geometry) -> Masks:
    """By name, on the target's grid; structures without a voxel apart."""
    placed, _ = labels_on_grid(labels, grid)
    found = {one.name: placed.array == one.value for one in placed.structures}
    return {name: mask for name, mask in found.items() if mask.any()}


def looks(labels: LabelMap) -> dict[str, Any]:
    return {one.name: (tuple(round(c, 3) for c in one.color), one.terminology) for one in labels.structures}


def same(one: Masks, other: Masks, what: str) -> None:
    assert sorted(one) == sorted(other), what
    for name, mask in one.items():
        assert np.array_equal(mask, other[name]), f"{what}: {name} differs in {np.count_nonzero(mask ^ other[name])}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """An oblique patient and an oblique reference, cut another way, as files that do not say their modality."""
    reference, (target, _) = patient_pair(2, (8, 32, 32))
    oblique = replace(target.geometry, origin=(31.5, -207.25, 1113.0), direction=rotation(4))
    other = replace(reference.image.geometry, direction=rotation(9) @ np.diag([1.0, -1.0, 1.0]))
    write_image(replace(target, geometry=oblique), tmp_path / "target.nrrd")
    write_image(replace(reference.image, geometry=other), tmp_path / "reference.nrrd")
    write_labels(replace(reference.labels, geometry=other), tmp_path / "labels.seg.nrrd")
    return tmp_path


@pytest.fixture
def server(tmp_path: Path, random_model: Path) -> Iterator[Server]:
    started = Server(tmp_path / "served", random_model)
    yield started
    started.end()


def through_the_command_line(files: Path, model: Path) -> LabelMap:
    call = ["segment", "--reference", files / "reference.nrrd", "--labels", files / "labels.seg.nrrd"]
    call += ["--target", files / "target.nrrd", "--output", files / "cli.seg.nrrd"]
    assert main([str(one) for one in (*call, "--model", model, "--device", "cpu", "--threads", "1")]) == 0
    return read_labels(files / "cli.seg.nrrd")


def through_the_server(files: Path, server: Server) -> LabelMap:
    image = read_volume(files / "reference.nrrd")
    reference, _ = read_pair(files / "reference.nrrd", files / "labels.seg.nrrd")
    settings = SegmentSettings(model="random", device="cpu", threads=1)
    with HttpWorker(server.url, server.token) as client:
        found = client.segment([Reference(image, reference.labels)], read_volume(files / "target.nrrd"), settings)
    return found.labels


def through_the_panel(host: Any, panel: Any, files: Path, model: Path) -> tuple[Masks, LabelMap]:
    """What is in the scene, and what is saved of it."""
    slicer = lazy.slicer()
    target = slicer.util.loadVolume(str(files / "target.nrrd"))
    panel.references.rows[0].segmentation.setCurrentNode(slicer.util.loadSegmentation(str(files / "labels.seg.nrrd")))
    panel.references.rows[0].volume.setCurrentNode(slicer.util.loadVolume(str(files / "reference.nrrd")))
    panel.ui.targetSelector.setCurrentNode(target)
    panel._parameterNode.modelFolder, panel._parameterNode.device = str(model), "cpu"
    settle(host)
    run(host, panel)
    output = panel._parameterNode.outputSegmentation
    segmentation = output.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    shown = {segmentation.GetSegment(one).GetName(): mask_of(output, one, target) for one in ids}
    choose(panel.ui.exportBox, ".seg.nrrd")
    panel.ui.exportPathEdit.currentPath = str(files / "panel.seg.nrrd")
    assert press(host, panel, "exportButton").startswith("Written"), said(panel)
    return shown, read_labels(files / "panel.seg.nrrd")


def test_the_same_case_through_panel_command_line_and_server_gives_the_same_voxels(
    host: Any, panel: Any, files: Path, server: Server, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps at their defaults: registration, adaptation, closer look, quality."""
    from RAUSlicerLib.settings import Choices

    whole = Choices.settings
    monkeypatch.setattr(Choices, "settings", lambda choices: {**whole(choices), "threads": 1})
    grid = read_volume(files / "target.nrrd").geometry
    by_hand = through_the_command_line(files, random_model)
    expected = masks_of(by_hand, grid)
    assert sum(int(mask.sum()) for mask in expected.values()) > 100, "an empty result would prove nothing"
    same(masks_of(through_the_server(files, server), grid), expected, "server and command line")
    shown, saved = through_the_panel(host, panel, files, random_model)
    same(shown, expected, "panel and command line")
    same(masks_of(saved, grid), expected, "what the panel saves and the command line")
    named = looks(saved)
    assert {name: look for name, look in looks(by_hand).items() if name in named} == named
