"""The reference's part of a dialogue, computed once: key-value states and vision embeddings, kept by content.

The reference comes first in every dialogue (`rau.vlm.prompts`), so what the language model computed of it is the same
for every target. Kept by the SHA-256 of its pictures and names, of the model and of the prompt's version.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rau.models.engine import content_hash
from rau.vlm.prompts import VERSION

if TYPE_CHECKING:
    import torch

    from rau.vlm.dialogue import Encoded
    from rau.vlm.model import Reading, Reasoner

KEPT = 24  # prefixes; one of the small model takes about 1.5 MB


@dataclass(frozen=True)
class Prefix:
    """length: tokens. states: `transformers.DynamicCache` of exactly these; it is cropped back after each use.

    reference: (1, G G, 2 H), see `rau.vlm.model.Reading`.
    """

    length: int
    states: Any
    reference: torch.Tensor


@dataclass
class PrefixCache:
    """Prefixes by content, the oldest let go. model: digest of the weights.

    computed, reused: prompt tokens that went through the language model, and that did not have to.
    """

    model: str
    most: int = KEPT
    computed: int = 0
    reused: int = 0
    _kept: OrderedDict[str, Prefix] = field(default_factory=OrderedDict, repr=False)

    def key(self, names: Sequence[str], images: Sequence[Any]) -> str:
        """images: reference and overlay, uint8."""
        return content_hash(*images[:2], tuple(names), self.model, VERSION)

    def find(self, key: str) -> Prefix | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: str, prefix: Prefix) -> None:
        self._kept[key] = prefix
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)


def prefix_length(encoded: Encoded, start: int) -> int:
    """Tokens of a single dialogue before its last picture. start: id of `<|vision_start|>`."""
    import torch

    return int(torch.nonzero(encoded.inputs["input_ids"][0] == start)[-1, 0])


def read_with_prefix(
    reasoner: Reasoner, encoded: Encoded, start: int, cache: PrefixCache, key: str, twice: bool = False
) -> Reading:
    """`Reasoner.read` of one dialogue; `hidden` is (1, L, H) with zeros at the tokens of the prefix, which say nothing.

    start: id of `<|vision_start|>`. twice: with a second reading of the target (`rau.vlm.again`). The same values as
    without a cache, to rounding.
    """
    import torch

    from rau.vlm.again import states_again
    from rau.vlm.model import Reading

    base, inputs = reasoner.base.model, encoded.inputs
    ids, kinds, grid = inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    cut = prefix_length(encoded, start)
    positions, _ = base.get_rope_index(ids, kinds, image_grid_thw=grid)
    patches = grid.prod(-1).tolist()
    known = cache.find(key)
    if known is None:
        known = _computed(base, inputs, positions, cut, patches)
        cache.keep(key, known)
        cache.computed += cut
    else:
        cache.reused += cut
    seen = _seen(base, inputs["pixel_values"][-patches[-1] :], grid[-1:])
    embedded = _embedded(base, ids[:, cut:], kinds[:, cut:], seen)
    out = base.language_model(
        inputs_embeds=embedded, position_ids=positions[..., cut:], cache=known.states, use_cache=True
    )
    again = states_again(reasoner, encoded, seen[None], known.states) if twice else None
    known.states.crop(cut - ids.shape[1])  # a negative number: so many tokens are taken off again
    cache.computed += ids.shape[1] - cut
    later = out.last_hidden_state.float()
    hidden = torch.cat([later.new_zeros(1, cut, later.shape[-1]), later], 1)
    thought = later[kinds[:, cut:].bool()]
    return Reading(hidden, torch.cat([seen.float(), thought], -1)[None], known.reference, again)


def _seen(base: Any, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat(list(base.get_image_features(pixels, grid).pooler_output))


def _embedded(base: Any, ids: torch.Tensor, kinds: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    words = base.get_input_embeddings()(ids)
    return words.masked_scatter(kinds.bool()[..., None], seen.to(words.dtype))


def _computed(base: Any, inputs: Any, positions: torch.Tensor, cut: int, patches: Sequence[int]) -> Prefix:
    import torch
    from transformers import DynamicCache

    before, kinds = sum(patches[:-1]), inputs["mm_token_type_ids"][:, :cut]
    seen = _seen(base, inputs["pixel_values"][:before], inputs["image_grid_thw"][:-1])
    embedded, states = _embedded(base, inputs["input_ids"][:, :cut], kinds, seen), DynamicCache()
    out = base.language_model(inputs_embeds=embedded, position_ids=positions[..., :cut], cache=states, use_cache=True)
    thought = out.last_hidden_state[kinds.bool()]
    pictures = torch.cat([seen.float(), thought.float()], -1)
    return Prefix(cut, states, pictures[: len(pictures) // 2][None])  # reference and overlay have the same size
