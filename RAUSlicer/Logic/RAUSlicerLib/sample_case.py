"""The sample case: two synthetic patients, made on this computer by a process of its own, as nodes in the scene."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

import numpy as np
import slicer
import vtk

from RAUSlicerLib import environment
from RAUSlicerLib.environment import Launch
from RAUSlicerLib.exchange import private_folder, remove_folder
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import ReferenceNodes
from RAUSlicerLib.installation_system import candidates
from RAUSlicerLib.nodes import LABELMAP, RAS_TO_LPS, scalars_of
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.worker_client import Later, Process
from RAUSlicerLib.writer import empty_image

TAG = "RAU.Sample"  # attribute of the sample's nodes: "reference", "organs", "target"
SECONDS = 120.0  # after which the process is given up
WINDOW, LEVEL = 400.0, 40.0  # HU: soft tissue


@dataclass(frozen=True)
class SampleCase:
    """An annotated patient, and another one to segment."""

    reference: ReferenceNodes
    target: Any

    def nodes(self) -> list[Any]:
        return [self.reference.volume, self.reference.segmentation, self.target]


def found_in_scene() -> SampleCase | None:
    """The sample case that is in the scene already; None when a part of it is not."""
    scene = slicer.mrmlScene
    every = (scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes()))
    by_part = {node.GetAttribute(TAG): node for node in every if node.GetAttribute(TAG)}
    parts = [by_part.get(part) for part in ("reference", "organs", "target")]
    return None if None in parts else SampleCase(ReferenceNodes(parts[0], parts[1]), parts[2])


def sample_launch(python: str, base: Mapping[str, str], slicer_home: str = "") -> Launch:
    """How the patients are made: by the worker's Python, else by Slicer's own. Raises Problem when there is neither."""
    try:
        found = environment.launch(python, base)
    except Problem as problem:
        own = candidates(slicer_home, {"PATH": ""})
        if not own:
            raise problem
        variables = environment.worker_environment(base)
        found = Launch(own[0], (), tuple(sorted(variables.items())))
    return replace(found, arguments=("-m", "rau.samples"))


class SampleMaker:
    """Makes the sample case once. on_end: gets the case, or None and the Problem; after `abandon` it is not called."""

    def __init__(
        self,
        process: Process,
        later: Later,
        on_end: Callable[[SampleCase | None, Problem | None], None],
    ) -> None:
        self.process, self.later, self.on_end = process, later, on_end
        self.over = False
        self._folder: Path | None = None
        self._said = b""

    def start(self, launch: Launch) -> None:
        self._folder = private_folder()
        self.process.on_error_text = self._on_error_text
        self.process.on_finished = self._on_finished
        self.process.start(replace(launch, arguments=(*launch.arguments, str(self._folder))))
        self.later(SECONDS, self._too_late)

    def abandon(self) -> None:
        """Stop, without a word."""
        if not self.over:
            self.on_end = lambda case, problem: None
            self.process.kill_tree()
            self._end(None, None)

    def _on_error_text(self, data: bytes) -> None:
        self._said = (self._said + data)[-2000:]

    def _too_late(self) -> None:
        if not self.over:
            self.process.kill_tree()
            self._end(None, failed())

    def _on_finished(self, status: int | None) -> None:
        if self.over:
            return
        try:
            if status != 0 or self._folder is None:
                raise failed(self._said.decode("utf-8", "replace").strip().rpartition("\n")[2])
            case = load(self._folder)
        except Problem as problem:
            self._end(None, problem)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._end(None, failed(type(error).__name__))
        else:
            self._end(case, None)

    def _end(self, case: SampleCase | None, problem: Problem | None) -> None:
        self.over = True
        remove_folder(self._folder)
        self.on_end(case, problem)


def failed(why: str = "") -> Problem:
    text = _("The sample patients could not be made") + (f" ({why[:160]})" if why else "")
    return Problem(text, _("Press Repair under Environment, or choose another Python under Advanced"), "SampleError")


# -- nodes
def load(folder: Path) -> SampleCase:
    """The nodes of what `rau.samples` wrote into a folder. Raises OSError, ValueError, KeyError, TypeError."""
    told = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    names = ("reference", "labels", "target")
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in names}
    to_ras = ijk_to_ras(told["geometry"])
    volumes = {"reference": _("Sample patient A"), "target": _("Sample patient B")}
    made = {part: _volume(arrays[part], to_ras, name, part, told["modality"]) for part, name in volumes.items()}
    organs = _segmentation(arrays["labels"], made["reference"], told["structures"])
    return SampleCase(ReferenceNodes(made["reference"], organs), made["target"])


def ijk_to_ras(geometry: Mapping[str, Any]) -> np.ndarray:
    """(4, 4) of a geometry in a message: the way back of `nodes.geometry_message`."""
    lps = np.eye(4)
    lps[:3, [2, 1, 0]] = np.array(geometry["direction"]) * np.array(geometry["spacing"])
    lps[:3, 3] = geometry["origin"]
    found: np.ndarray = RAS_TO_LPS @ lps
    return found


def _volume(array: np.ndarray, to_ras: np.ndarray, name: str, part: str, modality: str) -> Any:
    node = slicer.util.addVolumeFromArray(array, name=slicer.mrmlScene.GenerateUniqueName(name))
    matrix = vtk.vtkMatrix4x4()
    for i in range(4):
        for j in range(4):
            matrix.SetElement(i, j, to_ras[i, j])
    node.SetIJKToRASMatrix(matrix)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(WINDOW, LEVEL)
    node.SetAttribute("DICOM.Modality", modality)
    node.SetAttribute(TAG, part)
    return node


def _segmentation(labels: np.ndarray, volume: Any, structures: list[dict[str, Any]]) -> Any:
    """All segments in one label map; not shown, as its patient is not the one in view."""
    name = slicer.mrmlScene.GenerateUniqueName(_("Sample patient A organs"))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    image = empty_image(volume)
    scalars_of(image)[...] = labels
    for one in structures:
        segment = slicer.vtkSegment()
        segment.SetName(one["name"])
        segment.SetColor(*one["color"])
        segment.SetLabelValue(int(one["value"]))
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), one["terminology"])
        segment.AddRepresentation(LABELMAP, image)
        node.GetSegmentation().AddSegment(segment, one["name"])
    node.SetDisplayVisibility(False)
    node.SetAttribute(TAG, "organs")
    return node
