"""`rau train adapter`: a small adapter of the segmenter from the accepted cases of a bank, if it is shown to help.

LoRA (peft) on the attention of memory and decoder. First each of some accepted cases in turn is left out: an adapter is
trained on the others, and the left-out case segmented with what the bank picks for it, with and without that adapter.
Only if that helps is an adapter trained on all of them and written. Resumable (the same call goes on), deterministic by
seed: each step draws its lessons from (seed, stage, step) alone. The model's own files are never written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from rau.adaptation.site import (
    DOWN,
    UP,
    Adapter,
    AdapterRecord,
    base_of,
    copied,
    projections,
    with_adapter,
    write_adapter,
)
from rau.bank.bank import Bank
from rau.bank.entry import Entry
from rau.bank.search import pick
from rau.errors import InputError, NotHelpfulError
from rau.evaluation.metrics import dice_of_structures, mean_of
from rau.models.engine import Engine, content_hash, load_engine
from rau.pipeline import segment
from rau.sam.segmenter import Segmenter
from rau.settings import SegmentSettings
from rau.training import checkpoint
from rau.training.adapter_lessons import Lesson, batch_of, lessons_of, loss_of_batch

FEWEST, MOST = 3, 12  # accepted cases that are needed, and the latest that are used
GAIN, LOSS = 0.002, 0.05  # mean Dice that left-out cases gain at least, and that none loses more than
EVERY = 20  # steps between savings of the state
NO_HELP = "The accepted cases do not teach the model anything that helps: nothing was written"


@dataclass(frozen=True)
class AdapterTraining:
    """How to train. bank: with at least three accepted cases. output: adapter file to write. model: as in `rau
    segment`. steps: of each training. rank: of the changes. folds: accepted cases that are left out, each once.
    structures: at most so many of a slice. minutes: stop this call after so long (the same call goes on); 0: no limit.
    """

    bank: str
    output: str
    model: str = "auto"
    device: str = "auto"
    steps: int = 100
    rank: int = 4
    rate: float = 1e-3
    folds: int = 4
    structures: int = 4
    minutes: float = 30.0
    seed: int = 0


class OutOfTime(Exception):
    """The minutes of this call are spent."""


class Clock:
    """When this call has to stop."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes if minutes else float("inf")

    def check(self) -> None:
        if time.monotonic() > self.end:
            raise OutOfTime


class Student:
    """A copy of the segmenter with LoRA, its optimiser, and how far it is."""

    def __init__(self, engine: Engine, settings: AdapterTraining) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.settings, self.step = settings, 0
        model = copied(engine.segmenter.model).requires_grad_(False)
        self.names = sorted(projections(model))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            config = LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, target_modules=self.names)
            model = inject_adapter_in_model(config, model)
        self.segmenter = Segmenter(model)
        self.learning = torch.nn.ParameterList([p for p in model.parameters() if p.requires_grad])
        self.optimiser = torch.optim.AdamW(self.learning, settings.rate, weight_decay=0.0)

    def learn(self, lessons: Sequence[Lesson], stage: int) -> float:
        """One step; gives the loss."""
        rng = np.random.default_rng([self.settings.seed, stage, self.step])
        with torch.inference_mode(False), torch.enable_grad():
            batch = batch_of(lessons, self.settings.structures, rng)
            loss = loss_of_batch(self.segmenter, batch, rng)
            self.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.learning.parameters(), 1.0)
            fall = 0.05 + 0.475 * (1 + np.cos(np.pi * self.step / self.settings.steps))
            self.optimiser.param_groups[0]["lr"] = self.settings.rate * min(1.0, (self.step + 1) / 10) * fall
            self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def adapter(self, record: AdapterRecord) -> Adapter:
        """What it learnt so far."""
        modules = dict(self.segmenter.model.named_modules())
        tensors = {}
        for name in self.names:
            for start, part in ((DOWN, "lora_A"), (UP, "lora_B")):
                weight = getattr(modules[name], part)["default"].weight
                tensors[start + name] = weight.detach().cpu().float().clone()
        return Adapter(record.sealed(tensors), tensors)


