"""Cases run to their end, with what is known of them and what is true; kept as JSON, so that a fit runs nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scores import write_whole

from rau import __version__, pipeline
from rau.assembly.labels import PlaneVotes
from rau.errors import InputError
from rau.evaluation.metrics import dice, mask_of
from rau.models.engine import Engine
from rau.preparation import Case
from rau.quality.evidence import StructureEvidence, Witness
from rau.quality.judge import gather
from rau.quality.slices import SliceSigns
from rau.references.reference import Reference
from rau.results import StructureResult
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Volume

FORMAT = 1


@dataclass(frozen=True)
class Finished:
    """A case after `rau.pipeline.segment`. seconds: that it took."""

    case: Case
    votes: list[PlaneVotes]
    guide: Any
    cues: Any
    labels: LabelMap
    results: tuple[StructureResult, ...]
    seconds: float


@dataclass(frozen=True)
class Row:
    """A structure found: evidence, and its true Dice."""

    evidence: StructureEvidence
    dice: float


@dataclass(frozen=True)
class SliceRow:
    """A structure in a slice of the result, and its true Dice there."""

    signs: SliceSigns
    dice: float


@dataclass(frozen=True)
class Run:
    """missed: structures not found that are there. seconds: of `rau segment`; judging: of the evidence alone."""

    key: str
    source: str
    spoilt: str
    rows: tuple[Row, ...]
    slices: tuple[SliceRow, ...]
    missed: int
    seconds: float
    judging: float


@contextlib.contextmanager
def overheard() -> Iterator[list[Any]]:
    """While it lasts: what `rau.pipeline.join` was last called with, and what it gave, [arguments, given]."""
    plain, heard = pipeline.join, []

    def join(*arguments: Any) -> Any:
        given = plain(*arguments)
        heard[:] = [arguments, given]
        return given

    pipeline.join = join
    try:
        yield heard
    finally:
        pipeline.join = plain


def finish(references: Sequence[Reference], target: Volume, engine: Engine, settings: SegmentSettings) -> Finished:
    """`rau.pipeline.segment`, with all that it throws away."""
    start = time.perf_counter()
    with overheard() as heard:
        plain = settings.model_copy(update={"quality": "off"})
        result = pipeline.segment(references, target, plain, engine=engine)
    case, votes, _, _, guide, cues = heard[0][:6]
    return Finished(case, votes, guide, cues, result.labels, result.structures, time.perf_counter() - start)


def measured(
    key: str, source: str, spoilt: str, read: tuple[Reference, Volume, LabelMap], engine: Engine, settings: Any
) -> Run:
    """Run a pair, gather the evidence, and measure it against the truth."""
    reference, target, truth = read
    done = finish([reference], target, engine, settings)
    start = time.perf_counter()
    known = gather(done.case, done.votes, done.guide, done.cues, done.labels, done.results, settings, lambda: None)
    judging = time.perf_counter() - start
    rows, missed = rows_of(done, known, truth)
    return Run(key, source, spoilt, rows, slice_rows(done, known, truth), missed, done.seconds, judging)


def rows_of(done: Finished, known: Witness, truth: LabelMap) -> tuple[tuple[Row, ...], int]:
    rows, missed = [], 0
    for one in done.results:
        true = mask_of(truth, one.structure.name)
        if one.structure.value in known.structures:
            score = dice(true, done.labels.array == one.structure.value)
            rows.append(Row(known.structures[one.structure.value], score or 0.0))
        else:
            missed += bool(true.any())
    return tuple(rows), missed


def slice_rows(done: Finished, known: Witness, truth: LabelMap) -> tuple[SliceRow, ...]:
    """Of volumes alone."""
    if len(done.case.target) == 1:
        return ()
    axis, forth = done.case.planes[0].images.axis, done.case.orientation.forth
    names = {one.value: one.name for one in done.case.structures}
    masks = {v: forth(mask_of(truth, names[v])) for v in known.structures}
    found = forth(done.labels.array)
    rows = []
    for one in known.slices:
        here = np.take(found, one.index, axis) == one.value
        rows.append(SliceRow(one, dice(np.take(masks[one.value], one.index, axis), here) or 0.0))
    return tuple(rows)


def version_of(engine: Engine) -> str:
    """Of the weights and the program: what was run with another is run again."""
    return json.dumps([__version__, sorted(engine.folder.manifest.files.items())])


class Kept:
    """Runs in a folder, one JSON file each; without a folder nothing is kept. version: of model and program."""

    def __init__(self, folder: Path | None, version: str) -> None:
        self.folder, self.version = folder, version
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError:
                raise InputError(f"{folder.name} cannot be made", "Name another folder with --kept") from None

    def _path(self, key: str) -> Path | None:
        name = hashlib.sha256(f"{FORMAT} {self.version} {key}".encode()).hexdigest()[:20]
        return None if self.folder is None else self.folder / f"{name}.json"

    def get(self, key: str) -> Run | None:
        """None where it was not run yet, or with another version, or the file is damaged."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            return run_of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, run: Run) -> None:
        path = self._path(run.key)
        if path is not None:
            write_whole(path, asdict(run))


def run_of(told: dict[str, Any]) -> Run:
    rows = tuple(Row(StructureEvidence(**one["evidence"]), one["dice"]) for one in told["rows"])
    slices = tuple(SliceRow(SliceSigns(**one["signs"]), one["dice"]) for one in told["slices"])
    return Run(**{**told, "rows": rows, "slices": slices})
