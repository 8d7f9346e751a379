"""`rau describe`: what is measured of the structures of a segmentation, as prose and as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rau.errors import InputError, NothingFoundError

if TYPE_CHECKING:
    from rau.description import Description
    from rau.volume.volume import LabelMap, Volume

FORMAT = 1


@dataclass(frozen=True)
class Described:
    """What a call reads and writes. structures: names or label values, () for all; series: of a DICOM folder."""

    image: Path
    labels: Path
    output: Path | None = None
    structures: tuple[str, ...] = ()
    series: str | None = None


def run(call: Described) -> tuple[Description, ...]:
    """Print the prose, a paragraph a structure, and write the JSON. Raises RauError; then nothing has been written."""
    from rau.description import describe

    if call.output is not None:
        _check(call, call.output)
    image, labels = read_pair(call.image, call.labels, call.series)
    only = [labels.structure(name).value for name in call.structures] or None
    found = describe(image, labels, only=only)
    if not found:
        raise NothingFoundError(
            "None of these structures has a voxel in the image: there is nothing to describe", "Pick other structures"
        )
    if call.output is not None:
        write(call.output, found)
    print("\n\n".join(one.text for one in found))
    return found


def read_pair(image: Path, labels: Path, series: str | None = None) -> tuple[Volume, LabelMap]:
    """An image and its label map on the image's grid; what the user should know goes to stderr. Raises InputError."""
    from rau.volume.labels import read_segmentation
    from rau.volume.reading import read_volume
    from rau.volume.resampling import labels_on_grid

    volume = read_volume(image, series=series)
    read, notes = read_segmentation(labels, image=volume)
    placed, moved = labels_on_grid(read, volume.geometry)
    for note in [*notes, *([moved] if moved else [])]:
        print(f"warning: {note}", file=sys.stderr)
    return volume, placed


def write(output: Path, found: tuple[Description, ...]) -> None:
    """{"format", "structures": [{"facts", "score", "text"}]}, without names of files. Raises InputError."""
    from rau.export.writing import replaced

    whole = {"format": FORMAT, "structures": [one.as_json() for one in found]}
    with replaced(output.expanduser()) as temporary:
        temporary.write_text(json.dumps(whole, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _check(call: Described, output: Path) -> None:
    from rau.export.writing import check_writable

    if output.suffix.lower() != ".json":
        raise InputError(f"The output {output.name} is a JSON file", "Let its name end in .json")
    check_writable(output.expanduser())
    if output.expanduser().resolve() in [one.expanduser().resolve() for one in (call.image, call.labels)]:
        raise InputError(f"The output {output.name} is one of the inputs", "Give it another name")
