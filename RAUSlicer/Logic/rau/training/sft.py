"""`rau train sft`: the VLM learns to label, to box and to say where each structure of the reference lies.

`transformers.Trainer` (and so accelerate: one process, several, FSDP by its configuration file) over items drawn
without end. First the vision tower alone, against the segmenter's own features; then everything, from easy anatomies to
hard ones. Resumable in the same folder. Writes log.csv, validation.csv, curves.png, checkpoints and `reasoner/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from rau.errors import InputError
from rau.models.store import find_model
from rau.sam.pixels import normalise
from rau.training import checkpoint
from rau.training.batch import make_batch
from rau.training.data import Layout, Mixture, Rng
from rau.training.feeding import checked
from rau.training.items import collate, draw, drawn_on, painted
from rau.training.lessons import read_batch
from rau.training.precision import bfloat16
from rau.training.routed_items import asks_of, collate_routed, draw_routed
from rau.training.routed_validation import validate_routed
from rau.training.schedule import Clock, Schedule
from rau.training.sets import Mixtures, mixtures
from rau.training.vlm_objective import SftModel, Sight
from rau.training.vlm_validation import validate
from rau.vlm.dialogue import colour_tokens
from rau.vlm.prompts import Task
from rau.vlm.reader import look_across, open_reader
from rau.vlm.routed_cues import open_routes, token_ids
from rau.vlm.store import Loaded, load_reasoner, new_reasoner, save_reasoner

# Of the loss.
PARTS = ("sight", "reading", "answer", "colours", "said", "drawn", "pointing", "meant", "carried", "mask", "box")
Kind = Task | Literal["routed"]  # of items
REPEATING = 0.5  # of the lessons in reading at the beginning: how much of them is repeating alone
READ_ON = 0.1  # share of the later steps that are lessons in reading
MOMENT = 0.98  # of squared gradients: the large ones of a model that was just opened for reading are soon forgotten
ENDLESS = 10**7  # steps, for runs that end by the clock


@dataclass(frozen=True)
class SftTraining:
    """How to train.

    start: run folder or model folder whose VLM to begin from; nothing: from scratch. large: folder of a Qwen2.5-VL
    (`rau.vlm.large`) to train an adapter of instead. data: folder of the labelled sets. steps: optimiser steps in all;
    minutes: training time in all instead, which the learning rate then follows (0: the steps count). dialogues: in a
    step. structures: at most so many of each. sight: fraction of the run for the vision tower alone, against the
    features of the segmenter of `teacher`. reading: fraction of the run, before that, in which the language model
    alone learns to read (`rau.training.lessons`); a small model is opened for it (`rau.vlm.reader`), and later steps
    have some such lessons too. across: some heads begin by looking at the same place of the picture before
    (`rau.vlm.reader.look_across`; what they did is lost). ramp: fraction over which the tasks grow from easy to hard.
    shares: of segment, label and box items, and, fourth, of routed ones; asks: what these ask for, some of name, box,
    outline and look. described: share of the label items whose answer first says how the region looks, in words
    measured from its mask, instead of where it lies. every: steps between validations; 0: none, the reasoner is kept at
    the end. bf16: forward pass in bfloat16. anatomies: random anatomies in the pool; cache: where they are kept.
    workers: processes that make the items ahead. cpu_time: training time is the processor's, of all threads.
    """

    folder: str
    start: str = ""
    large: str = ""
    data: str = ""
    teacher: str = "rau-mini"
    steps: int = 2000
    minutes: float = 0.0
    dialogues: int = 8
    structures: int = 6
    sight: float = 0.12
    reading: float = 0.0
    across: bool = False
    ramp: float = 0.4
    shares: str = "0.6,0.25,0.15"
    asks: str = "name,box,outline,look"
    described: float = 0.0
    rate: float = 1e-3
    warmup: int = 100
    cooldown: float = 0.4
    every: int = 300
    seed: int = 0
    bf16: bool = False
    anatomies: int = 1200
    cache: str = ""
    workers: int = 0
    cpu_time: bool = False


class Steps(Dataset):  # type: ignore[misc, type-arg, unused-ignore]
    """A dataset of numbers: dialogue i of step i // dialogues. What is asked in a step is drawn in the collator."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


def shares_of(text: str) -> dict[Kind, float]:
    """ "0.6,0.25,0.15" as shares of the tasks; a fourth number, where it is above 0, of routed items.

    Raises InputError.
    """
    hint = "Give three numbers, of segment, label and box items, or four, with routed ones; none below 0, not all 0"
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    total = sum(numbers)
    if len(numbers) not in (3, 4) or not all(0 <= one < float("inf") for one in numbers) or not total:
        raise InputError(f"The shares {text!r} do not fit", hint)
    kinds: tuple[Kind, ...] = ("segment", "label", "boxes", "routed")
    return {kind: one / total for kind, one in zip(kinds, numbers) if kind != "routed" or one}


