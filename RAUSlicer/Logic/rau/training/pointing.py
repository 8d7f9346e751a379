"""One head of the language model learns where the marked region is, from the mark itself.

A name can only be said of a region that the answer looks at. Left to the answer's few tokens, a small model does not
find out in thousands of dialogues that it should. So the last head of one layer, above those that look at the same
place of the reference in colours (`rau.vlm.reader.look_across`), is told to attend to the mark, and what the layer
makes of it to tell the colour that lies there. Axes: B dialogues, L tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rau.vlm.prompts import MOST
from rau.vlm.reader import ACROSS, STILL, is_reader

LAYER = ACROSS[-1] + 1  # whose last head learns it


def can_point(vlm: Any) -> bool:
    """Whether a Qwen2.5-VL has that layer, and waves that do not turn: what is looked for is so wherever it lies."""
    return is_reader(vlm) and len(vlm.model.language_model.layers) > LAYER


class Pointing(nn.Module):
    """The losses of that head; keeps what its layer read and made in the last forward pass. Stays in the run folder."""

    def __init__(self, vlm: Any) -> None:
        super().__init__()
        text = vlm.model.language_model
        self.told = nn.Linear(text.config.hidden_size, MOST)
        layer = text.layers[LAYER]
        layer.self_attn.register_forward_pre_hook(self._read, with_kwargs=True)
        layer.register_forward_hook(self._made)
        self.half = len(text.rotary_emb.inv_freq)
        self.kept: dict[str, Any] = {"attention": layer.self_attn}

    def _read(self, module: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        self.kept["read"] = given["hidden_states"] if "hidden_states" in given else args[0]

    def _made(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        self.kept["made"] = out if isinstance(out, torch.Tensor) else out[0]

    def forward(
        self, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, marks: torch.Tensor, meant: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Of the tokens that answer: "pointing", cross-entropy of where they attend, in what does not turn, and the
        mark; "meant", of the colour that they know then. Nothing without a mark.

        labels: (B, L), -100 outside the answers; marks: (B, G G) part of each of the target's tokens that is marked;
        meant: (B,) index of the marked structure in the legend.
        """
        wanted = torch.zeros(labels.shape, device=labels.device)
        pictures = inputs["mm_token_type_ids"].bool()
        for row in torch.nonzero(marks.sum(1) > 0)[:, 0]:
            wanted[row, torch.nonzero(pictures[row])[-marks.shape[1] :, 0]] = marks[row] / marks[row].sum()
        rows, columns = torch.nonzero((labels[:, 1:] >= 0) & (wanted.sum(1, keepdim=True) > 0), as_tuple=True)
        if not len(rows):
            return {}
        scores = self._scores(rows, columns)
        later = torch.arange(labels.shape[1], device=labels.device)[None] > columns[:, None]
        likely = scores.masked_fill(later, -1e4).log_softmax(-1)
        told = self.told(nn.functional.rms_norm(self.kept["made"][rows, columns].float(), (self.told.in_features,)))
        return {
            "pointing": -(wanted[rows] * likely).sum(-1).mean(),
            "meant": nn.functional.cross_entropy(told, meant[rows]),
        }

    def _scores(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(N, L) of the last head, of the tokens at `rows` and `columns` to all of their dialogues."""
        x, width = self.kept["read"].float(), 2 * self.half
        dims = torch.tensor([-width + wave + half for half in (0, self.half) for wave in STILL])
        asked, known = (
            nn.functional.linear(x, layer.weight[dims].float(), layer.bias[dims].float())
            for layer in (self.kept["attention"].q_proj, self.kept["attention"].k_proj)
        )
        return torch.einsum("nd,nld->nl", asked[rows, columns], known[rows]) / width**0.5
