"""`rau batch`: a table of cases in, a folder of results with their table out."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rau.batch import DONE, FAILED, BatchCase, Entry, here, on_ray, worst
from rau.commands.segment import Files, FromBank
from rau.errors import InputError
from rau.settings import SegmentSettings

FORMAT = 1
NEEDED = ("reference", "labels", "target")
DEFAULT_ENDING = ".seg.nrrd"  # keeps names, colours and codes
NAME = re.compile(r"[\w][\w .+-]{0,150}")
COLUMNS = ("name", "status", "output", "found", "seconds", "warnings", "message")
WRITE_SECONDS = 1.0


def run(table: Path, output: Path, settings: SegmentSettings, workers: int, bank: FromBank | None = None) -> int:
    """Do the cases of a table; results.csv and results.json in `output` say what became of each. The exit status.

    bank: where references come from besides the table's. Raises InputError, ModelError: what concerns all cases; then
    nothing has begun.
    """
    folder = made(output)
    cases = read_cases(table, folder, bank)
    results = Results(folder, [case.name for case in cases])
    known = results.earlier()
    try:
        if workers:
            on_ray(cases, settings, known, results.add, workers)
        else:
            here(cases, settings, known, results.add)
    finally:
        results.write()
    return results.summary()


def made(output: Path) -> Path:
    """The folder of results. Raises InputError."""
    folder = output.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise InputError(f"The folder {folder.name} cannot be made", "Choose another --output") from None
    return folder


def read_cases(table: Path, folder: Path, bank: FromBank | None = None) -> list[BatchCase]:
    """The rows of a CSV or JSON table. Paths are relative to it; several references are parted by ";" (a list in JSON).

    Columns: target, and reference and labels where there is no bank; if wanted name, output, series, reference_series.
    Others are passed over. Raises InputError with the number of the row; an output never replaces an input.
    """
    from rau.export.writing import check_output
    from rau.volume.files import checked, stem_of

    path = checked(table)
    if bank is not None:
        from rau.bank.bank import Bank

        Bank.open(bank.folder)
    cases: list[BatchCase] = []
    taken: dict[str, int] = {}
    for number, row in enumerate(rows_of(path, NEEDED if bank is None else ("target",)), start=1):
        where = f"Row {number} of {path.name}"
        case = case_of(row, number, where, path.parent, folder, bank)
        for key in (f"name {case.name}".lower(), f"output {stem_of(case.files.output)}".lower()):
            if key in taken:
                raise InputError(f"{where} has the same {key.split()[0]} as row {taken[key]}", "Give it another one")
            taken[key] = number
        check_output(case.files.output, is_single_slice=True)
        cases.append(case)
    inputs = {os.path.realpath(one) for case in cases for one in (*case.files.references, *case.files.labels)}
    inputs |= {os.path.realpath(case.files.target) for case in cases}
    for case in cases:
        if os.path.realpath(case.files.output) in inputs:
            raise InputError(f"The output {case.files.output.name} would replace an input", "Choose another --output")
    return cases


def rows_of(path: Path, needed: Sequence[str] = NEEDED) -> list[dict[str, Any]]:
    """The rows of a table by column. Raises InputError."""
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            rows = content.get("cases") if isinstance(content, dict) else content
        else:
            with open(path, encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream))
    except (OSError, ValueError, RecursionError, csv.Error):
        raise InputError(f"{path.name} cannot be read as a table", "Give CSV with commas, or JSON, in UTF-8") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"The table {path.name} has no rows", f"One a case, with {', '.join(needed)}")
    for column in needed:
        if column not in rows[0]:
            raise InputError(f"The table {path.name} has no column {column}", f"It needs {', '.join(needed)}")
    return rows


def case_of(
    row: Mapping[str, Any], number: int, where: str, base: Path, folder: Path, bank: FromBank | None
) -> BatchCase:
    """One row. Raises InputError."""
    from rau.volume.files import stem_of

    references, labels, targets = (values_of(row.get(column), where, column) for column in NEEDED)
    if len(targets) != 1 or len(references) != len(labels) or not (references or bank):
        raise InputError(f"{where} needs one target, and one label map for each reference", "Fill it in")
    (output,) = values_of(row.get("output"), where, "output") or [""]
    (name,) = values_of(row.get("name"), where, "name") or [stem_of(output) if output else f"case-{number:03d}"]
    output = output or name + DEFAULT_ENDING
    if not NAME.fullmatch(output) or ".." in output:
        raise InputError(f"{where} has no usable name for its output", "Give a file name without a folder")
    (series,) = values_of(row.get("series"), where, "series") or [""]
    paths = [tuple(base / Path(one).expanduser() for one in several) for several in (references, labels, targets)]
    report = folder / f"{stem_of(output)}.report.json"
    more = tuple(values_of(row.get("reference_series"), where, "reference_series"))
    return BatchCase(name, Files(paths[0], paths[1], paths[2][0], folder / output, report, series or None, more, bank))


def values_of(cell: Any, where: str, column: str) -> list[str]:
    """What a cell holds: several values are parted by ";", or a list in JSON. Raises InputError."""
    several = cell.split(";") if isinstance(cell, str) else cell if isinstance(cell, list) else [cell]
    several = [one for one in several if one is not None]
    if not all(isinstance(one, (str, int)) for one in several):
        raise InputError(f"{where} has no text in {column}", "Give text")
    found = [str(one).strip() for one in several if str(one).strip()]
    if column not in ("reference", "labels", "reference_series") and len(found) > 1:
        raise InputError(f"{where} has several values in {column}", "Give one")
    return found


@dataclass
class Results:
    """The table of results in its folder. names: of all cases, in their order."""

    folder: Path
    names: list[str]
    entries: dict[str, Entry] = field(default_factory=dict)
    _written: float = 0.0

    def earlier(self) -> dict[str, Entry]:
        """What an earlier run left, by name; nothing where the table is missing or damaged."""
        try:
            content = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
            rows = content["cases"] if content["format"] == FORMAT else []
            found = [Entry(**{**row, **{k: tuple(row[k]) for k in ("structures", "warnings")}}) for row in rows]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        return {entry.name: entry for entry in found}

    def add(self, entry: Entry) -> None:
        """Tell a case and keep it; the table on the disk follows within a second."""
        self.entries[entry.name] = entry
        print(f"[{len(self.entries)}/{len(self.names)}] {entry.name}: {words_of(entry)}", file=sys.stderr, flush=True)
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Both tables, each whole or not at all. Cases that were not reached keep what an earlier run left."""
        from rau.export.writing import replaced

        kept = {**self.earlier(), **self.entries}
        rows = [kept[name] for name in self.names if name in kept]
        with replaced(self.folder / "results.json") as temporary:
            content = {"format": FORMAT, "cases": [{**asdict(row), "skipped": False} for row in rows]}
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        with (
            replaced(self.folder / "results.csv") as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as stream,
        ):
            lines = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
            lines.writeheader()
            lines.writerows({**asdict(row), "found": found_in(row), "warnings": len(row.warnings)} for row in rows)
        self._written = time.monotonic()

    def summary(self) -> int:
        """One line on stdout; the exit status."""
        entries = list(self.entries.values())
        done = sum(entry.status == DONE for entry in entries)
        failed = sum(entry.status == FAILED for entry in entries)
        skipped = sum(entry.skipped for entry in entries)
        print(
            f"{done} of {len(self.names)} cases done ({skipped} of all by an earlier run), "
            f"{len(entries) - done - failed} with nothing found, {failed} failed: results.csv, results.json"
        )
        return worst(entries)


def found_in(entry: Entry) -> str:
    return "; ".join(one["name"] for one in entry.structures if one["present"])


def words_of(entry: Entry) -> str:
    """What became of a case, for the terminal."""
    if entry.skipped:
        return f"{entry.status} by an earlier run"
    if entry.status == DONE:
        present = sum(bool(one["present"]) for one in entry.structures)
        return f"{present} of {len(entry.structures)} structures, {entry.seconds:.1f} s"
    return f"{entry.status}: {entry.message}" if entry.status == FAILED else entry.status