class Run:
    """A training run: the reasoner, the sources (those of the settings unless they are given), the clock."""

    def __init__(self, settings: SftTraining, sources: Mixtures | None = None) -> None:
        self.settings, self.folder = settings, Path(settings.folder)
        checked(settings.workers)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(self.folder / "seconds", time.process_time if settings.cpu_time else time.perf_counter)
        self.shares, self.asks = shares_of(settings.shares), asks_of(settings.asks)
        self.loaded = self._begin()
        if settings.reading and not settings.large:
            open_reader(self.loaded.reasoner.base)
        if settings.across and not settings.large:
            look_across(self.loaded.reasoner.base, self.loaded.grid)
        if "routed" in self.shares:
            self.loaded = open_routes(self.loaded) if not settings.large else replace(self.loaded, routes=True)
        ids = token_ids(self.loaded.processor.tokenizer)
        words = () if settings.large else colour_tokens(self.loaded.processor.tokenizer)
        self.model = SftModel(self.loaded.reasoner, settings.bf16, ids, words)
        self.cells = self.loaded.cells
        cache = Path(settings.cache or self.folder / "cache")
        data = Path(settings.data) if settings.data else None
        self.sources = sources or mixtures(data, settings.seed, cache, settings.anatomies, settings.workers)
        steps = ENDLESS if settings.minutes else settings.steps
        self.schedule = Schedule(settings.rate, steps, settings.warmup, settings.cooldown, settings.minutes * 60)
        self.segmenter: Any = None
        self.sight: Sight | None = None
        if settings.sight and not settings.start and not settings.large:
            self._teach()

    def _begin(self) -> Loaded:
        start, large = self.settings.start, self.settings.large
        if large:
            from rau.vlm.large import LargeSettings, load_large
            from rau.vlm.large_adapter import load_adapter

            base = LargeSettings(source=large, seed=self.settings.seed)
            return load_adapter(Path(start) / "reasoner", base) if start else load_large(base)
        if not start:
            return new_reasoner(self.settings.seed)
        folder = Path(start) / "reasoner"
        return load_reasoner(folder if folder.is_dir() else find_model(start) / "vlm")

    def _teach(self) -> None:
        """The segmenter whose features the tower learns first, and the head that says them (kept in the model)."""
        from rau.models.engine import load_engine
        from rau.settings import SegmentSettings

        self.segmenter = load_engine(SegmentSettings(model=self.settings.teacher, device="cpu")).segmenter
        hidden = self.loaded.reasoner.heads.config.hidden
        self.sight = self.model.sight = Sight(hidden, int(self.segmenter.model.hidden_dim))

    def done(self, step: int) -> float:
        return self.schedule.done(step, self.clock.seconds)

    def looking(self, step: int) -> bool:
        """Whether the vision tower still learns alone."""
        return self.segmenter is not None and self.done(step) - self.settings.reading < self.settings.sight

    def reading(self, step: int, rng: Rng) -> bool:
        """Whether a step is a lesson in reading: all of them at first, then now and then."""
        share = self.settings.reading
        return share > 0 and (self.done(step) < share or rng.random() < READ_ON)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """The data of a step, by its number alone (and, where the clock counts, by how far the run is)."""
        step = indices[0] // self.settings.dialogues
        rng = np.random.default_rng([self.settings.seed, step, 11])
        if self.reading(step, rng):
            first = self.done(step) < REPEATING * self.settings.reading
            return read_batch(self.loaded.processor, self.loaded.convention, len(indices), rng, first)
        looking = self.looking(step)
        difficulty = min(1.0, self.done(step) / max(self.settings.ramp, 1e-6))
        source: Mixture = self.sources.hard if difficulty >= 1 else self.sources.easy
        if difficulty >= 1:
            source.removal = 0.55
        size, layout = self.loaded.picture, Layout(1, 0)
        tasks = list(self.shares)
        for attempt in range(20):
            seed = (self.settings.seed, step, attempt, 5)
            drawn = make_batch(source, seed, layout, len(indices), self.settings.structures, size, difficulty)
            task = "segment" if looking else tasks[int(rng.choice(len(tasks), p=list(self.shares.values())))]
            if task == "routed":
                routed = draw_routed(drawn, self.asks, rng)
                if routed:
                    return collate_routed(routed, self.loaded.processor, self.cells, rng)
                continue
            items = draw(drawn, task, rng, self.settings.described)
            if items:
                break
        else:
            raise RuntimeError("nothing to ask about could be drawn from the training data")
        ready = collate(items, self.loaded.processor, self.cells, rng, self.loaded.convention)
        if not self.settings.large:
            ready |= {"drawn": drawn_on(items, self.loaded.grid), "laid": painted(items, self.cells)}
            ready["meant"] = torch.tensor([-1 if item.marked is None else item.marked for item in items])
        if looking:
            frames = drawn.images[[item.drawn for item in items]].flatten(0, 1)
            with torch.inference_mode():
                told = self.segmenter.encode(normalise(frames)).levels[-1]
            ready["told"] = told.clone()
            ready["painted"] = painted(items, self.loaded.grid)
        return ready


