"""The variants that `mechanisms.py` compares: each mechanism off and on, from one run of everything before it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rau.adaptation.guide import Guide, build_guide
from rau.adaptation.prototype_case import Way, expected_by_prototypes
from rau.assembly.labels import PlaneVotes, assemble, drop_islands
from rau.evaluation.baselines import CONVEX_ADAM, copied
from rau.evaluation.metrics import dice, mask_of
from rau.events import ignore
from rau.look.closer import look_again
from rau.look.rules import Looks
from rau.models.engine import Engine
from rau.preparation import Case, prepare
from rau.references.reference import Reference
from rau.sam.propagation import Recipe, segment_plane
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Structure, Volume

ONE, TWO, THREE, PROMPTED = "one look", "two looks", "three looks", "two looks, prompted"
LOOKS = {TWO: Looks(), THREE: Looks(crops=2), PROMPTED: Looks(prompted=True)}
COPYING, ADAM, PLACE, EXPERT = "copying", "ConvexAdam", "registered place alone", "expert + place, no network"
ALONE = {
    "filters, registered": Way("registered", looks="filters"),
    "filters, Gaussian": Way("gaussian", looks="filters"),
    "odds, Gaussian": Way("gaussian"),
    "odds, registered": Way("registered"),
    "points, Gaussian": Way("gaussian", "points"),
    "points, registered": Way("registered", "points"),
    "points, registered, first form": Way("registered", "points", first=True),
}
BY_ADAM = {
    "filters, ConvexAdam": Way("registered", looks="filters"),
    "odds, ConvexAdam": Way("registered"),
}  # of volumes
BOTH = {"filters, both": Way("registered", looks="filters"), "odds, both": Way("registered")}  # the mean of both places
SOFT = 1.0  # voxels: sigma by which ConvexAdam's laid masks become places
BEST_ALONE = {False: "filters, registered", True: "odds, both"}  # of pictures, of volumes: by validation tasks
ADDED = {
    "added, filters": "filters, registered",
    "added, Gaussian": "odds, Gaussian",
    "added, registered": "odds, registered",
}


@dataclass(frozen=True)
class Row:
    """A structure of a pair. share: of the slices that show it, in the mean, 0 to 1. dice: by variant."""

    group: str
    pair: str
    structure: str
    volume: bool
    share: float
    dice: dict[str, float]


@dataclass(frozen=True)
class First:
    """Everything up to the first look. seconds: what it took."""

    case: Case
    guide: Guide
    votes: list[PlaneVotes]
    settings: SegmentSettings
    seconds: float

    def joined(
        self, votes: Sequence[PlaneVotes], prior: Callable | None = None, guide: Guide | None = None
    ) -> np.ndarray:
        """(S, R, C) labels."""
        threshold = self.settings.presence_threshold
        labels = assemble(votes, threshold, prior or self.case.prior, (), guide or self.guide)
        return drop_islands(labels, self.case.single)


def first_look(reference: Reference, target: Volume, engine: Engine, settings: SegmentSettings) -> First:
    """As `rau segment` does it, without VLM and plausibility."""
    start = time.perf_counter()
    case = prepare([reference], target, settings, engine, ignore)
    guide = build_guide(case, settings.seed, lambda: None, engine.pixels)
    recipe, votes = Recipe(settings.references_per_slice, settings.neighbours), []
    for plane in case.planes:
        vote = PlaneVotes(case.values, plane.images.array.shape[:3], plane.images.axis)
        for one in segment_plane(engine.segmenter, plane.images, plane.matches, recipe, guide.candidate):
            vote.add(one)
        votes.append(vote)
    return First(case, guide, votes, settings, time.perf_counter() - start)


def looked(first: First, engine: Engine, looks: Looks, labels: np.ndarray) -> np.ndarray:
    votes = copy.deepcopy(first.votes)
    planes = zip(first.case.planes, votes, strict=True)
    look_again(engine.segmenter, planes, labels, first.guide.candidate, looks, lambda: None)
    return first.joined(votes)


def from_probabilities(first: First, expected: dict[int, np.ndarray]) -> np.ndarray:
    """One label a voxel: the most probable structure, if over a half. expected: value -> (S, R, C) uint8."""
    labels, best = np.zeros(first.case.target.shape[:3], np.uint16), np.full(first.case.target.shape[:3], 127)
    for value, volume in expected.items():
        wins = volume > best
        labels[wins], best[wins] = value, volume[wins]
    return labels


def with_prior(first: First, expected: dict[int, np.ndarray]) -> np.ndarray:
    """The default, its registered prior replaced by what the prototypes make of it."""

    def prior(value: int) -> np.ndarray | None:
        return expected[value].astype(np.float32) / 255

    known = replace(first.guide, laid=prior, has_prior=lambda value: True, _candidates={})
    return first.joined(first.votes, prior, known)


def compared(
    group: str,
    pair: str,
    read: tuple[Reference, Volume, LabelMap],
    engine: Engine,
    settings: SegmentSettings,
    parts: Sequence[str],
) -> tuple[list[Row], dict[str, float]]:
    """All variants of the parts ("look", "prototype") on a pair: a row a structure; seconds by variant."""
    reference, target, truth = read
    first = first_look(reference, target, engine, settings)
    case, found, seconds = first.case, {ONE: first.joined(first.votes)}, {ONE: first.seconds}

    def run(name: str, make: Callable[[], np.ndarray], before: float = 0.0) -> None:
        start = time.perf_counter()
        found[name] = make()
        seconds[name] = before + time.perf_counter() - start

    if "look" in parts:
        for name, looks in LOOKS.items():
            run(name, lambda looks=looks: looked(first, engine, looks, found[ONE]), first.seconds)
    if "prototype" in parts:
        forth = case.orientation.forth
        run(COPYING, lambda: forth(copied(reference, target).array))
        ways, priors = dict(ALONE), dict[str, dict[int, np.ndarray]]()
        if CONVEX_ADAM.takes(target):
            run(ADAM, lambda: forth(CONVEX_ADAM.method(reference, target).array))
            ways |= BY_ADAM | BOTH
            laid = softened(found[ADAM], case.values)
            priors = dict.fromkeys(BY_ADAM, laid) | dict.fromkeys(BOTH, mixed(case, laid))
        run(PLACE, lambda: from_probabilities(first, placed(case)))
        run(EXPERT, lambda: from_probabilities(first, {v: first.guide.candidate(v) for v in first.guide.expected}))
        known: dict[str, dict[int, np.ndarray]] = {}
        for name, way in ways.items():

            def alone(name: str = name, way: Way = way) -> np.ndarray:
                known[name] = expected_by_prototypes(engine.segmenter, case, way, lambda: None, priors=priors.get(name))
                return from_probabilities(first, known[name])

            run(name, alone, seconds[ADAM] if name in priors else 0.0)
        for name, source in ADDED.items():
            run(name, lambda source=source: with_prior(first, known[source]), first.seconds + seconds[source])
    named = {one.value: one for one in case.structures}
    return rows_of(group, pair, truth, {k: case.orientation.back(v) for k, v in found.items()}, named), seconds


def softened(labels: np.ndarray, values: Sequence[int]) -> dict[int, np.ndarray]:
    """Laid labels as places: value -> (S, R, C) float32, 0 to 1."""
    from scipy.ndimage import gaussian_filter

    return {value: gaussian_filter((labels == value).astype(np.float32), SOFT) for value in values}


def mixed(case: Case, laid: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The mean of the places by the case's own registration and by another; the other's where there is no own."""
    own = {value: case.prior(value) for value in laid}
    return {v: place if (mine := own[v]) is None else (place + mine) / 2 for v, place in laid.items()}


def placed(case: Case) -> dict[int, np.ndarray]:
    """What registration alone says."""
    priors = {value: case.prior(value) for value in case.values}
    return {value: np.round(255 * one).astype(np.uint8) for value, one in priors.items() if one is not None}


def rows_of(
    group: str, pair: str, truth: LabelMap, found: dict[str, np.ndarray], structures: dict[int, Structure]
) -> list[Row]:
    """A row for every structure that the truth shows, by name, or that every variant draws in vain."""
    rows = []
    for value, structure in structures.items():
        mask = mask_of(truth, structure.name)
        scores = {name: dice(mask, labels == value) for name, labels in found.items()}
        known = {name: score for name, score in scores.items() if score is not None}
        if len(known) < len(scores):
            continue
        shares = mask.reshape(len(mask), -1).mean(1)
        shown = shares[shares > 0]
        volume = len(mask) > 1
        rows.append(Row(group, pair, structure.name, volume, float(shown.mean()) if len(shown) else 0.0, known))
    return rows
