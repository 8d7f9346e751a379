"""Routed items: one question for names, boxes, outlines and closer looks, one answer (`rau.vlm.routing`).

Of all structures of a target, or of one that is marked in white. What is asked varies from item to item. Axes as in
`rau.training.items`; rows of each kind of token (`<Det>`, `<Seg>`, `<Look>`) are counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rau.look.rules import Looks
from rau.training.batch import Batch
from rau.training.data import Rng
from rau.training.items import NOTHING, TRUTHFUL, Item, Structure, colour_map, draw, shares_of
from rau.vlm.boxes import Box
from rau.vlm.dialogue import ABSENT, Dialogue, Encoded, encode, token_of
from rau.vlm.routed_cues import KINDS, route_spots, token_ids
from rau.vlm.routing import ASKS, UNKNOWN, Ask, Route, RoutedAnswer, checked, forced, question, write_routed

ALL_ASKED = 0.5  # chance that everything is asked for
ALONE = 0.35  # chance that the question is about a marked structure, where names are asked for


@dataclass(frozen=True)
class RoutedItem:
    """item: structures and pictures; its task is "label" where one of them is marked, else "segment". asks: what for.

    modality: of the target.
    """

    item: Item
    asks: tuple[Ask, ...]
    modality: str = UNKNOWN

    @property
    def marked(self) -> bool:
        return self.item.marked is not None

    @property
    def structures(self) -> tuple[Structure, ...]:
        """Those that the answer speaks of, in its order."""
        return self.item.structures if self.item.marked is None else (self.item.structures[self.item.marked],)

    @property
    def truth(self) -> RoutedAnswer:
        routes = {one.name: Route(one.box is not None, small(one.box)) for one in self.structures}
        return RoutedAnswer(self.modality if "name" in self.asks else "", routes)

    def answer(self, with_all: bool) -> str:
        """with_all: every token of every structure, so that all states can be read."""
        if with_all:
            return forced([one.name for one in self.structures], self.asks, self.modality)
        return write_routed(self.truth, self.asks)

    def dialogue(self, with_all: bool = True, answered: bool = True) -> Dialogue:
        said = self.answer(with_all) if answered else None
        return Dialogue(self.item.names, question(self.asks, self.marked), self.item.images(), said)


def small(box: Box | None) -> bool:
    """Whether a closer look is worth while: the rule of `rau.look` for the structure's own square in the target."""
    return box is not None and max(box[2] - box[0], box[3] - box[1]) < Looks().small


def asked(allowed: Sequence[Ask], marked: bool, rng: Rng) -> tuple[Ask, ...]:
    """What an item asks for: everything that is allowed, or some of it that makes a question."""
    if rng.random() < ALL_ASKED:
        return checked(allowed, marked)
    while True:
        some = [ask for ask in allowed if rng.random() < 0.5 or (marked and ask == "name")]
        try:
            return checked(some, marked)
        except ValueError:
            continue


def draw_routed(batch: Batch, allowed: Sequence[Ask], rng: Rng) -> list[RoutedItem]:
    """A routed item of every task of a batch that has something to ask of. allowed: of `ASKS`."""
    heads = "box" in allowed or "outline" in allowed
    marked = "name" in allowed and (not heads or rng.random() < ALONE)
    found = []
    for item in draw(batch, "label" if marked else "segment", rng):
        modality = batch.modalities[item.drawn] if batch.modalities else UNKNOWN
        found.append(RoutedItem(item, asked(allowed, marked, rng), modality))
    return found


def asks_of(text: str) -> tuple[Ask, ...]:
    """ "name,box" as asks that can be drawn from. Raises InputError."""
    from rau.errors import InputError

    wanted = [part.strip() for part in text.split(",") if part.strip()]
    known = tuple(ask for ask in ASKS if ask in wanted)
    if len(known) < len(wanted) or not set(known) - {"look"} or ("look" in known and known[:-1] == ("name",)):
        raise InputError(f"{text!r} cannot be asked", f"Give some of {', '.join(ASKS)}; look beside box or outline")
    return known


Row = tuple[int, Structure]  # dialogue, structure