class ByClock:
    """Of a `Trainer` whose run has a schedule and a clock: the rate follows them."""

    run: Any
    optimizer: Any
    lr_scheduler: Any

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        run, schedule = self.run, self.run.schedule

        def rate(step: int) -> float:
            return schedule.at(step, run.clock.seconds) / schedule.rate

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler


class SftTrainer(ByClock, Trainer):  # type: ignore[misc, unused-ignore]
    """Trainer whose rate may follow the clock, and whose first part trains the vision tower alone."""

    run: Run

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A table that reads and writes words is kept once; safetensors takes no tensor twice."""
        state = self.model.state_dict() if state_dict is None else state_dict
        once = {value.data_ptr(): name for name, value in reversed(state.items())}
        kept = {name: value for name, value in state.items() if once[value.data_ptr()] == name}
        super()._save(output_dir, kept)

    def compute_loss(self, model: Any, inputs: dict[str, Any], **_: Any) -> torch.Tensor:
        told, laid = inputs.pop("told", None), inputs.pop("painted", None)
        if told is None or laid is None:
            loss: torch.Tensor = model(**inputs)["loss"]
            return loss
        return self.sight(inputs, told, laid)

    def sight(self, inputs: dict[str, Any], told: torch.Tensor, laid: torch.Tensor) -> torch.Tensor:
        """The vision tower alone. told: (2 B, C, T, T) of references and targets in turn; laid: of `painted`."""
        read, run = inputs["inputs"], self.run
        with bfloat16(run.settings.bf16, laid.device.type):
            out = run.loaded.reasoner.base.model.get_image_features(read["pixel_values"], read["image_grid_thw"])
        seen = (
            torch.stack(list(out.pooler_output)).float().view(len(laid), 3, -1, run.loaded.reasoner.heads.config.hidden)
        )
        if run.sight is None:
            raise RuntimeError("the tower has no teacher")
        loss: torch.Tensor = run.sight(seen, told, laid)
        run.model.parts = {"sight": float(loss.detach())}
        return loss


class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Logs, validates, and ends the run when its time is over."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[dict[str, float]] = []

    def _log(self, step: int) -> None:
        """The parts of the last loss; a column stays empty where the step's task has no such part."""
        parts = self.run.model.parts
        row: dict[str, Any] = {"step": step, "seconds": round(self.run.clock.seconds)}
        row |= {name: round(parts[name], 4) if name in parts else "" for name in PARTS}
        checkpoint.append(self.run.folder / "log.csv", row)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.run.clock.go()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run, step = self.run, state.global_step
        if step % 25 == 0:
            self._log(step)
        every, over = run.settings.every, run.schedule.over(step, run.clock.seconds)
        if (every and step % every == 0) or over:
            control.should_save = True
            run.clock.stop()
            if not every:
                keep(run)
            elif not run.looking(step):
                self.rows.append(scored(run, step))
            run.clock.go()
        if run.schedule.over(step, run.clock.seconds):
            control.should_training_stop = True


def scored(run: Run, step: int) -> dict[str, float]:
    """Validate, write down, and keep the reasoner as it is."""
    row: dict[str, float] = {"step": step, "seconds": round(run.clock.seconds)}
    scores = validate(run.loaded, run.sources.validation)
    if "routed" in run.shares:
        scores |= validate_routed(run.loaded, run.sources.validation, run.asks)
    row.update({k: round(v, 4) for k, v in scores.items()})
    checkpoint.append(run.folder / "validation.csv", row)
    checkpoint.plot(run.folder)
    keep(run)
    return row


def keep(run: Run) -> None:
    """Write the reasoner, or the adapter of a large one, as it is."""
    folder, settings = run.folder / "reasoner", asdict(run.settings)
    if run.settings.large:
        from rau.vlm.large_adapter import save_adapter

        save_adapter(folder, run.loaded, settings)  # type: ignore[arg-type]
    else:
        save_reasoner(folder, run.loaded, settings)


def train(settings: SftTraining, sources: Mixtures | None = None) -> Iterator[dict[str, float]]:
    """Train to the end of the run, resuming what is in the folder; yields the scores of each validation.

    sources: what to learn from, where it was read before.
    """
    run = Run(settings, sources)
    last = get_last_checkpoint(str(run.folder)) if run.folder.is_dir() else None
    length = ENDLESS if settings.minutes else settings.steps
    arguments = TrainingArguments(
        output_dir=str(run.folder),
        per_device_train_batch_size=settings.dialogues,
        max_steps=length,
        learning_rate=settings.rate,
        weight_decay=0.01,
        adam_beta2=MOMENT,
        max_grad_norm=1.0,
        logging_steps=100,
        save_strategy="no",
        save_total_limit=1,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=settings.workers,
        dataloader_prefetch_factor=4 if settings.workers else None,
        disable_tqdm=True,
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
    )
    watch = Watch(run)
    trainer = SftTrainer(
        model=run.model,
        args=arguments,
        train_dataset=Steps(length * settings.dialogues),
        data_collator=run.batch,
        callbacks=[watch],
    )
    trainer.run = run
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last)
    run.clock.stop()
    yield from watch.rows
