"""`rau train grpo`: the VLM, once it has learnt to answer, learns from how good its answers are (RAU; papers.md A3.2).

TRL's GRPOTrainer samples a group of answers to each question, and does the advantages, the clipped objective and the KL
against the model it began from; questions are drawn without end from the sources of `rau train sft`. The heads stay as
they are. Resumable in the same folder. Writes log.csv, validation.csv, curves.png, checkpoints and `reasoner/`;
`reference/` is what it began from.
"""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from rau.errors import InputError
from rau.models.store import find_model
from rau.training import checkpoint
from rau.training.batch import make_batch
from rau.training.data import Layout
from rau.training.grpo_rewards import Judge, validate
from rau.training.items import Item, draw
from rau.training.schedule import Clock, Schedule
from rau.training.sets import Mixtures, mixtures
from rau.training.sft import ENDLESS, ByClock
from rau.vlm.prompts import TASKS, Task, messages
from rau.vlm.store import RECORD, Loaded, load_reasoner, save_reasoner

POOL = 1 << 16  # questions before they begin again
MOST_TOKENS: dict[Task, int] = {"label": 40, "boxes": 128, "segment": 96}
LOGGED = ("loss", "reward", "reward_std", "quality", "valid", "kl", "completions/mean_length", "step_time")
ADAPTED = ["q_proj", "k_proj", "v_proj", "o_proj"]  # of the language model


@dataclass(frozen=True)
class GrpoTraining:
    """How to train. start: folder of a run of `rau train sft`, or model folder, whose VLM to begin from.

    data: folder of the labelled sets. task: label, boxes or segment. steps: optimiser steps in all; minutes: training
    time in all instead, which the learning rate then follows (0: the steps count). group: answers sampled to each
    question; prompts: questions in a step; updates: steps made on the same answers; accumulate: parts that a step is
    cut into, to save memory. structures: at most so many in a question. beta: weight of the KL; clip: eps of the
    objective; temperature: of sampling. tokens: most in an answer (0: what the task needs). every: steps between
    validations, on checks questions of each source. lora: rank of the adapters (0: the whole model learns). bf16:
    forward pass in bfloat16. anatomies: random anatomies in the pool; cache: where they are kept.
    """

    folder: str
    start: str
    data: str = ""
    task: str = "label"
    steps: int = 400
    minutes: float = 0.0
    group: int = 8
    prompts: int = 4
    updates: int = 1
    accumulate: int = 1
    structures: int = 6
    rate: float = 1e-4
    warmup: int = 10
    cooldown: float = 0.3
    beta: float = 0.04
    clip: float = 0.2
    temperature: float = 1.0
    tokens: int = 0
    every: int = 50
    checks: int = 16
    seed: int = 0
    lora: int = 0
    bf16: bool = False
    anatomies: int = 1200
    cache: str = ""


def task_of(settings: GrpoTraining) -> Task:
    """The task, once the settings have been looked through. Raises InputError."""
    if settings.group < 2 or min(settings.prompts, settings.updates, settings.accumulate, settings.every) < 1:
        raise InputError("There is nothing to compare", "A group has 2 answers at least, the rest is at least 1")
    if settings.group * settings.prompts % settings.accumulate:
        raise InputError(
            f"{settings.group * settings.prompts} answers cannot be cut into {settings.accumulate} parts",
            "Give an --accumulate that divides --group times --prompts",
        )
    for task in TASKS:
        if settings.task == task:
            return task
    raise InputError(f"There is no task {settings.task!r}", f"Give one of {', '.join(TASKS)}")


def reasoner_folder(start: str) -> Path:
    """Where the VLM of a run folder, of a model or in this very folder is. Raises InputError, ModelError."""
    if not start:
        raise InputError("Nothing to begin from", "Give the folder of a run of `rau train sft` as --start")
    for folder in (Path(start) / "reasoner", Path(start)):
        if (folder / RECORD).is_file():
            return folder
    return find_model(start) / "vlm"


