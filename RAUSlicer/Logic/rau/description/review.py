"""Review of a data set: accept, correct or reject an item; who did it, when and what it was before stay in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rau.description.dataset import FILE, IMAGES, content, geometry_of, mask_of
from rau.description.measuring import measure
from rau.description.regions import with_colours
from rau.errors import InputError
from rau.volume.files import PICTURE_ENDINGS, checked, ending_of
from rau.volume.pictures import read_index_picture, read_picture
from rau.volume.volume import LabelMap, Structure, Volume

Verdict = Literal["accept", "correct", "reject"]
WAIT = 20.0  # seconds for another review of the same file


@dataclass(frozen=True)
class Review:
    """What a person says of an item. correction: for "correct" alone; a .txt with the text as it should be, or a
    picture of the slice's size in which the structure is not 0."""

    verdict: Verdict
    reviewer: str
    correction: Path | None = None


def review_item(file: Path, item: str, said: Review, now: datetime | None = None) -> tuple[dict[str, Any], int]:
    """Write a review into the data set's file; returns the item as it is then, and how many items are still open.

    An item takes any number of reviews; the last one counts. A corrected mask brings a new box, new prompts and facts,
    measured anew in the data set's own slice (8-bit grey levels) beside its other masks. Raises InputError: no such
    file or item, no name, an unusable correction, someone else is writing.
    """
    if not said.reviewer.strip():
        raise InputError("A review needs the name of its reviewer", "Give --reviewer NAME")
    if (said.correction is not None) != (said.verdict == "correct"):
        raise InputError("A correction comes with a file, and only a correction does", "Give --correct FILE")
    path = file / FILE if file.is_dir() else file
    with _alone(path):
        items = read_items(path)
        found = next((one for one in items if one["id"] == item), None)
        if found is None:
            raise InputError(f"There is no item {item} in {path.name}", "Take an id from the file")
        when = (now or datetime.now(timezone.utc)).isoformat(timespec="seconds")
        entry: dict[str, Any] = {"verdict": said.verdict, "reviewer": said.reviewer.strip(), "at": when}
        if said.correction is not None:
            changes = _correction(said.correction, found, items, path.parent)
            entry["before"] = {key: found[key] for key in changes}
            found.update(changes)
        found["reviews"].append(entry)
        _write(path, items)
    return found, sum(state_of(one) == "open" for one in items)


def read_items(path: Path) -> list[dict[str, Any]]:
    """All items of a data set's file. Raises InputError."""
    found = []
    for number, line in enumerate(checked(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            one = json.loads(line)
            if not {"id", "mask", "size", "reviews", "description"} <= set(one):
                raise ValueError
        except (ValueError, TypeError):
            raise InputError(f"Line {number} of {path.name} is no item of a data set", "Build it again") from None
        found.append(one)
    return found


def state_of(item: dict[str, Any]) -> str:
    """ "open", or the last verdict."""
    return str(item["reviews"][-1]["verdict"]) if item["reviews"] else "open"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    checked(path)
    try:
        with FileLock(path.parent / f".{path.name}.lock", timeout=WAIT):
            yield
    except Timeout:
        raise InputError(f"{path.name} is in use by another review", "Try again") from None
    except PermissionError:
        raise InputError(f"No permission to write beside {path.name}", "Choose another place") from None


def _write(path: Path, items: list[dict[str, Any]]) -> None:
    from rau.export.writing import replaced

    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(one, allow_nan=False) + "\n" for one in items)


def _correction(file: Path, item: dict[str, Any], items: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The fields that a correction changes, with their new values."""
    ending = ending_of(checked(file))
    if ending == ".txt":
        text = " ".join(file.read_text(encoding="utf-8", errors="replace").split())
        if not text:
            raise InputError(f"The correction {file.name} is empty", "Write the text as it should be")
        return {"description": {**item["description"], "text": text}}
    if ending not in PICTURE_ENDINGS:
        raise InputError(f"{file.name} is no correction", "Give a .txt with the text, or a picture of the mask (.png)")
    mask = read_index_picture(file)[0][0] != 0
    if list(mask.shape) != item["size"]:
        raise InputError(
            f"The corrected mask {file.name} has {mask.shape[0]} x {mask.shape[1]} pixels, its slice"
            f" {item['size'][0]} x {item['size'][1]}",
            "Give a mask of the slice's size",
        )
    if not mask.any():
        raise InputError(f"The corrected mask {file.name} is empty", "Reject the item instead")
    return _measured(mask, item, items, folder)


def _measured(mask: np.ndarray, item: dict[str, Any], items: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What `content` says of a new mask, beside the other masks of its slice: where they overlap, the new one wins."""
    geometry = geometry_of(item["grid"])
    labels, names = np.zeros(mask.shape, np.uint16), {item["value"]: item["structure"]}
    for one in items:
        if one["id"] != item["id"] and all(one[key] == item[key] for key in ("case", "axis", "slice")):
            labels[mask_of(one["mask"], one["size"])] = one["value"]
            names[one["value"]] = one["structure"]
    labels[mask] = item["value"]
    structures = tuple(Structure(value, name) for value, name in sorted(names.items()))
    pixels = read_picture(checked(folder / IMAGES / f"{item['image']}.png"))
    shape = (*geometry.shape, 3) if pixels.ndim == 4 else geometry.shape
    image = Volume(pixels.reshape(shape), geometry, spacing_known=item["grid"]["spacing_known"])
    found = measure(image, LabelMap(labels.reshape(geometry.shape), geometry, structures))
    facts = next(one for one in found if one.value == item["value"])
    return content(mask, facts, with_colours(found))
