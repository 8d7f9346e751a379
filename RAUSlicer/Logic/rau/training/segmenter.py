"""`rau train segmenter`: SAM2 of a preset learns from scratch to use a reference.

Resumable (same folder), deterministic by seed for a given machine and thread count: each step draws its data from
(seed, step) alone. Writes log.csv, validation.csv, curves.png and state.safetensors into the run folder.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rau.models.presets import preset
from rau.sam.build import build_sam2
from rau.sam.pixels import normalise
from rau.sam.segmenter import Masks, Segmenter
from rau.training.batch import Batch, make_batch
from rau.training.data import Layout, Mixture
from rau.training.sets import mixtures


@dataclass(frozen=True)
class SegmenterTraining:
    """How to train. steps: optimiser steps in all; small_steps: of those, first ones at `small_size` pixels.

    cooldown: fraction of the steps, at the end, over which the learning rate falls to 3 %. frames: slices a step.
    structures: at most so many of each task. every: steps between validations. data: folder of the labelled sets.
    minutes: stop after so long (resume later with the same call); 0: no limit.
    """

    folder: str
    preset: str = "rau-mini"
    data: str = ""
    steps: int = 12000
    small_steps: int = 4000
    small_size: int = 128
    rate: float = 8e-4
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
    return Layout(int(rng.choice([1, 2, 3], p=[0.5, 0.25, 0.25])), int(rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1])))


def spoiled(masks: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Masks of a neighbour as the model would have made them: shifted, grown or shrunk, now and then lost. (K, 1, S, S)."""
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
    b, f = batch.images.shape[:2]
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


def loss_of(masks: Masks, truth: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
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
    return mask + 0.5 * gate + 0.5 * F.l1_loss(masks.iou[present], iou)


@torch.no_grad()
def validate(segmenter: Segmenter, source: Mixture, size: int, batches: int = 4) -> dict[str, float]:
    """Dice of the present structures for each source beside copying the reference, presence accuracy, and their mean."""
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
    """The state of a training run in its folder: weights, their running mean, optimiser, step, seconds spent."""

    def __init__(self, settings: SegmenterTraining) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.folder = settings, Path(settings.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        chosen = preset(settings.preset)
        self.size = chosen.image_size
        self.segmenter = Segmenter(build_sam2(chosen.sam_config, chosen.sam_overrides))
        self.model = self.segmenter.model.train()
        self.mean = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(self.model.parameters(), settings.rate, weight_decay=0.01)
        self.step, self.seconds = 0, 0.0
        if (self.folder / "state.safetensors").exists():
            self.load()

    def rate(self) -> float:
        s = self.settings
        left = (s.steps - self.step) / max(1, s.cooldown * s.steps)
        return s.rate * min(1.0, (self.step + 1) / s.warmup, 0.03 + 0.97 * max(0.0, left))

    def update_mean(self) -> None:
        decay = min(0.999, (self.step + 1) / (self.step + 20))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.mean[key].lerp_(value, 1 - decay)
            else:
                self.mean[key].copy_(value)

    def save(self) -> None:
        from safetensors.torch import save_file

        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors.update({f"mean.{k}": v for k, v in self.mean.items()})
        for i, parameter in enumerate(self.model.parameters()):
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{i}.{key}"] = value
        info = {"step": str(self.step), "seconds": str(self.seconds), "settings": json.dumps(asdict(self.settings))}
        part = self.folder / "state.part"
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, part, info)
        os.replace(part, self.folder / "state.safetensors")

    def load(self) -> None:
        from safetensors import safe_open

        with safe_open(self.folder / "state.safetensors", "pt") as file:
            info = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        self.step, self.seconds = int(info["step"]), float(info["seconds"])
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.mean = {k[5:]: v for k, v in tensors.items() if k.startswith("mean.")}
        for i, parameter in enumerate(self.model.parameters()):
            start = f"optimiser.{i}."
            state = {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
            if state:
                self.optimiser.state[parameter] = state

    def averaged(self) -> Segmenter:
        """A copy of the segmenter with the running mean of the weights."""
        chosen = preset(self.settings.preset)
        model = build_sam2(chosen.sam_config, chosen.sam_overrides)
        model.load_state_dict(self.mean)
        return Segmenter(model)

    def train_step(self, source: Mixture) -> float:
        s = self.settings
        rng = np.random.default_rng([s.seed, self.step, 7])
        layout, size = layout_of(rng), s.small_size if self.step < s.small_steps else self.size
        self.segmenter.set_size(size)
        batch = make_batch(source, (s.seed, self.step), layout, max(2, s.frames // layout.frames), s.structures, size)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        loss = loss_of(predict(self.segmenter, batch, rng), batch.masks[:, layout.target], batch.present)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.update_mean()
        self.step += 1
        return loss.item()


def append(path: Path, row: Mapping[str, float]) -> None:
    """One line more in a CSV file, with a header when it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def plot(folder: Path) -> None:
    """curves.png from the CSV files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with (folder / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in rows[0]:
        if name not in ("step", "seconds", "loss", "size") and not name.endswith("copied"):
            axes.plot([float(r["step"]) for r in rows], [float(r[name]) for r in rows], label=name, marker=".")
    axes.set(xlabel="step", ylabel="validation Dice (presence: accuracy)", ylim=(0, 1))
    axes.legend(fontsize=7)
    figure.savefig(folder / "curves.png", dpi=110)
    plt.close(figure)


def train(settings: SegmenterTraining) -> Iterator[dict[str, float]]:
    """Train, yielding the scores of each validation; stops at `steps` or after `minutes`."""
    run = Run(settings)
    training, validation = mixtures(
        Path(settings.data) if settings.data else None, settings.seed, run.folder / "cache", settings.anatomies
    )
    start, before, losses = time.time(), run.seconds, []
    while run.step < settings.steps:
        losses.append(run.train_step(training))
        run.seconds = before + time.time() - start
        out_of_time = bool(settings.minutes) and time.time() - start > settings.minutes * 60
        if run.step % 50 == 0:
            append(run.folder / "log.csv", {"step": run.step, "seconds": round(run.seconds), "loss": np.mean(losses[-50:])})
        if run.step % settings.every == 0 or run.step == settings.steps or out_of_time:
            averaged = run.averaged()
            averaged.set_size(run.segmenter.size)
            row = {"step": run.step, "seconds": round(run.seconds), "size": run.segmenter.size, "loss": np.mean(losses[-200:])}
            row.update(validate(averaged, validation, run.segmenter.size))
            append(run.folder / "validation.csv", {k: round(float(v), 4) for k, v in row.items()})
            plot(run.folder)
            run.save()
            yield row
        if out_of_time:
            return
