"""What the segmenter learns from a batch: layout of a task, prediction, loss, and the scores of validation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from rau.sam.pixels import normalise
from rau.sam.segmenter import Features, Masks, Memory, Segmenter
from rau.training.batch import Batch, make_batch
from rau.training.data import Layout, Mixture, Source
from rau.training.prompts import prompts_for
from rau.training.synthetic import Dice

PROMPTED = 0.6  # chance of a batch whose structures come with mask prompts
FOUND = 0.5  # chance that the neighbours' masks are the network's own, not the true ones spoiled


def layout_of(rng: np.random.Generator, neighbours: float = 0.2) -> Layout:
    """One to three references; with chance `neighbours` one or two of the target's neighbours, else a key slice."""
    few = [1 - neighbours, 0.75 * neighbours, 0.25 * neighbours]
    return Layout(int(rng.choice([1, 2, 3], p=[0.7, 0.15, 0.15])), int(rng.choice([0, 1, 2], p=few)))


def spoiled(masks: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Masks of a neighbour as the model would make them: shifted, grown or shrunk, now and then lost. (K, 1, S, S)."""
    reach = masks.shape[-1] // 64
    out = torch.roll(masks, (int(rng.integers(-reach, reach + 1)), int(rng.integers(-reach, reach + 1))), (2, 3))
    kind = rng.random()
    if kind < 0.25:
        out = F.max_pool2d(out, 2 * reach + 1, 1, reach)
    elif kind < 0.5:
        out = 1 - F.max_pool2d(1 - out, 2 * reach + 1, 1, reach)
    keep = torch.from_numpy(rng.random(len(out)) > 0.12).float()[:, None, None, None]
    return out * keep.to(out)


@torch.no_grad()
def found(segmenter: Segmenter, features: Features, references: list[Memory]) -> torch.Tensor:
    """Masks of a neighbour as the network itself finds them from the references, (K, 1, S, S); nothing is learnt."""
    masks = segmenter.decode(features, references, [], None)
    logits = F.interpolate(masks.logits, size=(segmenter.size,) * 2, mode="bilinear", align_corners=False)
    return ((logits > 0) & (masks.presence > 0)[:, None, None, None]).float()


def encode(segmenter: Segmenter, batch: Batch) -> Features:
    """Every frame of the batch once: B * F slices, the frames of a task side by side."""
    return segmenter.encode(normalise(batch.images.flatten(0, 1)))


def decode(
    segmenter: Segmenter, batch: Batch, features: Features, rng: np.random.Generator, prompted: float = PROMPTED
) -> Masks:
    """Remember references and (spoiled) neighbours, decode the target. features: of `encode`.

    prompted: chance that all rows have a mask prompt, as registration or an expert would give it.
    """
    layout = batch.layout

    def rows(frame: int) -> torch.Tensor:
        return batch.of * layout.frames + frame

    references = [segmenter.remember(features.rows(rows(i)), batch.masks[:, i]) for i in range(layout.references)]
    own = layout.neighbours > 0 and rng.random() < FOUND
    neighbours = [
        segmenter.remember(
            features.rows(rows(i)),
            found(segmenter, features.rows(rows(i)), references) if own else spoiled(batch.masks[:, i], rng),
        )
        for i in range(layout.target + 1, layout.frames)
    ]
    prompts = None
    if rng.random() < prompted:
        image = batch.images[batch.of, layout.target].mean(1, keepdim=True)
        dice = Dice(int(rng.integers(2**62)), image.device)
        prompts = prompts_for(batch.masks[:, layout.target], batch.masks[:, 0], image, dice)
    return segmenter.decode(features.rows(rows(layout.target)), references, neighbours, prompts)


def predict(segmenter: Segmenter, batch: Batch, rng: np.random.Generator, prompted: float = PROMPTED) -> Masks:
    """Encode and decode."""
    return decode(segmenter, batch, encode(segmenter, batch), rng, prompted)


def dice_of(probability: torch.Tensor, truth: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """Dice of each row. (K, 1, S, S) each -> (K,)."""
    p, t = probability.flatten(1), truth.flatten(1)
    return (2 * (p * t).sum(1) + smooth) / (p.sum(1) + t.sum(1) + smooth)


def loss_of(masks: Masks, truth: torch.Tensor, present: torch.Tensor, gate_weight: float = 0.5) -> torch.Tensor:
    """5 BCE + Dice of the present structures + presence BCE + IoU error. truth: (K, 1, S, S); present: (K,) bool."""
    logits = F.interpolate(masks.logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    gate = F.binary_cross_entropy_with_logits(masks.presence, present.float())
    if not present.any():
        return gate + 0 * masks.logits.sum() + 0 * masks.iou.sum()
    logits, truth = logits[present], truth[present]
    mask = 5 * F.binary_cross_entropy_with_logits(logits, truth) + 1 - dice_of(logits.sigmoid(), truth).mean()
    return mask + gate_weight * gate + 0.5 * iou_error(masks.iou[present], logits, truth)


def iou_error(told: torch.Tensor, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean distance of the IoU that SAM2 tells of its masks from the true one. told: (K,); the others: (K, 1, S, S)."""
    with torch.no_grad():
        hard = (logits > 0).float()
        both = (hard * truth).flatten(1).sum(1)
        iou = both / (hard.flatten(1).sum(1) + truth.flatten(1).sum(1) - both).clamp(min=1)
    return F.l1_loss(told, iou)


def agreement(masks: Masks, truth: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
    """Dice of the structures that are `here`, (K,) bool, against truth (K, 1, S, S)."""
    up = F.interpolate(masks.logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    return dice_of((up > 0).float()[here], truth[here], 1e-6)


def with_neighbour(segmenter: Segmenter, source: Source, number: int, size: int) -> torch.Tensor:
    """Dice of the present structures of a batch whose target has a neighbour, done by the network just before."""
    batch = make_batch(source, (98, number), Layout(1, 1), 6, 4, size).to(str(segmenter.device))
    features, frames = encode(segmenter, batch), batch.layout.frames
    references = [segmenter.remember(features.rows(batch.of * frames), batch.masks[:, 0])]
    beside = features.rows(batch.of * frames + 2)
    neighbour = segmenter.remember(beside, found(segmenter, beside, references))
    masks = segmenter.decode(features.rows(batch.of * frames + 1), references, [neighbour], None)
    return agreement(masks, batch.masks[:, 1], batch.present)


@torch.no_grad()
def validate(segmenter: Segmenter, source: Mixture, size: int, batches: int = 4) -> dict[str, float]:
    """Dice of the present structures for each source beside copying the reference, their mean, presence accuracy.

    "prompted": the mean with (simulated) mask prompts. "neighboured": with a neighbour's mask as the network finds it.
    """
    scores: dict[str, float] = {}
    layout = Layout(1, 0)
    right: list[float] = []
    prompted: list[float] = []
    neighboured: list[float] = []
    segmenter.model.eval()
    for name, _, one in source.sources:
        dice: list[torch.Tensor] = []
        guided: list[torch.Tensor] = []
        beside: list[torch.Tensor] = []
        copied = []
        for i in range(batches):
            batch = make_batch(one, (99, i), layout, 8, 4, size).to(str(segmenter.device))
            truth, here = batch.masks[:, layout.target], batch.present
            features = encode(segmenter, batch)
            for scored, chance in ((guided, 1.0), (dice, 0.0)):
                masks = decode(segmenter, batch, features, np.random.default_rng(0), chance)
                scored.append(agreement(masks, truth, here))
            beside.append(with_neighbour(segmenter, one, i, size))
            copied.append(dice_of(batch.masks[here, 0], truth[here], 1e-6))
            right.extend(((masks.presence > 0) == here).float().tolist())
        scores[name] = torch.cat(dice).mean().item()
        scores[f"{name} copied"] = torch.cat(copied).mean().item()
        prompted.append(torch.cat(guided).mean().item())
        neighboured.append(torch.cat(beside).mean().item())
    segmenter.model.train()
    scores["mean"] = float(np.mean([scores[name] for name, _, _ in source.sources]))
    scores["prompted"] = float(np.mean(prompted))
    scores["neighboured"] = float(np.mean(neighboured))
    scores["presence"] = float(np.mean(right))
    return scores
