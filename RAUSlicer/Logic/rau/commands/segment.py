"""`rau segment`: files in, files out; everything that can be refused is refused before work begins."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rau.commands.progress import Reporter
from rau.errors import InputError, NothingFoundError
from rau.events import OnEvent, StageEvent, WarningEvent
from rau.settings import BANK_REFERENCES, SegmentSettings

if TYPE_CHECKING:
    from rau.bank.search import Pick
    from rau.corrections import Corrections
    from rau.models.engine import Engine
    from rau.references.reference import Reference
    from rau.results import SegmentResult
    from rau.volume.volume import Volume

DICOM_OUTPUT = ".dcm"


@dataclass(frozen=True)
class FromBank:
    """References from a bank: the best `count` for the target, or those of `ids`; see `rau.bank.search.pick`."""

    folder: Path
    count: int = BANK_REFERENCES
    ids: tuple[str, ...] = ()
    on_mismatch: str = "warn"


@dataclass(frozen=True)
class CorrectedFile:
    """A segmentation of the target, and the slices of it, across the acquisition axis, that are right."""

    path: Path
    slices: tuple[int, ...]


def corrected_from(path: Path | None, slices: str) -> CorrectedFile | None:
    """What --corrections and --corrected-slices say. Raises InputError."""
    if (path is None) != (not slices.strip()):
        raise InputError("--corrections and --corrected-slices go together", "Give both, or neither")
    if path is None:
        return None
    try:
        return CorrectedFile(path, tuple(int(part) for part in slices.split(",")))
    except ValueError:
        raise InputError(f"The slices {slices!r} are not numbers with commas", "Write --corrected-slices 4,9") from None


@dataclass(frozen=True)
class Files:
    """What a run reads and writes. references and labels go in pairs; series: of the target's DICOM folder; bank: where
    references come from besides; corrected: slices of the target that are right."""

    references: tuple[Path, ...]
    labels: tuple[Path, ...]
    target: Path
    output: Path
    report: Path | None = None
    series: str | None = None
    reference_series: tuple[str, ...] = ()
    bank: FromBank | None = None
    corrected: CorrectedFile | None = None


def run(files: Files, settings: SegmentSettings) -> SegmentResult:
    """Segment, write the label map and the report. Raises RauError; then nothing has been written."""
    from rau.description.results import with_descriptions
    from rau.export.writing import check_output
    from rau.models.engine import load_engine
    from rau.pipeline import segment
    from rau.volume.reading import read_volume

    _check(files)
    with Reporter() as tell:
        tell(StageEvent("read", "reading files"))
        target = read_volume(files.target, series=files.series)
        check_output(files.output, is_single_slice=min(target.geometry.shape) == 1)
        references, notes = read_references(files)
        for note in notes:
            tell(WarningEvent(note))
        tell(StageEvent("load", "loading the model"))
        engine = load_engine(settings)
        picked = from_bank(files.bank, target, engine, settings, tell) if files.bank is not None else None
        references += picked.references if picked is not None else ()
        corrections = None if files.corrected is None else read_corrections(files.corrected, target)
        result = segment(references, target, settings, engine=engine, corrections=corrections, on_event=tell)
        if picked is not None:
            result = replace(result, provenance={**result.provenance, "bank": picked.report()})
        if not result.found:
            raise NothingFoundError(
                "None of the structures of the reference was found in the target: nothing was written",
                "Check that reference and target show the same part of the body",
            )
        if files.report is not None:
            result = with_descriptions(result, target)
        tell(StageEvent("export"))
        write(files, target, result)
    return result


def from_bank(wanted: FromBank, target: Volume, engine: Engine, settings: SegmentSettings, tell: OnEvent) -> Pick:
    """The references that the bank has for the target; which and why is told. Raises InputError: none fits."""
    from rau.bank.bank import Bank
    from rau.bank.search import pick

    bank = Bank.open(wanted.folder)
    tell(StageEvent("retrieve", "looking for references in the bank"))
    picked = pick(
        bank,
        target,
        engine,
        settings,
        count=wanted.count,
        ids=wanted.ids,
        on_mismatch="refuse" if wanted.on_mismatch == "refuse" else "warn",
        tell=lambda line: tell(WarningEvent(line)),
    )
    for one in picked.chosen:
        tell(StageEvent("retrieve", f"from the bank: {one.entry.label} ({one.reason})"))
    return picked


def read_corrections(given: CorrectedFile, target: Volume) -> Corrections:
    """Raises InputError: the file is no segmentation on the target's grid, a slice that is not there."""
    from rau.corrections import Corrections
    from rau.preparation import cut_across
    from rau.volume.labels import read_segmentation
    from rau.volume.resampling import labels_on_grid

    labels, _ = read_segmentation(given.path, image=target)
    placed, _ = labels_on_grid(labels, target.geometry)
    return Corrections(placed, cut_across(target.geometry), given.slices)


