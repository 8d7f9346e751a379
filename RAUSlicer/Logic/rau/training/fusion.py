"""`rau train fusion`: the VLM's `<Seg>` states learn to speak to SAM2 (RAU stage 3a; papers.md A3.5 to A3.7, A4).

Learnt are the projector and the fusion (Eq. 6, 7), with `two_way` RCMed's projection back (B2), SAM2's mask decoder
and the input embedding of `<Seg>`; the rest of the VLM and of SAM2 is frozen. Resumable in the same folder; each step
draws its data from (seed, step) alone. Writes log.csv, validation.csv, curves.png, attention.png, state.safetensors,
best.safetensors and the outcome, `fusion/`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rau.errors import InputError
from rau.sam.fusion import Fusion, FusionConfig
from rau.sam.injection import Injection
from rau.sam.two_way import TwoWay
from rau.training import checkpoint
from rau.training.batch import Batch, make_batch
from rau.training.data import Mixture
from rau.training.fusion_objective import (
    ONE_REFERENCE,
    Attention,
    Row,
    Scene,
    answer,
    ask,
    fused_scores,
    plain_scores,
    scenes,
    see,
)
from rau.training.fusion_outcome import PART, Fused, checksums_of, reasoner_folder, save_fusion, segmenter_of
from rau.training.items import Item, draw
from rau.training.objective import PROMPTED, loss_of
from rau.training.precision import bfloat16
from rau.training.schedule import Schedule
from rau.training.sets import mixtures
from rau.training.two_way_loss import Weights, two_way_loss
from rau.vlm.evidence import draw_attention, slot_names, summary
from rau.vlm.store import load_reasoner

ENCODING = ("conv_s0", "conv_s1")  # of the mask decoder, what the image encoder uses: frozen with it
PATHS = ("folder", "reasoner", "model", "data", "cache")  # of a machine: not in the outcome
FIXED = (
    "width",
    "spatial_side",
    "injection",
    "train_decoder",
    "train_rows",
    "two_way",
)  # settings that a resumed run keeps
LOSSES = ("auto", "rau", "rcmed")
SEE = "See `rau train fusion --help`"
DRAWN = 24  # structures in attention.png


@dataclass(frozen=True)
class FusionTraining:
    """How to train. reasoner: run folder of `rau train sft` or `grpo`, or a folder with reasoner.json.

    model: whose segmenter is used, a name or a model folder. data: folder of the labelled sets. width: of the projector
    (0: SAM2's channels). spatial_side: slots of spatial memory a side (0: none). injection: "token" or "target".
    boxes: chance of a step with the VLM's boxes as box prompts. bare: chance of a step without tokens, as slices
    between key slices have none. train_decoder: SAM2's mask decoder learns too; train_rows: so does the `<Seg>`
    embedding of the VLM. steps: optimiser steps in all; minutes: training time in all instead, which the learning rate
    then follows (0: the steps count). dialogues: in a step. structures: at most so many of each. rate: of the fusion;
    decoder_rate: of the decoder and the embedding. warmup: steps; cooldown: fraction of the run, at its end, over which
    the rates fall to 3 %. every: steps between validations, of `checks` batches a source. bf16: forward pass in
    bfloat16. anatomies: random anatomies in the pool; cache: where they are kept; nothing: in the run folder.
    cpu_time: minutes are the processor's, of all threads. two_way: the states at the target's picture are added to
    SAM2's image embedding: "released" as they come, "conditioned" read again after question and answer, or "off". loss:
    "rau" (A3.7) or "rcmed" (B3), of which ce, bce, dice, boundary are the weights; "auto": "rcmed" if two-way.
    """

    folder: str
    reasoner: str
    model: str = "rau-mini"
    data: str = ""
    width: int = 0
    spatial_side: int = 0
    injection: str = "token"
    boxes: float = 0.5
    bare: float = 0.1
    train_decoder: bool = True
    train_rows: bool = True
    steps: int = 1000
    minutes: float = 0.0
    dialogues: int = 8
    structures: int = 4
    rate: float = 1e-3
    decoder_rate: float = 5e-5
    warmup: int = 30
    cooldown: float = 0.5
    every: int = 150
    checks: int = 2
    seed: int = 0
    bf16: bool = False
    anatomies: int = 1200
    cache: str = ""
    cpu_time: bool = False
    two_way: str = "off"
    loss: str = "auto"
    ce: float = 1.0
    bce: float = 0.5
    dice: float = 2.0
    boundary: float = 0.2

    @property
    def weights(self) -> Weights | None:
        """Of RCMed's loss; None where RAU's is asked for. Raises InputError."""
        if self.loss not in LOSSES:
            raise InputError(f"No loss {self.loss!r}", f"Give one of {', '.join(LOSSES)}")
        if self.loss == "rau" or (self.loss == "auto" and self.two_way == "off"):
            return None
        try:
            return Weights(self.ce, self.bce, self.dice, self.boundary)
        except ValueError as problem:
            raise InputError(f"The settings do not fit: {problem}", SEE) from problem


class Learner(nn.Module):
    """All that learns. decoder: SAM2's own module, or None; row: the `<Seg>` embedding, or None."""

    def __init__(self, fusion: Fusion, decoder: nn.Module | None, row: Row | None) -> None:
        super().__init__()
        self.fusion, self.decoder, self.row = fusion, decoder, row
        for name, one in decoder.named_parameters() if decoder else ():
            one.requires_grad_(not name.startswith(ENCODING))

    def groups(self, settings: FusionTraining) -> list[dict[str, Any]]:
        """Parameters with the rates of the settings; "base": the highest."""
        rest = [one for part in (self.decoder, self.row) if part for one in part.parameters() if one.requires_grad]
        groups = [{"params": list(self.fusion.parameters()), "base": settings.rate}]
        if rest:
            groups.append({"params": rest, "base": settings.decoder_rate, "weight_decay": 0.0})
        return groups


class Run:
    """A training run in its folder: the frozen models, what learns, the sources, the progress. Raises InputError."""

    def __init__(self, settings: FusionTraining) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.folder, self.weights = settings, Path(settings.folder), settings.weights
        self.clock = time.process_time if settings.cpu_time else time.perf_counter
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state, self.best = self.folder / "state.safetensors", self.folder / "best.safetensors"
        folder = reasoner_folder(settings.reasoner)
        self.loaded = load_reasoner(folder)
        self.loaded.reasoner.eval().requires_grad_(False)
        self.plain, digest = segmenter_of(settings.model)
        self.segmenter, _ = segmenter_of(settings.model)
        self.fits: dict[str, Any] = {"reasoner": checksums_of(folder), "segmenter": digest}
        self._build()
        steps = sys.maxsize if settings.minutes else settings.steps
        self.schedule = Schedule(1.0, steps, settings.warmup, settings.cooldown, settings.minutes * 60)
        self.before: dict[str, float] = {}

    def _build(self) -> None:
        """What learns, and its optimiser; from the state where there is one."""
        s, sam = self.settings, self.segmenter.model
        widths = (int(self.loaded.reasoner.heads.config.hidden), int(sam.hidden_dim), int(sam.mem_dim))
        injection: Injection = s.injection  # type: ignore[assignment]
        two_way: TwoWay = s.two_way  # type: ignore[assignment]
        try:
            self.config = FusionConfig(*widths, s.width, s.spatial_side, injection, two_way=two_way)
        except ValueError as problem:
            raise InputError(f"The settings do not fit: {problem}", SEE) from problem
        row = Row(self.loaded.reasoner) if s.train_rows else None
        self.learner = Learner(Fusion(self.config), sam.sam_mask_decoder if s.train_decoder else None, row)
        self.optimiser = torch.optim.AdamW(self.learner.groups(s), s.rate, weight_decay=0.01)
        if not self.state.exists():
            self.progress = checkpoint.start(self.learner)
            return
        old = checkpoint.settings_of(self.state)
        changed = [key for key in FIXED if old.get(key, getattr(FusionTraining, key)) != getattr(s, key)]
        changed += [key for key, value in self.fits.items() if old.get(key + "_sha256") != value]
        if changed:
            raise InputError(f"The run began with another {', '.join(changed)}", "Give the same, or another folder")
        self.progress = checkpoint.load(self.state, self.learner, self.optimiser)

    def over(self) -> bool:
        return self.schedule.over(self.progress.step, self.progress.seconds)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the running mean of the weights takes their place."""
        now = {key: value.clone() for key, value in self.learner.state_dict().items()}
        self.learner.load_state_dict(self.progress.mean)
        try:
            yield
        finally:
            self.learner.load_state_dict(now)

    @contextmanager
    def row_in_use(self) -> Iterator[None]:
        row = self.learner.row
        with row.used_by(self.loaded.reasoner) if row else nullcontext():
            yield

    def drawn(self, source: Mixture) -> tuple[Batch, list[Item]]:
        """The data of this step."""
        s, step = self.settings, self.progress.step
        for attempt in range(20):
            seed = (s.seed, step, attempt, 13)
            batch = make_batch(source, seed, ONE_REFERENCE, s.dialogues, s.structures, self.segmenter.size)
            items = draw(batch, "segment", np.random.default_rng([*seed, 1]))
            if items:
                return batch, items
        raise RuntimeError("no structure could be drawn from the training data")

    def scene(self, source: Mixture) -> Scene:
        """The data of this step, asked and encoded; with a gradient only to the `<Seg>` embedding."""
        batch, items = self.drawn(source)
        with self.row_in_use(), torch.set_grad_enabled(self.learner.row is not None):
            told = ask(self.loaded, batch, items, self.config.two_way, self.weights is not None and self.weights.ce > 0)
        return see(self.segmenter, batch, told)

    def train_step(self, source: Mixture) -> float:
        """One step; gives the loss."""
        begin, s = self.clock(), self.settings
        rng = np.random.default_rng([s.seed, self.progress.step, 17])
        boxes, prompted, bare = rng.random(3) < (s.boxes, PROMPTED, s.bare)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * self.schedule.at(self.progress.step, self.progress.seconds)
        with bfloat16(s.bf16):
            scene = self.scene(source)
            prompts = scene.prompts(int(rng.integers(2**62))) if prompted else None
            fusion = None if bare and s.train_decoder else self.learner.fusion
            masks = answer(self.segmenter, fusion, scene, bool(boxes), prompts).masks
        if self.weights is None:
            loss = loss_of(masks, scene.truth, scene.present)
        else:
            loss = two_way_loss(masks, scene.truth, scene.present, scene.told.ce, self.weights)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimiser.step()
        self.progress.update(self.learner)
        self.progress.seconds += self.clock() - begin
        return loss.item()

    def validated(self, source: Mixture) -> dict[str, float]:
        """Validate the averaged weights, keep them in `fusion/` if they are the best, and write everything down."""
        row: dict[str, float] = {"step": self.progress.step, "seconds": round(self.progress.seconds)}
        with self.averaged(), self.row_in_use():
            fused, attention = fused_scores(self.segmenter, self.learner.fusion, self._given(source))
        self.before = self.before or plain_scores(self.plain, self._given(source))
        row |= {key: round(value, 4) for key, value in (self.before | fused).items()}
        if self.progress.validated(row["both"]):
            self.keep(row, attention)
        checkpoint.append(self.folder / "validation.csv", row)
        shown = ("memory", "boxes", "fusion", "both", "both prompted", "memory prompted", "giou both")
        checkpoint.plot(self.folder, tuple(key for key in row if key not in shown), "Dice of validation")
        record = {**asdict(self.settings), **{key + "_sha256": value for key, value in self.fits.items()}}
        checkpoint.save(self.state, self.learner, self.optimiser, self.progress, record)
        return row

    def keep(self, scores: dict[str, float], attention: Attention) -> None:
        """The averaged weights as the outcome, with what they score and attend to. No path of a machine goes in."""
        slots, learner = slot_names(1, self.settings.spatial_side), self.learner
        record = {
            "settings": {key: value for key, value in asdict(self.settings).items() if key not in PATHS},
            "fits": self.fits,
            "scores": scores,
            "attention": summary(attention.alpha, attention.names, slots, attention.slots),
        }
        with self.averaged():
            decoder = self.segmenter.model.sam_mask_decoder.state_dict()
            weights = {PART + name: value for name, value in decoder.items()}
            row = learner.row.weight if learner.row else None
            save_fusion(self.folder / "fusion", Fused(learner.fusion, weights, row, record))
        checkpoint.save_best(self.best, self.progress)
        some, names = attention.alpha[:DRAWN], attention.names[:DRAWN]
        draw_attention(self.folder / "attention.png", some, names, slots, attention.slots[:DRAWN])

    def _given(self, source: Mixture) -> Iterator[tuple[str, int, Scene]]:
        s = self.settings
        with torch.no_grad():
            size, told = self.segmenter.size, self.config.two_way
            yield from scenes(self.loaded, self.segmenter, source, size, s.checks, 8, s.structures, told)


def train(settings: FusionTraining) -> Iterator[dict[str, float]]:
    """Train to the end of the run, resuming what is in the folder; yields the scores of each validation."""
    run = Run(settings)
    if run.over():
        return
    data, cache = Path(settings.data) if settings.data else None, Path(settings.cache or run.folder / "cache")
    sources, losses = mixtures(data, settings.seed, cache, settings.anatomies), list[float]()
    sources.hard.removal = 0.55
    while not run.over():
        losses.append(run.train_step(sources.hard))
        if run.progress.step % 25 == 0:
            numbers = {"step": run.progress.step, "seconds": round(run.progress.seconds)}
            checkpoint.append(run.folder / "log.csv", {**numbers, "loss": round(float(np.mean(losses[-25:])), 4)})
        if run.progress.step % settings.every == 0 or run.over():
            yield run.validated(sources.validation)