class Run:
    """A training run: the reasoner, the questions, the clock."""

    def __init__(self, settings: GrpoTraining) -> None:
        self.task = task_of(settings)
        self.settings, self.folder = settings, Path(settings.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.loaded, self.before = self._begin()
        self.judge = Judge(self.loaded)
        cache = Path(settings.cache or self.folder / "cache")
        data = Path(settings.data) if settings.data else None
        self.sources: Mixtures = mixtures(data, settings.seed, cache, settings.anatomies)
        self.sources.hard.removal = 0.55
        steps = ENDLESS if settings.minutes else settings.steps
        self.schedule = Schedule(settings.rate, steps, settings.warmup, settings.cooldown, settings.minutes * 60)
        self.clock = Clock(self.folder / "seconds")
        self.question = functools.lru_cache(maxsize=2 * settings.prompts)(self._question)
        logging.set_verbosity_error()

    def _begin(self) -> tuple[Loaded, dict[str, Any]]:
        """The VLM to begin from and how it came to be. It is kept: the KL of a resumed run is against the same one."""
        kept = self.folder / "reference"
        if not (kept / RECORD).is_file():
            folder = reasoner_folder(self.settings.start)
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            save_reasoner(kept, load_reasoner(folder), record.get("trained"))
        record = json.loads((kept / RECORD).read_text(encoding="utf-8"))
        loaded = load_reasoner(kept)
        tokenizer = loaded.processor.tokenizer
        tokenizer.image_token_id = loaded.processor.image_token_id  # a tokenizer that was read from files has lost it
        return loaded, dict(record.get("trained", {}))

    @property
    def tokens(self) -> int:
        return self.settings.tokens or MOST_TOKENS[self.task]

    def _question(self, index: int) -> Item:
        """Question `index`; of the seed and its number alone."""
        seed = (self.settings.seed, index, 13)
        for attempt in range(50):
            drawn = make_batch(
                self.sources.hard, (*seed, attempt), Layout(1, 0), 1, self.settings.structures, self.loaded.picture
            )
            items = draw(drawn, self.task, np.random.default_rng([*seed, attempt, 1]))
            if items:
                return items[0]
        raise RuntimeError("no question could be drawn from the training data")

    def rows(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        """Columns of TRL: prompt, images (reference, overlay, target) and the item, which the rewards are given."""
        items = [self.question(index) for index in batch["index"]]
        return {
            "prompt": [messages(item.names, item.question()) for item in items],
            "images": [[Image.fromarray(one) for one in item.images()] for item in items],
            "item": items,
        }

    def questions(self) -> Dataset:
        """A data set without end, near enough, whose rows are made when they are asked for."""
        steps = self.schedule.steps // self.settings.updates + 1
        length = max(self.settings.prompts, min(POOL, steps * self.settings.prompts))
        return Dataset.from_dict({"index": list(range(length))}).with_transform(self.rows)

    def over(self, step: int) -> bool:
        return self.schedule.over(step, self.clock.seconds)


class RauGrpoTrainer(ByClock, GRPOTrainer):  # type: ignore[misc, unused-ignore]
    """TRL's trainer with a rate that may follow the clock; nothing is sent anywhere, no model card is written."""

    def __init__(self, run: Run, **arguments: Any) -> None:
        self.run = run
        super().__init__(**arguments)

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass


class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Logs, validates, and ends the run when its time is over."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[dict[str, float]] = []
        self.model: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.global_step:
            self.rows.append(scored(self.run, 0, self.model))
        self.run.clock.go()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "reward" in logs:
            values = {name.rpartition("/")[2]: round(float(logs.get(name) or 0.0), 5) for name in LOGGED}
            row = {"step": state.global_step, "seconds": round(self.run.clock.seconds), **values}
            checkpoint.append(self.run.folder / "log.csv", row)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run, step = self.run, state.global_step
        over = run.over(step)
        if step % run.settings.every == 0 or over:
            control.should_save = True
            run.clock.stop()
            self.rows.append(scored(run, step, self.model))
            run.clock.go()
        control.should_training_stop = over


def scored(run: Run, step: int, model: Any) -> dict[str, float]:
    """Validate, write down, and keep the reasoner as it is."""
    row: dict[str, float] = {"step": step, "seconds": round(run.clock.seconds)}
    row.update(
        {
            key: round(value, 4)
            for key, value in validate(
                run.judge, run.task, run.sources.validation, run.settings.checks, run.tokens
            ).items()
        }
    )
    checkpoint.append(run.folder / "validation.csv", row)
    checkpoint.plot(run.folder, hidden=("step", "seconds", "reward"))
    keep(run, model)
    return row


def keep(run: Run, model: Any) -> None:
    """`reasoner/` as it is now, adapters merged."""
    loaded = run.loaded
    if run.settings.lora:
        merged = copy.deepcopy(model).merge_and_unload()
        reasoner = copy.copy(loaded.reasoner)
        reasoner._modules = {**loaded.reasoner._modules, "vlm": merged}
        loaded = replace(loaded, reasoner=reasoner)
    record = {**asdict(run.settings), "stage": "grpo", "before": run.before}
    save_reasoner(run.folder / "reasoner", loaded, record)


def arguments_of(run: Run) -> GRPOConfig:
    """TRL's settings of a run: the objective is that of papers.md A3.2, each answer counting alike."""
    settings, cuda = run.settings, torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(run.folder),
        per_device_train_batch_size=settings.prompts * settings.group // settings.accumulate,
        gradient_accumulation_steps=settings.accumulate,
        num_generations=settings.group,
        num_iterations=settings.updates,
        max_completion_length=run.tokens,
        temperature=settings.temperature,
        loss_type="grpo",
        scale_rewards="group",
        beta=settings.beta,
        epsilon=settings.clip,
        learning_rate=settings.rate,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_steps=run.schedule.steps,
        logging_steps=min(5, settings.every),
        save_strategy="no",
        save_total_limit=1,
        report_to="none",
        remove_unused_columns=False,
        shuffle_dataset=False,
        dataloader_num_workers=0,
        disable_tqdm=True,
        seed=settings.seed,
        use_cpu=not cuda,
        bf16=settings.bf16,
        gradient_checkpointing=cuda,
    )


def adapters(rank: int) -> Any:
    """LoRA in the attention of the language model (papers.md A4: alpha twice the rank); None for rank 0."""
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=ADAPTED, task_type="CAUSAL_LM")


