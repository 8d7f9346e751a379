"""The messages of the worker, version 1: one JSON object a line, arrays as `.npy` files in a private folder.

To the worker: hello, cancel, quit, and the jobs: segment, what comes before it (bank_list, match) and what is done with
a result (accept, export, describe, page; see `rau.worker.services`). From it: ready, then for each job stage, slice,
warning and, last, exactly one of done, cancelled, error. An error without a job concerns a message that could not be
understood.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rau.errors import InputError, RauError
from rau.settings import BANK_REFERENCES, SegmentSettings
from rau.volume.volume import Geometry, Structure

VERSION = 1
ArrayName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,120}\.npy$")]
Triple = tuple[float, float, float]


class ProtocolError(RauError):
    """A message that breaks the protocol: the two sides do not belong together. `job`: whose message it was."""

    def __init__(self, message: str, hint: str = "Restart the worker", job: int | None = None) -> None:
        super().__init__(message, hint)
        self.job = job


class SettingsError(InputError):
    """A setting out of its range."""

    def __init__(self, message: str, job: int | None = None) -> None:
        super().__init__(message, "Change it")
        self.job = job


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GeometryMessage(Message):
    """`rau.volume.volume.Geometry`: shape and spacing in array order, origin and columns of direction in LPS."""

    shape: tuple[int, int, int]
    spacing: Triple
    origin: Triple
    direction: tuple[Triple, Triple, Triple]

    def geometry(self) -> Geometry:
        import numpy as np

        return Geometry(self.shape, self.spacing, self.origin, np.array(self.direction))


class ImageMessage(Message):
    """An image: array (S, R, C) or, for colour pictures, (S, R, C, 3) uint8. source: what to call it in messages."""

    array: ArrayName
    geometry: GeometryMessage
    modality: Literal["CT", "MR", "US", "XR", "OT", ""] = ""
    source: str = Field("", max_length=500)
    spacing_known: bool = True


class LabelsMessage(Message):
    """A label map (S, R, C) of whole numbers on the grid of its image."""

    array: ArrayName


class StructureMessage(Message):
    value: int = Field(ge=1, le=65535)
    name: str
    color: Triple = (0.5, 0.5, 0.5)
    terminology: str = ""

    def structure(self) -> Structure:
        return Structure(self.value, self.name, self.color, self.terminology)


class ReferenceMessage(Message):
    image: ImageMessage
    labels: LabelsMessage
    structures: tuple[StructureMessage, ...]


class Hello(Message):
    """The first message. folder: private folder with the arrays; the worker writes nothing but results there."""

    op: Literal["hello"] = "hello"
    protocol: int
    folder: str


class CorrectionsMessage(Message):
    """`rau.corrections.Corrections`. labels: uint16 (S, R, C) on the target's grid, of which `slices` across `axis` of
    the target's own array are right. structures: what its values mean."""

    labels: LabelsMessage
    structures: tuple[StructureMessage, ...]
    axis: int = Field(ge=0, le=2)
    slices: tuple[int, ...] = Field(min_length=1)


class SegmentJob(Message):
    """Segment `target`. result: label map (S, R, C) uint16 on the target's grid; made by the worker when missing.

    bank: a folder; references come from there as well: those of bank_ids, else the bank_count that fit best. numbers:
    the label value of each structure by name, which the structures of the bank's references take.
    """

    op: Literal["segment"] = "segment"
    job: int
    target: ImageMessage
    references: tuple[ReferenceMessage, ...]
    settings: SegmentSettings = SegmentSettings()
    result: ArrayName
    bank: str = Field("", max_length=4096)
    bank_ids: tuple[str, ...] = ()
    bank_count: int = Field(BANK_REFERENCES, ge=1, le=12)
    numbers: dict[str, Annotated[int, Field(ge=1, le=65535)]] = {}
    corrections: CorrectionsMessage | None = None


class BankList(Message):
    """What a bank holds. Done: {"exists", "entries": [{id, title, ...}]}, the latest first."""

    op: Literal["bank_list"] = "bank_list"
    job: int
    bank: str = Field(min_length=1, max_length=4096)


class Match(Message):
    """How much references look like the target, without segmenting. Done: {"references": [similarity], "bank": [{"id",
    "similarity", "doubts"}]}; similarity: 0 to 1, see `rau.worker.matching`; null: it cannot be told. settings: of the
    run to come: its structures and model."""

    op: Literal["match"] = "match"
    job: int
    target: ImageMessage
    references: tuple[ImageMessage, ...] = ()
    bank: str = Field("", max_length=4096)
    settings: SegmentSettings = SegmentSettings()


