"""What the expert expects in the target, slice by slice, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rau.adaptation.expert import Training
from rau.adaptation.experts import Experts, train_experts
from rau.adaptation.gate import Evidence, Weights, fineness, weights_of
from rau.adaptation.views import Sheets, doubt_of
from rau.sam.pixels import Frame, from_square, to_square
from rau.volume.planes import Planes

if TYPE_CHECKING:
    import torch

    from rau.adaptation.pixel_encoder import PixelEncoder
    from rau.preparation import Case, CasePlane
    from rau.references.registration import Registered
    from rau.sam.propagation import Match

SMALL, USUAL, LARGE = 96, 256, 384  # pixels a side of the expert's square
DOUBLED = 128  # up to which a slice of a volume is doubled: finer squares gained nothing and cost seconds
SHEETS = 10  # annotated slices of a reference that are looked at, at most
OWN_SHARE = 0.8  # of the expert of the target's own corrected slices beside those of the references, in such a slice
OWN_DOUBT = 0.02  # of places in them, half squares
GRID = 48  # cells a side of the network's masks, for `fineness`


@dataclass(frozen=True)
class Guide:
    """expected: value -> (S, R, C) uint8, the experts' probability times 255. evidence: what is known of each value.

    laid: value -> (S, R, C) in 0 to 1 where registration expects it, or None; has_prior: whether it does.
    near: of what the user has drawn in slices of the target, how near they are, `rau.corrections.Corrected.beside`.
    planes: in how many the target is cut.
    """

    expected: dict[int, np.ndarray]
    evidence: dict[int, Evidence]
    laid: Callable[[int], np.ndarray | None]
    has_prior: Callable[[int], bool]
    near: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)
    planes: int = 1
    _candidates: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def weights(self, value: int, iou: float) -> Weights | None:
        """Shares of network, expert and registration in the result; None where there is no expert of the value."""
        if value not in self.expected:
            return None
        known = self.evidence[value]
        known = Evidence(known.trust, known.correlation, known.fineness, iou)
        planes = self.planes if self.expected[value].shape[0] > 1 else 0
        plain = weights_of(known, prior=self.has_prior(value), planes=planes)
        if value not in self.near:
            return plain
        return plain.towards(weights_of(known, prior=self.has_prior(value), corrected=True), self.near[value])

    def candidate(self, value: int) -> np.ndarray | None:
        """(S, R, C) uint8: expert and registration together, the network's mask prompt; None without an expert."""
        if value not in self.expected:
            return None
        if value not in self._candidates:
            prior = self.laid(value)
            share = weights_of(self.evidence[value], prior=prior is not None, network=False)
            total = share.expert * self.expected[value].astype(np.float32)
            if prior is not None:
                total += share.prior * 255 * prior
            self._candidates[value] = np.round(total).astype(np.uint8)
        return self._candidates[value]


def side_of(frame_shape: tuple[int, int], flat: bool) -> int:
    """Pixels of the expert's square. Slices of volumes: what they have, small ones twice over, from SMALL to USUAL.
    Pictures (flat): USUAL, large ones LARGE.
    """
    longest = max(frame_shape)
    if flat:
        return LARGE if longest > 400 else USUAL
    wanted = max(longest, min(2 * longest, DOUBLED))
    return int(np.clip(64 * np.ceil(wanted / 64), SMALL, USUAL))


def square_mm(planes: Planes) -> float:
    """The longer side of a slice, mm."""
    sizes = [
        n * s for i, (n, s) in enumerate(zip(planes.array.shape[:3], planes.spacing, strict=True)) if i != planes.axis
    ]
    return float(max(sizes))


def framed(planes: Planes, side: float) -> Frame:
    """Slices in the middle of a square of `side` mm."""
    plain, own = planes.frame, square_mm(planes)
    return Frame(plain.shape, (plain.fraction[0] * own / side, plain.fraction[1] * own / side))


def ordered(array: np.ndarray, axis: int) -> np.ndarray:
    """(..., 3) in (slice, row, column) order to (across the plane, its rows, its columns)."""
    return array[..., [axis, *(i for i in range(3) if i != axis)]]


def centres(size: int) -> torch.Tensor:
    """(S, S, 2) row and column of pixel centres, -1 to 1."""
    import torch

    line = (torch.arange(size) + 0.5) / size * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)


def across(index: float, planes: Planes, side: float) -> float:
    """Slice `index` as a place: from the middle of the volume, in halves of the square's side."""
    return float((index - (len(planes) - 1) / 2) * planes.spacing[planes.axis] / (side / 2))


