"""Messages of the protocol to and from the engine's own types, as a client needs them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rau.errors import InputError, ModelError, RauError
from rau.events import Event, SliceEvent, StageEvent, WarningEvent
from rau.results import SegmentResult, SliceResult, StructureResult
from rau.volume.volume import LabelMap, Structure, Volume


class ServerGone(RauError):
    """The server does not answer, or was started again and knows the run no more."""

    exit_code = 2


class RemoteError(RauError):
    """What the server refused or could not do. kind: of the server's error."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(str(told.get("message", "The server refused the request")), str(told.get("hint", "")))
        self.exit_code = int(told.get("exit_code", 2))
        self.told_kind = str(told.get("kind", type(self).__name__))

    @property
    def kind(self) -> str:
        return self.told_kind


def image_of(volume: Volume, array: str, source: str) -> dict[str, Any]:
    """An image for a message. array: name of its file; source: what to call it in messages."""
    grid = volume.geometry
    geometry = {"shape": grid.shape, "spacing": grid.spacing, "origin": grid.origin}
    return {
        "array": array,
        "geometry": {**geometry, "direction": np.asarray(grid.direction).tolist()},
        "modality": volume.modality,
        "source": source,
        "spacing_known": volume.spacing_known,
    }


def error_of(told: dict[str, Any]) -> RauError:
    """The exception of an error event."""
    types: dict[str, type[RauError]] = {"InputError": InputError, "SettingsError": InputError, "ModelError": ModelError}
    kind = types.get(str(told.get("kind")))
    return RemoteError(told) if kind is None else kind(str(told["message"]), str(told.get("hint", "")))


def event_of(told: dict[str, Any], preview: np.ndarray | None) -> Event | None:
    """An event of the protocol as one of ours; None for what is none."""
    if told.get("event") == "stage":
        return StageEvent(told["stage"], told.get("message", ""))
    if told.get("event") == "warning":
        return WarningEvent(told["message"])
    if told.get("event") == "slice":
        done, total, index, axis = (int(told[name]) for name in ("done", "total", "index", "axis"))
        return SliceEvent(done, total, index, axis, preview, float(told["score"]), float(told["ms"]))
    return None


def result_of(report: dict[str, Any], labels: np.ndarray, target: Volume) -> SegmentResult:
    """The result of a report and its label map."""
    structures = []
    for one in report["structures"]:
        known = Structure(one["value"], one["name"], tuple(one["color"]), one["terminology"])
        box = tuple(one["box"]) if one["box"] else None
        numbers = (one["present"], one["score"], box, one["voxels"], one["volume_ml"])
        structures.append(StructureResult(known, *numbers, one.get("description")))
    slices = tuple(SliceResult(**{**one, "parts": tuple(one["parts"])}) for one in report["slices"])
    named = LabelMap(labels, target.geometry, tuple(one.structure for one in structures))
    told = (report.get("reasoning", {}), report.get("quality", {}))
    rest = (tuple(report["warnings"]), report["seconds"], report["provenance"], *told)
    return SegmentResult(named, tuple(structures), slices, *rest)


def structures_of(labels: LabelMap) -> list[dict[str, Any]]:
    """The structures of a label map for a message."""
    return [
        {"value": s.value, "name": s.name, "color": s.color, "terminology": s.terminology} for s in labels.structures
    ]
