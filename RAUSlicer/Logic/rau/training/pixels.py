"""`rau train pixels`: features of a pixel by which a classifier, fitted on the reference alone, is right in the target.

Meta-learning with a closed-form learner, as R2-D2 does (Bertinetto et al., "Meta-learning with differentiable
closed-form solvers", ICLR 2019): ridge regression of each structure on the pixels of the reference, and the loss is of
the target's pixels. The classifier also sees what the expert sees anyway, filters and the place of a pixel (as wrong as
registration leaves it), so that the features learn what these do not tell. Same data as the segmenter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rau.adaptation.closed_form import Seen
from rau.adaptation.experts import PLAIN
from rau.adaptation.features import filter_bank
from rau.adaptation.guide import centres
from rau.adaptation.pixel_encoder import PixelEncoder
from rau.training import checkpoint
from rau.training.batch import Batch, make_batch
from rau.training.data import Layout, Mixture
from rau.training.feeding import batches, checked
from rau.training.objective import dice_of
from rau.training.parts import filtered, parts_of
from rau.training.precision import bfloat16
from rau.training.schedule import Schedule
from rau.training.sets import mixtures

LAYOUT = Layout(1, 0)
SOME = 2304  # pixels of a target that count in a step


@dataclass(frozen=True)
class PixelTraining:
    """How to train; fields as in `rau.training.segmenter.SegmenterTraining`. tasks: pairs of slices a step.

    structures: at most so many of each task.
    """

    folder: str
    data: str = ""
    sources: str = "all"
    steps: int = 3000
    ramp: int = 1
    rate: float = 2e-3
    warmup: int = 50
    cooldown: float = 0.6
    tasks: int = 8
    structures: int = 6
    size: int = 192
    every: int = 500
    seed: int = 0
    anatomies: int = 1200
    cache: str = ""
    minutes: float = 0.0
    by_clock: bool = False
    decay: float = 0.995
    bf16: bool = False
    workers: int = 0


class Lesson(nn.Module):
    """The encoder with its closed-form learner."""

    def __init__(self, encoder: PixelEncoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder or PixelEncoder()

    def forward(
        self, batch: Batch, seed: int, bf16: bool = False, learnt: bool = True, some: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (K, N) of the target's structures and their truth, at half the size.

        learnt: with the encoder's features. some: of so many of the target's pixels; 0: of all, row by row.
        """
        tasks, frames, _, size, _ = batch.images.shape
        half, flat = size // 2, batch.images.flatten(0, 1)
        with bfloat16(bf16):
            made = self.encoder(flat).float()
        made = (made if learnt else 0 * made).flatten(2).transpose(1, 2).unflatten(0, (tasks, frames))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            bank = F.avg_pool2d(filter_bank(flat), 2).flatten(2).transpose(1, 2).unflatten(0, (tasks, frames))
            places = centres(half).flatten(0, 1)
            shown = (F.avg_pool2d(batch.masks[:, 0], 2)[:, 0].flatten(1) > 0.5).float()
            truth = F.avg_pool2d(batch.masks[:, batch.layout.target], 2)[:, 0].flatten(1)
        index = torch.randperm(half * half, generator=generator)[:some] if some else torch.arange(half * half)
        found = truth.new_zeros(len(truth), len(index))
        for i in range(tasks):
            rows = batch.of == i
            if rows.any():
                reference, target = (Seen(made[i, k], bank[i, k], places) for k in range(2))
                fit = self.encoder.closed_form.fit(reference, shown[rows], PLAIN, generator)
                found[rows] = self.encoder.closed_form.logits(fit, target.pick(index))
        return found, truth[:, index]


