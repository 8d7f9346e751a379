"""Many cases with one model: in this process, or in several on this computer through Ray.

Every process loads the model once. A case that fails is told and the others go on. A case whose inputs, settings, model
and result are what an earlier run left is not done again.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rau.commands.segment import DICOM_OUTPUT, Files, dicom_sources, from_bank, read_references, write
from rau.errors import Cancelled
from rau.events import ignore
from rau.local_ray import local_ray
from rau.settings import SegmentSettings

if TYPE_CHECKING:
    from rau.models.engine import Engine
    from rau.references.reference import Reference
    from rau.results import SegmentResult
    from rau.volume.volume import Volume

Status = Literal["done", "nothing found", "failed"]
DONE: Status = "done"
NOT_FOUND: Status = "nothing found"
FAILED: Status = "failed"
SEVERITY = (1, 4, 2, 3, 0)  # exit statuses, the worst first


@dataclass(frozen=True)
class BatchCase:
    """One row of the table. name: what it is called in the results; files: as of `rau segment`."""

    name: str
    files: Files


@dataclass(frozen=True)
class Entry:
    """What became of a case. output: name of the file in the folder of results, "" where there is none.

    key: hash of all that the result depends on; sha256: of the output. structures: as in a report. message: why it
    failed, one line, without names of files. skipped: an earlier run did it.
    """

    name: str
    status: Status
    exit_code: int = 0
    output: str = ""
    key: str = ""
    sha256: str = ""
    seconds: float = 0.0
    structures: tuple[dict[str, Any], ...] = field(default=())
    warnings: tuple[str, ...] = ()
    message: str = ""
    skipped: bool = False


def worst(entries: Sequence[Entry]) -> int:
    """The exit status of them all."""
    found = {entry.exit_code for entry in entries}
    return next((code for code in SEVERITY if code in found), max(found, default=0))


def model_stamp(settings: SegmentSettings) -> str:
    """What the model is: name, version, checksums. Raises ModelError."""
    from rau.models.store import find_model, open_model

    manifest = open_model(find_model(settings.model), verify=False).manifest
    return repr((manifest.name, manifest.version, sorted(manifest.files.items())))


class CaseRunner:
    """Does cases one after the other with one loaded model. One lives in each process."""

    def __init__(self, settings: SegmentSettings, stamp: str, threads: int = 0) -> None:
        """stamp: of `model_stamp`. threads: for this process, where the settings leave it open."""
        self.settings, self.stamp = settings, stamp
        self.used = settings.model_copy(update={"threads": settings.threads or threads})
        self.engine: Engine | None = None

    def run(self, case: BatchCase, known: Entry | None = None) -> Entry:
        """Segment and write; known: what an earlier run left. Raises Cancelled only."""
        from rau.worker.failure import failure_of

        start = time.perf_counter()
        try:
            entry = self._run(case, known)
        except Cancelled:
            raise
        except Exception as error:
            failure = failure_of(error)
            line = nameless(failure.line, case.files)
            entry = Entry(case.name, FAILED, failure.exit_code, message=line)
        return entry if entry.skipped else replace(entry, seconds=round(time.perf_counter() - start, 3))

    def _run(self, case: BatchCase, known: Entry | None) -> Entry:
        from rau.export.writing import check_output
        from rau.models.engine import load_engine
        from rau.pipeline import segment
        from rau.volume.reading import read_volume

        files = case.files
        target = read_volume(files.target, series=files.series)
        check_output(files.output, is_single_slice=min(target.geometry.shape) == 1)
        references, notes = read_references(files)
        key = key_of(references, target, files, self.settings, self.stamp)
        if known is not None and known.key == key and intact(known, files):
            return replace(known, name=case.name, skipped=True)
        self.engine = self.engine or load_engine(self.used)
        picked = None
        if files.bank is not None:
            picked = from_bank(files.bank, target, self.engine, self.used, ignore)
            references += picked.references
        result = segment(references, target, self.used, engine=self.engine)
        if picked is not None:
            result = replace(result, provenance={**result.provenance, "bank": picked.report()})
        if result.found:
            write(files, target, result)
        else:
            remove(files)
        return entry_of(case, result, notes, key)


def key_of(references: Sequence[Reference], target: Volume, files: Files, settings: SegmentSettings, stamp: str) -> str:
    """Hash of all that the result depends on: images, labels, bank, settings, model, version, format."""
    import rau
    from rau.adaptation.site import read_adapter
    from rau.bank.files import ENTRY
    from rau.models.engine import content_hash
    from rau.models.store import sha256
    from rau.volume.files import ending_of

    ending = ending_of(files.output)
    parts: list[Any] = [rau.__version__, stamp, ending, settings.model_dump_json(exclude={"model", "adapter"})]
    parts += [read_adapter(Path(settings.adapter).expanduser()).record.content] if settings.adapter else []
    for image in (target, *(one.image for one in references)):
        grid = image.geometry
        place = (grid.spacing, grid.origin, grid.direction.tolist(), image.modality, image.spacing_known)
        parts += [image.array, repr(place)]
    for one in references:
        parts += [one.labels.array, repr(one.structures)]
    if files.bank is not None:
        entries = sorted(files.bank.folder.expanduser().glob(f"*/{ENTRY}"))
        parts += [repr(replace(files.bank, folder=Path())), *(f"{path.parent.name} {sha256(path)}" for path in entries)]
    if ending == DICOM_OUTPUT:
        parts += [sha256(path) for path in dicom_sources(files)]
    return content_hash(*parts)


def intact(known: Entry, files: Files) -> bool:
    """Whether what an earlier run left is still there, unaltered."""
    from rau.models.store import sha256

    if known.status == NOT_FOUND:
        return True
    whole = files.output.is_file() and (files.report is None or files.report.is_file())
    return known.status == DONE and whole and sha256(files.output) == known.sha256


def remove(files: Files) -> None:
    """The result of other inputs must not be taken for that of these."""
    for path in (files.output, files.report):
        if path is not None:
            path.unlink(missing_ok=True)


def entry_of(case: BatchCase, result: SegmentResult, notes: Sequence[str], key: str) -> Entry:
    from rau.models.store import sha256

    structures = tuple(result.report()["structures"])
    said = tuple(nameless(note, case.files) for note in (*notes, *result.warnings))
    if not result.found:
        message = "None of the structures of the reference was found in the target: nothing was written"
        return Entry(case.name, NOT_FOUND, 3, "", key, "", 0.0, structures, said, message)
    output = case.files.output
    return Entry(case.name, DONE, 0, output.name, key, sha256(output), 0.0, structures, said)


def nameless(line: str, files: Files) -> str:
    """A line with what each file is instead of its name, which may be a patient's."""
    named = {files.target.name: "the target"}
    for what, paths in (("reference", files.references), ("label map", files.labels)):
        for number, path in enumerate(paths, start=1):
            named[path.name] = f"{what} {number}"
    for name in sorted(named, key=len, reverse=True):
        line = line.replace(name, named[name]) if name else line
    return line[:1].upper() + line[1:]


