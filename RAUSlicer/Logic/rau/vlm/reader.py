"""What lets a small language model look a word up and copy it, before anything has taught it to.

A colour is looked up in the legend in two steps (induction heads; Olsson et al., arXiv:2209.11895): one head carries to
each token what the tokens before it were, another finds the place that followed the same tokens, and its token is
written. Neither comes about in the few thousand steps of a small model: where all waves of the rotary positions turn
fast (`rau.vlm.build.VlmShape.theta`), what the second head looks for counts differently at every distance. So it begins
with three things, all in terms of `transformers`' classes: some waves stand still; two heads of the lowest layers look
back; the table that reads words is the one that writes them, so that what was found can be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Part = Literal["waves", "heads", "table"]
PARTS: tuple[Part, ...] = ("waves", "heads", "table")
STILL = (8, 9, 14, 15)  # the slowest waves of rows and of columns, of the 16 of the small model
NEVER = 1e9  # times slower than a wave would turn
LOWEST = 2  # layers that have heads that look back
BACK = (1, 2)  # tokens that their first heads look back
QUICK = 8  # waves by which they tell one token's step from the next
FIRM = 3.0  # length of what they look for, of each wave
FAINT = 0.1  # of what else they attended to before
ACROSS = (2, 3)  # layers that have a head that looks at the same place of the picture before
CLOSE = (1.5, 4.5, 10.0)  # length of what it looks for: of each wave of time, of rows, of columns
BORDERS = 2  # tokens between two pictures


def is_reader(vlm: Any) -> bool:
    """Whether a Qwen2.5-VL was opened for reading."""
    return str(vlm.model.language_model.config.rope_parameters["rope_type"]) == "longrope"


def open_reader(vlm: Any, parts: Sequence[Part] = PARTS) -> None:
    """Open a small Qwen2.5-VL for reading, in place and in what is saved of it; nothing changes where it was before.

    parts: of the three things, for comparison. Raises ValueError for one whose heads have not twice as many numbers as
    the small model has waves.
    """
    if is_reader(vlm):
        return
    text = vlm.model.language_model
    count = len(text.rotary_emb.inv_freq)
    if count <= max(STILL):
        raise ValueError(f"a head has {2 * count} numbers, {2 * (max(STILL) + 1)} at least are needed")
    if "waves" in parts:
        _stand_still(vlm, text, count)
    for layer in text.layers[:LOWEST] if "heads" in parts else ():
        for head, back in enumerate(BACK):
            _look_back(layer.self_attn, head, back, text.rotary_emb.inv_freq)
    if "table" in parts:
        vlm.config.tie_word_embeddings = True
        vlm.lm_head.weight = text.embed_tokens.weight


def _stand_still(vlm: Any, text: Any, count: int) -> None:
    """The waves `STILL` turn no more: LongRoPE's factors for each wave, and nothing else of LongRoPE."""
    factors = [NEVER if wave in STILL else 1.0 for wave in range(count)]
    most = text.config.max_position_embeddings
    rope = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "factor": 1.0}
    text.config.rope_parameters |= rope | {"original_max_position_embeddings": most}
    vlm.config.text_config = text.config
    text.rotary_emb = type(text.rotary_emb)(text.config).to(text.rotary_emb.inv_freq.device)


def _look_back(attention: Any, head: int, back: int, waves: Any) -> None:
    """One head attends `back` tokens before, in text: its biases are turned against each other by so many steps.

    Query c (cos w b, -sin w b) and key c (1, 0) of wave w make c^2 sum_w cos(w (distance - b)), highest at b.
    """
    import torch

    width = 2 * len(waves)
    own = slice(head * width, (head + 1) * width)
    quick = waves[:QUICK] * back
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[own] *= FAINT
            projection.bias[own] = 0
        query, key = attention.q_proj.bias[own], attention.k_proj.bias[own]  # halves: cosines, then sines
        query[:QUICK], query[width // 2 : width // 2 + QUICK] = FIRM * quick.cos(), -FIRM * quick.sin()
        key[:QUICK] = FIRM


def look_across(vlm: Any, side: int) -> None:
    """The last heads of layers `ACROSS` begin to attend, from each place of a picture, to the same place of the picture
    before: from the target to the reference in colours. In place; what else they did is lost.

    side: tokens a side of a picture. Between the grids of two pictures there are two tokens, so that the same place is
    side + 2 steps before, in time, rows and columns alike.
    """
    import torch

    text = vlm.model.language_model
    waves, back = text.rotary_emb.inv_freq, side + BORDERS
    length = torch.cat([torch.full((n,), c) for n, c in zip(text.config.rope_parameters["mrope_section"], CLOSE)])
    length = length.to(waves) * (waves > 1 / NEVER)
    for layer in text.layers[ACROSS[0] : ACROSS[-1] + 1]:
        attention = layer.self_attn
        own = slice(-2 * len(waves), None)
        with torch.no_grad():
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight[own] *= FAINT
            attention.q_proj.bias[own] = torch.cat([length * (waves * back).cos(), -length * (waves * back).sin()])
            attention.k_proj.bias[own] = torch.cat([length, torch.zeros_like(length)])
