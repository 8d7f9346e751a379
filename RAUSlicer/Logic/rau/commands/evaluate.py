"""`rau evaluate`: segmentations against their truth, one pair or a table of cases."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rau.errors import InputError, RauError
from rau.evaluation.metrics import Agreement, agreement, mean
from rau.volume.volume import LabelMap

COLUMNS = ("dice", "iou", "surface", "hausdorff95", "difference")
SHOWN = ("Dice", "IoU", "surface", "Hausdorff 95", "volume")


@dataclass(frozen=True)
class Pair:
    """A case to measure. result: None where nothing was found, so that there is no file."""

    name: str
    truth: Path
    result: Path | None


@dataclass(frozen=True)
class Outcome:
    """What was measured of a case. notes: what the user should know, one line each. failure: why there are no rows."""

    name: str
    rows: tuple[Agreement, ...]
    notes: tuple[str, ...] = ()
    failure: RauError | None = None


def one(truth: Path, result: Path, structures: Sequence[str], output: Path | None) -> None:
    """Measure one pair, print the table, write the JSON. Raises InputError."""
    check_output(output, (truth, result))
    measured = measure(Pair("", truth, result), structures)
    if measured.failure is not None:
        raise measured.failure
    tell(measured)
    print_rows("", measured.rows)
    write(output, {"format": 1, "structures": [asdict(row) for row in measured.rows], "means": means(measured.rows)})


def table(
    cases: Path,
    truth_column: str,
    result_column: str,
    folder: Path | None,
    structures: Sequence[str],
    output: Path | None,
) -> int:
    """Measure the cases of a CSV table, print the means by structure, write the JSON. Returns the exit status.

    folder: where the results lie; by default paths are relative to the table's own folder. A case without a result file
    counts as one in which nothing was found. Raises InputError when the table cannot be used or no result is there.
    """
    check_output(output, (cases,))
    pairs = read_pairs(cases, truth_column, result_column, folder)
    if all(pair.result is None for pair in pairs):
        raise InputError(f"None of the results of {cases.name} is there", "Name their folder with --results")
    outcomes = []
    for pair in pairs:
        outcomes.append(measure(pair, structures))
        tell(outcomes[-1])
    good = [case for case in outcomes if case.failure is None]
    by_name: dict[str, list[Agreement]] = {}
    for case in good:
        for row in case.rows:
            by_name.setdefault(row.name.strip().lower(), []).append(row)
    print_means(by_name, len(good))
    everything = [row for case in good for row in case.rows]
    content = {
        "format": 1,
        "cases": [case_report(case) for case in outcomes],
        "structures": {rows[0].name: means(rows) for rows in by_name.values()},
        "means": means(everything),
    }
    write(output, content)
    failed = [case.failure.exit_code for case in outcomes if case.failure is not None]
    return max(failed, default=0)


def read_pairs(cases: Path, truth_column: str, result_column: str, folder: Path | None) -> list[Pair]:
    """The rows of a CSV table as pairs. Raises InputError: no such table or column, no rows, a row without truth."""
    from rau.volume.files import checked

    path = checked(cases)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise InputError(f"{path.name} cannot be read as a CSV table", "Save it as CSV in UTF-8, with commas") from None
    if not rows:
        raise InputError(f"The table {path.name} has no rows", "Give one row a case, under a line of column names")
    for column in (truth_column, result_column):
        if column not in rows[0]:
            known = ", ".join(str(name) for name in rows[0] if name) or "none"
            raise InputError(f"The table {path.name} has no column {column}", f"It has: {known}")
    pairs = []
    for number, row in enumerate(rows, start=1):
        truth, result = (row[truth_column] or "").strip(), (row[result_column] or "").strip()
        if not truth:
            raise InputError(f"Row {number} of {path.name} has no {truth_column}", "Fill it in, or take the row out")
        where = (folder or path.parent) / Path(result).expanduser()
        name = (row.get("name") or "").strip() or f"case {number}"
        pairs.append(Pair(name, path.parent / Path(truth).expanduser(), where if result and where.exists() else None))
    return pairs


def measure(pair: Pair, structures: Sequence[str]) -> Outcome:
    """Truth and result of a case, read, brought onto one grid and compared by structure."""
    from rau.volume.labels import read_segmentation

    try:
        truth, notes = read_segmentation(pair.truth)
        if pair.result is None:
            said = ["There is no result: counted as nothing found"]
            result = LabelMap(truth.array * 0, truth.geometry)
        else:
            result, more = read_segmentation(pair.result, may_be_empty=True)
            said = [*notes, *more]
            result, unnamed = with_names(result, truth)
            said += [unnamed] if unnamed else []
            truth, result = on_one_grid(truth, result)
        names, left_out = chosen(truth, result, structures)
        said += [left_out] if left_out else []
        return Outcome(pair.name, tuple(agreement(truth, result, name) for name in names), tuple(said))
    except RauError as failure:
        return Outcome(pair.name, (), (), failure)


def with_names(result: LabelMap, truth: LabelMap) -> tuple[LabelMap, str]:
    """A result without names (a plain label map) takes those of the truth with the same label values; and says so."""
    if any(s.name != f"structure {s.value}" for s in result.structures):
        return result, ""
    names = {s.value: s for s in truth.structures}
    if all(names.get(s.value, s).name == s.name for s in result.structures):
        return result, ""
    known = tuple(names.get(s.value, s) for s in result.structures)
    return LabelMap(result.array, result.geometry, known), "The result has no names: its label values are the truth's"


def on_one_grid(truth: LabelMap, result: LabelMap) -> tuple[LabelMap, LabelMap]:
    """Both on a grid that holds both, voxel for voxel. Raises InputError when their voxels are not the same ones.

    Files that keep only the part where something is (DICOM SEG, cropped .seg.nrrd), or other axes, are the same grid.
    """
    import numpy as np

    from rau.volume.resampling import labels_on_grid
    from rau.volume.volume import Geometry

    one, other = truth.geometry, result.geometry
    if one.matches(other):
        return truth, result
    different = InputError("The result lies on another grid than the truth", "Resample it to the grid of the truth")
    far = np.array(other.shape) - 1
    index = one.to_index(other.to_world(np.vstack([np.zeros(3), np.eye(3), far])))
    whole = np.rint(index)
    apart = np.abs(index - whole).max(axis=0) * np.array(one.spacing)
    if apart.max() > 0.01 or not np.allclose(sorted(one.spacing), sorted(other.spacing), rtol=1e-3):
        raise different
    low = np.minimum(0, np.minimum(whole[0], whole[4]))
    shape = np.maximum(np.array(one.shape), np.maximum(whole[0], whole[4]) + 1) - low
    if np.prod(shape) > 8 * (truth.array.size + result.array.size):
        raise different
    origin = one.to_world(low[None])[0]
    grid = Geometry(tuple(shape), one.spacing, tuple(origin), one.direction)
    return labels_on_grid(truth, grid)[0], labels_on_grid(result, grid)[0]


def chosen(truth: LabelMap, result: LabelMap, structures: Sequence[str]) -> tuple[list[str], str]:
    """Names to measure, and a line on what is left out. Raises InputError for a name that neither side knows."""
    ours = {s.name.strip().lower() for s in truth.structures}
    if not structures:
        extra = [s.name for s in result.structures if s.name.strip().lower() not in ours]
        left_out = f"Not in the truth and left out: {', '.join(extra)} (--structures measures them)" if extra else ""
        return [s.name for s in truth.structures], left_out
    known = ours | {s.name.strip().lower() for s in result.structures}
    for name in structures:
        if name.strip().lower() not in known:
            have = ", ".join(dict.fromkeys(s.name for s in (*truth.structures, *result.structures)))
            raise InputError(f"Neither truth nor result has a structure {name}", f"They have: {have}")
    return [name.strip() for name in structures], ""


def means(rows: Sequence[Agreement]) -> dict[str, Any]:
    """The mean of each figure over what has a value, and counts: n measured, missed, invented (not in the truth)."""
    found: dict[str, Any] = {column: mean(getattr(row, column) for row in rows) for column in COLUMNS}
    return {
        **found,
        "n": sum(row.dice is not None for row in rows),
        "missed": sum(row.truth_ml > 0 and not row.result_ml for row in rows),
        "invented": sum(row.result_ml > 0 and not row.truth_ml for row in rows),
    }


def case_report(case: Outcome) -> dict[str, Any]:
    """One case for the JSON."""
    failure = None if case.failure is None else str(case.failure)
    rows = [asdict(row) for row in case.rows]
    return {"name": case.name, "structures": rows, "means": means(case.rows), "notes": case.notes, "error": failure}


def tell(case: Outcome) -> None:
    """Notes and failure of a case on stderr."""
    before = f"{case.name}: " if case.name else ""
    for note in case.notes:
        print(f"warning: {before}{note}", file=sys.stderr)
    if case.failure is not None:
        print(f"{before}{case.failure}", file=sys.stderr)


def print_rows(title: str, rows: Sequence[Agreement]) -> None:
    """A table of structures, with their mean."""
    from rau.evaluation.tables import print_table

    lines = [[row.name, *figures(asdict(row)), note_of(row)] for row in rows]
    if len(rows) > 1:
        lines.append(["mean", *figures(means(rows)), ""])
    print_table(title, ["structure", *SHOWN, ""], lines)


def print_means(by_name: dict[str, list[Agreement]], count: int) -> None:
    """The means by structure over the cases, with how often it was missed or invented."""
    from rau.evaluation.tables import print_table

    rows = []
    for several in by_name.values():
        score = means(several)
        rows.append([several[0].name, *figures(score), score["n"], score["missed"], score["invented"]])
    score = means([row for several in by_name.values() for row in several])
    rows.append(["all", *figures(score), score["n"], score["missed"], score["invented"]])
    print_table(f"Means over {count} cases", ["structure", *SHOWN, "n", "missed", "invented"], rows)


def figures(values: dict[str, Any]) -> list[str | float | None]:
    """Dice and IoU as they are, distances in mm, the difference of volumes in percent."""
    dice, iou, surface, hausdorff, difference = (values[column] for column in COLUMNS)
    far = [None if one is None else f"{one:.2f} mm" for one in (surface, hausdorff)]
    return [dice, iou, *far, None if difference is None else f"{difference:+.1%}"]


def note_of(row: Agreement) -> str:
    if row.dice is None:
        return "in neither"
    if not row.result_ml:
        return "missed"
    return "" if row.truth_ml else "not in the truth"


def check_output(output: Path | None, inputs: Sequence[Path]) -> None:
    """Raises InputError where the JSON cannot be written or would replace an input."""
    from rau.export.writing import check_writable

    if output is None:
        return
    if output.suffix.lower() != ".json":
        raise InputError(f"The output {output.name} is a JSON file", "Let its name end in .json")
    if output.exists() and any(one.exists() and output.samefile(one) for one in inputs):
        raise InputError(f"The output {output.name} is one of the inputs", "Give it another name")
    check_writable(output.expanduser())


def write(output: Path | None, content: dict[str, Any]) -> None:
    """The JSON, whole or not at all."""
    from rau.export.writing import replaced

    if output is None:
        return
    with replaced(output.expanduser()) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
