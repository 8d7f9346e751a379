"""What is known before a run, in words: where it computes, memory, the model and its licence, and the images."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from RAUSlicerLib import laterality
from RAUSlicerLib.environment import LOGIC_FOLDER
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import ReferenceNodes
from RAUSlicerLib.installation_plan import gb
from RAUSlicerLib.installation_system import Gpu
from RAUSlicerLib.nodes import ijk_to_world, modality_of
from RAUSlicerLib.problems import Problem

MODELS = LOGIC_FOLDER.parent / "Resources" / "Models"
BASE_BYTES = 1.2e9  # of a process with torch and rau-mini; measured: 1.1 GB
VOXEL_BYTES = 40.0  # a voxel of target and references, one plane; measured: 29
PLANES = {0: _("sagittal"), 1: _("coronal"), 2: _("axial")}
FREE_LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-Clause")


@dataclass(frozen=True)
class Line:
    """good: False is worth a look before the run; None: nothing is known."""

    text: str
    good: bool | None = True


@dataclass(frozen=True)
class Machine:
    """server: its host; empty: computed here. ready: the running worker's own word for its device."""

    server: str = ""
    device: str = "auto"
    ready: str = ""
    gpu: Gpu | None = None


def lines(
    references: Sequence[ReferenceNodes], target: Any, machine: Machine, model: str, folder: str, planes: str
) -> list[Line]:
    """In the order of reading. Quick: asked with every change of the panel."""
    found = [device_line(machine)]
    if target is not None and target.GetImageData() is not None:
        voxels = sum(one.GetImageData().GetNumberOfPoints() for one in images(references, target))
        if not machine.server:
            found.append(memory_line(voxels * (1 if planes == "acquisition" else 3), free_memory()))
        found += [modality_line(references, target), *orientation_lines(references, target), *side_lines(references)]
    if not machine.server or not folder.strip():
        found.insert(1, model_line(model, folder, machine))
    return found


def images(references: Sequence[ReferenceNodes], target: Any) -> list[Any]:
    every = [target, *(one.volume for one in references)]
    return [one for one in every if one is not None and one.GetImageData() is not None]


# -- the machine
def device_line(machine: Machine) -> Line:
    if machine.server:
        return Line(_("Computed on the server {host}: the images go there").format(host=machine.server))
    gpu = machine.gpu
    card = f"{gpu.name}, {gb(gpu.free * 1e6)} " + _("free") if gpu is not None else ""
    if machine.device == "cuda" and gpu is None:
        return Line(_("The GPU was chosen, but no NVIDIA driver was found: choose Automatic or CPU"), False)
    if machine.ready.startswith("cuda") or machine.device == "cuda" or (machine.device == "auto" and card):
        if machine.ready == "cpu" and machine.device == "auto":
            return Line(_("Computed on the CPU: this environment has no CUDA, though there is a GPU"), False)
        return Line(_("Computed on the GPU") + (f" ({card})" if card else ""))
    return Line(_("Computed on the CPU of this computer: slower than a GPU"))


def memory_line(voxels: float, free: float) -> Line:
    needed = BASE_BYTES + VOXEL_BYTES * voxels
    text = _("Memory: about {n} needed").format(n=gb(needed))
    if not free:
        return Line(text, None)
    text += ", " + _("{m} free").format(m=gb(free))
    if needed <= free:
        return Line(text)
    return Line(text + ": " + _("close other programs, crop the images, or choose the acquisition plane"), False)


def free_memory() -> float:
    """Bytes that can be had; 0 when the system does not say."""
    try:
        if sys.platform.startswith("linux"):
            with open("/proc/meminfo") as file:
                table = dict(line.split(":", 1) for line in file)
            return 1024.0 * int(table["MemAvailable"].split()[0])
        if sys.platform == "win32":
            return _windows_memory()
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, KeyError, AttributeError):
        return 0.0


def _windows_memory() -> float:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong) for name in ("total", "free", "pages", "pages_free", "all", "all_free", "more")
        ]

    status = Status(length=ctypes.sizeof(Status))
    windows = ctypes.windll  # type: ignore[attr-defined]
    return float(status.free) if windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else 0.0