def rows_of(items: Sequence[RoutedItem], whole: Sequence[bool]) -> dict[str, list[Row]]:
    """The structures that have a token, by its kind, in the order of the tokens. whole: answers with all tokens."""
    kinds = dict(zip(KINDS, ("box", "outline", "look")))
    found: dict[str, list[Row]] = {kind: [] for kind in kinds}
    for b, (item, every) in enumerate(zip(items, whole)):
        for one in item.structures:
            for kind, ask in kinds.items():
                there = every or (small(one.box) if kind == "look" else one.box is not None)
                if ask in item.asks and there:
                    found[kind].append((b, one))
    return found


def collate_routed(
    items: Sequence[RoutedItem], processor: Any, cells: int, rng: Rng, truthful: float = TRUTHFUL
) -> dict[str, Any]:
    """What a training step reads. truthful: chance that an answer is the true one, and not one with all tokens.

    Keys: inputs; labels (B, L) with -100 outside the answers; colours (B, GR, GR); routed: what `routed_cues` reads,
    and the truths: det_boxes (K, 4), det_present, seg_present, look_small, look_present (K,) bool, seg_masks (K, GR,
    GR).
    """
    whole = [rng.random() >= truthful for _ in items]
    encoded = encode(processor, [item.dialogue(one) for item, one in zip(items, whole)])
    ids = token_ids(processor.tokenizer)
    spots, rows = route_spots(encoded, ids), rows_of(items, whole)
    for kind in KINDS:
        if len(rows[kind]) != len(spots[f"{kind}_spots"]):
            raise RuntimeError("tokens and structures are not the same number")
    where = {(b, one.name): k for k, (b, one) in enumerate(rows["seg"])}
    det, seg, look = ([one for _, one in rows[kind]] for kind in KINDS)
    routed = {
        **spots,
        "det_anchors": torch.tensor([one.anchor for one in det]).view(-1, 4),
        "det_shares": shares_of([one.reference for one in det], cells),
        "seg_shares": shares_of([one.reference for one in seg], cells),
        "mates": torch.tensor([where.get((b, one.name), -1) for b, one in rows["det"]], dtype=torch.long),
        "det_boxes": torch.tensor([one.box or NOTHING for one in det]).view(-1, 4),
        "det_present": torch.tensor([one.box is not None for one in det], dtype=torch.bool),
        "seg_masks": shares_of([one.target for one in seg], cells),
        "seg_present": torch.tensor([one.box is not None for one in seg], dtype=torch.bool),
        "look_small": torch.tensor([small(one.box) for one in look], dtype=torch.bool),
        "look_present": torch.tensor([one.box is not None for one in look], dtype=torch.bool),
    }
    return {
        "inputs": encoded.inputs,
        "labels": routed_labels(encoded, routed, items, ids, token_of(processor.tokenizer, ABSENT)),
        "colours": torch.stack([colour_map(item.item.structures, cells) for item in items]),
        "routed": routed,
    }


def routed_labels(
    encoded: Encoded, routed: dict[str, torch.Tensor], items: Sequence[RoutedItem], ids: dict[str, int], absent: int
) -> torch.Tensor:
    """(B, L) what each token should have been, -100 where nothing is learnt.

    Of an absent structure with all tokens the first one should have been "absent", what follows is not learnt; a
    `<Look>` that should not be there should have been the end.
    """
    tokens = encoded.inputs["input_ids"]
    labels = torch.full_like(tokens, -100)
    for row, (start, end) in enumerate(encoded.answers):
        labels[row, start:end] = tokens[row, start:end]
    boxed = torch.tensor(["box" in item.asks for item in items])
    for kind in ("det", "seg"):
        away, of, spots = ~routed[f"{kind}_present"], routed[f"{kind}_of"], routed[f"{kind}_spots"]
        first = away if kind == "det" else away & ~boxed[of]
        labels[of[away], spots[away]] = -100
        labels[of[first], spots[first]] = absent
    of, spots = routed["look_of"], routed["look_spots"]
    labels[of[~routed["look_small"]], spots[~routed["look_small"]]] = ids["end"]
    labels[of[~routed["look_present"]], spots[~routed["look_present"]]] = -100
    return labels
