"""`rau train segmenter`: SAM2 of a preset learns from scratch to use a reference.

Resumable (same folder), deterministic by seed for a given machine and thread count: each step draws its data from
(seed, step) alone. Writes log.csv, validation.csv, curves.png and state.safetensors into the run folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rau.models.presets import preset
from rau.sam.build import build_sam2
from rau.sam.pixels import normalise
from rau.sam.segmenter import Masks, Segmenter
from rau.training import checkpoint
from rau.training.batch import Batch, make_batch
from rau.training.data import Layout, Mixture, Source
from rau.training.sets import mixtures


@dataclass(frozen=True)
class SegmenterTraining:
    """How to train. steps: optimiser steps in all; small_steps: of those, first ones at `small_size` pixels.

    ramp: steps over which the tasks grow from easy to hard; afterwards more structures are absent, and the gate counts
    twice. cooldown: fraction of the steps, at the end, over which the
    learning rate falls to 3 %. frames: slices a step. structures: at most so many of each task. every: steps between
    validations. data: folder of the labelled sets. minutes: stop after so long (the same call resumes); 0: no limit.
    """

    folder: str
    preset: str = "rau-mini"
    data: str = ""
    steps: int = 6000
    small_steps: int = 0
    small_size: int = 128
    ramp: int = 1500
    rate: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.3
    frames: int = 18
    structures: int = 4
    every: int = 500
    seed: int = 0
    anatomies: int = 1200
    minutes: float = 0.0


def layout_of(rng: np.random.Generator) -> Layout:
    """One to three references; most often no neighbour, as on a key slice."""
    return Layout(int(rng.choice([1, 2, 3], p=[0.7, 0.15, 0.15])), int(rng.choice([0, 1, 2], p=[0.8, 0.15, 0.05])))


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
    return out * keep


def predict(segmenter: Segmenter, batch: Batch, rng: np.random.Generator) -> Masks:
    """Encode every frame once, remember references and (spoiled) neighbours, decode the target."""
    f = batch.layout.frames
    features = segmenter.encode(normalise(batch.images.flatten(0, 1)))

    def rows(frame: int) -> torch.Tensor:
        return batch.of * f + frame

    layout = batch.layout
    references = [segmenter.remember(features.rows(rows(i)), batch.masks[:, i]) for i in range(layout.references)]
    neighbours = [
        segmenter.remember(features.rows(rows(i)), spoiled(batch.masks[:, i], rng))
        for i in range(layout.target + 1, layout.frames)
    ]
    return segmenter.decode(features.rows(rows(layout.target)), references, neighbours)


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
    with torch.no_grad():
        hard = (logits > 0).float()
        both = (hard * truth).flatten(1).sum(1)
        iou = both / (hard.flatten(1).sum(1) + truth.flatten(1).sum(1) - both).clamp(min=1)
    return mask + gate_weight * gate + 0.5 * F.l1_loss(masks.iou[present], iou)


@torch.no_grad()
def validate(segmenter: Segmenter, source: Mixture, size: int, batches: int = 4) -> dict[str, float]:
    """Dice of the present structures for each source beside copying the reference, their mean, presence accuracy."""
    scores: dict[str, float] = {}
    layout = Layout(1, 0)
    right: list[float] = []
    segmenter.model.eval()
    for name, _, one in source.sources:
        dice, copied = [], []
        for i in range(batches):
            batch = make_batch(one, (99, i), layout, 8, 4, size)
            masks = predict(segmenter, batch, np.random.default_rng(0))
            up = F.interpolate(masks.logits, size=(size, size), mode="bilinear", align_corners=False)
            truth, here = batch.masks[:, layout.target], batch.present
            dice.append(dice_of((up > 0).float()[here], truth[here], 1e-6))
            copied.append(dice_of(batch.masks[here, 0], truth[here], 1e-6))
            right.extend(((masks.presence > 0) == here).float().tolist())
        scores[name] = torch.cat(dice).mean().item()
        scores[f"{name} copied"] = torch.cat(copied).mean().item()
    segmenter.model.train()
    scores["mean"] = float(np.mean([scores[name] for name, _, _ in source.sources]))
    scores["presence"] = float(np.mean(right))
    return scores


class Run:
    """A training run in its folder: model, optimiser, progress."""

    def __init__(self, settings: SegmenterTraining) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.folder = settings, Path(settings.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        chosen = preset(settings.preset)
        self.size = chosen.image_size
        self.segmenter = Segmenter(build_sam2(chosen.sam_config, chosen.sam_overrides))
        self.model = self.segmenter.model.train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), settings.rate, weight_decay=0.01)
        state = self.folder / "state.safetensors"
        self.progress = (
            checkpoint.load(state, self.model, self.optimiser) if state.exists() else checkpoint.start(self.model)
        )

    @property
    def step(self) -> int:
        return self.progress.step

    def rate(self) -> float:
        s = self.settings
        left = (s.steps - self.step) / max(1, s.cooldown * s.steps)
        return s.rate * min(1.0, (self.step + 1) / s.warmup, 0.03 + 0.97 * max(0.0, left))

    def save(self) -> None:
        checkpoint.save(
            self.folder / "state.safetensors", self.model, self.optimiser, self.progress, asdict(self.settings)
        )

    def averaged(self) -> Segmenter:
        """A copy of the segmenter with the running mean of the weights."""
        chosen = preset(self.settings.preset)
        model = build_sam2(chosen.sam_config, chosen.sam_overrides)
        model.load_state_dict(self.progress.mean)
        return Segmenter(model)

    def train_step(self, source: Source) -> float:
        s = self.settings
        rng = np.random.default_rng([s.seed, self.step, 7])
        layout, size = layout_of(rng), s.small_size if self.step < s.small_steps else self.size
        self.segmenter.set_size(size)
        tasks, difficulty = max(2, s.frames // layout.frames), min(1.0, self.step / max(1, s.ramp))
        batch = make_batch(source, (s.seed, self.step), layout, tasks, s.structures, size, difficulty)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        masks = predict(self.segmenter, batch, rng)
        gate = 0.5 if self.step < s.ramp else 1.0
        loss = loss_of(masks, batch.masks[:, layout.target], batch.present, gate)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.progress.update(self.model)
        return loss.item()


def train(settings: SegmenterTraining) -> Iterator[dict[str, float]]:
    """Train, yielding the scores of each validation; stops at `steps` or after `minutes`."""
    run = Run(settings)
    sources = mixtures(
        Path(settings.data) if settings.data else None, settings.seed, run.folder / "cache", settings.anatomies
    )
    start, before, losses, log = time.time(), run.progress.seconds, [], run.folder / "log.csv"
    while run.step < settings.steps:
        source = sources.easy
        if run.step >= settings.ramp:
            source = sources.hard
            source.removal = 0.55
        losses.append(run.train_step(source))
        run.progress.seconds = before + time.time() - start
        out_of_time = bool(settings.minutes) and time.time() - start > settings.minutes * 60
        if run.step % 50 == 0:
            row = {
                "step": run.step,
                "seconds": round(run.progress.seconds),
                "loss": round(float(np.mean(losses[-50:])), 4),
            }
            checkpoint.append(log, row)
        if run.step % settings.every == 0 or run.step == settings.steps or out_of_time:
            scores = score(run, sources.validation)
            checkpoint.append(
                run.folder / "validation.csv", {**scores, "loss": round(float(np.mean(losses[-200:])), 4)}
            )
            checkpoint.plot(run.folder)
            run.save()
            yield scores
        if out_of_time:
            return


def score(run: Run, validation: Mixture) -> dict[str, float]:
    """Validation of the averaged weights at the size now trained."""
    averaged = run.averaged()
    averaged.set_size(run.segmenter.size)
    row: dict[str, float] = {"step": run.step, "seconds": round(run.progress.seconds), "size": run.segmenter.size}
    row.update({k: round(v, 4) for k, v in validate(averaged, validation, run.segmenter.size).items()})
    return row