def loss_of(logits: torch.Tensor, truth: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """3 BCE + 1 - Dice of the present structures. logits, truth: (K, N); present: (K,)."""
    plain = 3 * F.binary_cross_entropy_with_logits(logits, truth)
    if not present.any():
        return plain
    return plain + 1 - dice_of(logits[present].sigmoid(), truth[present]).mean()


@torch.no_grad()
def validate(lesson: Lesson, source: Mixture, size: int, count: int = 4) -> dict[str, float]:
    """Dice of the present structures for each source, and its mean with and without ("plain") the learnt features."""
    lesson.eval()
    scores: dict[str, float] = {}
    plain = []
    for name, _, one in source.sources:
        found: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        for i in range(count):
            batch = make_batch(one, (99, i), LAYOUT, 8, 4, size)
            for learnt, kept in found.items():
                logits, truth = lesson(batch, i, learnt=learnt)
                here = ((logits > 0).float()[batch.present], (truth > 0.5).float()[batch.present])
                kept.append(dice_of(*here, 1e-6))
        scores[name] = torch.cat(found[True]).mean().item()
        plain.append(torch.cat(found[False]).mean().item())
        scores[f"{name} plain"] = plain[-1]
    lesson.train()
    scores["mean"] = float(np.mean([scores[name] for name, _, _ in source.sources]))
    scores["plain"] = float(np.mean(plain))
    return scores


def taken(lesson: Lesson, optimiser: torch.optim.Optimizer, batch: Batch, step: int, bf16: bool) -> float:
    """One step; gives the loss."""
    logits, truth = lesson(batch, step, bf16, some=SOME)
    loss = loss_of(logits, truth, batch.present)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(lesson.parameters(), 1.0)
    optimiser.step()
    return loss.item()


def validated(progress: checkpoint.Progress, source: Mixture, settings: PixelTraining) -> dict[str, float]:
    """Validate the averaged weights, and write it down."""
    folder, averaged = Path(settings.folder), Lesson()
    averaged.load_state_dict(progress.mean)
    loss = float(np.mean(progress.losses[-200:]))
    row = {"step": progress.step, "seconds": round(progress.seconds), "loss": loss}
    scores = {**row, **validate(averaged, source, settings.size)}
    checkpoint.append(folder / "validation.csv", {k: round(float(v), 4) for k, v in scores.items()})
    checkpoint.plot(folder, tuple(key for key in scores if key in row or key.endswith(" plain")))
    return scores


def train(settings: PixelTraining) -> Iterator[dict[str, float]]:
    """Train, yielding the validation scores every so often. Resumes from the folder's state."""
    torch.manual_seed(settings.seed)
    folder = Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    lesson, state = Lesson(), folder / "state.safetensors"
    optimiser = torch.optim.AdamW(lesson.parameters(), settings.rate, weight_decay=0.01)
    progress = checkpoint.load(state, lesson, optimiser) if state.exists() else checkpoint.start(lesson)
    seconds = 60 * settings.minutes if settings.by_clock else 0.0
    schedule = Schedule(settings.rate, settings.steps, settings.warmup, settings.cooldown, seconds)
    data, cache = Path(settings.data) if settings.data else None, Path(settings.cache or folder / "cache")
    made = mixtures(data, settings.seed, cache, settings.anatomies)
    source = filtered(made.hard, parts_of(settings.sources))

    def drawn(step: int) -> Batch:
        seed, difficulty = (settings.seed, step), min(1.0, step / max(1, settings.ramp))
        return make_batch(source, seed, LAYOUT, settings.tasks, settings.structures, settings.size, difficulty)

    ready = batches(drawn, progress.step, checked(settings.workers))
    before, done = progress.seconds, schedule.over(progress.step, progress.seconds)
    while not done:
        begin = time.perf_counter()
        batch = next(ready)
        for group in optimiser.param_groups:
            group["lr"] = schedule.at(progress.step, progress.seconds)
        progress.losses.append(taken(lesson, optimiser, batch, progress.step, settings.bf16))
        progress.update(lesson, settings.decay)
        progress.seconds += time.perf_counter() - begin
        late = bool(settings.minutes) and progress.seconds - before > settings.minutes * 60
        done = late or schedule.over(progress.step, progress.seconds)
        if progress.step % 50 == 0:
            loss = round(float(np.mean(progress.losses[-50:])), 4)
            row = {"step": progress.step, "seconds": round(progress.seconds), "loss": loss}
            checkpoint.append(folder / "log.csv", row)
        if progress.step % settings.every == 0 or done:
            scores = validated(progress, made.validation, settings)
            checkpoint.save(state, lesson, optimiser, progress, asdict(settings))
            yield scores
