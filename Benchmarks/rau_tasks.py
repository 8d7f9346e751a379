"""The fixed items of RAU's tables: dialogues about two slices, the same at every call, never trained on.

In distribution: what the training is validated on, patients and random anatomies that no step has seen, drawn with a
seed of its own. Out of distribution: slices of two subjects of the evaluation-only sets, volumes cut at the same
relative level. Every item is of the task "segment"; `to_label` and `to_boxes` ask the other questions of its slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import common
import numpy as np
import torch
import torch.nn.functional as F
from sets import pairs_for, spread

from rau.errors import RauError
from rau.evaluation.datasets import load_set, set_names
from rau.evaluation.pairs import Pair
from rau.sam.pixels import masks_to_square, to_square
from rau.training.batch import MIN_PIXELS, Batch, make_batch
from rau.training.data import Anatomies, Layout, Mixture
from rau.training.items import BOX_STRUCTURES, Item, Structure, draw
from rau.vlm.pictures import picture
from rau.vlm.reason import unique
from rau.volume.orientation import acquisition_axis, canonical
from rau.volume.planes import Planes
from rau.volume.volume import LabelMap, Volume
from rau.volume.window import to_uint8

IN, OUT = "in distribution", "out of distribution"
SEED = 2025
STRUCTURES = 6  # of an item at most, as in training
AT_ONCE = 8  # items drawn together
TRIES = 6  # draws for each eight items that are wanted
REMOVAL = 0.6  # chance that a rendered target lacks a structure, as in the validation of the training
QUICK_SETS = ("wbc", "oasis_trt20_2d")
LEVELS = (0.15, 0.85)  # of the labelled extent, between which volumes are cut


@dataclass(frozen=True)
class Group:
    """Items by source or set."""

    name: str
    sources: dict[str, list[Item]]

    def items(self) -> list[Item]:
        return [item for items in self.sources.values() for item in items]

    def some(self, count: int) -> Group:
        """At most `count` items, evenly over all of them."""
        pairs = [(name, item) for name, items in self.sources.items() for item in items]
        kept = pairs if len(pairs) <= count else [pairs[place * len(pairs) // count] for place in range(count)]
        return Group(self.name, {name: [item for other, item in kept if other == name] for name, _ in kept})


def validation_sources(data: Path | None, quick: bool, cache: Path | None = None) -> Mixture:
    """What the training validates on; a handful of random anatomies for a quick run."""
    from rau.training.sets import mixtures

    if quick:
        return Mixture((("anatomies", 1.0, Anatomies(SEED, 4)),))
    return mixtures(data, 0, cache, anatomies=2).validation


def inside(sources: Mixture, count: int, side: int) -> Group:
    """`count` items of each validation source, on squares of `side` pixels; of two subjects wherever there are two."""
    found: dict[str, list[Item]] = {}
    for name, _, source in sources.sources:
        kept, source.removal = source.removal, REMOVAL
        if isinstance(source, Anatomies):
            source.apart = 1.0
        items: list[Item] = []
        for attempt in range(TRIES * -(-count // AT_ONCE)):
            if len(items) < count:
                seed = (SEED, attempt)
                batch = make_batch(source, seed, Layout(1, 0), min(AT_ONCE, count), STRUCTURES, side)
                items += draw(batch, "segment", np.random.default_rng(seed))
        source.removal = kept
        found[name] = items[:count]
    return Group(IN, found)


def outside(count: int, side: int, names: Sequence[str] | None = None) -> Group:
    """At most `count` items of each evaluation-only set (or of those named). A set that cannot be read is told."""
    found = {}
    for name in set_names() if names is None else names:
        try:
            if not load_set(name).trainable:
                items = list(set_items(name, count, side))
                if items:
                    found[name] = items
        except RauError as problem:
            common.say(f"{name} is left out: {problem}")
    return Group(OUT, found)


def set_items(name: str, count: int, side: int) -> Iterator[Item]:
    """Pairs of a set by its fixed rule, evenly over them; of volumes several slices a pair."""
    pairs = spread(pairs_of_subjects(name), count)
    if not pairs:
        return
    levels = levels_of(-(-count // len(pairs))) if load_set(name).dims == 3 else [0.5]
    made = 0
    for number, pair in enumerate(pairs):
        reference, target, truth = common.read_pair(pair)
        for place, level in enumerate(levels):
            if made < count:
                seed = (SEED, number, place)
                item = item_of((reference.image, reference.labels), (target, truth), level, side, seed)
                if item is not None:
                    made += 1
                    yield item


def pairs_of_subjects(name: str) -> list[Pair]:
    """Without those whose reference and target are one subject."""
    return [one for one in pairs_for(name) if one.reference.subject != one.target.subject]


def levels_of(count: int) -> list[float]:
    return [float(level) for level in np.linspace(*LEVELS, count)] if count > 1 else [0.5]


@dataclass(frozen=True)
class Cut:
    """A slice on the square. picture: (S, S, 3) uint8; masks: (S, S) bool by lower-case name; names: as written."""

    picture: np.ndarray
    masks: dict[str, np.ndarray]
    names: dict[str, str]


def cut(image: Volume, labels: LabelMap, level: float, side: int) -> Cut:
    """The slice at `level` (0 to 1) of the labelled extent, across the axis that the slices were taken along."""
    pixels, geometry, orientation = canonical(to_uint8(image), image.geometry)
    maps = orientation.forth(labels.array)
    axis = acquisition_axis(geometry)
    shown = np.flatnonzero(maps.any(axis=tuple(one for one in range(3) if one != axis)))
    index = int(round(shown[0] + level * (shown[-1] - shown[0])))
    plane = Planes(pixels, axis, geometry.spacing)
    here = np.take(maps, index, axis)
    structures = [one for one in labels.structures if (here == one.value).any()]
    square = picture(to_square(plane[index][None], plane.frame, side)[0].numpy())
    if not structures:
        return Cut(square, {}, {})
    masks = masks_to_square(np.stack([here == one.value for one in structures]), plane.frame, side)[:, 0].numpy() > 0.5
    keys = [one.name.strip().lower() for one in structures]
    return Cut(square, dict(zip(keys, masks)), {key: one.name for key, one in zip(keys, structures)})


def item_of(
    reference: tuple[Volume, LabelMap],
    target: tuple[Volume, LabelMap],
    level: float,
    side: int,
    seed: Sequence[int],
) -> Item | None:
    """The item of two volumes or pictures; None where they share no structure at this level."""
    if not (reference[1].array.any() and target[1].array.any()):
        return None
    first, second = cut(*reference, level, side), cut(*target, level, side)
    return joined(first, second, np.random.default_rng(list(seed)))


def joined(first: Cut, second: Cut, rng: np.random.Generator) -> Item | None:
    """Up to six structures that the reference shows and the target shows clearly, or (one of them) not at all."""
    empty = np.zeros_like(next(iter(first.masks.values()))) if first.masks else None
    known = [key for key, mask in first.masks.items() if mask.sum() >= MIN_PIXELS]
    present = [key for key in known if key in second.masks and second.masks[key].sum() >= MIN_PIXELS]
    absent = [key for key in known if key not in second.masks]
    if not present or empty is None:
        return None
    chosen = [str(key) for key in rng.permutation(present)[:STRUCTURES]]
    if absent:
        chosen = [*chosen[: STRUCTURES - 1], str(rng.choice(absent))]
    names = unique({number: first.names[key] for number, key in enumerate(chosen)})
    structures = tuple(
        Structure(names[number], first.masks[key], second.masks.get(key, empty)) for number, key in enumerate(chosen)
    )
    return Item("segment", structures, (first.picture, second.picture))


def present_of(item: Item) -> list[int]:
    """Indices of the structures that the target shows."""
    return [k for k, one in enumerate(item.structures) if one.box is not None]


def to_label(item: Item, number: int) -> Item | None:
    """The item as a question for the name of a region, drawn by the number; None where there is only one name."""
    present = present_of(item)
    if not present or len(item.structures) < 2:
        return None
    chosen = int(np.random.default_rng([SEED, number]).choice(present))
    return replace(item, task="label", marked=chosen)


def labels_of(group: Group) -> Group:
    """The label questions of a group; sources without any are left out."""
    asked = {
        name: [one for number, item in enumerate(items) if (one := to_label(item, number)) is not None]
        for name, items in group.sources.items()
    }
    return Group(group.name, {name: items for name, items in asked.items() if items})


def to_boxes(item: Item) -> Item:
    """As a question for boxes in words: at most three structures, the present ones first."""
    present = present_of(item)
    order = [*present, *(k for k in range(len(item.structures)) if k not in present)]
    kept = tuple(item.structures[k] for k in sorted(order[:BOX_STRUCTURES]))
    return replace(item, task="boxes", structures=kept)


def batch_of(items: Sequence[Item], size: int = 0) -> tuple[Batch, list[Item]]:
    """Items as the batch that they might have been drawn from, and the items numbered by it.

    size: pixels a side, 0: those of the items.
    """
    images = torch.from_numpy(np.stack([np.stack(item.pictures) for item in items])).permute(0, 1, 4, 2, 3) / 255
    rows = [np.stack([one.reference, one.target]) for item in items for one in item.structures]
    masks = torch.from_numpy(np.stack(rows)).float()[:, :, None]
    if size and size != images.shape[-1]:
        images = resized(images.flatten(0, 1), size).view(*images.shape[:3], size, size)
        scaled = resized(masks.flatten(0, 1), size).view(*masks.shape[:3], size, size)
        masks = (scaled >= 0.5).float()
    of = torch.tensor([b for b, item in enumerate(items) for _ in item.structures])
    present = masks[:, 1].flatten(1).any(1)
    names = tuple(name for item in items for name in item.names)
    numbered = [replace(item, drawn=b) for b, item in enumerate(items)]
    return Batch(images, masks, of, present, Layout(1, 0), names), numbered


def resized(maps: torch.Tensor, size: int) -> torch.Tensor:
    """(N, C, S, S) to `size` pixels a side."""
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