class Accept(Message):
    """Keep a corrected case in a bank, which is made when there is none. provenance: of the run that it came from;
    empty: nothing is known. Done: {"id", "label", "known", "structures"}; known: it was in the bank already."""

    op: Literal["accept"] = "accept"
    job: int
    bank: str = Field(min_length=1, max_length=4096)
    case: ReferenceMessage
    title: str = ""
    body_part: str = ""
    note: str = ""
    provenance: dict[str, Any] = {}


class Export(Message):
    """Write a label map by the ending of `path`. source_dicom: the files of the target's series, for a DICOM SEG.
    Done: {"file"}: its name."""

    op: Literal["export"] = "export"
    job: int
    path: str = Field(min_length=1, max_length=4096)
    geometry: GeometryMessage
    modality: Literal["CT", "MR", "US", "XR", "OT", ""] = ""
    labels: LabelsMessage
    structures: tuple[StructureMessage, ...]
    source_dicom: tuple[str, ...] = ()
    provenance: dict[str, Any] = {}


class Describe(Message):
    """Measure structures, put them in words. scores: by label value. Done: {"structures": [{facts, score, text}]}."""

    op: Literal["describe"] = "describe"
    job: int
    case: ReferenceMessage
    scores: dict[int, float] = {}


class TrustMessage(Message):
    """What a run said of a structure; see `rau.export.page.Trusted`."""

    name: str
    light: Literal["green", "amber", "red", "absent", ""] = ""
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    broken: tuple[str, ...] = ()
    voxels: int | None = None


class Page(Message):
    """Write the report of a case as one HTML file. Done: {"file"}: its name."""

    op: Literal["page"] = "page"
    job: int
    path: str = Field(min_length=1, max_length=4096)
    case: ReferenceMessage
    trust: tuple[TrustMessage, ...] = ()
    level: float | None = None
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] = {}


class Cancel(Message):
    op: Literal["cancel"] = "cancel"
    job: int


class Quit(Message):
    """Stop what runs, and end."""

    op: Literal["quit"] = "quit"


Service = BankList | Match | Accept | Export | Describe | Page
Request = Hello | SegmentJob | Service | Cancel | Quit
_requests: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="op")])


class Ready(Message):
    event: Literal["ready"] = "ready"
    protocol: int = VERSION
    versions: dict[str, Any]
    device: str


class Stage(Message):
    event: Literal["stage"] = "stage"
    job: int
    stage: str
    message: str = ""


class Slice(Message):
    """Slice `index` across `axis` of the target's own array is done; has_labels: its preview lies in the result."""

    event: Literal["slice"] = "slice"
    job: int
    done: int
    total: int
    index: int
    axis: int
    has_labels: bool
    score: float
    ms: float


class Warned(Message):
    event: Literal["warning"] = "warning"
    job: int
    message: str


class Done(Message):
    """Of a segment job: the result holds the final label map, report is `rau.results.SegmentResult.report()`. Of other
    jobs: report is the answer."""

    event: Literal["done"] = "done"
    job: int
    report: dict[str, Any]


class Stopped(Message):
    event: Literal["cancelled"] = "cancelled"
    job: int


class Failed(Message):
    """kind: type of the error; hint: what to do; exit_code: as of `rau`; trace: of unexpected errors only."""

    event: Literal["error"] = "error"
    job: int | None
    kind: str
    message: str
    hint: str = ""
    exit_code: int
    trace: str = ""


Answer = Ready | Stage | Slice | Warned | Done | Stopped | Failed


def parse(line: str) -> Request:
    """The request of one line. Raises ProtocolError, with the job where the line tells it."""
    job = None
    try:
        content = json.loads(line)
        if isinstance(content, dict) and isinstance(content.get("job"), int):
            job = content["job"]
        return _requests.validate_python(content)
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        if job is not None and first["loc"][:2] == ("segment", "settings"):
            raise SettingsError(f"The setting {where.rpartition('.')[2]} is not usable: {first['msg']}", job) from None
        raise ProtocolError(f"A message to the worker is not valid at {where}: {first['msg']}", job=job) from None
    except (ValueError, RecursionError):
        raise ProtocolError("A message to the worker is no JSON", job=job) from None


def encoded(answer: Answer) -> str:
    """One line of JSON, with its line feed."""
    return json.dumps(answer.model_dump(mode="json"), allow_nan=False, separators=(",", ":")) + "\n"
