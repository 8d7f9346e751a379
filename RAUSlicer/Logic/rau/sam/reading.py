"""How a slice reads its memory: SAM2's memory attention with the same answer for less work, or nearly the same.

The weights are those of `sam2`'s `MemoryAttention`, layer for layer (`rau.sam.build` puts this class in its place).
What is the same to rounding: rows of one slice share the first self-attention; the memory is attended to in its own
channels and projected afterwards, softmax(Q K^T) (M W) = (softmax(Q K^T) M) W; rows go through in groups that stay in
the processor's cache. What is not the same is an `Economy`. Axes: B rows, L memory tokens, T positions of the slice,
C channels of the slice, M channels of the memory.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor

QUERIES, KEYS = 512, 512  # positions, and memory tokens, whose scores are held at once on a CPU


@dataclass(frozen=True)
class Economy:
    """What reading memory may save. The default saves nothing that changes an answer.

    pool: positions a side that become one (their mean; it counts for all of them), of remembered slices, and of the
    slice itself where it is what its own positions attend to. half: bfloat16 in matrix products. rows: rows in a group;
    0: all on a GPU, one after the other on a CPU.
    """

    pool: int = 1
    half: bool = False
    rows: int = 0


POOLED_FROM = 512  # pixels a side: on smaller slices pooling costs Dice and saves little (`Benchmarks/volumes.py`)


def quick_halves(kind: str) -> bool:
    """Whether products in bfloat16 save time on this kind of device: on GPUs, and on processors with units for them.
    On others they take several times as long (`Benchmarks/throughput.py`).
    """
    units = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return kind != "cpu" or any(getattr(torch.cpu, name, lambda: False)() for name in units)


def fast(size: int, kind: str = "cpu") -> Economy:
    """The economy of `--speed fast` on slices of `size` pixels a side, on this kind of device ("cpu", "cuda")."""
    return Economy(pool=2 if size >= POOLED_FROM else 1, half=quick_halves(kind))


class MemoryReader(MemoryAttention):
    """`MemoryAttention` for inference; in training, and for layers of another kind, it is SAM2's own."""

    economy = Economy()

    def forward(
        self,
        curr: Any,
        memory: Tensor,
        curr_pos: Any = None,
        memory_pos: Tensor | None = None,
        num_obj_ptr_tokens: int = 0,
    ) -> Tensor:
        """curr, curr_pos: (T, B, C), or a list of one. memory, memory_pos: (L, B, M), pointers last -> (T, B, C)."""
        if self.training or memory_pos is None or curr_pos is None or not self._known():
            return super().forward(curr, memory, curr_pos, memory_pos, num_obj_ptr_tokens)
        x, place = (one[0] if isinstance(one, list) else one for one in (curr, curr_pos))
        count = x.shape[1]
        if count > 1 and x.stride(1) == 0 and place.stride(1) == 0:  # one slice, expanded to its rows
            x, place = x[:, :1], place[:, :1]
        x = (x + 0.1 * place if self.pos_enc_at_input else x).transpose(0, 1)
        place, memory, memory_pos = (one.transpose(0, 1) for one in (place, memory, memory_pos))
        spans = _Spans(x.shape[1], memory.shape[1] - num_obj_ptr_tokens)
        pool = self.economy.pool if spans.can_pool(self.economy.pool) else 1
        turns = [spans.turns(layer.cross_attn_image, pool, x.device) for layer in self.layers]
        half = torch.autocast(x.device.type, torch.bfloat16) if self.economy.half else nullcontext()
        with half:
            x = self.layers[0]._forward_sa(x, place)
            group = self.economy.rows or (1 if x.device.type == "cpu" else count)
            parts = []
            for start in range(0, count, group):
                rows = slice(start, start + group)
                kept, kept_pos = (spans.pooled(one[rows], pool) for one in (memory, memory_pos))
                mine = x[rows] if len(x) > 1 else x.expand(len(kept), -1, -1)
                there = place if len(place) == 1 else place[rows]
                parts.append(self._read(mine, there, kept, kept_pos, turns, 2 * math.log(pool)))
            found = torch.cat(parts)
        return self.norm(found.float()).transpose(0, 1)

    def _known(self) -> bool:
        """Whether all layers are what the shipped configurations of SAM2 have."""
        kinds = [(layer.self_attn, layer.cross_attn_image) for layer in self.layers]
        plain = all(isinstance(one, RoPEAttention) and one.num_heads == 1 for pair in kinds for one in pair)
        return plain and self.batch_first and len({_waves(one) for pair in kinds for one in pair}) == 1

    def _read(
        self, x: Tensor, place: Tensor, memory: Tensor, memory_pos: Tensor, turns: list[Turns], weight: float
    ) -> Tensor:
        """All layers for a group of rows, after the first self-attention. x: (B, T, C) -> the same.

        weight: added to the scores of spatial tokens; a mean of n tokens counts n times.
        """
        placed = memory + memory_pos
        for number, layer in enumerate(self.layers):
            x = _among_themselves(layer, x, place, turns[number]) if number else x
            asked = layer.norm2(x) + place if layer.pos_enc_at_cross_attn_queries else layer.norm2(x)
            keys = placed if layer.pos_enc_at_cross_attn_keys else memory
            x = x + _cross(layer.cross_attn_image, asked, keys, memory, turns[number], weight)
            x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
        return x


