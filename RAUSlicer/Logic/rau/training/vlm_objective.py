"""What the VLM learns from an item: answer tokens, boxes, coarse masks, colours of the target's cells.

Loss (papers.md A3.1, C3): CE of the answer + ||b - b*||_1 + (1 - GIoU) + BCE + Dice + CE of the colours, as the
target's tokens say them and as the correspondence carries them over. Those are dense: every cell of the target says
what of the reference lies there, which is what a tower that starts blind needs. And the tower says what is drawn on the
pictures, and one head learns to point at what is marked (`rau.training.pointing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rau.training.pointing import Pointing, can_point
from rau.training.precision import bfloat16
from rau.vlm.heads import SURE, carried, paired_giou
from rau.vlm.model import CueTensors, Reading, Reasoner
from rau.vlm.prompts import MOST
from rau.vlm.routed_cues import RoutedTensors, routed_cues

CUED = ("spots", "of", "anchors", "shares")  # of a batch: what the cues are read from
FILLED = 0.25  # part of a token's place that a structure fills, for its colour to be said there
NAMING = 5.0  # weight of the answer that names a region: of its fifteen tokens one or two say which it is
NONE_WEIGHT = 0.3  # of cells with no structure, in the colour loss


class SftModel(nn.Module):
    """A reasoner that gives its loss: what `transformers.Trainer` trains.

    ids: of `rau.vlm.routed_cues.token_ids`, for routed items. words: tokens of the legend's colours, which the target's
    tokens learn to say where one lies; empty: they do not.
    """

    _keys_to_ignore_on_save = None  # what `Trainer` asks of a model whose checkpoint lacks a tensor that is another one

    def __init__(
        self,
        reasoner: Reasoner,
        bf16: bool = False,
        ids: Mapping[str, int] | None = None,
        words: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.reasoner, self.bf16, self.ids, self.words = reasoner, bf16, dict(ids or {}), tuple(words)
        self.drawn = Drawn(reasoner.heads.config.hidden)
        self.pointing = Pointing(reasoner.base) if can_point(reasoner.base) else None
        self.parts: dict[str, float] = {}

    def forward(self, **batch: Any) -> dict[str, torch.Tensor]:
        """batch: of `rau.training.items.collate`, `rau.training.routed_items.collate_routed`, or
        `rau.training.lessons.read_batch`.
        """
        if "text" in batch:
            return {"loss": self.lesson(batch["text"], batch["labels"])}
        with bfloat16(self.bf16, batch["labels"].device.type):
            reading = self.reasoner.read(batch["inputs"])
        losses = {"answer": answer_loss(self.reasoner, reading.hidden, batch["labels"])}
        fields = self.reasoner.heads.fields(reading.target)
        losses["colours"] = colour_loss(self.reasoner.heads.colours(fields), batch["colours"])
        if self.words:
            losses["said"] = said_loss(self.reasoner, reading, batch["colours"], self.words)
        naming = "drawn" in batch and bool(batch["drawn"][:, MOST].any())
        if "drawn" in batch:
            losses["drawn"] = self.drawn(reading, batch["drawn"])
        if naming and self.pointing is not None:
            marks = batch["drawn"][:, MOST].flatten(1)
            losses |= self.pointing(batch["inputs"], batch["labels"], marks, batch["meant"])
        if "laid" in batch:
            places = self.reasoner.heads.places(reading.target, reading.reference)
            losses["carried"] = carried_loss(places, batch["laid"], batch["colours"])
        if "routed" in batch:
            losses |= routed_losses(routed_cues(self.reasoner, reading, batch["routed"], self.ids), batch["routed"])
        elif len(batch["spots"]):
            cues = self.reasoner.cues(reading, *(batch[key] for key in CUED))
            losses |= cue_losses(cues, batch)
        self.parts = {name: float(loss.detach()) for name, loss in losses.items()}
        losses["answer"] = losses["answer"] * (NAMING if naming else 1)
        return {"loss": torch.stack(list(losses.values())).sum()}

    def lesson(self, text: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of what a lesson in reading has learnt; the vision tower does not run."""
        with bfloat16(self.bf16, labels.device.type):
            hidden = self.reasoner.base.model(**text).last_hidden_state
        loss = answer_loss(self.reasoner, hidden.float(), labels)
        self.parts = {"reading": float(loss.detach())}
        return loss


