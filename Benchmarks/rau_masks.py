"""What RAU's tables measure of SAM2: masks by memory, by the VLM's boxes, by fusion; who knows what is absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rau_scores import AT_ONCE, share
from rau_tasks import Group, batch_of

from rau.errors import InputError
from rau.models.store import find_model, open_model
from rau.sam.fusion import Fusion, FusionConfig
from rau.sam.segmenter import Masks, Segmenter
from rau.training.fusion_objective import Row, Scene, answer, ask, see
from rau.training.fusion_outcome import checksums_of, load_fusion, segmenter_of
from rau.training.items import Item
from rau.vlm.engine import load_reasoning
from rau.vlm.store import Loaded, load_reasoner

MEMORY, BOXES, FUSION, BOTH = "memory", "boxes", "fusion", "fusion + boxes"
SAYS_VLM, SAYS_SAM, SAYS_FUSED = "VLM, P(<Seg>)", "SAM2, object score", "SAM2 with fusion, object score"


@dataclass(frozen=True)
class Speaker:
    """A VLM and what was trained with it. fusion None: memory and boxes alone. row: its `<Seg>` embedding, or None."""

    loaded: Loaded
    fusion: Fusion | None = None
    segmenter: Segmenter | None = None
    row: torch.Tensor | None = None

    def told(self, batch: Any, items: Sequence[Item]) -> Any:
        """What the VLM tells of the structures."""
        two_way = self.fusion.config.two_way if self.fusion is not None else "off"
        if self.row is None:
            return ask(self.loaded, batch, items, two_way)
        row = Row(self.loaded.reasoner)
        row.weight.data.copy_(self.row)
        with row.used_by(self.loaded.reasoner):
            return ask(self.loaded, batch, items, two_way)


def trained_fusion(run: Path, reasoners: Sequence[Path], model: str) -> Speaker:
    """The fusion of a run folder with the reasoner, one of these folders, that it belongs to. Raises InputError."""
    fused = load_fusion(run / "fusion" if (run / "fusion").is_dir() else run)
    segmenter, digest = segmenter_of(model)
    if fused.record["fits"]["segmenter"] != digest:
        raise InputError(f"The fusion of {run.name} belongs to another segmenter", "Give the --model it was trained on")
    for folder in (run / "reasoner", *reasoners):
        if folder.is_dir() and checksums_of(folder) == fused.record["fits"]["reasoner"]:
            fused.put_into(segmenter)
            return Speaker(frozen(load_reasoner(folder)), fused.fusion, segmenter, fused.row)
    raise InputError(f"The VLM that the fusion of {run.name} belongs to is not here", "Give its run as --sft or --grpo")


def bundled_fusion(model: str) -> Speaker | None:
    """Those of a model folder; None where it has no VLM. fusion: None where it has none."""
    folder = open_model(find_model(model))
    if folder.manifest.vlm is None:
        return None
    reasoning = load_reasoning(folder, segmenter_of(model)[0], "cpu")
    return None if reasoning is None else Speaker(reasoning.locator.loaded, reasoning.fusion, reasoning.segmenter)


def random_fusion(loaded: Loaded, segmenter: Segmenter) -> Speaker:
    """For a quick run: nothing is trained."""
    sam = segmenter.model
    widths = (int(loaded.reasoner.heads.config.hidden), int(sam.hidden_dim), int(sam.mem_dim))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Speaker(loaded, Fusion(FusionConfig(*widths)).eval().requires_grad_(False), segmenter)


def frozen(loaded: Loaded) -> Loaded:
    loaded.reasoner.eval().requires_grad_(False)
    return loaded


@dataclass(frozen=True)
class Outcome:
    """One structure of an item. dice, iou: by way, of one that the target shows. says: presence 0 to 1, by signal.

    item: its number in the group.
    """

    source: str
    item: int
    present: bool
    dice: dict[str, float] = field(default_factory=dict)
    iou: dict[str, float] = field(default_factory=dict)
    says: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def outcomes(group: Group, speaker: Speaker, plain: Segmenter, ways: Sequence[str]) -> list[Outcome]:
    """Every structure of a group, by these ways; presence too where memory alone is one of them."""
    found, number = list[Outcome](), 0
    for source, items in group.sources.items():
        for first in range(0, len(items), AT_ONCE):
            some = items[first : first + AT_ONCE]
            found += _outcomes(source, number, some, speaker, plain, ways)
            number += len(some)
    return found


def _outcomes(
    source: str, number: int, items: Sequence[Item], speaker: Speaker, plain: Segmenter, ways: Sequence[str]
) -> list[Outcome]:
    batch, numbered = batch_of(items)
    scene = see(plain, batch_of(items, plain.size)[0], speaker.told(batch, numbered))
    dice, iou, says = {}, {}, {SAYS_VLM: scene.told.presence.sigmoid()}
    for way in ways:
        masks = decoded(way, scene, speaker, plain)
        dice[way], iou[way] = overlaps(masks, scene)
        if way in (MEMORY, FUSION):
            says[SAYS_SAM if way == MEMORY else SAYS_FUSED] = masks.presence.sigmoid()
    of = [number + i for i, item in enumerate(items) for _ in item.structures]
    truth = [one.box is not None for item in items for one in item.structures]
    return [
        Outcome(
            source,
            of[k],
            there,
            {way: float(values[k]) for way, values in dice.items()} if there else {},
            {way: float(values[k]) for way, values in iou.items()} if there else {},
            {who: float(values[k]) for who, values in says.items()},
        )
        for k, there in enumerate(truth)
    ]


def decoded(way: str, scene: Scene, speaker: Speaker, plain: Segmenter) -> Masks:
    """Memory and boxes by the segmenter as it is; fusion by the decoder that was trained with it."""
    if way in (MEMORY, BOXES):
        return answer(plain, None, scene, way == BOXES).masks
    if speaker.fusion is None or speaker.segmenter is None:
        raise InputError("There is no fusion", "Give a run of `rau train fusion` as --fusion")
    return answer(speaker.segmenter, speaker.fusion, scene, way == BOTH).masks


def overlaps(masks: Masks, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Dice and IoU, (K,)."""
    logits = F.interpolate(masks.logits, size=scene.truth.shape[-2:], mode="bilinear", align_corners=False)
    found, truth = (logits > 0).flatten(1), (scene.truth > 0.5).flatten(1)
    both, either = (found & truth).sum(1).float(), (found | truth).sum(1).float().clamp(min=1)
    return 2 * both / (found.sum(1) + truth.sum(1)).clamp(min=1), both / either


