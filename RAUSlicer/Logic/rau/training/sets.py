"""The labelled sets that `rau-mini` learns from, split into training and validation patients.

Only sets whose licence allows training are read; held-out cases (see `rau.evaluation.datasets`) never are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rau.errors import InputError
from rau.evaluation.datasets import Case, training_cases
from rau.training.data import Anatomies, Mixture, Patient, Patients, Source, as_patient
from rau.volume.orientation import canonical

LANDMARKS = {"synthseg_labelmaps": (2, 41)}  # cerebral white matter: heads are cut at different necks
CT, MR = "computed tomography", "magnetic resonance"
MODALITY = {"hc18": "ultrasound"}  # of sets that are not magnetic resonance; CT is known by its numbers
VALIDATION = {"msd_hippocampus": 6, "hc18": 2, "synthseg_labelmaps": 2}  # the last of the rest


def cases_of(data: Path, name: str) -> tuple[Sequence[Case], Sequence[Case]]:
    """(training, validation) cases of a set. Raises InputError where training is not allowed."""
    cases = training_cases(name, data)
    cut = len(cases) - VALIDATION.get(name, 0)
    return cases[:cut], cases[cut:]


def read_patient(case: Case, landmarks: Sequence[int] = ()) -> Patient:
    """A case as a `Patient`: canonical orientation, 8-bit; an image where there is one."""
    try:
        shown = bool(case.image_path)
    except InputError:
        shown = False
    image, labels = case.read() if shown else (None, case.read_labels())
    maps, geometry, orientation = canonical(labels.array, labels.geometry)
    pixels = None if image is None else eight_bit(orientation.forth(image.array))
    names = {one.value: one.name for one in labels.structures}
    modality = CT if image is not None and image.modality == "CT" else MODALITY.get(case.set, MR)
    return as_patient(pixels, maps, geometry.spacing, landmarks, names, modality)


def eight_bit(image: np.ndarray) -> np.ndarray:
    """CT (values below -500) by the soft tissue window, the rest by the 0.5 and 99.5 percentiles; uint8."""
    if image.dtype == np.uint8:
        return image
    low, high = (-160.0, 240.0) if image.min() < -500 else np.percentile(image, [0.5, 99.5])
    return (np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def phantoms(seeds: Sequence[int]) -> list[Patient]:
    """Synthetic patients of `rau.training.patient`, two of each seed (the demo's seeds are below 100: never these)."""
    from rau.training.patient import patient_pair

    people = []
    for seed in seeds:
        reference, target = patient_pair(seed)
        for image, labels in ((reference.image, reference.labels), target):
            pixels, geometry, orientation = canonical(image.array, image.geometry)
            names = {one.value: one.name for one in labels.structures}
            maps = orientation.forth(labels.array)
            people.append(as_patient(eight_bit(pixels), maps, geometry.spacing, names=names, modality=CT))
    return people


@dataclass(frozen=True)
class Shares:
    """How often a source is drawn: by the encoder; by the segmenter while its tasks grow harder; and afterwards."""

    encoder: float
    easy: float
    hard: float


@dataclass(frozen=True)
class Use:
    """What is drawn from a set. real: chance of real pictures. same: chance of one patient deformed twice."""

    shares: Shares
    planes: tuple[int, ...]
    real: float
    same: float


RECIPE = {
    "msd_hippocampus": Use(Shares(0.22, 0.22, 0.22), (0, 1, 2), 0.85, 0.0),
    "synthseg_labelmaps": Use(Shares(0.15, 0.12, 0.12), (0, 1, 2), 0.0, 0.15),
    "totalsegmentator": Use(Shares(0.11, 0.11, 0.13), (0, 0, 1, 2), 0.5, 1.0),
    "hc18": Use(Shares(0.05, 0.05, 0.15), (0,), 0.9, 0.1),
    "msd_prostate": Use(Shares(0.03, 0.03, 0.05), (0,), 0.6, 0.7),
    "sct_spinalcord": Use(Shares(0.02, 0.02, 0.03), (0, 2), 0.5, 0.7),
    "pyradiomics_brain": Use(Shares(0.01, 0.01, 0.01), (0,), 0.6, 0.7),
}
ANATOMIES = Shares(0.45, 0.36, 0.33)
PHANTOMS = Shares(0.0, 0.10, 0.05)


@dataclass(frozen=True)
class Mixtures:
    """The same sources in the shares of `Shares`, and what is validated on (never trained on)."""

    encoder: Mixture
    easy: Mixture
    hard: Mixture
    validation: Mixture


def mixtures(
    data: Path | None, seed: int, cache: Path | None = None, anatomies: int = 1200, workers: int = 0
) -> Mixtures:
    """Sources for training. data: the folder of the sets; None, or a set that is missing: the synthetic ones alone.

    workers: processes that draw the random anatomies.
    """
    pool = Anatomies(seed, anatomies, cache, workers=workers)
    made: list[tuple[str, Shares, Source]] = [("anatomies", ANATOMIES, pool)]
    validation: list[tuple[str, float, Source]] = [("anatomies", 1.0, Anatomies(seed + 1000, 60, cache))]
    for name, use in RECIPE.items():
        if data is None or not (data / name).is_dir():
            continue
        train, check = cases_of(data, name)
        marks = LANDMARKS.get(name, ())
        people = [read_patient(case, marks) for case in train]
        made.append((name, use.shares, Patients(people, use.planes, use.real, use.same)))
        if check:
            people = [read_patient(case, marks) for case in check]
            validation.append((name, 1.0, Patients(people, use.planes, use.real, 0.0)))
    axial = (0, 0, 0, 1, 2)
    made.append(("phantoms", PHANTOMS, Patients(phantoms(range(100, 116)), axial, 0.7, 0.1)))
    validation.append(("phantoms", 1.0, Patients(phantoms(range(200, 202)), axial, 1.0, 0.0)))
    return Mixtures(
        Mixture(tuple((name, shares.encoder, source) for name, shares, source in made)),
        Mixture(tuple((name, shares.easy, source) for name, shares, source in made)),
        Mixture(tuple((name, shares.hard, source) for name, shares, source in made)),
        Mixture(tuple(validation)),
    )
