"""What a call of RAU's tables is given: reasoners by stage, fusions, and the items; each read when first asked for."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import common
import rau_masks as masks
from figures import Target
from rau_tasks import QUICK_SETS, Group, inside, outside, validation_sources

from rau.evaluation.datasets import find_data, set_names
from rau.evaluation.tables import Cell
from rau.models.store import known_models
from rau.training.fusion_outcome import reasoner_folder, segmenter_of
from rau.vlm.store import Loaded, load_reasoner, new_reasoner

SFT, GRPO, GRPO_BOXES, UNTRAINED = "SFT", "SFT + GRPO", "SFT + GRPO of boxes", "untrained"


@dataclass(frozen=True)
class Table:
    """figure: the table in a few words."""

    title: str
    columns: Sequence[str]
    rows: list[list[Cell]]
    figure: str
    targets: list[Target] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        return {"title": self.title, "rows": [dict(zip(self.columns, row)) for row in self.rows]}


class LeftOut(Exception):
    """A table that cannot be made of what was given; why, one line."""


class Bench:
    """What the call gives: reasoners by stage, fusions, and the items, which are made when they are first asked for."""

    def __init__(self, arguments: Namespace) -> None:
        self.arguments, self.quick = arguments, bool(arguments.quick)
        self.count = arguments.items or (3 if self.quick else 24)
        given = {SFT: arguments.sft, GRPO: arguments.grpo, GRPO_BOXES: arguments.grpo_boxes}
        self.folders = {name: reasoner_folder(str(run)) for name, run in given.items() if run is not None}
        self.reasoners = {name: masks.frozen(load_reasoner(folder)) for name, folder in self.folders.items()}

    @property
    def _has_model(self) -> bool:
        return self.arguments.model in known_models() or Path(self.arguments.model).is_dir()

    @cached_property
    def bundled(self) -> masks.Speaker | None:
        """The VLM of the model folder, with its fusion."""
        return masks.bundled_fusion(self.arguments.model) if self._has_model else None

    @cached_property
    def trained(self) -> dict[str, Loaded]:
        """The reasoners to be compared; none where neither a run nor the model folder has one."""
        if self.reasoners or self.bundled is None:
            return self.reasoners
        return {self.arguments.model: self.bundled.loaded}

    @cached_property
    def some(self) -> tuple[str, Loaded]:
        """One reasoner for what needs only one: that of SFT, else another, else (in a quick run) a random one."""
        for name in (SFT, *self.trained):
            if name in self.trained:
                return name, self.trained[name]
        if self.quick:
            return UNTRAINED, masks.frozen(new_reasoner())
        raise LeftOut("no VLM: give --sft, or a --model that has one")

    @cached_property
    def labeller(self) -> tuple[str, Loaded]:
        return (GRPO, self.trained[GRPO]) if GRPO in self.trained else self.some

    @cached_property
    def plain(self) -> Any:
        """The segmenter of the model."""
        if not self._has_model:
            raise LeftOut(f"no model {self.arguments.model}")
        return segmenter_of(self.arguments.model)[0]

    @cached_property
    def speaker(self) -> masks.Speaker:
        """The fusion of --fusion, else the model's, else none (in a quick run: a random one)."""
        if self.arguments.fusion is not None:
            return self.fused(self.arguments.fusion)
        if not self.reasoners and self.bundled is not None:
            return self.bundled
        return masks.random_fusion(self.some[1], self.plain) if self.quick else masks.Speaker(self.some[1])

    def fused(self, run: Path) -> masks.Speaker:
        return masks.trained_fusion(run, list(self.folders.values()), self.arguments.model)

    @cached_property
    def groups(self) -> list[Group]:
        data, side = find_data(), self.some[1].picture
        start = time.perf_counter()
        cache = Path(self.arguments.cache) if self.arguments.cache else None
        made = [inside(validation_sources(data, self.quick, cache), self.count, side)]
        if data is None:
            common.say("No labelled sets are here (RAU_DATA): nothing is measured out of distribution")
        else:
            names = [name for name in QUICK_SETS if name in set_names()] if self.quick else None
            made.append(outside(self.count, side, names))
        told = ", ".join(f"{len(one.items())} {one.name} ({len(one.sources)} sources)" for one in made)
        common.say(f"Items: {told}; made in {time.perf_counter() - start:.0f} s")
        return made

    @cached_property
    def outcomes(self) -> dict[str, list[masks.Outcome]]:
        """Masks and presence of every structure by group."""
        ways = masks.ways_of(self.speaker)
        return {one.name: masks.outcomes(one, self.speaker, self.plain, ways) for one in self.groups}