def here(
    cases: Sequence[BatchCase], settings: SegmentSettings, known: Mapping[str, Entry], done: Callable[[Entry], None]
) -> None:
    """All cases in this process, in their order. Raises ModelError."""
    runner = CaseRunner(settings, model_stamp(settings))
    for case in cases:
        done(runner.run(case, known.get(case.name)))


def on_ray(
    cases: Sequence[BatchCase],
    settings: SegmentSettings,
    known: Mapping[str, Entry],
    done: Callable[[Entry], None],
    workers: int,
) -> None:
    """All cases in so many processes; `done` is called here as they end. Raises ModelError, InputError (no Ray).

    A process that dies takes its case with it, which counts as failed; another process takes its place.
    """
    stamp = model_stamp(settings)
    workers = min(workers, len(cases))
    with local_ray(workers) as ray:
        gpus = 0.0 if settings.device == "cpu" else float(ray.cluster_resources().get("GPU", 0))
        share = int(1e4 * min(1.0, gpus / workers)) / 1e4
        kind = ray.remote(num_cpus=1, num_gpus=share, max_restarts=0)(CaseRunner)
        threads = max(1, (os.cpu_count() or 1) // workers)
        free = [kind.remote(settings, stamp, threads) for _ in range(workers)]
        waiting = deque(cases)
        running: dict[Any, tuple[Any, BatchCase]] = {}
        while waiting or running:
            while waiting and free:
                worker, case = free.pop(), waiting.popleft()
                running[worker.run.remote(case, known.get(case.name))] = (worker, case)
            (ended,), _ = ray.wait(list(running), num_returns=1)
            worker, case = running.pop(ended)
            try:
                entry = ray.get(ended)
            except ray.exceptions.RayError:
                line = "The process of this case ended unexpectedly. Run again with fewer --workers, or a smaller image"
                entry, worker = Entry(case.name, FAILED, 1, message=line), kind.remote(settings, stamp, threads)
            free.append(worker)
            done(entry)