def dice_and_iou(found: Sequence[Outcome], way: str) -> tuple[float | None, float | None]:
    """Dice: mean over the sources of each source's mean. gIoU: mean IoU over all structures (RAU's own figure)."""
    means = dice_by_source(found, way).values()
    return share(list(means))[0], share([one.iou[way] for one in found if one.present])[0]


def dice_by_source(found: Sequence[Outcome], way: str) -> dict[str, float]:
    sources = dict.fromkeys(one.source for one in found if one.present)
    return {s: float(np.mean([o.dice[way] for o in found if o.present and o.source == s])) for s in sources}


def balanced(scores: np.ndarray, truth: np.ndarray, threshold: float) -> float | None:
    """Mean of sensitivity and specificity of score >= threshold; None where only one kind is there."""
    if truth.all() or not truth.any():
        return None
    said = scores >= threshold
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """The threshold of the best balanced accuracy, in the middle between two scores; the lowest of equals."""
    known = np.unique(scores)
    between = (known[1:] + known[:-1]) / 2
    rated = [(balanced(scores, truth, float(one)) or 0.0, float(one)) for one in between]
    if not rated or truth.all() or not truth.any():
        return None
    return max(rated, key=lambda pair: pair[0])[1]


def area_under_curve(scores: np.ndarray, truth: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores)) if truth.any() and not truth.all() else None


@dataclass(frozen=True)
class Presence:
    """accuracy: balanced, at a half. fitted: balanced, at `threshold`, which other items have chosen. area: under ROC.

    structures, absent: counted for accuracy and area.
    """

    structures: int
    absent: int
    accuracy: float | None
    area: float | None
    threshold: float | None
    fitted: float | None


def presence_of(found: Sequence[Outcome], who: str, threshold: float | None = None) -> Presence:
    """threshold: given, or chosen on the items of even number and tested on the others."""
    scores, truth = (np.array([one.says[who] for one in found]), np.array([one.present for one in found], bool))
    tested = np.ones(len(found), bool)
    if threshold is None:
        tested = np.array([one.item % 2 == 1 for one in found], bool)
        threshold = best_threshold(scores[~tested], truth[~tested])
    fitted = None if threshold is None or not tested.any() else balanced(scores[tested], truth[tested], threshold)
    accuracy = balanced(scores, truth, 0.5) if len(found) else None
    return Presence(len(found), int((~truth).sum()), accuracy, area_under_curve(scores, truth), threshold, fitted)


def signals(speaker: Speaker) -> list[str]:
    return [SAYS_VLM, SAYS_SAM, *([SAYS_FUSED] if speaker.fusion is not None else [])]


def ways_of(speaker: Speaker) -> list[str]:
    return [MEMORY, BOXES, *([FUSION, BOTH] if speaker.fusion is not None else [])]
