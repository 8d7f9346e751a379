"""What the adapter of a site learns from: slices of accepted cases, each with the slices of another one in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rau.errors import RauError
from rau.events import ignore
from rau.models.engine import Engine
from rau.preparation import canonical, prepare
from rau.references.reference import Reference
from rau.sam.pixels import masks_to_square, normalise, to_square
from rau.sam.segmenter import Features, Segmenter
from rau.settings import SegmentSettings
from rau.training.objective import loss_of
from rau.training.prompts import prompts_for
from rau.training.synthetic import Dice

SLICES = 16  # of a pair, evenly over those that show a structure
TOGETHER = 4  # slices of a step
PROMPTED = 0.6  # chance of a mask prompt, as registration or an expert would give it
PLAIN = SegmentSettings(planes="acquisition", adaptation="off", reasoning="off", quality="off", look="off")


@dataclass(frozen=True)
class Slice:
    """features: of one slice, from the base, whose encoder the adapter leaves alone. image: (1, S, S) in 0 to 1.

    masks: (K, 1, S, S), 0 or 1, of the lesson's structures.
    """

    features: Features
    image: torch.Tensor
    masks: torch.Tensor


@dataclass(frozen=True)
class Lesson:
    """A target slice and the reference slice that goes into memory for it. both: cases by their places in the list."""

    both: frozenset[int]
    reference: Slice
    target: Slice


def pairs_of(count: int) -> list[tuple[int, int]]:
    """(reference, target) by place: each case with the next two, so that any left-out case leaves pairs."""
    steps = (1, 2) if count > 2 else (1,)
    return [((k + step) % count, k) for k in range(count) for step in steps]


def lessons_of(cases: Sequence[Reference], engine: Engine, go_on: Callable[[], None]) -> list[Lesson]:
    """The lessons of all pairs that go together; pairs that do not (2-D and 3-D, no structure in common) give none."""
    found: list[Lesson] = []
    for one, other in pairs_of(len(cases)):
        go_on()
        names = {structure.name.strip().lower() for structure in cases[other].structures}
        shared = tuple(s.name for s in cases[one].structures if s.name.strip().lower() in names)
        if shared:
            try:
                found += lessons_of_pair((one, other), cases[one], cases[other], shared, engine)
            except RauError:
                continue
    return found


def lessons_of_pair(
    both: tuple[int, int], reference: Reference, target: Reference, shared: tuple[str, ...], engine: Engine
) -> list[Lesson]:
    """As `rau segment` would lay the reference on the target. Raises RauError: they do not go together."""
    settings = PLAIN.model_copy(update={"structures": shared})
    case = prepare([reference], target.image, settings, engine, ignore)
    plane, values = case.planes[0], case.values
    match, images = plane.matches[0], plane.images
    by_name = {one.name.strip().lower(): one.value for one in case.structures}
    table = np.zeros(int(target.labels.array.max(initial=0)) + 1, np.uint16)
    for structure in target.structures:
        if structure.value < len(table):
            table[structure.value] = by_name.get(structure.name.strip().lower(), 0)
    truth, _, _ = canonical(table[target.labels.array], target.image.geometry)
    others = tuple(axis for axis in range(3) if axis != images.axis)
    theirs = match.reference.labels
    shown = np.flatnonzero(truth.any(axis=others) | np.array([theirs[int(i)].any() for i in match.index]))
    chosen = shown[np.unique(np.linspace(0, len(shown) - 1, min(SLICES, len(shown))).round().astype(int))]
    found = []
    for t in chosen.tolist():
        before, here = theirs[int(match.index[t])], np.take(truth, t, images.axis)
        asked = [value for value in values if (before == value).any()]
        if asked:
            memory = slice_of(match.reference.images[int(match.index[t])], before, asked, theirs.frame, engine)
            found.append(Lesson(frozenset(both), memory, slice_of(images[t], here, asked, images.frame, engine)))
    return found


def slice_of(pixels: np.ndarray, labels: np.ndarray, values: Sequence[int], frame: object, engine: Engine) -> Slice:
    """pixels: (rows, columns[, 3]) uint8; labels alike."""
    segmenter = engine.segmenter
    image = to_square(pixels[None], frame, segmenter.size)  # type: ignore[arg-type]
    with torch.no_grad():
        features = segmenter.encode(normalise(image).to(segmenter.device))
    masks = np.stack([labels == value for value in values])
    return Slice(features, image.mean(1), masks_to_square(masks, frame, segmenter.size))  # type: ignore[arg-type]


def batch_of(lessons: Sequence[Lesson], structures: int, rng: np.random.Generator) -> list[tuple[Lesson, torch.Tensor]]:
    """Some lessons, each with some of its structures."""
    some = rng.permutation(len(lessons))[:TOGETHER]
    chosen = [lessons[k] for k in some]
    return [
        (one, torch.from_numpy(np.sort(rng.permutation(len(one.target.masks))[:structures]).copy())) for one in chosen
    ]


def loss_of_batch(
    segmenter: Segmenter, batch: Sequence[tuple[Lesson, torch.Tensor]], rng: np.random.Generator
) -> torch.Tensor:
    """Remember the references, decode the targets, compare with the truth."""
    rows = [(lesson, k) for lesson, index in batch for k in index.tolist()]

    def features(side: str) -> Features:
        several = [getattr(lesson, side).features for lesson, _ in rows]
        levels = tuple(torch.cat(level) for level in zip(*(one.levels for one in several), strict=True))
        positions = tuple(torch.cat(level) for level in zip(*(one.positions for one in several), strict=True))
        return Features(levels, positions)

    there = torch.stack([lesson.reference.masks[k] for lesson, k in rows])
    truth = torch.stack([lesson.target.masks[k] for lesson, k in rows])
    prompts = None
    if rng.random() < PROMPTED:
        image = torch.stack([lesson.target.image for lesson, _ in rows])
        prompts = prompts_for(truth, there, image, Dice(int(rng.integers(2**62)))).to(segmenter.device)
    memory = segmenter.remember(features("reference"), there.to(segmenter.device))
    masks = segmenter.decode(features("target"), [memory], [], prompts)
    truth = truth.to(segmenter.device)
    return loss_of(masks, truth, truth.flatten(1).sum(1) > 0)
