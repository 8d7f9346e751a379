"""Training items of the VLM: a batch of reference and target slices as dialogues with answers and dense truths.

The recipe (papers.md A5): a target slice and a slice of another subject at its level; up to `k` structures, at most one
absent; one of three tasks. A structure is called by its own name, by another structure's (so that the legend must be
read), or "region A". Axes: B dialogues, K structures of all of them, GR = cells a side of the heads' masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rau.training.batch import Batch
from rau.training.data import Rng
from rau.training.lessons import thought_of
from rau.vlm.answers import write_boxes, write_label, write_segments
from rau.vlm.boxes import Box, Convention, box_of_mask
from rau.vlm.dialogue import ABSENT, Dialogue, Encoded, encode, token_of
from rau.vlm.heads import share_of
from rau.vlm.pictures import marked, overlay, picture
from rau.vlm.prompts import GRID, MOST, Task, question
from rau.vlm.vocabulary import NAMES

OWN_NAME = 0.7  # chance that structures are called by their names, where they have one
TRUTHFUL = 0.3  # chance that the answer of a segmentation item says "absent", and gives no state there
BOX_STRUCTURES = 3  # most in a box item: its answer is long
NOTHING: Box = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Structure:
    """One structure of an item. reference, target: (S, S) bool; target is all False where it is absent."""

    name: str
    reference: np.ndarray
    target: np.ndarray

    @property
    def anchor(self) -> Box:
        return box_of_mask(self.reference) or NOTHING

    @property
    def box(self) -> Box | None:
        return box_of_mask(self.target)


@dataclass(frozen=True)
class Item:
    """A dialogue and what is true of it. pictures: reference and target, (S, S, 3) uint8. marked: index, or None.

    drawn: its task in the batch that it was drawn from. thought: what the answer of a labelling item says of the marked
    region before its line of the legend; "": where it lies.
    """

    task: Task
    structures: tuple[Structure, ...]
    pictures: tuple[np.ndarray, np.ndarray]
    marked: int | None = None
    drawn: int = 0
    thought: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.structures)

    def images(self) -> tuple[np.ndarray, ...]:
        """Reference, reference with its structures in colours, target (with a mark where the task wants one)."""
        reference, target = self.pictures
        if self.marked is not None:
            target = marked(target, self.structures[self.marked].target)
        return reference, overlay(reference, [one.reference for one in self.structures]), target

    def question(self, convention: Convention = GRID) -> str:
        return question(self.task, {one.name: one.anchor for one in self.structures}, convention)

    def answer(self, forced: bool, convention: Convention = GRID) -> str:
        """forced: `<Seg>` for every structure, the absent ones too, so that a state of each can be read."""
        if self.task == "segment":
            return write_segments({one.name: forced or one.box is not None for one in self.structures})
        if self.task == "boxes":
            return write_boxes({one.name: one.box for one in self.structures}, convention)
        marked = self.marked or 0
        chosen = self.structures[marked]
        where = self.thought or place_of(chosen.target)
        return write_label(chosen.name, think=thought_of(where, marked, chosen.name))

    def dialogue(self, forced: bool = True, answered: bool = True, convention: Convention = GRID) -> Dialogue:
        """convention: how the backend writes boxes."""
        said = self.answer(forced, convention) if answered else None
        return Dialogue(self.names, self.question(convention), self.images(), said)


def place_of(mask: np.ndarray) -> str:
    """Where a region lies in the picture, in words: "upper left"; what the model thinks before it names it."""
    box = box_of_mask(mask) or NOTHING
    row, column = (box[1] + box[3]) / 2, (box[0] + box[2]) / 2
    height = "upper" if row < 0.4 else "lower" if row > 0.6 else "middle"
    return f"{height} {'left' if column < 0.4 else 'right' if column > 0.6 else 'centre'}"


def described(picture: np.ndarray, mask: np.ndarray) -> str:
    """How a region looks, in words measured from its mask (papers.md B3). picture: (S, S, 3) uint8; mask: (S, S) bool.

    "" for an empty mask.
    """
    from rau.description.measuring import measure
    from rau.description.regions import looks
    from rau.volume.volume import Geometry, LabelMap, Structure, Volume

    if not mask.any():
        return ""
    grid = Geometry((1, *mask.shape), (1.0, 1.0, 1.0))
    labels = LabelMap(mask[None].astype(np.uint8), grid, (Structure(1, "region"),))
    grey = picture.mean(-1).round().astype(np.uint8)
    found = measure(Volume(grey[None], grid, spacing_known=False), labels)
    return looks(found[0])


def called(rng: Rng, own: Sequence[str]) -> list[str]:
    """A name for each structure, all different."""
    pool = [str(name) for name in rng.permutation(NAMES)[: 2 * len(own)]]
    letters = [f"region {chr(65 + int(i))}" for i in rng.permutation(26)]
    by_name, by_letter = rng.random() < OWN_NAME, rng.random() < 0.5
    names: list[str] = []
    for one in own:
        fresh = [n for n in (letters if by_letter else pool) if n not in names and n not in own]
        names.append(one if by_name and one and one not in names else fresh[0])
    return names


def draw(batch: Batch, task: Task, rng: Rng, words: float = 0.0) -> list[Item]:
    """An item of every task of a batch that has something to ask of. The batch is (B, 2, ...): reference, target.

    words: chance that a labelling item's answer describes the marked region before it names it (`described`).
    """
    items = []
    target = batch.layout.target
    for b in range(len(batch.images)):
        rows = [int(k) for k in torch.nonzero(batch.of == b)[:, 0]]
        if task == "boxes":
            rows = rows[-BOX_STRUCTURES:]
        masks = [(batch.masks[k, 0, 0].numpy() > 0.5, batch.masks[k, target, 0].numpy() > 0.5) for k in rows]
        kept = [i for i, (there, _) in enumerate(masks) if there.any()]
        if not kept:
            continue
        names = called(rng, [batch.names[rows[i]] if batch.names else "" for i in kept])
        structures = tuple(Structure(name, *masks[i]) for name, i in zip(names, kept))
        here = [i for i, one in enumerate(structures) if one.target.any()]
        if task == "label" and not here:
            continue
        pictures = (picture(batch.images[b, 0].numpy()), picture(batch.images[b, target].numpy()))
        chosen = int(rng.choice(here)) if task == "label" else None
        told = chosen is not None and words > 0 and rng.random() < words
        thought = described(pictures[1], structures[chosen].target) if told and chosen is not None else ""
        items.append(Item(task, structures, pictures, chosen, b, thought))
    return items


def colour_map(structures: Sequence[Structure], cells: int) -> torch.Tensor:
    """(GR, GR) int64: 1 + index of the structure that fills a cell of the target; the smaller wins, 0 is none."""
    shares = shares_of([one.target for one in structures], cells)
    found = torch.zeros(cells, cells, dtype=torch.long)
    for k in sorted(range(len(structures)), key=lambda k: -float(shares[k].sum())):
        found[shares[k] >= 0.5] = k + 1
    return found


def painted(items: Sequence[Item], cells: int) -> torch.Tensor:
    """(B, MOST, cells, cells) float, the part of each cell of the overlay that each colour of the legend covers."""
    found = torch.zeros(len(items), MOST, cells, cells)
    for b, item in enumerate(items):
        found[b, : len(item.structures)] = shares_of([one.reference for one in item.structures], cells)
    return found


def drawn_on(items: Sequence[Item], cells: int) -> torch.Tensor:
    """(B, MOST + 1, cells, cells) float: `painted`, and the part of each cell of the target that is marked."""
    nothing = np.zeros(items[0].structures[0].target.shape, bool)
    marks = [nothing if one.marked is None else one.structures[one.marked].target for one in items]
    return torch.cat([painted(items, cells), shares_of(marks, cells)[:, None]], 1)


def shares_of(masks: Sequence[np.ndarray], cells: int) -> torch.Tensor:
    """(K, cells, cells) float, the part of each cell that each of the (S, S) bool masks covers."""
    if not len(masks):
        return torch.zeros(0, cells, cells)
    return share_of(torch.from_numpy(np.stack(masks)), cells)


def collate(
    items: Sequence[Item], processor: Any, cells: int, rng: Rng, convention: Convention = GRID
) -> dict[str, Any]:
    """What a training step reads: model inputs, labels of the answer, and the truths of the heads.

    Keys: inputs; labels (B, L) with -100 outside the answers; spots, of (K,); anchors, boxes (K, 4); present (K,) bool;
    shares, masks (K, GR, GR) of reference and target; colours (B, GR, GR). Structures with a state are those of
    `spots`, in its order (papers.md W3).
    """
    forced = [item.task == "segment" and rng.random() >= TRUTHFUL for item in items]
    encoded = encode(processor, [item.dialogue(one, convention=convention) for item, one in zip(items, forced)])
    rows = [s for item, one in zip(items, forced) if item.task == "segment" for s in item.structures if one or s.box]
    if len(rows) != len(encoded.spots):
        raise RuntimeError("states and structures are not the same number")
    present = torch.tensor([one.box is not None for one in rows], dtype=torch.bool)
    return {
        "inputs": encoded.inputs,
        "labels": labels_of(encoded, present, token_of(processor.tokenizer, ABSENT)),
        "spots": encoded.spots,
        "of": encoded.of,
        "anchors": torch.tensor([one.anchor for one in rows]).view(-1, 4),
        "boxes": torch.tensor([one.box or NOTHING for one in rows]).view(-1, 4),
        "present": present,
        "shares": shares_of([one.reference for one in rows], cells),
        "masks": shares_of([one.target for one in rows], cells),
        "colours": torch.stack([colour_map(item.structures, cells) for item in items]),
    }


def labels_of(encoded: Encoded, present: torch.Tensor, absent: int) -> torch.Tensor:
    """(B, L) what each token should have been: the answers; "absent" where a state was forced."""
    ids = encoded.inputs["input_ids"]
    labels = torch.full_like(ids, -100)
    for row, (start, end) in enumerate(encoded.answers):
        labels[row, start:end] = ids[row, start:end]
    away = ~present
    labels[encoded.of[away], encoded.spots[away]] = absent
    return labels
