"""`rau bank`: put annotated cases into the reference bank, look at them, take them out, check them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rau.errors import InputError

app = typer.Typer(rich_markup_mode=None, help="The reference bank: annotated cases, kept for the next target.")
LARGEST_REPORT = 64 << 20  # bytes


@dataclass(frozen=True)
class NewCase:
    """What the call says of a case. image, labels: files; the texts are the user's own words."""

    image: Path
    labels: Path
    title: str = ""
    modality: str | None = None
    body_part: str = ""
    note: str = ""
    added_by: str = ""
    series: str | None = None

    @property
    def texts(self) -> dict[str, Any]:
        return {"title": self.title, "body_part": self.body_part, "note": self.note, "added_by": self.added_by}


def tell(line: str) -> None:
    """What the user should know, on stderr."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def put(folder: Path, case: NewCase, report: Path | None = None, accepted: bool = False) -> None:
    """Put a case into the bank, which is made when there is none. accepted: as a corrected result of a run, with the
    provenance that its report holds. Raises InputError."""
    from rau.bank.bank import Bank
    from rau.bank.identity import identity_of
    from rau.commands.segment import read_pair

    provenance = provenance_of(report) if report is not None else {}
    reference, notes = read_pair(case.image, case.labels, series=case.series, modality=case.modality)
    for note in notes:
        tell(note)
    identity = identity_of(case.image, case.series) | identity_of(case.labels)
    bank = Bank.create(folder)
    before = {entry.id for entry in bank.entries(lambda _: None)}
    if accepted:
        entry = bank.accept(reference, provenance, identity=identity, tell=tell, **case.texts)
    else:
        entry = bank.add(reference, identity=identity, tell=tell, **case.texts)
    print(f"{entry.id} {'kept as it was' if entry.id in before else 'added'}: {', '.join(entry.names)}")


def provenance_of(report: Path) -> dict[str, Any]:
    """The provenance that a report of `rau segment` holds. Raises InputError."""
    from rau.volume.files import checked

    path = checked(report)
    try:
        if path.stat().st_size > LARGEST_REPORT:
            raise ValueError
        found = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        if not isinstance(found, dict):
            raise TypeError
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{path.name} is no report of a run", "Give what `rau segment --report` wrote") from None
    return found


Folder = Annotated[Path, typer.Argument(help="Folder of the bank", metavar="DIR", show_default=False)]
Id = Annotated[str, typer.Argument(help="Id of the entry, or how it begins", metavar="ID", show_default=False)]
Image = Annotated[Path, typer.Option(help="Annotated image: a file, or the folder of a DICOM series", metavar="IMG")]
Labels = Annotated[Path, typer.Option(help="Its label map or segmentation", metavar="SEG")]
Title = Annotated[str, typer.Option(help="What to call it; nothing that names the patient", metavar="TEXT")]
Modality = Annotated[str | None, typer.Option(help="CT, MR, US, XR or OT, when the file does not say")]
BodyPart = Annotated[str, typer.Option(help="Part of the body that it shows", metavar="TEXT")]
Note = Annotated[str, typer.Option(help="Consent, and what else should be known", metavar="TEXT")]
AddedBy = Annotated[str, typer.Option(help="Who puts it into the bank", metavar="TEXT")]
Series = Annotated[str | None, typer.Option(help="Which series of a DICOM folder: number or UID", metavar="ID")]


@app.command("add")
def add(
    folder: Folder,
    image: Image,
    labels: Labels,
    title: Title = "",
    modality: Modality = None,
    body_part: BodyPart = "",
    note: Note = "",
    added_by: AddedBy = "",
    series: Series = None,
) -> None:
    """Add an annotated image; the bank is made when there is none.

    Kept are voxels, grid and structures, never a header or the name of a file. Texts that repeat a name, a date or an
    identifier from the image's header are refused.
    """
    put(folder, NewCase(image, labels, title, modality, body_part, note, added_by, series))


@app.command("accept")
def accept(
    folder: Folder,
    image: Image,
    labels: Labels,
    report: Annotated[
        Path | None, typer.Option(help="What `rau segment --report` wrote", metavar="REPORT.json")
    ] = None,
    title: Title = "",
    modality: Modality = None,
    body_part: BodyPart = "",
    note: Note = "",
    added_by: AddedBy = "",
    series: Series = None,
) -> None:
    """Add a target with its corrected segmentation, so that the next case can start from it."""
    put(folder, NewCase(image, labels, title, modality, body_part, note, added_by, series), report, accepted=True)


@app.command("list")
def list_entries(
    folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON")] = False
) -> None:
    """What the bank holds."""
    list_bank(folder, as_json)


@app.command("show")
def show(folder: Folder, entry_id: Id) -> None:
    """All that is known of one entry, as JSON."""
    from rau.bank.bank import Bank

    print(json.dumps(Bank.open(folder).show(entry_id).model_dump(mode="json"), indent=1))


@app.command("remove")
def remove(folder: Folder, entry_id: Id) -> None:
    """Delete one entry."""
    from rau.bank.bank import Bank

    print(f"{Bank.open(folder).remove(entry_id)} removed")


@app.command("verify")
def verify(folder: Folder) -> None:
    """Check every file against its checksum, and clean up after interrupted processes."""
    from rau.bank.bank import Bank

    found = Bank.open(folder).verify()
    for line in found.cleaned:
        tell(line)
    for name, problem in found.problems:
        print(f"{name}: {problem}")
    total = len(found.entries) + len(found.problems)
    print(f"{len(found.entries)} of {total} as they should be")
    if not found.clean:
        raise InputError(f"{len(found.problems)} of {total} entries are damaged", "Remove them with `rau bank remove`")


def list_bank(folder: Path, as_json: bool) -> None:
    """One line an entry, or all that is known of them as a JSON array."""
    from rich.console import Console
    from rich.table import Table

    from rau.bank.bank import Bank

    entries = Bank.open(folder).entries(tell)
    if as_json:
        print(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("id", "title", "kind", "size", "structures", "added"):
        table.add_column(name, no_wrap=True)
    for one in entries:
        more = f" and {len(one.names) - 3} more" if len(one.names) > 3 else ""
        kind = " ".join(part for part in (one.modality, one.body_part) if part)
        day = one.added[:10] + (f" by {one.added_by}" if one.added_by else "")
        shown = ", ".join(one.names[:3]) + more
        table.add_row(one.id[:8], one.title, kind, "x".join(map(str, one.shape)), shown, day)
    wide = None if sys.stdout.isatty() else 200
    Console(highlight=False, markup=False, width=wide).print(table)
