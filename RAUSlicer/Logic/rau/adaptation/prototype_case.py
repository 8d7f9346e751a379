"""A whole target by prototypes: where each structure is expected, without any training, from one reference or several.

Beside the paper's own way (SAM2 led by points, `rau.adaptation.prototype_passes`) stands one that needs no decoder: the
place as the odds before, the likeness as what the slice itself says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rau.adaptation.prototype import gaussian_place, prototype
from rau.adaptation.prototype_passes import led
from rau.references.retrieval import nearby
from rau.sam.pixels import from_square, masks_to_square, normalise, to_square

if TYPE_CHECKING:
    import torch

    from rau.preparation import Case, CasePlane
    from rau.sam.propagation import Match
    from rau.sam.segmenter import Features, Segmenter

SHOWN = 3  # slices of a reference that a prototype is the mean of
REACH = 0.35  # of a structure's own extent, as `rau.sam.propagation.Recipe.reach`
FAINT = 0.02  # the place is never surer than this, or 1 - this
CLEAR = 0.5  # deviations by which a position must be more alike than the mean to speak for the structure


@dataclass(frozen=True)
class Way:
    """place: where the structure is expected: by registration (by the Gaussians where there is none), by Gaussians of
    the reference's mask, or nowhere. by: "odds" joins place and likeness; "points" leads SAM2. first: the first form.
    """

    place: Literal["registered", "gaussian", "none"] = "registered"
    by: Literal["odds", "points"] = "odds"
    first: bool = False


@dataclass(frozen=True)
class Shown:
    """Slices of the references that show a structure near a target slice. features: B rows; masks: (B, 1, S, S).

    mask: (rows, columns) of the best of them, on its own slice.
    """

    features: Features
    masks: torch.Tensor
    mask: np.ndarray


class Prototypes:
    """The references of one plane, encoded once."""

    def __init__(self, segmenter: Segmenter, case: Case, plane: CasePlane) -> None:
        self.segmenter, self.case, self.plane = segmenter, case, plane
        self._encoded: dict[tuple[int, int], Features] = {}
        self._priors: dict[int, np.ndarray | None] = {}

    def encode(self, match: Match, index: int) -> Features:
        key = (match.number, index)
        if key not in self._encoded:
            images = match.reference.images
            self._encoded[key] = self._features(to_square(images[index][None], images.frame, self.segmenter.size))
        return self._encoded[key]

    def target(self, t: int) -> Features:
        images = self.plane.images
        return self._features(to_square(images[t][None], images.frame, self.segmenter.size))

    def _features(self, square: torch.Tensor) -> Features:
        return self.segmenter.encode(normalise(square).to(self.segmenter.device))

    def shown(self, t: int, value: int) -> Shown | None:
        """Of every reference the SHOWN nearest slices; None where no reference shows it near."""
        import torch

        from rau.sam.segmenter import Features

        chosen: list[tuple[float, Match, int]] = []
        for match in self.plane.retrieved:
            where = match.reference.where[value]
            extent = int(where[-1] - where[0]) + 1 if len(where) else 0
            middle = int(match.index[t])
            for index in nearby(middle, where, SHOWN, max(2, round(REACH * extent))):
                chosen.append((float(match.similarity[t]) - 0.03 * abs(index - middle), match, index))
        if not chosen:
            return None
        chosen.sort(key=lambda one: -one[0])
        encoded = [self.encode(match, index) for _, match, index in chosen]
        masks = [match.reference.labels[index] == value for _, match, index in chosen]
        squares = [
            masks_to_square(mask[None], match.reference.labels.frame, self.segmenter.size)
            for mask, (_, match, _) in zip(masks, chosen, strict=True)
        ]
        levels = zip(*(one.levels for one in encoded), strict=True)
        positions = zip(*(one.positions for one in encoded), strict=True)
        joined = Features(tuple(torch.cat(x) for x in levels), tuple(torch.cat(x) for x in positions))
        return Shown(joined, torch.cat(squares).to(self.segmenter.device), masks[0])

    def place(self, t: int, value: int, mask: np.ndarray, way: Way) -> np.ndarray | None:
        """(rows, columns) float32, 0 to 1, where the structure is expected in slice t; None: anywhere."""
        shape = self.plane.images.frame.shape
        if way.place == "registered" and value not in self._priors:
            self._priors[value] = self.case.prior(value)
        prior = self._priors.get(value)
        if prior is not None:
            return np.take(prior, t, self.plane.images.axis)
        return None if way.place == "none" else stretched_to(gaussian_place(mask, self.segmenter.size // 4), shape)

    def trust(self) -> float:
        """How alike registration made target and references: correlation, 0 to 1."""
        found = [one.registered.after for one in self.case.references if one.registered is not None]
        return float(np.clip(np.mean(found), 0, 1)) if found else 0.0


def stretched_to(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(R, C) to `shape`, bilinear, border on border."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
    return F.interpolate(x, size=shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def contrast(known: torch.Tensor, others: torch.Tensor | None, top: torch.Tensor) -> torch.Tensor:
    """How much more each position looks like the structure than like the rest of the reference: z-scores, (T, T).

    known, others: (C,) prototypes of structure and rest; top: (1, C, T, T).
    """
    import torch
    import torch.nn.functional as F

    unit = F.normalize(top[0], dim=0)
    found = torch.einsum("c,cyx->yx", known, unit)
    if others is not None:
        found = found - torch.einsum("c,cyx->yx", others, unit)
    return (found - found.mean()) / (found.std(correction=0) + 1e-6)


def by_odds(one: Prototypes, shown: Shown, top: torch.Tensor, place: np.ndarray | None, weight: float) -> np.ndarray:
    """(rows, columns) in 0 to 1: logit of the place + weight * (contrast - CLEAR)."""
    known = prototype(shown.features.levels[-1], shown.masks)
    if known is None:
        return np.zeros(one.plane.images.frame.shape, np.float32)
    rest = prototype(shown.features.levels[-1], 1 - shown.masks)
    scores = from_square(contrast(known, rest, top)[None].cpu(), one.plane.images.frame)[0]
    before = 0.0
    if place is not None:
        sure = np.clip(place, FAINT, 1 - FAINT)
        before = np.log(sure / (1 - sure))
    return np.asarray(1 / (1 + np.exp(-(before + weight * (scores - CLEAR)))), np.float32)


def by_points(one: Prototypes, shown: Shown, features: Features, place: np.ndarray | None, first: bool) -> np.ndarray:
    """(rows, columns) in 0 to 1: SAM2 led by points (`rau.adaptation.prototype_passes.led`)."""
    import torch

    frame, segmenter = one.plane.images.frame, one.segmenter
    known = prototype(shown.features.levels[-1], shown.masks)
    if known is None:
        return np.zeros(frame.shape, np.float32)
    square = None
    if place is not None:
        square = to_square(np.round(255 * place).astype(np.uint8)[None], frame, segmenter.size).to(segmenter.device)
    there = (shown.features.levels[-1][:1], shown.masks[:1]) if first else None
    masks = led(segmenter, features, known[None], square, there)
    found = masks.logits[:, 0].sigmoid() * (masks.presence > 0)[:, None, None]
    return from_square(torch.as_tensor(found).cpu(), frame)[0]


def expected_by_prototypes(
    segmenter: Segmenter, case: Case, way: Way, go_on: Callable[[], None], values: Sequence[int] | None = None
) -> dict[int, np.ndarray]:
    """value -> (S, R, C) uint8, the probability times 255, slice by slice across the acquisition axis.

    A structure is 0 where no reference shows it near. Likeness counts the more, the less alike registration made the
    images. go_on is called between slices, and raises to cancel.
    """
    import torch

    plane = case.planes[0]
    one = Prototypes(segmenter, case, plane)
    weight = 2.0 - (one.trust() if way.place == "registered" else 0.0)
    wanted = case.values if values is None else values
    out = {value: np.zeros(case.target.shape[:3], np.uint8) for value in wanted}
    with torch.inference_mode():
        for t in range(len(plane.images)):
            go_on()
            features = one.target(t)
            for value in wanted:
                shown = one.shown(t, value)
                if shown is None:
                    continue
                place = one.place(t, value, shown.mask, way)
                if way.by == "odds":
                    found = by_odds(one, shown, features.levels[-1], place, weight)
                else:
                    found = by_points(one, shown, features, place, way.first)
                np.moveaxis(out[value], plane.images.axis, 0)[t] = np.round(255 * found)
    return out