def read_references(files: Files) -> tuple[list[Reference], list[str]]:
    """The references, each label map on the grid of its image, and what the user should know about them."""
    found, notes = [], []
    series: Sequence[str | None] = files.reference_series or [None] * len(files.references)
    for image_path, labels_path, one in zip(files.references, files.labels, series, strict=True):
        reference, said = read_pair(image_path, labels_path, series=one)
        notes += said
        found.append(reference)
    return found, notes


def read_pair(
    image_path: Path, labels_path: Path, *, series: str | None = None, modality: str | None = None
) -> tuple[Reference, list[str]]:
    """Image and label map as a reference, and what the user should know. series, modality: as for `read_volume`."""
    from rau.references.reference import Reference
    from rau.volume.labels import read_segmentation
    from rau.volume.reading import read_volume
    from rau.volume.resampling import labels_on_grid

    image = read_volume(image_path, series=series, modality=modality)
    labels, said = read_segmentation(labels_path, image=image)
    placed, moved = labels_on_grid(labels, image.geometry)
    return Reference(image, placed), [*said, *([moved] if moved else [])]


def write(files: Files, target: Volume, result: SegmentResult) -> None:
    """The label map and the report: both or neither."""
    from rau.export.writing import replaced, write_labels
    from rau.volume.files import ending_of

    sources: tuple[Path, ...] = ()
    if ending_of(files.output) == DICOM_OUTPUT:
        sources = dicom_sources(files)

    def labels() -> None:
        write_labels(
            result.labels, files.output, image=target, provenance=result.provenance, source_dicom=list(sources)
        )

    if files.report is None:
        labels()
        return
    with replaced(files.report.expanduser()) as temporary:
        temporary.write_text(json.dumps(report_of(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        labels()


def report_of(result: SegmentResult) -> dict[str, Any]:
    """What `--report` holds: the result without voxels, the settings and what made it; no path, no patient data."""
    return {"format": 1, **result.report()}


def dicom_sources(files: Files) -> tuple[Path, ...]:
    """The target's DICOM files, which a DICOM SEG refers to; none when the target is something else."""
    from rau.volume.dicom import series_files
    from rau.volume.files import kind_of

    if kind_of(files.target.expanduser()) not in ("folder", "dicom"):
        return ()
    return series_files(files.target, files.series)


def _check(files: Files) -> None:
    """What can be refused without reading anything. Raises InputError."""
    from rau.export.writing import check_output, check_writable

    if not files.references and files.bank is None:
        raise InputError("No reference was given", "Give --reference and --labels, or a --bank")
    if files.bank is not None:
        from rau.bank.bank import Bank

        Bank.open(files.bank.folder)
        if files.bank.on_mismatch not in ("refuse", "warn"):
            raise InputError("--bank-mismatch is refuse or warn", "See rau segment --help")
    if len(files.references) != len(files.labels):
        raise InputError(
            f"There are {len(files.references)} --reference and {len(files.labels)} --labels",
            "Give one --labels for each --reference, in the same order",
        )
    if files.reference_series and len(files.reference_series) != len(files.references):
        raise InputError("There are not as many --reference-series as --reference", "Give one for each, or none")
    check_output(files.output, is_single_slice=True)
    inputs = [*files.references, *files.labels, files.target]
    inputs += [] if files.corrected is None else [files.corrected.path]
    if any(_same(files.output, one) for one in inputs):
        raise InputError(f"The output {files.output.name} is one of the inputs", "Give it another name")
    if files.report is not None:
        if files.report.suffix.lower() != ".json":
            raise InputError(f"The report {files.report.name} is a JSON file", "Let its name end in .json")
        check_writable(files.report.expanduser())
        if any(_same(files.report, one) for one in [*inputs, files.output]):
            raise InputError(f"The report {files.report.name} would replace another file of this run", "Rename it")


def _same(one: Path, other: Path) -> bool:
    one, other = one.expanduser(), other.expanduser()
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return os.path.abspath(one) == os.path.abspath(other)
