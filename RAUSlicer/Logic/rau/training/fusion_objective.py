"""What fusion learns from a batch: the VLM is asked, its `<Seg>` states are fused with the memory, SAM2 decodes.

RAU stage 3a (papers.md A4), Eq. 6 and 7, loss of A3.7; RCMed's way back (B2, `rau.sam.two_way`). Row k is one
structure everywhere (W3): its `<Seg>` state, its slots, its z, its field, its mask. Axes: K structures of all
dialogues, B dialogues, S pixels a side, H and C widths of the VLM and of SAM2, N slots, G tokens a side of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rau.sam.fusion import Fusion, collapsed, entropy_of, slots_of
from rau.sam.pixels import normalise
from rau.sam.segmenter import Features, Masks, Segmenter
from rau.sam.two_way import TwoWay
from rau.training.batch import Batch, make_batch
from rau.training.data import Layout, Mixture
from rau.training.items import Item, draw, labels_of, shares_of
from rau.training.objective import dice_of
from rau.training.prompts import prompts_for
from rau.training.synthetic import Dice
from rau.training.vlm_objective import answer_loss
from rau.vlm.again import read_twice, target_states
from rau.vlm.dialogue import ABSENT, encode, token_of
from rau.vlm.model import Reasoner
from rau.vlm.store import Loaded

ONE_REFERENCE = Layout(1, 0)


class Row(nn.Module):
    """The input embedding of `<Seg>`, learnt; the VLM's own table stays as it is. weight: (H,)."""

    def __init__(self, reasoner: Reasoner) -> None:
        super().__init__()
        self.seg = reasoner.seg
        table = reasoner.base.get_input_embeddings()
        self.weight = nn.Parameter(table.weight[self.seg].detach().float().clone())

    @contextmanager
    def used_by(self, reasoner: Reasoner) -> Iterator[None]:
        """Inside, the reasoner reads `<Seg>` with this row; out of place, so that autograd holds."""

        def put(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            return torch.where((args[0] == self.seg)[..., None], self.weight.to(output.dtype), output)

        hook = reasoner.base.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()


@dataclass(frozen=True)
class Told:
    """What the VLM tells of K structures. rows: (K,) int64, row of the batch that structure k is; names: as asked.

    states: (K, H) at `<Seg>`. presence: (K,) logits. boxes: (K, 4) corners as fractions of the picture.
    target: (K, G G, H) states at the target's tokens; None unless two-way. ce: cross-entropy of the answers, or None.
    """

    rows: torch.Tensor
    names: tuple[str, ...]
    states: torch.Tensor
    presence: torch.Tensor
    boxes: torch.Tensor
    target: torch.Tensor | None = None
    ce: torch.Tensor | None = None


def rows_of(batch: Batch, items: Sequence[Item]) -> list[int]:
    """The row of the batch that each structure of the items is, found by its masks, never by its place (W3).

    Raises RuntimeError where a structure is no row of its task, or a row would be taken twice.
    """
    rows: list[int] = []
    for item in items:
        free = [int(k) for k in torch.nonzero(batch.of == item.drawn)[:, 0]]
        for one in item.structures:
            pair = np.stack([one.reference, one.target])
            same = [k for k in free if np.array_equal(batch.masks[k, [0, batch.layout.target], 0].numpy() > 0.5, pair)]
            if not same:
                raise RuntimeError(f"{one.name} is no structure of its batch, or twice")
            free.remove(same[0])
            rows.append(same[0])
    return rows


def ask(loaded: Loaded, batch: Batch, items: Sequence[Item], two_way: TwoWay = "off", with_ce: bool = False) -> Told:
    """One pass of the VLM over items of the task "segment", with a state of every structure (forced answers).

    two_way "conditioned": the target's pictures are read twice. with_ce: absent structures should have been called so.
    The processor brings the pictures to the VLM's own size. Raises RuntimeError if states and structures differ.
    """
    encoded = encode(loaded.processor, [item.dialogue(forced=True) for item in items])
    structures = [one for item in items for one in item.structures]
    if encoded.of.tolist() != [b for b, item in enumerate(items) for _ in item.structures]:
        raise RuntimeError("states and structures are not the same")
    anchors = torch.tensor([one.anchor for one in structures]).view(-1, 4)
    shares = shares_of([one.reference for one in structures], loaded.cells)
    reasoner = loaded.reasoner
    reading = read_twice(reasoner, encoded) if two_way == "conditioned" else reasoner.read(encoded.inputs)
    cues = reasoner.cues(reading, encoded.spots, encoded.of, anchors, shares)
    target, ce = target_states(reading, encoded.of, two_way), None
    if with_ce:
        here = torch.tensor([one.box is not None for one in structures], dtype=torch.bool)
        labels = labels_of(encoded, here, token_of(loaded.processor.tokenizer, ABSENT))
        ce = answer_loss(reasoner, reading.hidden, labels)
    rows, names = torch.tensor(rows_of(batch, items)), tuple(one.name for one in structures)
    return Told(rows, names, cues.states, cues.presence.detach(), cues.boxes.detach(), target, ce)


@dataclass(frozen=True)
class Scene:
    """K structures, row k that of `told`. reference, target: features of their slices. masks: (K, 1, S, S) reference.

    truth: (K, 1, S, S) of the target. present: (K,) bool. image: (K, 1, S, S) target in grey, 0 to 1.
    """

    told: Told
    reference: Features
    target: Features
    masks: torch.Tensor
    truth: torch.Tensor
    present: torch.Tensor
    image: torch.Tensor

    def prompts(self, seed: int) -> torch.Tensor:
        """(K, 1, S, S) mask prompts as registration or an expert would give them."""
        return prompts_for(self.truth, self.masks, self.image, Dice(seed))


@torch.no_grad()
def see(segmenter: Segmenter, batch: Batch, told: Told) -> Scene:
    """Every slice encoded once, and the batch in the order of `told`. The batch has one reference, no neighbours."""
    if batch.layout != ONE_REFERENCE:
        raise ValueError("fusion learns from one reference a target")
    features = segmenter.encode(normalise(batch.images.flatten(0, 1)))
    frame = batch.of[told.rows] * batch.layout.frames
    reference, target = features.rows(frame), features.rows(frame + batch.layout.target)
    masks, truth = batch.masks[told.rows, 0], batch.masks[told.rows, batch.layout.target]
    image = batch.images[batch.of[told.rows], batch.layout.target].mean(1, keepdim=True)
    return Scene(told, reference, target, masks, truth, batch.present[told.rows], image)


def boxes_of(told: Told, size: int) -> torch.Tensor:
    """(K, 4) box prompts in pixels of the S square; NaN where the VLM says absent, or the box is outside or empty."""
    boxes = told.boxes.float().clamp(0, 1) * size
    there = (told.presence > 0) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    return boxes.masked_fill(~there[:, None], float("nan"))


@dataclass(frozen=True)
class Answer:
    """masks: K rows. alpha: (K, N) attention over slots, slots: (K, N) bool which take part; None without fusion."""

    masks: Masks
    alpha: torch.Tensor | None = None
    slots: torch.Tensor | None = None


def answer(
    segmenter: Segmenter,
    fusion: Fusion | None,
    scene: Scene,
    boxes: bool = False,
    prompts: torch.Tensor | None = None,
) -> Answer:
    """Remember the reference, fuse (None: memory alone), decode the target, perhaps with the VLM's boxes."""
    with torch.no_grad():
        memory = segmenter.remember(scene.reference, scene.masks)
    asked = boxes_of(scene.told, segmenter.size) if boxes else None
    if fusion is None:
        return Answer(segmenter.decode(scene.target, [memory], prompts=prompts, boxes=asked))
    slots = slots_of(scene.reference, scene.masks, memory, fusion.config.spatial_side)
    z, alpha = fusion(scene.told.states, slots)
    told = {"tokens": z, "fields": fusion.fields(scene.told.target), "injection": fusion.config.injection}
    masks = segmenter.decode(scene.target, [memory], prompts=prompts, boxes=asked, **told)
    return Answer(masks, alpha, slots.mask)


class Scores:
    """Dice and IoU of present structures, by what SAM2 was told and by source."""

    def __init__(self) -> None:
        self.dice: dict[str, dict[str, list[float]]] = {}
        self.iou: dict[str, list[float]] = {}

    def note(self, kind: str, source: str, masks: Masks, scene: Scene) -> None:
        logits = F.interpolate(masks.logits, size=scene.truth.shape[-2:], mode="bilinear", align_corners=False)
        found, truth = (logits > 0).float()[scene.present], scene.truth[scene.present]
        both, either = (x.flatten(1).sum(1) for x in (found * truth, torch.maximum(found, truth)))
        self.dice.setdefault(kind, {}).setdefault(source, []).extend(dice_of(found, truth, 1e-6).tolist())
        self.iou.setdefault(kind, []).extend((both / either.clamp(min=1)).tolist())

    def means(self) -> dict[str, float]:
        """Dice: mean over the sources of the mean of a source. "giou ...": mean IoU over all structures (A6)."""
        row = {kind: float(np.mean([np.mean(v) for v in by.values() if v])) for kind, by in self.dice.items()}
        row |= {f"giou {kind}": float(np.mean(v)) for kind, v in self.iou.items() if not kind.endswith("prompted")}
        for kind in ("memory", "both"):
            row |= {f"{name} {kind}": float(np.mean(v)) for name, v in self.dice.get(kind, {}).items() if v}
        return row


def scenes(
    loaded: Loaded,
    segmenter: Segmenter,
    source: Mixture,
    size: int,
    batches: int,
    dialogues: int,
    structures: int,
    two_way: TwoWay = "off",
) -> Iterator[tuple[str, int, Scene]]:
    """Source, number, scene: the same at every validation. Targets lack structures as often as in SFT's validation."""
    for name, _, one in source.sources:
        kept, one.removal = one.removal, 0.6
        for i in range(batches):
            batch = make_batch(one, (78, i), ONE_REFERENCE, dialogues, structures, size)
            items = draw(batch, "segment", np.random.default_rng(i))
            if items:
                yield name, i, see(segmenter, batch, ask(loaded, batch, items, two_way))
        one.removal = kept


@torch.no_grad()
def plain_scores(segmenter: Segmenter, given: Iterator[tuple[str, int, Scene]]) -> dict[str, float]:
    """What the segmenter does without fusion: "memory", "boxes" (of the VLM), each "... prompted" too. See `Scores`."""
    scores = Scores()
    for name, i, scene in given:
        for kind, boxes in (("memory", False), ("boxes", True)):
            for prompts, ending in ((None, ""), (scene.prompts(i), " prompted")):
                scores.note(kind + ending, name, answer(segmenter, None, scene, boxes, prompts).masks, scene)
    return scores.means()


@dataclass(frozen=True)
class Attention:
    """alpha: (K, N) weights; slots: (K, N) bool; names: of the K structures."""

    alpha: torch.Tensor
    slots: torch.Tensor
    names: tuple[str, ...]


@torch.no_grad()
def fused_scores(
    segmenter: Segmenter, fusion: Fusion, given: Iterator[tuple[str, int, Scene]]
) -> tuple[dict[str, float], Attention]:
    """What fusion does: "fusion", "both" (with boxes), each "... prompted" too; "bare": its decoder without a token.

    "presence": part of the structures whose presence is right; "entropy": mean of alpha's; "collapsed": 1 or 0.
    """
    scores, right, names = Scores(), [], list[str]()
    alphas, masks = [], []
    for name, i, scene in given:
        scores.note("bare", name, answer(segmenter, None, scene).masks, scene)
        for kind, boxes in (("fusion", False), ("both", True)):
            for prompts, ending in ((None, ""), (scene.prompts(i), " prompted")):
                told = answer(segmenter, fusion, scene, boxes, prompts)
                scores.note(kind + ending, name, told.masks, scene)
        right += ((told.masks.presence > 0) == scene.present).tolist()
        alphas.append(told.alpha)
        masks.append(told.slots)
        names += scene.told.names
    attention = Attention(torch.cat(alphas).float(), torch.cat(masks), tuple(names))
    row = {**scores.means(), "presence": float(np.mean(right))}
    row["entropy"] = float(entropy_of(attention.alpha, attention.slots).mean())
    row["collapsed"] = float(bool(collapsed(attention.alpha, attention.slots)))
    return row, attention
