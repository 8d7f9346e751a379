"""What the worker does but segment: list a bank, hold references against a target; keep a result in a bank, write files
and a report of it, describe it.

Every answer is a dictionary ready for JSON. Only `match` needs a model. Paths are those that the user gave; the name of
a volume is not written anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rau.errors import InputError
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.volume.labels import whole_labels
from rau.volume.volume import LabelMap, Volume
from rau.worker import protocol
from rau.worker.arrays import open_array, open_reference
from rau.worker.matching import matched, plane_of

if TYPE_CHECKING:
    from rau.models.engine import Engine

Tell = Callable[[str], None]
MOST_ENTRIES = 2000  # that a list of a bank names


def answer(
    folder: Path, request: protocol.Service, tell: Tell, engine: Callable[[SegmentSettings], Engine]
) -> dict[str, Any]:
    """The report of a job. folder: with its arrays. tell: takes what the user should know. engine: loads the model, for
    what needs one. Raises RauError."""
    if isinstance(request, protocol.BankList):
        return listed(request, tell)
    if isinstance(request, protocol.Match):
        return matched(folder, request, engine(request.settings), tell)
    if isinstance(request, protocol.Accept):
        return accepted(folder, request, tell)
    if isinstance(request, protocol.Export):
        return exported(folder, request)
    if isinstance(request, protocol.Describe):
        return described(folder, request)
    return page(folder, request, tell)


def listed(request: protocol.BankList, tell: Tell) -> dict[str, Any]:
    """The entries that can be used, the latest first. A folder that is not there, or is empty, is a bank to be."""
    from rau.bank.bank import Bank

    root = Path(request.bank).expanduser()
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return {"exists": False, "entries": []}
    bank = Bank.open(root)
    entries = bank.entries(tell)[::-1]
    if len(entries) > MOST_ENTRIES:
        tell(f"The bank holds {len(entries)} entries: the latest {MOST_ENTRIES} are listed")
    return {"exists": True, "entries": [_row(bank, one) for one in entries[:MOST_ENTRIES]]}


def _row(bank: Any, entry: Any) -> dict[str, Any]:
    try:
        thumbnail = str(bank.thumbnail(entry.id))
    except InputError:
        thumbnail = ""
    told = {name: getattr(entry, name) for name in ("id", "title", "label", "modality", "body_part", "added")}
    structures = [{"name": s.name, "color": list(s.color), "terminology": s.terminology} for s in entry.structures]
    spacing = list(entry.spacing) if entry.spacing_known else None
    return {
        **told,
        "shape": list(entry.shape),
        "spacing": spacing,
        "plane": plane_of(entry.geometry),
        "structures": structures,
        "how": entry.provenance.how,
        "thumbnail": thumbnail,
    }


def accepted(folder: Path, request: protocol.Accept, tell: Tell) -> dict[str, Any]:
    """Keep the case; what comes back is on the disk. Raises InputError: nothing labelled, a bank that takes nothing."""
    from rau.bank.bank import Bank

    reference = _case(folder, request.case, tell)
    bank = Bank.create(request.bank)
    before = {one.id for one in bank.entries(lambda _: None)}
    entry = bank.accept(
        reference,
        request.provenance,
        title=request.title,
        body_part=request.body_part,
        note=request.note,
        tell=tell,
    )
    told = {"id": entry.id, "label": entry.label, "known": entry.id in before}
    return {**told, "structures": list(entry.names)}


def exported(folder: Path, request: protocol.Export) -> dict[str, Any]:
    """Write the label map whole or not at all. Raises InputError."""
    from rau.export.writing import write_labels

    geometry = request.geometry.geometry()
    array = whole_labels(open_array(folder, request.labels.array), "The label map")
    if array.shape != geometry.shape:
        raise protocol.ProtocolError("The label map has another shape than its grid")
    labels = LabelMap(array, geometry, tuple(one.structure() for one in request.structures))
    written = write_labels(
        labels,
        request.path,
        image=Volume(array, geometry, request.modality),  # only its modality is asked for
        provenance=request.provenance,
        source_dicom=request.source_dicom,
    )
    return {"file": written.name}


def described(folder: Path, request: protocol.Describe) -> dict[str, Any]:
    """Facts and prose of every structure that has a voxel."""
    from rau.description import describe

    case = _case(folder, request.case, lambda line: None)
    return {"structures": [one.as_json() for one in describe(case.image, case.labels, request.scores)]}


def page(folder: Path, request: protocol.Page, tell: Tell) -> dict[str, Any]:
    """Write the report of a case. Raises InputError."""
    from rau.export.page import Trusted, write_page

    case = _case(folder, request.case, tell)
    written = write_page(
        case.image,
        case.labels,
        request.path,
        trust=[Trusted(**one.model_dump()) for one in request.trust],
        level=request.level,
        warnings=request.warnings,
        provenance=request.provenance,
    )
    return {"file": written.name}


def _case(folder: Path, message: protocol.ReferenceMessage, tell: Tell) -> Reference:
    reference, notes = open_reference(folder, message)
    for note in notes:
        tell(note)
    return Reference(replace(reference.image, source=""), reference.labels)
