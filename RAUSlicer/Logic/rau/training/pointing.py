"""One head of the language model learns where the marked region is, from the mark itself.

A name can only be said of a region that the answer looks at. Left to the answer's few tokens, a small model does not
find out in thousands of dialogues that it should. So the last head of one layer, above those that look at the same
place of the reference in colours (`rau.vlm.reader.look_across`), is told to attend to the mark; what it takes from
there is learnt from the answer. Axes: B dialogues, L tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rau.vlm.reader import ACROSS, STILL, is_reader

LAYER = ACROSS[-1] + 1  # whose last head learns it


def can_point(vlm: Any) -> bool:
    """Whether a Qwen2.5-VL has that layer, and waves that do not turn: what is looked for is so wherever it lies."""
    return is_reader(vlm) and len(vlm.model.language_model.layers) > LAYER


class Pointing:
    """The loss of that head; keeps what its layer read in the last forward pass."""

    def __init__(self, vlm: Any) -> None:
        self.attention: nn.Module = vlm.model.language_model.layers[LAYER].self_attn
        self.attention.register_forward_pre_hook(self._keep, with_kwargs=True)
        self.half = len(vlm.model.language_model.rotary_emb.inv_freq)
        self.read: torch.Tensor | None = None

    def _keep(self, module: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        self.read = given["hidden_states"] if "hidden_states" in given else args[0]

    def loss(self, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of where the tokens that answer attend, in what does not turn, and the mark; 0 without a mark.

        labels: (B, L), -100 outside the answers; marks: (B, G G) part of each of the target's tokens that is marked.
        """
        if self.read is None:
            raise RuntimeError("nothing was read before")
        x, width = self.read.float(), 2 * self.half
        dims = torch.tensor([-width + wave + half for half in (0, self.half) for wave in STILL])
        asked, known = (
            nn.functional.linear(x, layer.weight[dims].float(), layer.bias[dims].float())
            for layer in (self.attention.q_proj, self.attention.k_proj)
        )
        wanted = torch.zeros(labels.shape, device=x.device)
        pictures = inputs["mm_token_type_ids"].bool()
        for row in torch.nonzero(marks.sum(1) > 0)[:, 0]:
            wanted[row, torch.nonzero(pictures[row])[-marks.shape[1] :, 0]] = marks[row] / marks[row].sum()
        rows, columns = torch.nonzero((labels[:, 1:] >= 0) & (wanted.sum(1, keepdim=True) > 0), as_tuple=True)
        if not len(rows):
            return x.sum() * 0
        scores = torch.einsum("nd,nld->nl", asked[rows, columns], known[rows]) / width**0.5
        later = torch.arange(labels.shape[1], device=x.device)[None] > columns[:, None]
        likely = scores.masked_fill(later, -1e4).log_softmax(-1)
        return -(wanted[rows] * likely).sum(-1).mean()