def answer_loss(reasoner: Reasoner, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the answers' tokens. hidden: (B, L, H); labels: (B, L), -100 elsewhere."""
    rows, columns = torch.nonzero(labels[:, 1:] >= 0, as_tuple=True)
    return F.cross_entropy(reasoner.logits(hidden[rows, columns]), labels[rows, columns + 1])


def colour_loss(logits: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """logits: (B, colours + 1, GR, GR); colours: (B, GR, GR), 0 is none."""
    return F.cross_entropy(logits, colours, weight=colour_weight(logits))


def said_loss(reasoner: Reasoner, reading: Reading, colours: torch.Tensor, words: Sequence[int]) -> torch.Tensor:
    """Cross-entropy of the colour's word at the target's tokens that a structure fills by `FILLED`; 0 without any.

    An answer that names a region can then copy the word from the place that is marked. colours: (B, GR, GR), 0 is none;
    words: MOST tokens (`rau.vlm.dialogue.colour_tokens`).
    """
    side = round(reading.target.shape[1] ** 0.5)
    every = F.one_hot(colours, len(words) + 1).permute(0, 3, 1, 2).float()
    part, which = F.adaptive_avg_pool2d(every, side).flatten(2)[:, 1:].max(1)
    here = part >= FILLED
    if not here.any():
        return reading.hidden.sum() * 0
    thought = reading.target[here][:, reading.hidden.shape[-1] :]
    return F.cross_entropy(reasoner.logits(thought), torch.tensor(words, device=which.device)[which[here]])


def colour_weight(like: torch.Tensor) -> torch.Tensor:
    """(colours + 1,) of `like`'s kind: cells with nothing count less."""
    weight = torch.ones(like.shape[1]).to(like)
    weight[0] = NONE_WEIGHT
    return weight


def carried_loss(places: torch.Tensor, laid: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each cell's colour, as the correspondence alone carries the reference's colours over.

    places: (B, M M, M M); laid: (B, MOST, GR, GR) shares of the reference's cells; colours: (B, GR, GR), 0 is none.
    """
    of = torch.arange(len(laid), device=laid.device).repeat_interleave(laid.shape[1])
    moved = carried(places[of], laid.flatten(0, 1)).view_as(laid)
    likely = torch.cat([1 - moved.sum(1, keepdim=True), moved], 1).clamp(SURE, 1)
    return F.nll_loss(likely.log(), colours, weight=colour_weight(likely))


def cue_losses(cues: CueTensors, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Boxes of the present structures; masks of all (an absent one is empty); presence is in the answer's loss."""
    here = batch["present"]
    mask = {"mask": mask_loss(cues.masks, batch["masks"], here)}
    return {**mask, "box": box_loss(cues.boxes[here], batch["boxes"][here])} if here.any() else mask


def mask_loss(logits: torch.Tensor, shares: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
    """BCE of all, Dice of the present ones. logits, shares: (K, GR, GR); here: (K,) bool."""
    every = F.binary_cross_entropy_with_logits(logits, shares)
    if not here.any():
        return every
    found, truth = logits[here].sigmoid().flatten(1), shares[here].flatten(1)
    dice = 1 - (2 * (found * truth).sum(1) + 1) / (found.sum(1) + truth.sum(1) + 1)
    return 2 * every + dice.mean()


def box_loss(boxes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1 + (1 - GIoU), both (K, 4) corners, K at least 1."""
    distance = (boxes - wanted).abs().sum(1).mean()
    return distance + (1 - paired_giou(boxes, wanted)).mean()


def routed_losses(cues: RoutedTensors, routed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Boxes at `<Det>`, masks at `<Seg>`; presence and closer looks are in the answer's loss."""
    losses, here = {}, routed["det_present"]
    if len(routed["seg_spots"]):
        losses["mask"] = mask_loss(cues.masks, routed["seg_masks"], routed["seg_present"])
    if here.any():
        losses["box"] = box_loss(cues.boxes[here], routed["det_boxes"][here])
    return losses


class Drawn(nn.Module):
    """Whether the vision tower sees what is drawn: the colours of the overlay, the mark of the target.

    A question about a marked region says nothing to a model that does not see which it is. Stays in the run folder.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.colours, self.mark = nn.Linear(hidden, MOST), nn.Linear(hidden, 1)

    def forward(self, reading: Reading, drawn: torch.Tensor) -> torch.Tensor:
        """BCE of each token's shares. drawn: (B, MOST + 1, G, G) of `rau.training.items.drawn_on`."""
        if reading.overlay is None:
            raise ValueError("the overlay was not read")
        seen = [one[..., : self.hidden] for one in (reading.overlay, reading.target)]
        shown = torch.cat([self.colours(seen[0]), self.mark(seen[1])], -1).transpose(1, 2)
        return F.binary_cross_entropy_with_logits(shown, drawn.flatten(2)) * (MOST + 1)


class Sight(nn.Module):
    """What the vision tower learns alone: the segmenter's features of a place, and which colours are painted there.

    The heads stay in the run folder: only the tower keeps what was learnt.
    """

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.features, self.colours = nn.Linear(hidden, channels), nn.Linear(hidden, MOST)

    def forward(self, seen: torch.Tensor, told: torch.Tensor, laid: torch.Tensor) -> torch.Tensor:
        """1 - cosine with the features + BCE of the colours.

        seen: (B, 3, G G, H) picture tokens; told: (2 B, C, T, T) top level of SAM2's encoder for reference and target
        in turn; laid: (B, MOST, G, G) colours of the overlay.
        """
        side = laid.shape[-1]
        wanted = F.interpolate(told, size=(side, side), mode="area")
        wanted = (wanted - wanted.mean((2, 3), keepdim=True)).flatten(2).transpose(1, 2)
        alike = F.cosine_similarity(self.features(seen[:, [0, 2]].flatten(0, 1)), wanted, dim=-1).mean()
        shown = self.colours(seen[:, 1]).transpose(1, 2).reshape(laid.shape)
        return 1 - alike + F.binary_cross_entropy_with_logits(shown, laid)
