"""How good routed answers are on subjects never seen: names, presence, boxes, coarse masks, closer looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from rau.training.batch import Batch, make_batch
from rau.training.data import Layout, Mixture
from rau.training.items import draw
from rau.training.routed_items import RoutedItem, collate_routed
from rau.training.vlm_validation import paired_iou
from rau.vlm.dialogue import token_of
from rau.vlm.routed_cues import routed_cues, token_ids
from rau.vlm.routing import UNKNOWN, Ask, checked
from rau.vlm.store import Loaded

REMOVAL = 0.6  # chance that a rendered target lacks a structure
AT_ONCE = 8  # dialogues read together


@dataclass
class Tally:
    """What was right, one number a structure or dialogue; and for two-sided questions (said, true)."""

    values: dict[str, list[float]] = field(default_factory=dict)
    sides: dict[str, list[tuple[bool, bool]]] = field(default_factory=dict)

    def note(self, key: str, values: Sequence[float]) -> None:
        self.values.setdefault(key, []).extend(values)

    def side(self, key: str, said: torch.Tensor, true: torch.Tensor) -> None:
        self.sides.setdefault(key, []).extend(zip(said.tolist(), true.tolist()))

    def means(self) -> dict[str, float]:
        """Means, and of two-sided questions the mean of the accuracies of both sides (those that have cases)."""
        found = {key: float(np.mean(values)) for key, values in self.values.items() if values}
        for key, pairs in self.sides.items():
            sides = [[said == true for said, true in pairs if true is kind] for kind in (True, False)]
            found[key] = float(np.mean([np.mean(side) for side in sides if side]))
        return found


def items_of(batch: Batch, asks: Sequence[Ask], rng: np.random.Generator) -> list[RoutedItem]:
    """Of every target of a batch: a question about all structures, and one about a marked one, as far as `asks` go."""
    found = []
    for marked, task in ((False, "segment"), (True, "label")):
        try:
            known = checked(asks, marked)
        except ValueError:
            known = checked(["name"], True) if marked and "name" in asks else ()
        if known:
            for item in draw(batch, task, rng):  # type: ignore[arg-type]
                found.append(RoutedItem(item, known, batch.modalities[item.drawn] if batch.modalities else UNKNOWN))
    return found


def drawn(source: Mixture, asks: Sequence[Ask], size: int, batches: int = 2, dialogues: int = 8) -> list[RoutedItem]:
    """Items of every source of a mixture; the same each time. size: pixels a side."""
    found = []
    for _, _, one in source.sources:
        kept, one.removal = one.removal, REMOVAL
        for i in range(batches):
            batch = make_batch(one, (78, i), Layout(1, 0), dialogues, 6, size)
            found += items_of(batch, asks, np.random.default_rng(i))
        one.removal = kept
    return found


@torch.no_grad()
def routed_scores(loaded: Loaded, items: Sequence[RoutedItem]) -> dict[str, float]:
    """Means over structures: "box" (IoU at `<Det>`), "dice" (at `<Seg>`), "presence" and "look" (balanced accuracy; the
    look of present ones); over dialogues: "modality", "structure" and "name", both of them (of marked ones; all tokens
    right, teacher-forced). What no item asks for is left out.
    """
    training = loaded.reasoner.training
    loaded.reasoner.eval()
    ids, tally = token_ids(loaded.processor.tokenizer), Tally()
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        ready = collate_routed(some, loaded.processor, loaded.cells, np.random.default_rng(0), truthful=0.0)
        _score(loaded, some, ready, ids, tally)
    loaded.reasoner.train(training)
    return tally.means()


def _score(
    loaded: Loaded, items: Sequence[RoutedItem], ready: dict[str, Any], ids: dict[str, int], tally: Tally
) -> None:
    reading, told = loaded.reasoner.read(ready["inputs"]), ready["routed"]
    cues = routed_cues(loaded.reasoner, reading, told, ids)
    marked = torch.tensor([item.marked for item in items])
    det, seg = told["det_present"] & ~marked[told["det_of"]], told["seg_present"] & ~marked[told["seg_of"]]
    first = "det" if len(told["det_spots"]) else "seg"
    asked = ~marked[told[f"{first}_of"]]
    if asked.any():
        tally.side("presence", cues.presence[asked] > 0, told[f"{first}_present"][asked])
    tally.note("box", paired_iou(cues.boxes[det], told["det_boxes"][det]).tolist())
    found, truth = (cues.masks[seg] > 0).float().flatten(1), told["seg_masks"][seg].flatten(1)
    tally.note("dice", (2 * (found * truth).sum(1) / (found.sum(1) + truth.sum(1)).clamp(min=1e-6)).tolist())
    look = told["look_present"] & ~marked[told["look_of"]]
    if look.any():
        tally.side("look", cues.looks[look] > 0, told["look_small"][look])
    for row, item in enumerate(items):
        if "name" in item.asks:
            _score_name(loaded, reading.hidden[row], ready["labels"][row], item, tally)


def _score_name(loaded: Loaded, hidden: torch.Tensor, labels: torch.Tensor, item: RoutedItem, tally: Tally) -> None:
    """hidden: (L, H); labels: (L,) of one dialogue."""
    words = loaded.processor.tokenizer
    right = loaded.reasoner.logits(hidden[:-1]).argmax(-1) == labels[1:]
    begin = int(torch.nonzero(labels[1:] == words.convert_tokens_to_ids("<answer>"))[0, 0]) + 1
    comma = begin + int(torch.nonzero(labels[1 + begin :] == token_of(words, ","))[0, 0])
    modality = bool(right[begin : comma + 1].all())
    tally.note("modality", [modality])
    if item.modality != UNKNOWN:
        tally.note("modality known", [modality])
    if item.marked:
        last = int(torch.nonzero(labels[1:] >= 0)[-1, 0]) - 2 - len(set(item.asks) - {"name"})
        structure = bool(right[comma + 1 : last].all())
        tally.note("structure", [structure])
        tally.note("name", [modality and structure])


def validate_routed(loaded: Loaded, source: Mixture, asks: Sequence[Ask]) -> dict[str, float]:
    """`routed_scores` on a validation mixture, "routed box" and so on."""
    scores = routed_scores(loaded, drawn(source, asks, loaded.picture, batches=1))
    return {f"routed {key}": value for key, value in scores.items()}


def copied_scores(items: Sequence[RoutedItem]) -> dict[str, float]:
    """What the reference alone says: its own boxes, and its structures' own sizes for the closer looks."""
    tally, pairs = Tally(), []
    for item in items:
        if not item.marked:
            pairs += [(one.anchor, one.box) for one in item.structures if one.box is not None]
    anchors, boxes = (torch.tensor(rows).view(-1, 4) for rows in zip(*pairs))
    tally.note("box", paired_iou(anchors, boxes).tolist())
    sides = [(rows[:, 2:] - rows[:, :2]).amax(1) for rows in (anchors, boxes)]
    tally.side("look", sides[0] < small_side(), sides[1] < small_side())
    return tally.means()


def small_side() -> float:
    """Below which part of the slice's square a structure is small."""
    from rau.look.rules import Looks

    return Looks().small


def with_asks(items: Sequence[RoutedItem], asks: Sequence[Ask], marked: bool) -> list[RoutedItem]:
    """The questions about all structures, or about marked ones, asking for something else."""
    return [replace(item, asks=checked(asks, marked)) for item in items if item.marked == marked]
