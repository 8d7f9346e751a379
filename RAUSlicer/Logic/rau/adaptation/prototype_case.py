"""A whole target by prototypes: where each structure is expected, without any training, from one reference or several.

Beside the paper's own way (SAM2 led by points, `rau.adaptation.prototype_passes`) stands one that needs no decoder: the
place as the odds before, the likeness as what the slice itself says, by an encoder's features or by a pixel's filters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rau.adaptation.discriminant import Discriminant, discriminant
from rau.adaptation.features import filter_bank
from rau.adaptation.gate import fineness
from rau.adaptation.guide import GRID, grey, side_of
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
KEPT = 16  # slices whose filters are held at once: 5 MB each, 18 of large pictures in colours
COUNTS, SURE = 3.0, 1.1  # of the filters' log-odds: COUNTS * their reliability * (SURE - trust in the place)


@dataclass(frozen=True)
class Way:
    """place: where the structure is expected: by registration (by the Gaussians where there is none), by Gaussians of
    the reference's mask, or nowhere. by: "odds" joins place and likeness; "points" leads SAM2. first: the first form.
    looks: what the odds take the likeness from, the encoder's prototypes or the discriminant of a pixel's filters.
    """

    place: Literal["registered", "gaussian", "none"] = "registered"
    by: Literal["odds", "points"] = "odds"
    first: bool = False
    looks: Literal["encoder", "filters"] = "encoder"


@dataclass(frozen=True)
class Shown:
    """Slices of the references that show a structure near a target slice. features: B rows; masks: (B, 1, S, S).

    mask: (rows, columns) of the best of them, on its own slice.
    """

    features: Features
    masks: torch.Tensor
    mask: np.ndarray


Near = list[tuple["Match", int]]  # slices of the references, best first


class Prototypes:
    """The references of one plane, encoded once. priors: see `expected_by_prototypes`."""

    def __init__(
        self, segmenter: Segmenter, case: Case, plane: CasePlane, priors: Mapping[int, np.ndarray] | None = None
    ) -> None:
        self.segmenter, self.case, self.plane = segmenter, case, plane
        self._encoded: dict[tuple[int, int], Features] = {}
        self._priors: dict[int, np.ndarray | None] = dict(priors or {})
        self._filtered: dict[tuple[int, int], torch.Tensor] = {}
        self._told: dict[tuple[int, tuple[tuple[int, int], ...]], tuple[Discriminant | None, float]] = {}

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

    def filters(self, match: Match | None, index: int) -> torch.Tensor:
        """(D, H, W) of a slice of a reference, or of the target (None), without the borders of its square."""
        images = self.plane.images if match is None else match.reference.images
        key = (-1 if match is None else match.number, index)
        if key not in self._filtered:
            references = [one.reference.images for one in self.plane.retrieved]
            colour = all(one.array.ndim == 4 for one in (self.plane.images, *references))
            size = side_of(self.plane.images.frame.shape, len(self.plane.images) == 1)
            pixels = grey(to_square(images[index][None], images.frame, size), colour)
            top, left, height, width = images.frame.pixels(size)
            found = filter_bank(pixels)[0][:, top : top + height, left : left + width]
            while len(self._filtered) >= KEPT:
                del self._filtered[next(iter(self._filtered))]
            self._filtered[key] = found
        return self._filtered[key]

    def discriminant(self, near: Near, value: int) -> tuple[Discriminant | None, float]:
        """What tells a structure from the rest in these slices, and how fine it is, see `rau.adaptation.gate`."""
        import torch
        import torch.nn.functional as F

        key = (value, tuple((match.number, index) for match, index in near))
        if key not in self._told:
            features, shares = [], []
            for match, index in near:
                found = self.filters(match, index)
                mask = torch.from_numpy((match.reference.labels[index] == value).astype(np.float32))[None, None]
                features.append(found.flatten(1).T)
                shares.append(F.interpolate(mask, size=found.shape[1:], mode="area")[0])
            largest = max(shares, key=lambda share: float(share.sum()))
            fine = float(fineness((largest > 0.5).numpy(), GRID)[0])
            told = discriminant(torch.cat(features), torch.cat([share.flatten() for share in shares]))
            self._told[key] = (told, fine)
        return self._told[key]

    def near(self, t: int, value: int) -> Near:
        """Of every reference the SHOWN slices nearest to the one matched to t, best first; none: absent here."""
        chosen: list[tuple[float, Match, int]] = []
        for match in self.plane.retrieved:
            where = match.reference.where[value]
            extent = int(where[-1] - where[0]) + 1 if len(where) else 0
            middle = int(match.index[t])
            for index in nearby(middle, where, SHOWN, max(2, round(REACH * extent))):
                chosen.append((float(match.similarity[t]) - 0.03 * abs(index - middle), match, index))
        chosen.sort(key=lambda one: -one[0])
        return [(match, index) for _, match, index in chosen]

    def shown(self, t: int, value: int) -> Shown | None:
        """These slices encoded; None where no reference shows the structure near."""
        import torch

        from rau.sam.segmenter import Features

        near = self.near(t, value)
        if not near:
            return None
        encoded = [self.encode(match, index) for match, index in near]
        masks = [match.reference.labels[index] == value for match, index in near]
        squares = [
            masks_to_square(mask[None], match.reference.labels.frame, self.segmenter.size)
            for mask, (match, _) in zip(masks, near, strict=True)
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


def odds_of(place: np.ndarray) -> np.ndarray:
    """The log-odds of a place, never surer than FAINT."""
    sure = np.clip(place, FAINT, 1 - FAINT)
    return np.asarray(np.log(sure / (1 - sure)))


def by_odds(one: Prototypes, shown: Shown, top: torch.Tensor, place: np.ndarray | None, weight: float) -> np.ndarray:
    """(rows, columns) in 0 to 1: logit of the place + weight * (contrast - CLEAR)."""
    from scipy.special import expit

    known = prototype(shown.features.levels[-1], shown.masks)
    if known is None:
        return np.zeros(one.plane.images.frame.shape, np.float32)
    rest = prototype(shown.features.levels[-1], 1 - shown.masks)
    scores = from_square(contrast(known, rest, top)[None].cpu(), one.plane.images.frame)[0]
    before = 0.0 if place is None else odds_of(place)
    return np.asarray(expit(before + weight * (scores - CLEAR)), np.float32)


def by_filters(one: Prototypes, t: int, value: int, way: Way, trust: float) -> np.ndarray:
    """(rows, columns) in 0 to 1: logit of the place + COUNTS * reliability * (SURE - trust') * log-odds of the filters.

    trust' = trust * (1 - fineness): a fine structure is not where registration says, however alike the images are.
    Without a place: of the share of the slice that the structure has in the reference.
    """
    from scipy.special import expit

    shape, near = one.plane.images.frame.shape, one.near(t, value)
    told, fine = one.discriminant(near, value) if near else (None, 0.0)
    if told is None:
        return np.zeros(shape, np.float32)
    mask = near[0][0].reference.labels[near[0][1]] == value
    place = one.place(t, value, mask, way)
    before = odds_of(np.full(shape, mask.mean()) if place is None else place)
    found = stretched_to(told.odds(one.filters(None, t)).numpy(), shape)
    weight = COUNTS * told.reliability * (SURE - trust * (1 - fine))
    return np.asarray(expit(before + weight * found), np.float32)


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
    segmenter: Segmenter,
    case: Case,
    way: Way,
    go_on: Callable[[], None],
    values: Sequence[int] | None = None,
    priors: Mapping[int, np.ndarray] | None = None,
) -> dict[int, np.ndarray]:
    """value -> (S, R, C) uint8, the probability times 255, slice by slice across the acquisition axis.

    A structure is 0 where no reference shows it near. Likeness counts the more, the less alike registration made the
    images. go_on is called between slices, and raises to cancel. priors: value -> (S, R, C) in 0 to 1, the reference's
    masks as another registration lays them on the canonical target; they take the place of those of the case.
    """
    import torch

    plane = case.planes[0]
    one = Prototypes(segmenter, case, plane, priors)
    trust = one.trust() if way.place == "registered" else 0.0
    wanted = case.values if values is None else values
    out = {value: np.zeros(case.target.shape[:3], np.uint8) for value in wanted}
    with torch.inference_mode():
        for t in range(len(plane.images)):
            go_on()
            features = one.target(t) if (way.by, way.looks) != ("odds", "filters") else None
            for value in wanted:
                if features is None:
                    found = by_filters(one, t, value, way, trust)
                else:
                    found = by_encoder(one, t, value, features, way, 2.0 - trust)
                np.moveaxis(out[value], plane.images.axis, 0)[t] = np.round(255 * found)
    return out


def by_encoder(one: Prototypes, t: int, value: int, features: Features, way: Way, weight: float) -> np.ndarray:
    """(rows, columns) in 0 to 1, by prototypes of the encoder's features; 0 where no reference shows the structure."""
    shown = one.shown(t, value)
    if shown is None:
        return np.zeros(one.plane.images.frame.shape, np.float32)
    place = one.place(t, value, shown.mask, way)
    if way.by == "odds":
        return by_odds(one, shown, features.levels[-1], place, weight)
    return by_points(one, shown, features, place, way.first)
