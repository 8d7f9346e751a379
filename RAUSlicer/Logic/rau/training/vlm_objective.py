"""What the VLM learns from an item: answer tokens, boxes, coarse masks, colours of the target's cells.

Loss (papers.md A3.1, C3): CE of the answer + ||b - b*||_1 + (1 - GIoU) + BCE + Dice + CE of the colours. The last one
is dense: every cell of the target says what of the reference lies there, which is what a tower that starts blind needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rau.training.precision import bfloat16
from rau.vlm.heads import paired_giou
from rau.vlm.model import CueTensors, Reading, Reasoner
from rau.vlm.prompts import MOST

CUED = ("spots", "of", "anchors", "shares")  # of a batch: what the cues are read from
NONE_WEIGHT = 0.3  # of cells with no structure, in the colour loss


class SftModel(nn.Module):
    """A reasoner that gives its loss: what `transformers.Trainer` trains."""

    def __init__(self, reasoner: Reasoner, bf16: bool = False) -> None:
        super().__init__()
        self.reasoner, self.bf16 = reasoner, bf16
        self.parts: dict[str, float] = {}

    def forward(self, **batch: Any) -> dict[str, torch.Tensor]:
        """batch: of `rau.training.items.collate`."""
        with bfloat16(self.bf16):
            reading = self.reasoner.read(batch["inputs"])
        losses = {"answer": answer_loss(self.reasoner, reading, batch["labels"])}
        fields = self.reasoner.heads.fields(reading.target)
        losses["colours"] = colour_loss(self.reasoner.heads.colours(fields), batch["colours"])
        if len(batch["spots"]):
            cues = self.reasoner.cues(reading, *(batch[key] for key in CUED))
            losses |= cue_losses(cues, batch)
        self.parts = {name: float(loss.detach()) for name, loss in losses.items()}
        return {"loss": torch.stack(list(losses.values())).sum()}


def answer_loss(reasoner: Reasoner, reading: Reading, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the answers' tokens. labels: (B, L), -100 elsewhere."""
    rows, columns = torch.nonzero(labels[:, 1:] >= 0, as_tuple=True)
    return F.cross_entropy(reasoner.logits(reading.hidden[rows, columns]), labels[rows, columns + 1])


def colour_loss(logits: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """logits: (B, colours + 1, GR, GR); colours: (B, GR, GR), 0 is none."""
    weight = torch.ones(logits.shape[1])
    weight[0] = NONE_WEIGHT
    return F.cross_entropy(logits, colours, weight=weight.to(logits))


def cue_losses(cues: CueTensors, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Boxes of the present structures; masks of all (an absent one is empty); presence is in the answer's loss."""
    here = batch["present"]
    every = F.binary_cross_entropy_with_logits(cues.masks, batch["masks"])
    if not here.any():
        return {"mask": every}
    found, truth = cues.masks[here].sigmoid().flatten(1), batch["masks"][here].flatten(1)
    dice = 1 - (2 * (found * truth).sum(1) + 1) / (found.sum(1) + truth.sum(1) + 1)
    boxes, wanted = cues.boxes[here], batch["boxes"][here]
    distance = (boxes - wanted).abs().sum(1).mean()
    return {"mask": 2 * every + dice.mean(), "box": distance + (1 - paired_giou(boxes, wanted)).mean()}


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
