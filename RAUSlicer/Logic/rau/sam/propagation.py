"""One plane of the target, slice by slice from the best matched slice outwards, both ways.

Memory of a slice: its retrieved reference slices (conditioning) and the last slices done in that direction (a ring).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Union

import numpy as np

from rau.references.encoded import EncodedReference
from rau.references.retrieval import nearby
from rau.sam.groups import give_back
from rau.sam.hints import Hinted, Hints, Rows, decode
from rau.sam.pixels import from_square, normalise, to_square
from rau.sam.segmenter import Features, Memory, Segmenter
from rau.volume.planes import Planes

if TYPE_CHECKING:
    import torch

TRIMMED = 0.5  # seconds after which freed memory is handed back


@dataclass(frozen=True)
class Match:
    """For each target slice: the slice of one reference that fits it, and how well. index, similarity: (T,).

    number: which reference; -1: the target's own corrected slices. reach: slices within which a structure is looked
    for, by its value, where it is not the recipe's. annotated: the slices of the reference that are; None: all.
    """

    reference: EncodedReference
    number: int
    index: np.ndarray
    similarity: np.ndarray
    reach: Mapping[int, int] | None = None
    annotated: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SliceMasks:
    """A segmented slice. probability: (K', rows, columns) float32; values, presence, iou: of each row, K' alike.

    Rows are the structures that a reference shows near this slice; the others are taken as absent. neighbours: how many
    target slices were in memory. prompted: whether the network was told where an expert expects the structures. hinted:
    what the VLM told it, see `Hints.parts`. beyond: (K',), see `beyond`; empty: not known.
    """

    index: int
    values: tuple[int, ...]
    probability: np.ndarray
    presence: np.ndarray
    iou: np.ndarray
    reference: int
    reference_index: int
    similarity: float
    neighbours: int = 0
    prompted: bool = False
    hinted: tuple[str, ...] = ()
    beyond: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Recipe:
    """references: reference slices in memory. neighbours: length of the ring, at most what the model knows.

    pointers: slices of the walk, the neighbours among them, whose object pointers are attended to (SAM2's video: 15).
    neighbour_iou: predicted IoU from which a neighbour's mask is relied on; else the reference is remembered once more.

    reach: slices of the reference within which a structure may lie from the matched one, as a fraction of the
    structure's own extent (at least 2). step: every how many slices one is segmented, and of the reference remembered.
    """

    references: int = 3
    neighbours: int = 1
    reach: float = 0.35
    pointers: int = 0
    neighbour_iou: float = 0.0
    step: int = 1


def chosen_memories(
    segmenter: Segmenter, matches: Sequence[Match], t: int, value: int, recipe: Recipe
) -> list[tuple[Memory, int]]:
    """(memory, row) of the reference slices that show `value` near target slice t, best first; none: absent here.

    A corrected slice does not remember itself: what would be found without it tells how wrong that is.
    """
    found: list[tuple[float, EncodedReference, int]] = []
    for match in matches:
        if match.number < 0 and t in (match.annotated or ()):
            continue
        where = match.reference.where[value]
        extent = int(where[-1] - where[0]) + 1 if len(where) else 0
        reach = max(2, round(recipe.reach * extent)) if match.reach is None else match.reach[value]
        middle = int(match.index[t])
        stepped = where[where % recipe.step == middle % recipe.step]
        for index in nearby(middle, stepped if len(stepped) else where, recipe.references, reach):
            found.append((match.similarity[t] - 0.03 * abs(index - middle), match.reference, index))
    found.sort(key=lambda one: -one[0])
    rows = []
    for _, reference, index in found[: recipe.references]:
        memory, row_of = reference.memory(segmenter, index)
        rows.append((memory, row_of[value]))
    return rows


def ends_of(match: Match, value: int) -> tuple[float, float]:
    """First and last slice of the reference that show `value`; infinite where it is cut off by the reference's end.

    A reference that begins or stops within a structure does not say where the structure ends.
    """
    where, slices = match.reference.where[value], range(len(match.reference.images))
    shown = match.annotated or slices
    first = -np.inf if where[0] <= min(shown) else float(where[0])
    return first, np.inf if where[-1] >= max(shown) else float(where[-1])


def beyond(matches: Sequence[Match], t: int, value: int) -> float:
    """How far the slices matched to target slice t lie beyond the first or last one that shows `value`.

    In parts of the structure's extent in the reference, negative within it; mean over the references, -1 at most where
    a reference shows no end of it. Within the reach of a corrected slice of the target that shows it: not beyond.
    """
    found, drawn = [], np.inf
    for match in matches:
        where, middle = match.reference.where[value], int(match.index[t])
        if not len(where):
            continue
        if match.number < 0:
            away = max(where[0] - middle, middle - where[-1])
            drawn = min(drawn, away / max(1, match.reach[value] if match.reach else 1))
        else:
            first, last = ends_of(match, value)
            found.append(max(-1.0, max(first - middle, middle - last) / (where[-1] - where[0] + 1)))
    mean = float(np.mean(found)) if found else 0.0
    return min(mean, 0.0) if drawn <= 1 else mean


def pick_rows(chosen: Sequence[Sequence[tuple[Memory, int]]], slot: int) -> Memory:
    """Conditioning memory `slot` of every structure as one batch; a structure with fewer repeats its own."""
    import torch

    rows = []
    for one in chosen:
        memory, row = one[slot % len(one)]
        rows.append(memory.rows(torch.tensor([row], device=memory.pointer.device)))
    return Memory.stack(rows)


@dataclass(frozen=True)
class Done:
    """A slice that was segmented: its features, one row; the memory of its masks, a row for each of `values`.

    unsure: those of `values` whose mask is not to be relied on.
    """

    features: Features
    values: tuple[int, ...]
    memory: Memory
    unsure: tuple[int, ...] = ()

    def of(self, segmenter: Segmenter, values: Sequence[int]) -> Memory:
        """Memory of `values`; one that was not asked for here has an empty mask."""
        import torch

        missing = [value for value in values if value not in self.values]
        known, memory = [*self.values, *missing], self.memory
        if missing:
            empty = torch.zeros(len(missing), 1, segmenter.size, segmenter.size, device=segmenter.device)
            memory = Memory.stack([memory, segmenter.remember(self.features.expand(len(missing)), empty)])
        if known == list(values):
            return memory
        return memory.rows(torch.tensor([known.index(value) for value in values], device=segmenter.device))

    def relied_on(self, segmenter: Segmenter, values: Sequence[int], instead: Memory | None) -> Memory:
        """`of`, with the rows of `instead` for the structures of `unsure`."""
        memory = self.of(segmenter, values)
        doubtful = [k for k, value in enumerate(values) if value in self.unsure]
        if instead is None or not doubtful:
            return memory
        return memory.with_rows(doubtful, instead)


class Direction:
    """The ring of neighbours of one walk: the last slices done. Nothing else of a walk grows or is kept.

    length: slices attended to with their positions; pointers: slices in all, those further away by pointer alone.
    """

    def __init__(self, length: int, pointers: int = 0) -> None:
        self.length = length
        self.ring: deque[Done] = deque(maxlen=max(length, pointers if length else 0, 1))

    def push(self, done: Done) -> None:
        if not self.length:
            return
        if len(self.ring) >= self.length:
            last = self.ring[self.length - 1]
            self.ring[self.length - 1] = replace(last, memory=last.memory.only_pointer())
        self.ring.appendleft(done)

    def copy(self) -> Direction:
        twin = Direction(self.length)
        twin.ring = deque(self.ring, maxlen=self.ring.maxlen)
        return twin

    def memories(self, segmenter: Segmenter, values: Sequence[int], instead: Memory | None = None) -> list[Memory]:
        """Memories of the ring for these structures, nearest first. instead: of a reference, rows alike, for structures
        whose mask is not to be relied on.
        """
        near = [done.relied_on(segmenter, values, instead) for done in list(self.ring)[: self.length]]
        far = [one for one in list(self.ring)[self.length :] if set(values) <= set(one.values)]
        return [*near, *(one.of(segmenter, values) for one in far)]


Candidates = Callable[[int], Union[np.ndarray, None]]


@dataclass(frozen=True)
class Advice:
    """What the VLM says of the slices of a plane. of: (slice, values) -> hints, or None. hinted: who decodes tokens."""

    of: Callable[[int, Sequence[int]], Hints | None]
    hinted: Hinted | None = None


def prompts_of(
    candidates: Candidates | None, values: Sequence[int], t: int, planes: Planes, segmenter: Segmenter
) -> torch.Tensor | None:
    """(K, 1, S, S) mask prompts of slice t, 0 to 1; None where a structure has no candidate."""
    volumes = [] if candidates is None else [candidates(value) for value in values]
    slices = [np.take(volume, t, planes.axis) for volume in volumes if volume is not None]
    if not slices or len(slices) < len(values):
        return None
    return to_square(np.stack(slices), planes.sight, segmenter.size).to(segmenter.device)


def segment_slice(
    segmenter: Segmenter,
    planes: Planes,
    t: int,
    matches: Sequence[Match],
    recipe: Recipe,
    direction: Direction,
    candidates: Candidates | None = None,
    advice: Advice | None = None,
) -> SliceMasks:
    """All structures of target slice t in one batch; pushes the slice into the ring of `direction`.

    candidates: value -> (S, R, C) uint8 probabilities, where the structure is expected (`rau.adaptation.guide`).
    advice: what the VLM says of the slices of this plane.
    """
    import torch

    best = max((match for match in matches if match.number >= 0), key=lambda match: match.similarity[t])
    found = (best.number, int(best.index[t]), float(best.similarity[t]))
    values = best.reference.values
    chosen = {v: chosen_memories(segmenter, matches, t, v, recipe) for v in values}
    asked = [v for v in values if chosen[v]]
    if not asked:
        direction.ring.clear()
        empty = np.zeros((0, *planes.frame.shape), np.float32)
        return SliceMasks(t, (), empty, np.zeros(0), np.zeros(0), *found)
    picked = [chosen[v] for v in asked]
    slots = max(len(one) for one in picked)
    with torch.inference_mode():
        image = normalise(to_square(planes[t][None], planes.sight, segmenter.size)).to(segmenter.device)
        features = segmenter.encode(image)
        references = [pick_rows(picked, slot) for slot in range(slots)]
        neighbours = direction.memories(segmenter, asked, references[0])
        prompts = prompts_of(candidates, asked, t, planes, segmenter)
        hints = advice.of(t, asked) if advice is not None else None
        hinted = advice.hinted if advice is not None else None
        rows = Rows(features.expand(len(asked)), references, neighbours, prompts, bool(direction.length))
        masks = decode(segmenter, rows, asked, hints, hinted)
        probability = from_square(masks.logits[:, 0].sigmoid().cpu(), planes.sight)
        presence = masks.presence.sigmoid().cpu().numpy()
        iou = masks.iou.clamp(0, 1).cpu().numpy()
    if masks.memory is not None:
        unsure = tuple(value for value, told in zip(asked, iou) if told < recipe.neighbour_iou)
        direction.push(Done(features, tuple(asked), masks.memory, unsure))
    parts = hints.parts if hints is not None else ()
    past = np.array([beyond(matches, t, value) for value in asked])
    prompted = prompts is not None
    return SliceMasks(
        t, tuple(asked), probability, presence, iou, *found, len(neighbours), prompted, tuple(parts), past
    )


def key_slice(matches: Sequence[Match]) -> int:
    """The target slice to begin with: well matched, and matched to a slice that shows many structures."""
    richness = []
    for match in matches:
        shown = np.zeros(len(match.reference.images))
        for where in match.reference.where.values():
            shown[where] += 1
        richness.append(match.similarity + shown[match.index] / max(1.0, shown.max()))
    return int(np.mean(richness, axis=0).argmax())


def walks(matches: Sequence[Match], count: int, step: int = 1) -> tuple[range, range]:
    """The slices of both ways through `count` slices, every `step`-th: from the key slice on, and back from it."""
    start = key_slice(matches)
    return range(start, count, step), range(start - step, -1, -step)


def segment_plane(
    segmenter: Segmenter,
    planes: Planes,
    matches: Sequence[Match],
    recipe: Recipe,
    candidates: Candidates | None = None,
    advice: Advice | None = None,
) -> Iterator[SliceMasks]:
    """The slices of `walks`, each once: from the key slice to the end, then from it to the start.

    Nothing is kept of a slice but what is in the ring, whatever their number.
    """
    (start, *onwards), back = walks(matches, len(planes), recipe.step)
    forward = Direction(min(recipe.neighbours, segmenter.max_neighbours), recipe.pointers)
    yield segment_slice(segmenter, planes, start, matches, recipe, forward, candidates, advice)
    backward = forward.copy()
    clock = time.perf_counter()
    for t, direction in chain(((t, forward) for t in onwards), ((t, backward) for t in back)):
        found = segment_slice(segmenter, planes, t, matches, recipe, direction, candidates, advice)
        if time.perf_counter() - clock > TRIMMED:
            give_back()
            clock = time.perf_counter()
        yield found