def see_once(model: Any) -> None:
    """Make a Qwen2.5-VL (without its LM head) look once at pictures that a batch holds several times.

    TRL repeats a question and its pictures for each answer of the group; features and gradients are the same.
    """
    original = model.get_image_features

    @functools.wraps(original)
    def features(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **options: Any) -> Any:
        parts = torch.split(pixel_values, image_grid_thw.prod(-1).tolist())
        first: dict[bytes, int] = {}
        rows = [first.setdefault(part.float().cpu().numpy().tobytes(), len(first)) for part in parts]
        alone = [rows.index(k) for k in range(len(first))]
        out = original(torch.cat([parts[k] for k in alone]), image_grid_thw[alone], **options)
        out.pooler_output = tuple(out.pooler_output[k] for k in rows)
        return out

    model.get_image_features = features


def trainer_of(run: Run, watch: Watch) -> RauGrpoTrainer:
    """TRL's trainer of a run. Its processor pads on the left: TRL pads nothing but the tokens itself."""
    processor = copy.deepcopy(run.loaded.processor)
    processor.tokenizer.padding_side = "left"
    trainer = RauGrpoTrainer(
        run,
        model=run.loaded.reasoner.vlm,
        reward_funcs=run.judge,
        args=arguments_of(run),
        train_dataset=run.questions(),
        processing_class=processor,
        callbacks=[watch],
        peft_config=adapters(run.settings.lora),
    )
    trainer.remove_callback(PrinterCallback)
    watch.model = trainer.model
    for vlm in (run.loaded.reasoner.base, trainer.ref_model):
        if vlm is not None:
            see_once(trainer.accelerator.unwrap_model(vlm).model)
    run.loaded.reasoner.heads.to(trainer.accelerator.device)
    return trainer


def train(settings: GrpoTraining) -> Iterator[dict[str, float]]:
    """Train to the end of the run, resuming what is in the folder; yields the scores of each validation.

    Raises InputError for settings that do not fit, ModelError for a start that cannot be read.
    """
    run = Run(settings)
    last = get_last_checkpoint(str(run.folder))
    if last and run.over(int(last.rpartition("-")[2])):
        return
    watch = Watch(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of TRL and transformers, of each other
        trainer = trainer_of(run, watch)
        trainer.train(resume_from_checkpoint=last)
    run.clock.stop()
    yield from watch.rows