@dataclass(frozen=True)
class _Spans:
    """positions: of a slice, T. spatial: memory tokens that are positions of remembered slices; pointers follow."""

    positions: int
    spatial: int

    @property
    def side(self) -> int:
        return math.isqrt(self.positions)

    def can_pool(self, pool: int) -> bool:
        return pool > 1 and self.side**2 == self.positions and self.side % pool == 0

    def pooled(self, x: Tensor, pool: int) -> Tensor:
        """(B, L, M) with every `pool` x `pool` positions of a remembered slice as one."""
        if pool == 1:
            return x
        rows, channels, side = len(x), x.shape[2], self.side
        maps = x[:, : self.spatial].reshape(-1, side, side, channels).permute(0, 3, 1, 2)
        small = F.avg_pool2d(maps, pool).permute(0, 2, 3, 1).reshape(rows, -1, channels)
        return torch.cat([small, x[:, self.spatial :]], 1)

    def turns(self, attention: Any, pool: int, device: torch.device) -> Turns:
        """Of the slice's own positions and of the pooled ones of the memory."""
        own, pooled = (rotation(self.side, one, attention).to(device) for one in (1, pool))
        return Turns(own, pooled, self.spatial // pool**2)


@dataclass(frozen=True)
class Turns:
    """own: (T, C / 2) complex; pooled: (T / pool^2, C / 2); spatial: memory tokens that have a position."""

    own: Tensor
    pooled: Tensor
    spatial: int


def _waves(attention: Any) -> tuple[int, float]:
    """Channels of the rotary encoding, and its base."""
    return attention.internal_dim, attention.compute_cis.keywords["theta"]


def rotation(side: int, pool: int, attention: Any) -> Tensor:
    """(T / pool^2, C / 2) complex: the rotary encoding at the middle of pooled positions, `side` positions a side."""
    line = (torch.arange(side // pool, dtype=torch.float32) + 0.5) * pool - 0.5
    dim, theta = _waves(attention)
    waves = 1.0 / theta ** (torch.arange(0, dim, 4)[: dim // 4].float() / dim)
    along = torch.outer(line, waves)
    angles = torch.cat([along.repeat(len(line), 1), along.repeat_interleave(len(line), 0)], 1)
    return torch.polar(torch.ones_like(angles), angles)


def _among_themselves(layer: Any, x: Tensor, place: Tensor, turns: Turns) -> Tensor:
    """The layer's self-attention of (B, T, C), to pooled positions where memory is pooled."""
    pool = math.isqrt(len(turns.own) // len(turns.pooled))
    if pool == 1:
        return layer._forward_sa(x, place)
    attention, asked = layer.self_attn, layer.norm1(x)
    spans = _Spans(x.shape[1], x.shape[1])
    values = spans.pooled(asked, pool)
    if layer.pos_enc_at_attn:
        asked = asked + place
    q, k = attention.q_proj(asked).float(), attention.k_proj(spans.pooled(asked, pool)).float()
    _turn(q, turns.own)
    _turn(k, turns.pooled)
    seen = F.scaled_dot_product_attention(q[:, None], k[:, None], attention.v_proj(values).float()[:, None])
    return x + attention.out_proj(seen[:, 0])


def _cross(attention: Any, asked: Tensor, keys: Tensor, values: Tensor, turns: Turns, weight: float) -> Tensor:
    """Attention of (B, T, C) to (B, L, M), out of its own projections: (B, T, C)."""
    q, k = attention.q_proj(asked).float(), attention.k_proj(keys).float()
    _turn(q, turns.own)
    _turn(k[:, : turns.spatial], turns.pooled)
    if q.device.type == "cpu":
        return attention.out_proj(attention.v_proj(_attended(q, k, values, turns.spatial, weight)))
    bias = q.new_zeros(k.shape[1])
    bias[: turns.spatial] = weight
    mask = bias.expand(q.shape[1], -1) if weight else None
    seen = F.scaled_dot_product_attention(q[:, None], k[:, None], attention.v_proj(values)[:, None], attn_mask=mask)
    return attention.out_proj(seen[:, 0])


def _turn(x: Tensor, turns: Tensor) -> None:
    """Rotary encoding of (B, n T, C), in place, the same for each of n slices. turns: (T, C / 2) complex."""
    pairs = torch.view_as_complex(x.view(len(x), -1, *turns.shape, 2))
    pairs.mul_(turns)


def _attended(q: Tensor, k: Tensor, values: Tensor, spatial: int, weight: float) -> Tensor:
    """softmax(q k^T / sqrt(C) + weight of spatial tokens) values: (B, T, M).

    Few queries and keys at a time, so that their scores stay in the processor's cache; the sums of earlier keys follow
    the largest score as it grows (online softmax, Milakov and Gimelshein, arXiv:1805.02867).
    """
    q, k = q / math.sqrt(q.shape[-1]), k.transpose(1, 2)
    spans = [*_spans(0, spatial), *_spans(spatial, k.shape[2])]
    parts = []
    for start in range(0, q.shape[1], QUERIES):
        some = q[:, start : start + QUERIES]
        highest = some.new_full((*some.shape[:2], 1), -torch.inf)
        total, summed = torch.zeros_like(highest), some.new_zeros(*some.shape[:2], values.shape[2])
        for span in spans:
            scores = (some @ k[..., span]).float()
            if weight and span.stop <= spatial:
                scores += weight
            before, highest = highest, torch.maximum(highest, scores.detach().amax(-1, keepdim=True))
            kept = (before - highest).exp()
            scores.sub_(highest).exp_()
            total = total * kept + scores.sum(-1, keepdim=True)
            summed = summed * kept + scores @ values[:, span]
        parts.append((summed / total).to(values.dtype))
    return torch.cat(parts, 1)


def _spans(start: int, stop: int) -> list[slice]:
    return [slice(one, min(one + KEYS, stop)) for one in range(start, stop, KEYS)]