def grey(images: torch.Tensor, colour: bool) -> torch.Tensor:
    """Three channels where both pictures have colours, else one."""
    return images if colour else images.mean(1, keepdim=True)


@dataclass(frozen=True)
class Square:
    """The square of one reference and the target. size: pixels; reference, target: sides, mm; colour: of both."""

    size: int
    reference: float
    target: float
    colour: bool


def sheets_of(match: Match, values: Sequence[int], square: Square) -> Sheets:
    """The annotated slices of a reference, evenly, and one on either side; or those that alone are annotated."""
    import torch

    images, labels = match.reference.images, match.reference.labels
    shown = np.unique(np.concatenate([match.reference.where[v] for v in values]))
    low, high = max(0, int(shown[0]) - 1), min(len(images) - 1, int(shown[-1]) + 1)
    there = np.arange(low, high + 1) if match.annotated is None else np.array(match.annotated)
    evenly = np.linspace(0, len(there) - 1, min(SHEETS, len(there))).round().astype(int)
    chosen = there[np.unique(evenly)].tolist()
    frame = framed(images, square.reference)
    pixels = grey(to_square(images.stack(chosen), frame, square.size), square.colour)
    lookup = np.zeros(int(max(labels.array.max(), *values)) + 1, np.uint16)
    lookup[list(values)] = np.arange(1, len(values) + 1)
    maps = lookup[labels.stack(chosen)]
    grid = torch.from_numpy(_nearest(maps, frame, square.size).astype(np.int64))
    places = [
        torch.cat(
            [torch.full((square.size, square.size, 1), across(z, images, square.reference)), centres(square.size)], 2
        )
        for z in chosen
    ]
    return Sheets(pixels, grid, torch.stack(places))


def _nearest(maps: np.ndarray, frame: Frame, size: int) -> np.ndarray:
    """(N, rows, columns) labels on the square, (N, size, size); nearest pixel, 0 outside."""
    top, left, height, width = frame.pixels(size)
    rows = np.minimum(((np.arange(height) + 0.5) * maps.shape[1] / height).astype(int), maps.shape[1] - 1)
    columns = np.minimum(((np.arange(width) + 0.5) * maps.shape[2] / width).astype(int), maps.shape[2] - 1)
    found = np.zeros((len(maps), size, size), maps.dtype)
    found[:, top : top + height, left : left + width] = maps[:, rows][:, :, columns]
    return found


class Places:
    """Where the pixels of a target slice lie in the reference: by registration, else by retrieval and position."""

    def __init__(self, target: Planes, match: Match, registered: Registered | None, square: Square) -> None:
        import torch

        self.target, self.match, self.square = target, match, square
        self.grid = centres(square.size)
        self.field: torch.Tensor | None = None
        if registered is not None:
            field = ordered(registered.places(), target.axis) / (square.reference / 2)
            self.field = torch.from_numpy(np.moveaxis(np.moveaxis(field, target.axis, 0), 3, 0).copy())[None].float()

    def of(self, t: int) -> torch.Tensor:
        """(S, S, 3) for slice t."""
        import torch
        import torch.nn.functional as F

        size = self.square.size
        if self.field is None:
            return self.plain(t)
        planes = self.target
        others = [i for i in range(3) if i != planes.axis]
        wanted = [torch.full((size, size), 2 * t / max(1, len(planes) - 1) - 1)]
        for k, axis in enumerate(others):
            last = max(1, planes.array.shape[axis] - 1)
            wanted.append(self.grid[..., k] * self.square.target / planes.spacing[axis] / last)
        sampled = F.grid_sample(
            self.field, torch.stack(wanted[::-1], -1)[None, None], padding_mode="border", align_corners=True
        )
        return sampled[0, :, 0].permute(1, 2, 0)

    def plain(self, t: int) -> torch.Tensor:
        """(S, S, 3) for slice t without registration: in the reference's slice that retrieval found, the same place."""
        import torch

        size = self.square.size
        here = across(float(self.match.index[t]), self.match.reference.images, self.square.reference)
        return torch.cat([torch.full((size, size, 1), here), self.grid], 2)


def square_for(plane: CasePlane, match: Match) -> Square:
    """Volumes are compared millimetre for millimetre, pictures side for side."""
    target, theirs = plane.images, match.reference.images
    flat = len(target) == len(theirs) == 1
    here, there = square_mm(target), square_mm(theirs)
    side = max(here, there)
    colour = target.array.ndim == theirs.array.ndim == 4
    return Square(side_of(target.frame.shape, flat), there if flat else side, here if flat else side, colour)


