"""Folders of labelled images: sets of cases, what their labels mean, and which of them training may see.

Layout: `<data>/<set>/set.json` (name, modality, dims, structures, licence_allows_training, cases) and
`<data>/<set>/<case>/image.nii.gz` + `labels.nii.gz` (3-D), `image.png` + `labels.png` (2-D), or a DICOM series in
`dicom/` with its label map placed by geometry. The folder is named by the environment variable RAU_DATA, or lies beside
the repository as `shared/data`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rau.errors import InputError
from rau.volume.volume import LabelMap, Structure, Volume

# The last cases by name of these sets are kept for the benchmarks: training never reads them.
HELD_OUT = {"msd_hippocampus": 30, "hc18": 6}


@dataclass(frozen=True)
class Case:
    """One image with its label map. info: what set.json knows of it. names: label value -> name of the structure."""

    set: str
    name: str
    folder: Path
    names: Mapping[int, str] = field(repr=False, default_factory=dict)
    info: Mapping[str, Any] = field(repr=False, default_factory=dict)
    spacing_known: bool = True

    @property
    def subject(self) -> str:
        """Cases of one subject never serve as each other's reference."""
        return str(self.info.get("subject", self.name))

    @property
    def image_path(self) -> Path:
        """The image's file, or its DICOM folder. Raises InputError for cases that have a label map alone."""
        for name in ("image.nii.gz", "image.png", "dicom"):
            if (self.folder / name).exists():
                return self.folder / name
        raise InputError(f"The case {self.name} of {self.set} has no image")

    @property
    def labels_path(self) -> Path:
        return self.file("labels")

    def file(self, stem: str) -> Path:
        """A further file of the case, as `labels_lungs` or `image_t1c`. Raises InputError."""
        for ending in (".nii.gz", ".png"):
            if (self.folder / f"{stem}{ending}").is_file():
                return self.folder / f"{stem}{ending}"
        raise InputError(f"The case {self.name} of {self.set} has no {stem}")

    def read(self, labels: str = "labels", image: str = "") -> tuple[Volume, LabelMap]:
        """Image and label map on the image's grid, as `rau segment` reads them; structures named by the set.

        labels, image: another label map or image of the case (its file name without ending). Raises InputError.
        """
        from rau.volume.labels import read_labels
        from rau.volume.reading import read_volume
        from rau.volume.resampling import labels_on_grid

        volume = read_volume(self.file(image) if image else self.image_path)
        volume = replace(volume, spacing_known=volume.spacing_known and self.spacing_known)
        found, _ = labels_on_grid(read_labels(self.file(labels), image=volume), volume.geometry)
        return volume, self._named(found, labels)

    def read_labels(self) -> LabelMap:
        """The label map alone, on its own grid: for cases without an image."""
        from rau.volume.labels import read_labels

        return self._named(read_labels(self.labels_path), "labels")

    def _named(self, labels: LabelMap, which: str) -> LabelMap:
        names = self.names if which == "labels" else {}
        named = (replace(one, name=names.get(one.value, one.name)) for one in labels.structures)
        return replace(labels, structures=_distinct(tuple(named)))


@dataclass(frozen=True)
class DataSet:
    """dims: 2 or 3. structures: label value -> name. trainable: whether the licence allows training."""

    name: str
    dims: int
    modality: str
    structures: Mapping[int, str] = field(repr=False)
    trainable: bool
    cases: tuple[Case, ...] = field(repr=False)


def find_data() -> Path | None:
    """The folder of the sets: RAU_DATA, else `../shared/data` beside the repository; None where neither is there."""
    named = os.environ.get("RAU_DATA")
    # rau/evaluation/datasets.py -> rau -> Logic -> RAUSlicer -> repository
    beside = Path(__file__).resolve().parents[4].parent / "shared" / "data"
    for folder in [Path(named)] if named else [beside]:
        if folder.is_dir() and any(folder.glob("*/set.json")):
            return folder
    return None


def set_names(data: Path | None = None) -> list[str]:
    """The sets that are there. Raises InputError when no data are found."""
    return sorted(path.parent.name for path in _data(data).glob("*/set.json"))


def load_set(name: str, data: Path | None = None) -> DataSet:
    """The set of that name, its cases sorted by name. Raises InputError: no data, no such set, damaged set.json."""
    base = _data(data)
    known = set_names(base)
    if name not in known:
        raise InputError(f"No set called {name!r}", f"Sets here: {', '.join(known)}")
    try:
        told = json.loads((base / name / "set.json").read_text(encoding="utf-8"))
        structures = _by_value(told["structures"])
        cases = tuple(
            Case(name, case, base / name / case, _names(told, info), info, bool(told.get("spacing_known", True)))
            for case, info in sorted(told["cases"].items())
            if (base / name / case).is_dir()
        )
        dims, trainable = int(told["dims"]), bool(told["licence_allows_training"])
        return DataSet(name, dims, str(told["modality"]), structures, trainable, cases)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise InputError(f"set.json of {name} is damaged") from problem


def held_out_cases(name: str, data: Path | None = None) -> tuple[Case, ...]:
    """The cases of a set that benchmarks may use and training never sees.

    A set that may not be trained on: all its cases. A set for training: its last ones (see HELD_OUT), else none.
    """
    found = load_set(name, data)
    if not found.trainable:
        return found.cases
    return found.cases[len(found.cases) - HELD_OUT.get(name, 0) :]


def training_cases(name: str, data: Path | None = None) -> tuple[Case, ...]:
    """The cases that may be trained on. Raises InputError for sets whose licence does not allow it."""
    found = load_set(name, data)
    if not found.trainable:
        allowed = ", ".join(one for one in set_names(data) if load_set(one, data).trainable)
        raise InputError(f"The set {name} may not be used for training", f"Allowed: {allowed}")
    return found.cases[: len(found.cases) - HELD_OUT.get(name, 0)]


def _data(data: Path | None) -> Path:
    found = data or find_data()
    if found is None:
        raise InputError("The labelled images are not here", "Set RAU_DATA to the folder that holds them")
    return found


def _by_value(structures: Mapping[str, str]) -> dict[int, str]:
    return {int(value): str(name) for value, name in structures.items()}


def _names(told: Mapping[str, Any], info: Mapping[str, Any]) -> dict[int, str]:
    """What the label values of one case mean: its own list, its task's structure, its modality's list, or the set's."""
    if "structures" in info:
        return _by_value(info["structures"])
    if "task" in info:
        return {1: str(told["tasks"][info["task"]]["structure"])}
    if info.get("modality") == "MR" and "structures_mr" in told:
        return _by_value(told["structures_mr"])
    return _by_value(told["structures"])


def _distinct(structures: tuple[Structure, ...]) -> tuple[Structure, ...]:
    """A set may use one name for several values: the later ones get their value behind it."""
    seen: set[str] = set()
    result = []
    for one in structures:
        result.append(replace(one, name=f"{one.name} {one.value}") if one.name.lower() in seen else one)
        seen.add(one.name.lower())
    return tuple(result)
