"""The VLM with its heads: hidden states in one pass, cues read off them.

Axes: B dialogues, L tokens, K structures of all dialogues together, G tokens a side of a picture, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rau.vlm.heads import CueHeads


@dataclass(frozen=True)
class Reading:
    """hidden: (B, L, H) of the last layer.

    target, reference, overlay: (B, G G, 2 H) of the tokens of a picture: how the language model gets it, and what it
    makes of it; by the target's tokens the reference and its overlay have been read. again: (K, G G, H) what it makes
    of the target for each structure, read once more after question and answer (`rau.vlm.again`); None where it was not.
    overlay: None where the reference's part was computed before (`rau.vlm.prefix`).
    """

    hidden: torch.Tensor
    target: torch.Tensor
    reference: torch.Tensor
    again: torch.Tensor | None = None
    overlay: torch.Tensor | None = None


@dataclass(frozen=True)
class CueTensors:
    """states: (K, H) at `<Seg>`. presence: (K,) logit of `<Seg>` against "absent". boxes: (K, 4).

    masks: (K, GR, GR) logits.
    """

    states: torch.Tensor
    presence: torch.Tensor
    boxes: torch.Tensor
    masks: torch.Tensor


class Reasoner(nn.Module):
    """vlm: `Qwen2_5_VLForConditionalGeneration` (perhaps with LoRA). seg, absent: token ids of the two answers."""

    def __init__(self, vlm: Any, heads: CueHeads, seg: int, absent: int) -> None:
        super().__init__()
        self.vlm, self.heads = vlm, heads
        self.seg, self.absent = seg, absent

    @property
    def base(self) -> Any:
        """The Qwen2.5-VL below any adapter."""
        return self.vlm.get_base_model() if hasattr(self.vlm, "get_base_model") else self.vlm

    def read(self, inputs: Mapping[str, torch.Tensor], keep: Any = None) -> Reading:
        """All pictures and all tokens, once. Dialogues have three pictures of one size each.

        keep: an empty `transformers.DynamicCache`, which then holds the keys and values of all tokens.
        """
        base = self.base.model
        out = base(**inputs, cache=keep, use_cache=keep is not None)
        seen = torch.cat(list(out.image_outputs.pooler_output)).float()
        hidden = out.last_hidden_state.float()
        thought = hidden[inputs["mm_token_type_ids"].bool()]
        pictures = torch.cat([seen, thought], -1).view(len(hidden), 3, -1, 2 * hidden.shape[-1])
        return Reading(hidden, pictures[:, 2], pictures[:, 0], overlay=pictures[:, 1])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) to (..., vocabulary)."""
        head = self.base.lm_head
        kind = next(head.parameters()).dtype  # not `head.weight`: with trained rows that is a copy of the whole table
        return head(hidden.to(kind)).float()

    def cues(
        self, reading: Reading, spots: torch.Tensor, of: torch.Tensor, anchors: torch.Tensor, shares: torch.Tensor
    ) -> CueTensors:
        """spots, of: as in `Encoded`. anchors: (K, 4) boxes in the reference; shares: (K, GR, GR) of its masks' cells
        (`rau.vlm.heads.share_of`).
        """
        states = reading.hidden[of, spots]
        said = self.logits(reading.hidden[of, spots - 1])
        presence = said[:, self.seg] - said[:, self.absent]
        fields, places = self.heads.fields(reading.target), self.heads.places(reading.target, reading.reference)
        masks = self.heads.masks(states, fields, places, shares, of)
        return CueTensors(states, presence, self.heads.boxes(states, anchors, masks), masks)
