"""The target's picture read a second time, after the question and the answer: states that know what was asked for.

The language model is causal and the target's picture comes before question and answer, so the states at its tokens
know neither (papers.md B2, observation). Of the two ways that B2 names, this is the second pass: the question before
the picture would move the picture away from the reference, against which a small model finds places
(`rau.vlm.prompts`), and would take a dialogue for each structure.

For each structure k the target's tokens go through the language model once more, with the places in the rotary
positions that they had. They attend to what they attended to before (legend, reference, overlay, each other, causally)
and now also to the question and to k's own part of the answer, its name and its `<Seg>`; not to the other structures'.
With neither question nor answer to see, the second reading is the first one. The vision tower does not run again: the
cost is G G tokens a structure against what was kept of the first reading.

Axes: B dialogues, K structures of all of them, L tokens, G tokens a side of a picture, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from rau.vlm.dialogue import Encoded
    from rau.vlm.model import Reading, Reasoner


def target_places(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(B, G G) int64: where the tokens of the target, the last of three pictures of one size, stand in a dialogue."""
    import torch

    kinds = inputs["mm_token_type_ids"].bool()
    return torch.nonzero(kinds)[:, 1].view(len(kinds), 3, -1)[:, 2]


def seen_before(encoded: Encoded, places: torch.Tensor) -> torch.Tensor:
    """(K, L) bool: which tokens of the first reading structure k's second reading attends to.

    All before the target, the question, and of the answer what lies after the `<Seg>` before up to k's own.
    """
    import torch

    length = encoded.inputs["input_ids"].shape[1]
    at = torch.arange(length, device=places.device)[None]
    before, after = places.min(1, keepdim=True).values, places.max(1, keepdim=True).values
    starts = torch.tensor([start for start, _ in encoded.answers], device=places.device)[:, None]
    common = (at < before) | ((at > after) & (at < starts))
    common &= encoded.inputs["attention_mask"].bool()
    of, own = encoded.of, encoded.spots
    first = starts[of, 0]
    follows = torch.zeros_like(of, dtype=torch.bool)
    follows[1:] = of[1:] == of[:-1]
    first = torch.where(follows, own.roll(1) + 1, first)
    return common[of] | ((at >= first[:, None]) & (at <= own[:, None]))


def states_again(reasoner: Reasoner, encoded: Encoded, embedded: torch.Tensor, kept: Any) -> torch.Tensor:
    """(K, G G, H) states of the last layer of the second reading.

    embedded: (B, G G, H) vision embeddings of the target. kept: `transformers.DynamicCache` of the whole dialogues; it
    stays as it is.
    """
    import torch
    from transformers import DynamicCache

    base, inputs, of = reasoner.base.model, encoded.inputs, encoded.of
    places = target_places(inputs)
    grid, seen = inputs["image_grid_thw"], {"attention_mask": inputs["attention_mask"]}
    positions, _ = base.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=grid, **seen)
    own = positions.gather(2, places[None].expand(len(positions), -1, -1))  # (3, B, G G)
    count = places.shape[1]
    causal = torch.ones(count, count, dtype=torch.bool, device=places.device).tril()
    known = seen_before(encoded, places)[:, None].expand(-1, count, -1)
    mask = torch.cat([known, causal.expand(len(of), -1, -1)], 2)[:, None]
    states = DynamicCache()
    for number, layer in enumerate(kept.layers):
        states.update(layer.keys[of], layer.values[of], number)
    kind = base.language_model.norm.weight.dtype  # quantised bases too keep this layer as it was
    told = {"position_ids": own[:, of], "attention_mask": mask, "cache": states, "use_cache": True}
    out = base.language_model(inputs_embeds=embedded[of].to(kind), **told)
    return out.last_hidden_state.float()


def read_twice(reasoner: Reasoner, encoded: Encoded) -> Reading:
    """`Reasoner.read`, with the states of the second reading as its `again`."""
    from transformers import DynamicCache

    kept = DynamicCache()
    reading = reasoner.read(encoded.inputs, kept)
    hidden = reading.hidden.shape[-1]
    return replace(reading, again=states_again(reasoner, encoded, reading.target[..., :hidden], kept))


def target_states(reading: Reading, of: torch.Tensor, two_way: str) -> torch.Tensor | None:
    """(K, G G, H) states at the target's tokens, row k those for structure k; None for "off".

    of: (K,) dialogue of each. two_way: see `rau.sam.two_way`. Raises ValueError if there was no second reading.
    """
    if two_way == "off":
        return None
    if two_way == "released":
        return reading.target[of][..., reading.hidden.shape[-1] :]
    if reading.again is None:
        raise ValueError("states that know the question need a second reading")
    return reading.again
