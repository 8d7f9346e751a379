"""What the bank knows of one reference, beside its voxels: `entry.json`, frozen and sealed."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rau.errors import InputError
from rau.volume.volume import Geometry, Structure

ID = r"^[0-9a-f]{32}$"
LARGEST = 1 << 20  # bytes of an entry.json
Line = Annotated[str, Field(max_length=200)]
Triple = tuple[float, float, float]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class KeptStructure(_Frozen):
    """A `Structure` as it is kept. value: of the label map; color: RGB, 0 to 1."""

    value: int
    name: str
    color: Triple
    terminology: str = ""

    def structure(self) -> Structure:
        return Structure(self.value, self.name, self.color, self.terminology)


class Provenance(_Frozen):
    """How the entry came: added as it was, or accepted from a run, of which `run` keeps settings and versions."""

    how: Literal["added", "accepted"] = "added"
    run: dict[str, Any] = Field(default_factory=dict)


class Entry(_Frozen):
    """One reference of the bank.

    id: random, of no meaning. shape (slices, rows, columns), spacing (mm, in array order), origin (LPS mm), direction
    (3, 3 by rows, see `Geometry`): the grid of image and labels, exactly. image_type, labels_type: numpy types.
    files: SHA-256 by file name. content: SHA-256 of voxels, labels, structures and grid; image: of voxels and grid
    alone. title, body_part, consent, added_by: the user's own words. added: UTC, ISO 8601. seal: SHA-256 of the rest.
    """

    format: Literal[1] = 1
    id: str = Field(pattern=ID)
    title: Line = ""
    structures: tuple[KeptStructure, ...]
    modality: str = Field("", max_length=16)
    body_part: Line = ""
    shape: tuple[int, int, int]
    spacing: Triple
    origin: Triple
    direction: tuple[Triple, Triple, Triple]
    spacing_known: bool = True
    colour: bool = False
    image_type: str
    labels_type: str
    files: dict[str, str]
    content: str
    image: str
    consent: str = Field("", max_length=2000)
    added_by: Line = ""
    added: str
    provenance: Provenance = Provenance()
    seal: str = ""

    @property
    def flat(self) -> bool:
        """Whether it is 2-D: one slice along some axis."""
        return min(self.shape) == 1

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.shape, self.spacing, self.origin, np.array(self.direction))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.structures)

    @property
    def label(self) -> str:
        """What to call it in messages: its title and the beginning of its id."""
        return f"{self.title} ({self.id[:8]})" if self.title else self.id[:8]

    def sealed(self) -> Entry:
        return self.model_copy(update={"seal": self._seal()})

    def _seal(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()


def parse_entry(data: bytes, name: str) -> Entry:
    """The entry of the folder `name` from the bytes of its `entry.json`. Raises InputError: damaged, of another id."""
    try:
        entry = Entry.model_validate_json(data)
    except ValidationError as problem:
        where = ".".join(str(part) for part in problem.errors(include_url=False)[0]["loc"]) or "its first byte"
        raise InputError(f"entry.json is not valid at {where}") from None
    if entry.id != name:
        raise InputError("entry.json belongs to another entry")
    if entry.seal != entry._seal():
        raise InputError("entry.json was changed or is damaged")
    return entry
