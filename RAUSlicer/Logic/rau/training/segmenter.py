"""`rau train segmenter`: SAM2 of a preset learns, from scratch or from another model, to use a reference.

Resumable (same folder), deterministic by seed for a given machine and thread count: each step draws its data from
(seed, step) alone; only a rate that follows the clock is not. Writes log.csv, validation.csv, curves.png,
state.safetensors and best.safetensors into the run folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rau.errors import InputError
from rau.models.engine import device_of
from rau.sam.build import build_sam2
from rau.sam.segmenter import Features, Segmenter
from rau.training import checkpoint
from rau.training.architecture import architecture_of, load_start, resumed, sizes_of, started_from
from rau.training.batch import Batch, make_batch
from rau.training.data import Mixture, Source
from rau.training.feeding import batches, checked
from rau.training.objective import decode, encode, layout_of, loss_of, validate
from rau.training.parts import filtered, parts_of
from rau.training.precision import bfloat16
from rau.training.schedule import Schedule
from rau.training.sets import Mixtures, mixtures
from rau.training.teacher import Teacher, head_of, unlikeness


@dataclass(frozen=True)
class SegmenterTraining:
    """How to train. start: model folder, or name of a model, to begin from. steps: optimiser steps in all.

    image_size: pixels a side (multiple of 64); width, embed_dim, stages ("1,2,3,1"): size of the model; 0 or nothing:
    as in the preset. sizes: image sizes that steps draw from ("192,256"); the first is validated. sources: all, or
    some of anatomies, labelmaps, real. ramp: steps over which the tasks grow from easy to hard; afterwards more
    structures are absent, and the gate counts twice. cooldown: fraction of the run, at its end, over which the
    learning rate falls to 3 %. frames: slices a step. structures: at most so many of each task. neighbours: chance that
    a task has the target's neighbours in memory. closer: chance that a task is seen through a window about one of its
    structures, as by a closer look. every: steps between
    validations. patience: stop after so many validations without a new best mean; 0: never. data: folder of the
    labelled sets. cache: where random anatomies are kept; nothing: in the run folder. minutes: stop after so much
    training time in this call (the same call resumes); 0: no limit. cpu_time: training time is the processor's, of all
    threads, which other work on the machine does not change. by_clock: minutes are of the whole run, and the
    learning rate follows them. teacher: folder of a DINOv2 model whose features the image encoder learns as well, with
    teacher_weight in the loss, every teacher_every steps, of teacher_frames slices. bf16: forward pass in bfloat16.
    decay: of the running mean of the weights, which is what is kept. device: cpu, cuda, or auto. workers: processes
    that make the batches ahead; 0: none.
    """

    folder: str
    preset: str = "rau-mini"
    start: str = ""
    data: str = ""
    sources: str = "all"
    image_size: int = 0
    sizes: str = ""
    width: int = 0
    embed_dim: int = 0
    stages: str = ""
    steps: int = 6000
    ramp: int = 1500
    rate: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.3
    frames: int = 18
    structures: int = 4
    neighbours: float = 0.2
    closer: float = 0.0
    every: int = 500
    patience: int = 0
    seed: int = 0
    anatomies: int = 1200
    cache: str = ""
    minutes: float = 0.0
    cpu_time: bool = False
    by_clock: bool = False
    teacher: str = ""
    teacher_weight: float = 0.5
    teacher_every: int = 1
    teacher_frames: int = 6
    bf16: bool = False
    decay: float = 0.999
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    workers: int = 0


class Run:
    """A training run in its folder: model, optimiser, progress."""

    def __init__(self, settings: SegmenterTraining) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.folder = settings, Path(settings.folder)
        self.state, self.best = self.folder / "state.safetensors", self.folder / "best.safetensors"
        if settings.by_clock and not settings.minutes:
            raise InputError("A rate that follows the clock needs to know how long", "Give --minutes")
        self.device, self.workers = device_of(settings.device), checked(settings.workers)
        self._build()
        self.folder.mkdir(parents=True, exist_ok=True)
        seconds = 60 * settings.minutes if settings.by_clock else 0.0
        self.schedule = Schedule(settings.rate, settings.steps, settings.warmup, settings.cooldown, seconds)
        self.clock = time.process_time if settings.cpu_time else time.perf_counter
        self.teacher_seconds = 0.0

    def _build(self) -> None:
        """Model, teacher, optimiser, progress: from the state, else from the start, else random."""
        old = checkpoint.settings_of(self.state) if self.state.exists() else None
        start = started_from(self.settings) if old is None else None
        self.architecture = resumed(self.settings, old) if old else architecture_of(self.settings, start)
        self.sizes = sizes_of(self.settings, self.architecture.image_size)
        self.segmenter = self._new()
        self.model = self.segmenter.model.train()
        self.started = load_start(self.model, start) if start else (old or {}).get("started_from")
        self.teacher = Teacher(Path(self.settings.teacher), self.device) if self.settings.teacher else None
        self.head = head_of(int(self.model.hidden_dim), self.teacher).to(self.device) if self.teacher else None
        learning = [*self.model.parameters(), *(self.head.parameters() if self.head else ())]
        self.optimiser = torch.optim.AdamW(learning, self.settings.rate, weight_decay=0.01)
        self.progress = (
            checkpoint.load(self.state, self.model, self.optimiser, self.head) if old else checkpoint.start(self.model)
        )

    def _new(self) -> Segmenter:
        return Segmenter(build_sam2(self.architecture.config, self.architecture.overrides).to(self.device))

    @property
    def step(self) -> int:
        return self.progress.step

    @property
    def size(self) -> int:
        """Pixels a side at which the run is validated, and its model used."""
        return self.sizes[0]

    def over(self) -> bool:
        """All steps done, all the time spent, or no better for too long."""
        tired = 0 < self.settings.patience <= self.progress.stale
        return tired or self.schedule.over(self.step, self.progress.seconds)

    def record(self) -> dict[str, object]:
        """The settings, what they came to, and where the weights began: kept in the state."""
        made: dict[str, object] = {**asdict(self.settings), "model": asdict(self.architecture)}
        if self.started:
            made["started_from"] = self.started
        if self.teacher:
            made["taught_by"] = {"sha256": self.teacher.digest}
        return made

    def save(self) -> None:
        checkpoint.save(self.state, self.model, self.optimiser, self.progress, self.record(), self.head)

    def averaged(self) -> Segmenter:
        """A copy of the segmenter with the running mean of the weights."""
        segmenter = self._new()
        segmenter.model.load_state_dict(self.progress.mean)
        return segmenter

    def drawn(self, sources: Mixtures, step: int) -> Batch:
        """The data of a step, from the easy tasks or the hard ones."""
        source = sources.easy
        if step >= self.settings.ramp:
            source = sources.hard
            source.removal = 0.55
        batch = self.batch(source, step)
        return batch.packed() if self.workers else batch

    def batch(self, source: Source, step: int) -> Batch:
        """The data of a step."""
        s, rng = self.settings, np.random.default_rng([self.settings.seed, step, 7])
        layout = layout_of(rng, s.neighbours)
        size = int(rng.choice(self.sizes)) if len(self.sizes) > 1 else self.size
        tasks, difficulty = max(2, s.frames // layout.frames), min(1.0, step / max(1, s.ramp))
        return make_batch(source, (s.seed, step), layout, tasks, s.structures, size, difficulty, s.closer)

    def lesson(self, batch: Batch, features: Features, rng: np.random.Generator) -> torch.Tensor | None:
        """Loss against the teacher on a few slices of the batch; None without a teacher, or not in this step."""
        if self.teacher is None or self.head is None or self.step % max(1, self.settings.teacher_every):
            return None
        begin = self.clock()
        images = batch.images.flatten(0, 1)
        some = torch.from_numpy(rng.permutation(len(images))[: self.settings.teacher_frames]).to(self.device)
        with bfloat16(self.settings.bf16, self.device):
            told = self.teacher.features(images[some])
        loss = unlikeness(self.head, features.levels[-1][some].float(), told)
        self.teacher_seconds += self.clock() - begin
        return self.settings.teacher_weight * loss

    def train_step(self, batch: Batch) -> torch.Tensor:
        """One step; gives the loss without the teacher's part."""
        rng, batch = np.random.default_rng([self.settings.seed, self.step, 8]), batch.to(self.device)
        self.segmenter.set_size(batch.images.shape[-1])
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.at(self.step, self.progress.seconds)
        with bfloat16(self.settings.bf16, self.device):
            features = encode(self.segmenter, batch)
            masks = decode(self.segmenter, batch, features, rng)
        gate = 0.5 if self.step < self.settings.ramp else 1.0
        loss = loss_of(masks, batch.masks[:, batch.layout.target], batch.present, gate)
        lesson = self.lesson(batch, features, rng)
        self.optimiser.zero_grad()
        (loss if lesson is None else loss + lesson).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.progress.update(self.model, self.settings.decay)
        return loss.detach()

    def validated(self, validation: Mixture, loss: float) -> dict[str, float]:
        """Validate the averaged weights, keep them if they are the best, and write everything down."""
        row = score(self, validation)
        if self.progress.validated(row["mean"]):
            checkpoint.save_best(self.best, self.progress)
        checkpoint.append(self.folder / "validation.csv", {**row, "loss": round(loss, 4)})
        checkpoint.plot(self.folder)
        self.save()
        return row


