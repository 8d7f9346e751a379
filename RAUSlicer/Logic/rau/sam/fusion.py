"""Fusion: the `<Seg>` state of the VLM, projected (RAU Eq. 6), attends to slots of the reference's memory (Eq. 7).

Row i is one structure everywhere: its `<Seg>` state, its slots, its z, its mask (papers.md W3). Names of axes: N rows,
R references of a row, K = R * (2 + P * P) slots of a row, H = width of the VLM's states, C = width of SAM2's features,
tokens and pointers (256; rau-mini 112), C_mem = width of its spatial memory (64; rau-mini 112), d = width inside.
The weights are those of `Fusion.state_dict()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from rau.sam.injection import INJECTIONS, Injection
from rau.sam.segmenter import Features, Memory
from rau.sam.two_way import TWO_WAYS, LanguageToVision, TwoWay

WIDTHS = (64, 1024)  # of the projector, unless it is as wide as SAM2
COVERED = 0.5  # part of a cell under the mask from which its feature counts for the prototype
ONE_HOT = 0.99  # a weight from which its slot has all of the attention
UNIFORM = 0.995  # normalised entropy from which the attention prefers no slot


@dataclass(frozen=True)
class FusionConfig:
    """hidden: H. channels: C. memory_channels: C_mem. width: d, 64 to 1024; 0 becomes `channels`.

    spatial_side: P, spatial slots a side for each reference (0: none). injection: see `rau.sam.injection.injected`.
    residual: z = q + attention (W2: without it one slot hides the VLM; only for ablations). two_way: the way back, from
    language to vision, see `rau.sam.two_way`. Raises ValueError.
    """

    hidden: int
    channels: int = 256
    memory_channels: int = 64
    width: int = 0
    spatial_side: int = 0
    injection: Injection = "token"
    residual: bool = True
    two_way: TwoWay = "off"

    def __post_init__(self) -> None:
        if min(self.hidden, self.channels, self.memory_channels) < 1 or self.spatial_side < 0:
            raise ValueError("the widths of a fusion must be positive, its spatial side at least 0")
        object.__setattr__(self, "width", self.width or self.channels)
        if self.width != self.channels and not WIDTHS[0] <= self.width <= WIDTHS[1]:
            raise ValueError(f"the width of the projector must be {WIDTHS[0]} to {WIDTHS[1]}, not {self.width}")
        if self.injection not in INJECTIONS:
            raise ValueError(f"the injection must be one of {', '.join(INJECTIONS)}, not {self.injection!r}")
        if self.two_way not in TWO_WAYS:
            raise ValueError(f"two-way must be one of {', '.join(TWO_WAYS)}, not {self.two_way!r}")


@dataclass(frozen=True)
class Slots:
    """What the memory holds of N structures in R references (papers.md A3.6 step 2).

    prototypes: (N, R, C), p: mean top-level feature under the mask. pointers: (N, R, C), o: SAM2's object pointer.
    spatial: (N, R, P * P, C_mem), pooled spatial memory, cells by rows (y, x); P = 0: an empty axis.
    present: (N, R) bool, false: padding, or a reference that does not show the structure; its slots take no part.
    """

    prototypes: torch.Tensor
    pointers: torch.Tensor
    spatial: torch.Tensor
    present: torch.Tensor

    def __len__(self) -> int:
        return self.present.shape[0]

    @property
    def mask(self) -> torch.Tensor:
        """(N, K) bool: slots that take part. Of each reference: prototype, pointer, spatial slots; then the next."""
        return self.present.repeat_interleave(2 + self.spatial.shape[2], dim=1)

    def rows(self, index: torch.Tensor) -> Slots:
        """Slots of rows index[n]. index: (N',) int64."""
        return Slots(self.prototypes[index], self.pointers[index], self.spatial[index], self.present[index])

    def pad(self, references: int) -> Slots:
        """With padding up to R = `references`; padding changes no outcome. Raises ValueError if there are more."""
        more = references - self.present.shape[1]
        if more < 0:
            raise ValueError(f"{self.present.shape[1]} references do not fit into {references}")
        prototypes, pointers = (F.pad(x, (0, 0, 0, more)) for x in (self.prototypes, self.pointers))
        return Slots(prototypes, pointers, F.pad(self.spatial, (0, 0, 0, 0, 0, more)), F.pad(self.present, (0, more)))

    @staticmethod
    def join(references: Sequence[Slots]) -> Slots:
        """The same N structures in more references: R adds up."""
        return Slots._cat(references, 1)

    @staticmethod
    def stack(rows: Sequence[Slots]) -> Slots:
        """Other structures, in that order: N adds up; those with fewer references are padded."""
        most = max(one.present.shape[1] for one in rows)
        return Slots._cat([one.pad(most) for one in rows], 0)

    @staticmethod
    def _cat(parts: Sequence[Slots], axis: int) -> Slots:
        columns = zip(*((s.prototypes, s.pointers, s.spatial, s.present) for s in parts), strict=True)
        return Slots(*(torch.cat(column, axis) for column in columns))


def prototypes_of(top: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean feature under each mask. top: (N, C, T, T); masks: (N, 1, S, S), 0 or 1 -> (N, C), never NaN.

    Cells at least half under the mask count; a structure too small for that has its best covered cell.
    """
    cover = F.adaptive_avg_pool2d(masks.to(top.dtype), top.shape[-2:]).flatten(2)  # (N, 1, T * T)
    weights = (cover >= COVERED).to(top.dtype)
    best = F.one_hot(cover.argmax(2), cover.shape[2]).to(top.dtype)
    weights = torch.where(weights.sum(2, keepdim=True) > 0, weights, best)
    return (top.flatten(2) * weights).sum(2) / weights.sum(2)


def slots_of(features: Features, masks: torch.Tensor, memory: Memory, spatial_side: int = 0) -> Slots:
    """Slots of N structures in one reference each (R = 1; several: `Slots.join`).

    features: N rows, the reference's slice. masks: (N, 1, S, S), 0 or 1. memory: of these rows, N. spatial_side: P.
    An empty mask: the row is not present. Raises ValueError if the numbers of rows differ.
    """
    if not len(features) == len(masks) == len(memory.pointer):
        raise ValueError(f"rows differ: {len(features)} features, {len(masks)} masks, {len(memory.pointer)} memories")
    spatial = memory.spatial.flatten(2)[:, :, :0]
    if spatial_side:
        spatial = F.adaptive_avg_pool2d(memory.spatial, spatial_side).flatten(2)
    present = (masks > 0).flatten(1).any(1, keepdim=True)
    prototypes = prototypes_of(features.levels[-1], masks)
    return Slots(prototypes[:, None], memory.pointer[:, None], spatial.transpose(1, 2)[:, None], present)


class Projector(nn.Module):
    """RAU Eq. 6: q = Linear(H, d)-GELU-Linear(d, d) of the state at `<Seg>` (papers.md A3.5)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """states: (N, H), any floating type -> q: (N, d)."""
        return self.layers(states.to(self.layers[0].weight.dtype))


def between(width: int, wanted: int) -> nn.Module:
    """A linear map, or none where the widths agree."""
    return nn.Identity() if width == wanted else nn.Linear(width, wanted)


class MemoryFusion(nn.Module):
    """RAU Eq. 7 with residual (papers.md A3.6): alpha = softmax(q . m / sqrt(d)), z = q + sum alpha m.

    Each kind of slot has its own map to d where its width is another (W1), and z one to C.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.prototype = between(config.channels, config.width)
        self.pointer = between(config.channels, config.width)
        self.spatial = between(config.memory_channels, config.width) if config.spatial_side else nn.Identity()
        self.output = between(config.width, config.channels)

    def values(self, slots: Slots) -> torch.Tensor:
        """The slots m as (N, K, d), in the order of `Slots.mask`; zero where they take no part."""
        kinds = [self.prototype(slots.prototypes)[:, :, None], self.pointer(slots.pointers)[:, :, None]]
        if self.config.spatial_side:
            kinds.append(self.spatial(slots.spatial))
        return torch.cat(kinds, 2).flatten(1, 2).masked_fill(~slots.mask[..., None], 0)

    def forward(self, q: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, torch.Tensor]:
        """q: (N, d); slots: N rows -> z: (N, C); alpha: (N, K), rows sum to 1, or are 0 where nothing is present.

        Raises ValueError if rows, width or the number of spatial slots are not those of the configuration.
        """
        side = self.config.spatial_side
        if tuple(q.shape) != (len(slots), self.config.width):
            raise ValueError(f"q must have the shape {(len(slots), self.config.width)}, not {tuple(q.shape)}")
        if slots.spatial.shape[2] != side * side:
            raise ValueError(f"{side} spatial slots a side were expected, {slots.spatial.shape[2]} slots were given")
        values, mask = self.values(slots), slots.mask
        scores = torch.einsum("nd,nkd->nk", q, values) / self.config.width**0.5
        alpha = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(1) * mask
        z = torch.einsum("nk,nkd->nd", alpha, values)
        return self.output(q + z if self.config.residual else z), alpha


class Fusion(nn.Module):
    """Eq. 6 and 7 in one: from `<Seg>` states and slots to the tokens of `Segmenter.decode`; the way back beside it."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.projector = Projector(config.hidden, config.width)
        self.memory = MemoryFusion(config)
        self.back = None if config.two_way == "off" else LanguageToVision(config.hidden, config.channels)

    def forward(self, states: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, torch.Tensor]:
        """states: (N, H), row i the structure of row i of `slots` -> z: (N, C); alpha: (N, K). Raises ValueError."""
        if states.dim() != 2 or states.shape[1] != self.config.hidden:
            raise ValueError(f"states must have the shape (N, {self.config.hidden}), not {tuple(states.shape)}")
        return self.memory(self.projector(states), slots)

    def fields(self, target: torch.Tensor | None) -> torch.Tensor | None:
        """(N, C, G, G), what is added to the image embedding; None where nothing is. target: (N, G G, H).

        Raises ValueError if the configuration wants the target's states and there are none, or of another shape.
        """
        if self.back is None:
            return None
        if target is None:
            raise ValueError(f"a fusion with two-way {self.config.two_way} needs the states of the target's picture")
        return self.back(target)


def entropy_of(alpha: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Entropy of each row's weights over log of its number of slots: 0 one-hot, 1 uniform; one slot or none: 0.

    alpha: (N, K); mask: (N, K) bool, `Slots.mask` (None: every slot takes part) -> (N,).
    """
    count = torch.full_like(alpha[:, 0], alpha.shape[1]) if mask is None else mask.sum(1).to(alpha.dtype)
    entropy = torch.special.entr(alpha).sum(1)
    return torch.where(count > 1, entropy / count.clamp(min=2).log(), torch.zeros_like(entropy))


def collapsed(alpha: torch.Tensor, mask: torch.Tensor | None = None) -> str:
    """A warning if the attention tells structures or slots apart no more; "" if all is well.

    Collapsed: the same slot has a weight of at least `ONE_HOT` for every structure, or every structure's normalised
    entropy is at least `UNIFORM`. Counted are rows with two slots or more; of fewer than two such rows nothing can be
    said. alpha, mask: (N, K), as of `entropy_of`. Not in the paper; it watches for papers.md W2.
    """
    taking_part = torch.ones_like(alpha, dtype=torch.bool) if mask is None else mask
    several = taking_part.sum(1) > 1
    if int(several.sum()) < 2:
        return ""
    alpha, taking_part = alpha[several], taking_part[several]
    weight, slot = alpha.max(1)
    if bool((weight >= ONE_HOT).all()) and bool((slot == slot[0]).all()):
        return f"Fusion has collapsed: all {len(alpha)} structures attend to slot {int(slot[0])} alone"
    if bool((entropy_of(alpha, taking_part) >= UNIFORM).all()):
        return f"Fusion has collapsed: none of {len(alpha)} structures prefers any slot"
    return ""