class Run:
    """A training in progress: which stage (a fold, or the last: all cases), and what the folds gave, in a file beside
    the output until the adapter is written."""

    def __init__(self, settings: AdapterTraining) -> None:
        self.settings, self.clock = settings, Clock(settings.minutes)
        self.output = Path(settings.output).expanduser()
        self.state = self.output.with_name(f".{self.output.name}.state")
        self.bank = Bank.open(settings.bank)
        self.entries = accepted(self.bank)
        self.asked = SegmentSettings(model=settings.model, device=settings.device, reasoning="off")
        self.engine = load_engine(self.asked)
        self.cases = [self.bank.reference(one.id) for one in self.entries]
        self.folds = min(settings.folds, len(self.entries))
        self.scores: list[tuple[float, float]] = []
        self.student = Student(self.engine, settings)
        self.print = content_hash(
            json.dumps({**asdict(settings), "minutes": 0, "output": "", "bank": ""}),
            base_of(self.engine.folder),
            *(one.content for one in self.entries),
        )
        self._resume()

    @property
    def stage(self) -> int:
        return len(self.scores)

    def record(self) -> AdapterRecord:
        """What is told of the adapter: no id, name or text of an entry."""
        before, after = (float(np.mean([one[k] for one in self.scores])) if self.scores else 0.0 for k in (0, 1))
        told = {"cases": len(self.entries), "left_out": len(self.scores)}
        dice = {"dice_without": round(before, 4), "dice_with": round(after, 4)}
        trained = {**told, **dice, "steps": self.settings.steps, "seed": self.settings.seed}
        manifest, rank = self.engine.folder.manifest, self.settings.rank
        return AdapterRecord(
            base=base_of(self.engine.folder), model=manifest.name, rank=rank, alpha=2 * rank, trained=trained
        )

    def fit(self, lessons: Sequence[Lesson]) -> float:
        """Train the student of this stage to its end; the mean loss of the last steps. Raises OutOfTime, saved."""
        losses = []
        try:
            while self.student.step < self.settings.steps:
                self.clock.check()
                losses.append(self.student.learn(lessons, self.stage))
                if self.student.step % EVERY == 0:
                    self.save()
        except OutOfTime:
            self.save()
            raise
        self.save()
        return float(np.mean(losses[-EVERY:])) if losses else 0.0

    def save(self) -> None:
        info = {"print": self.print, "step": str(self.student.step), "scores": json.dumps(self.scores)}
        checkpoint.write(self.state, checkpoint.learnt("", self.student.learning, self.student.optimiser), info)

    def _resume(self) -> None:
        """Go on where an earlier call of the same bank, model and settings stopped; another's state is put aside."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.state, "pt") as file:
                info = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle is no mapping)
        except (OSError, SafetensorError):
            return
        if info.get("print") == self.print:
            checkpoint.put_back("", tensors, self.student.learning, self.student.optimiser)
            self.student.step = int(info["step"])
            self.scores = [(float(a), float(b)) for a, b in json.loads(info["scores"])]

    def next_stage(self, scores: tuple[float, float]) -> None:
        self.scores.append(scores)
        self.student = Student(self.engine, self.settings)
        self.save()


def accepted(bank: Bank) -> list[Entry]:
    """The latest accepted cases, of one image the last. Raises InputError: too few."""
    known = {one.image: one for one in bank.entries() if one.provenance.how == "accepted"}
    entries = sorted(known.values(), key=lambda one: (one.added, one.id))[-MOST:]
    if len(entries) < FEWEST:
        raise InputError(
            f"The bank has {len(entries)} accepted cases; an adapter needs {FEWEST} or more",
            "Accept more corrected results with `rau bank accept`",
        )
    return entries


def left_out_dice(run: Run, place: int, adapter: Adapter) -> tuple[float, float]:
    """Dice of the accepted case at `place`, with the bank's best reference but itself, without and with the adapter."""
    entry, case = run.entries[place], run.cases[place]
    same = {one.id for one in run.bank.entries() if one.image == entry.image}
    asked = run.asked.model_copy(update={"structures": entry.names})
    picked = pick(run.bank, case.image, run.engine, asked, count=1, leave_out=same, tell=lambda _: None)
    shown = {one.name.strip().lower() for reference in picked.references for one in reference.structures}
    names = tuple(name for name in entry.names if name.strip().lower() in shown)
    plain = run.asked.model_copy(update={"structures": names, "quality": "off", "planes": "acquisition"})
    scores = []
    for engine in (run.engine, with_adapter(run.engine, adapter)):
        run.clock.check()
        result = segment(picked.references, case.image, plain, engine=engine)
        scores.append(mean_of(dice_of_structures(case.labels, result.labels)) or 0.0)
    return scores[0], scores[1]


def helps(scores: Sequence[tuple[float, float]]) -> bool:
    """Whether the left-out cases gain by it, and none loses much."""
    gains = [after - before for before, after in scores]
    return bool(gains) and float(np.mean(gains)) >= GAIN and min(gains) >= -LOSS


def checked(settings: AdapterTraining) -> AdapterTraining:
    """Raises InputError for numbers that cannot be."""
    if not (settings.steps >= 1 and 1 <= settings.rank <= 64 and settings.folds >= 2 and settings.structures >= 1):
        raise InputError(
            "steps and structures are 1 or more, folds 2 or more, rank 1 to 64", "See rau train adapter --help"
        )
    return settings


def train(settings: AdapterTraining) -> Iterator[dict[str, float]]:
    """Train, yielding the scores of each left-out case, then those of the adapter that is written.

    Raises InputError: too few cases, the minutes are spent (call again); NotHelpfulError: it does not help.
    """
    run = Run(checked(settings))
    try:
        lessons = lessons_of(run.cases, run.engine, run.clock.check)
        while run.stage < run.folds:
            place = run.stage * len(run.entries) // run.folds
            loss = run.fit([one for one in _some(lessons) if place not in one.both])
            scores = left_out_dice(run, place, run.student.adapter(run.record()))
            run.next_stage(scores)
            yield {"left_out": run.stage, "loss": loss, "without": scores[0], "with": scores[1]}
        before, after = (float(np.mean([one[k] for one in run.scores])) for k in (0, 1))
        if not helps(run.scores):
            run.state.unlink(missing_ok=True)
            worst = min(b - a for a, b in run.scores)
            raise NotHelpfulError(
                f"{NO_HELP} (Dice of left-out cases {before:.3f} without, {after:.3f} with; the worst {worst:+.3f})",
                "Accept more cases, or go on without an adapter",
            )
        loss = run.fit(_some(lessons))
    except OutOfTime:
        done = f"{run.stage} of {run.folds} left-out cases, step {run.student.step}"
        raise InputError(f"The {settings.minutes:g} minutes are spent ({done})", "Call again to go on") from None
    write_adapter(run.output, run.student.adapter(run.record()))
    run.state.unlink(missing_ok=True)
    yield {"cases": len(run.entries), "loss": loss, "without": before, "with": after}


def _some(lessons: list[Lesson]) -> list[Lesson]:
    """Raises InputError where there are none."""
    if not lessons:
        raise InputError("The accepted cases have no structure in common", "Accept cases of one kind")
    return lessons