def within_reach(case: Case) -> bool:
    """Whether the experts' probabilities fit into memory beside the network's."""
    from rau.preparation import MOST_VOTES

    return len(case.values) * int(np.prod(case.target.shape[:3])) * 2 <= MOST_VOTES


def build_guide(case: Case, seed: int, go_on: Callable[[], None], encoder: PixelEncoder | None = None) -> Guide:
    """Train an expert of each reference and let it look at every slice of the target.

    go_on is called between slices, and raises to cancel. The experts' probabilities are averaged. encoder: of learnt
    features for the experts of pictures; in volumes it gained nothing over the filters (validation pairs) and cost
    seconds.
    """
    plane = case.planes[0]
    encoder = encoder if len(plane.images) == 1 else None
    known = [m for m in plane.retrieved if any(len(m.reference.where[v]) for v in m.reference.values)]
    totals: dict[int, np.ndarray] = {}
    seen: dict[int, list[Evidence]] = {}
    for match in known:
        for value, volume, evidence in expected_by(case, plane, match, seed, go_on, encoder):
            totals[value] = totals.get(value, 0) + volume.astype(np.uint16)
            seen.setdefault(value, []).append(evidence)
    expected = {v: np.round(total / len(seen[v])).astype(np.uint8) for v, total in totals.items()}
    known_of = {v: Evidence(*np.mean([one.numbers()[1:] for one in several], 0)) for v, several in seen.items()}
    near = put_right(case, plane, seed, go_on, expected)
    return Guide(expected, known_of, case.prior, case.has_prior, near, len(case.planes))


def put_right(
    case: Case, plane: CasePlane, seed: int, go_on: Callable[[], None], expected: dict[int, np.ndarray]
) -> dict[int, np.ndarray]:
    """What an expert of the target's own corrected slices says goes into `expected`, the more the nearer they are.

    Returns that nearness, of the structures that they show.
    """
    if case.corrected is None or plane.corrected is None or plane.corrected.reach is None:
        return {}
    if not any(case.corrected.shows(value) for value in expected):
        return {}
    near = {}
    for value, volume, _ in expected_by(case, plane, plane.corrected, seed, go_on):
        if value in expected:
            near[value] = case.corrected.beside(plane.corrected.reach[value], max(plane.corrected.reach.values()))
            share = OWN_SHARE * near[value]
            expected[value] = np.round(expected[value] * (1 - share) + volume * share).astype(np.uint8)
    return near


def expected_by(
    case: Case,
    plane: CasePlane,
    match: Match,
    seed: int,
    go_on: Callable[[], None],
    encoder: PixelEncoder | None = None,
) -> list[tuple[int, np.ndarray, Evidence]]:
    """(value, (S, R, C) uint8 probability, evidence) of every structure that this reference shows."""
    values = [v for v in match.reference.values if len(match.reference.where[v])]
    own = match is plane.corrected
    registered = None if own else case.references[match.number].registered
    square = square_for(plane, match)
    sheets = sheets_of(match, values, square)
    correlation = 1.0 if own else registered.after if registered is not None else 0.0
    doubt = OWN_DOUBT if own else doubt_of(correlation)
    experts = train_experts(sheets, len(values), Training(doubt=doubt, seed=seed), encoder, registered is not None)
    go_on()
    trust = np.nan_to_num(experts.trust, nan=0.5)
    fine = np.zeros(len(values))
    maps = sheets.labels.numpy()
    for k in range(len(values)):
        largest = (maps == k + 1).sum((1, 2)).argmax()
        fine[k] = fineness((maps[largest] == k + 1)[None], GRID)[0]
    volumes = looked_at(experts, plane.images, Places(plane.images, match, registered, square), square, go_on)
    return [
        (v, volumes[k], Evidence(float(trust[k]), max(0.0, correlation), float(fine[k]))) for k, v in enumerate(values)
    ]


def looked_at(
    experts: Experts, planes: Planes, places: Places, square: Square, go_on: Callable[[], None]
) -> list[np.ndarray]:
    """The experts' probabilities of every slice: K arrays (S, R, C) uint8."""
    frame = framed(planes, square.target)
    volumes = [np.zeros(planes.array.shape[:3], np.uint8) for _ in range(experts.structures)]
    for t in range(len(planes)):
        go_on()
        image = grey(to_square(planes[t][None], frame, square.size), square.colour)
        back = from_square(experts.predict(image, places.of(t)[None], places.plain(t)[None])[0], frame)
        for k, volume in enumerate(volumes):
            np.moveaxis(volume, planes.axis, 0)[t] = np.round(back[k] * 255)
    return volumes