def sources_of(settings: SegmenterTraining) -> Mixtures:
    """What to train on and, whatever the parts trained on, the same to validate on."""
    data, cache = Path(settings.data) if settings.data else None, Path(settings.cache or Path(settings.folder, "cache"))
    parts = parts_of(settings.sources)
    made = mixtures(data, settings.seed, cache, settings.anatomies, settings.workers)
    return Mixtures(made.encoder, filtered(made.easy, parts), filtered(made.hard, parts), made.validation)


def train(settings: SegmenterTraining) -> Iterator[dict[str, float]]:
    """Train, yielding the scores of each validation, until the run is over or the time of this call is."""
    run = Run(settings)
    if run.over():
        return
    sources = sources_of(settings)
    before, losses = run.progress.seconds, list[torch.Tensor]()
    ready = batches(partial(run.drawn, sources), run.step, run.workers)
    out_of_time = False
    while not (out_of_time or run.over()):
        begin = run.clock()
        losses.append(run.train_step(next(ready)))
        run.progress.seconds += run.clock() - begin
        out_of_time = bool(settings.minutes) and run.progress.seconds - before > settings.minutes * 60
        if run.step % 50 == 0:
            checkpoint.append(run.folder / "log.csv", log_of(run, losses))
        if run.step % settings.every == 0 or out_of_time or run.over():
            scores = run.validated(sources.validation, mean_of(losses[-200:]))
            yield {**scores, "teacher_s": run.teacher_seconds / len(losses)} if run.teacher else scores


def mean_of(losses: list[torch.Tensor]) -> float:
    return float(torch.stack(losses).mean())


def log_of(run: Run, losses: list[torch.Tensor]) -> dict[str, float]:
    """A line of log.csv. losses: of this call."""
    return {
        "step": run.step,
        "seconds": round(run.progress.seconds),
        "loss": round(mean_of(losses[-50:]), 4),
        "teacher_s": round(run.teacher_seconds / max(1, len(losses)), 4),
    }


def score(run: Run, validation: Mixture) -> dict[str, float]:
    """Validation of the averaged weights, at the size at which the model will be used."""
    averaged = run.averaged()
    averaged.set_size(run.size)
    row: dict[str, float] = {"step": run.step, "seconds": round(run.progress.seconds), "size": run.size}
    row.update({k: round(v, 4) for k, v in validate(averaged, validation, run.size).items()})
    return row