# -- the model
def model_line(model: str, folder: str, machine: Machine) -> Line:
    name = "rau-mini" if model == "auto" else model
    if machine.server:
        return Line(_("Model {name}, as the server has it").format(name=name), None)
    place = Path(folder.strip()).expanduser() if folder.strip() else model_folder(name)
    try:
        told = json.loads((place / "model.json").read_text(encoding="utf-8"))
        name, version, licence = (str(told[key]) for key in ("name", "version", "licence"))
        missing = [one for one in told["files"] if not (place / one).is_file()]
    except (OSError, ValueError, KeyError, TypeError):
        text = _("The model {name} is not on this computer").format(name=place.name if folder.strip() else name)
        return Line(text + ": " + _("choose another, or put its folder into the models folder"), False)
    if missing:
        text = _("The model {name} lacks {file}: get it again")
        return Line(text.format(name=name, file=missing[0]), False)
    text = _("Model {name} {version} is there; licence of its weights: {licence}")
    text = text.format(name=name, version=version, licence=licence)
    if licence not in FREE_LICENCES:
        return Line(text + ". " + _("Look whether it allows what you want to do"), False)
    return Line(text)


def model_folder(name: str) -> Path:
    """The bundled one, else the user's own models folder (as `rau.models.store`)."""
    if (MODELS / name).is_dir():
        return MODELS / name
    base = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA") or str(Path.home() / ".local" / "share")
    return Path(os.environ.get("RAU_MODELS") or Path(base) / "rauslicer" / "models") / name


# -- the images
def modality_line(references: Sequence[ReferenceNodes], target: Any) -> Line:
    mine = modality_of(target)
    others = [modality_of(one.volume) for one in references]
    words = ", ".join(dict.fromkeys(one or _("unknown") for one in others)) or _("none yet")
    text = _("Modality: target {a}, reference {b}").format(a=mine or _("unknown"), b=words)
    if any(one and mine and one != mine for one in others):
        return Line(text + ": " + _("they look different, expect poor results"), False)
    return Line(text, None if not mine or not all(others) else True)


def orientation_lines(references: Sequence[ReferenceNodes], target: Any) -> list[Line]:
    """How the images lie, and what differs."""
    try:
        mine, others = lie(target), [lie(one.volume) for one in references]
    except Problem as problem:
        return [Line(str(problem), False)]
    text = _("Orientation: target {a}").format(a=mine.words)
    different = [one for one in others if one.plane != mine.plane and "" not in (one.plane, mine.plane)]
    if different:
        text += ", " + _("reference {b}: it is turned, but its slices are cut another way").format(b=different[0].words)
        found = [Line(text, False)]
    else:
        text += ", " + _("reference {b}").format(b=others[0].words) if others else ""
        found = [Line(text)]
    if any(one.flat != mine.flat for one in others):
        found.append(Line(_("One is a single slice and the other a volume: take both of one kind"), False))
    return found


def side_lines(references: Sequence[ReferenceNodes]) -> list[Line]:
    """References in which left and right are the wrong way round."""
    text = _("In reference {n}, {left} lies to the right of {right}: is the image mirrored, or a name wrong?")
    wrong = [(n, pair) for n, one in enumerate(references, start=1) for pair in laterality.swapped(one.segmentation)]
    return [Line(text.format(n=n, left=left, right=right), False) for n, (left, right) in wrong[:2]]


@dataclass(frozen=True)
class Lie:
    """How an image lies in the patient. plane: in which its slices are cut; empty of a single one without a plane."""

    plane: str
    oblique: float
    flat: bool
    spacing: tuple[float, ...]

    @property
    def words(self) -> str:
        size = " x ".join(f"{one:.3g}" for one in self.spacing)
        kind = self.plane + (" " + _("oblique by {n}°").format(n=f"{self.oblique:.0f}") if self.oblique >= 5 else "")
        return f"{kind} ({size} mm)"


def lie(volume: Any) -> Lie:
    """Raises Problem under a transform that is not linear."""
    matrix = ijk_to_world(volume)[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    normal = np.abs(matrix[:, 2]) / max(spacing[2], 1e-9)
    axis = int(normal.argmax())
    angle = float(np.degrees(np.arccos(min(1.0, float(normal[axis])))))
    flat = volume.GetImageData().GetDimensions()[2] == 1
    return Lie(PLANES[axis], angle, flat, tuple(float(one) for one in spacing))
